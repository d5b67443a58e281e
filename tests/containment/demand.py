"""Rows 12 and 31: what is attached only while a policy has something against it judges at once when one begins to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.containment.suite import Scenario, Suite, Told
from tests.containment.survival import other
from tests.live.probes import Result

ROUNDS: Final = 3


def on_demand(
    operation: str, hooks: set[str], lenient: str, agent: str, words: tuple[str, ...]
) -> Callable[[Suite], Told]:
    """hooks: the programs. lenient: the policy that has nothing against it. words: of the probe that tries."""

    def run(suite: Suite) -> Told:
        engine = suite.host.engine
        if not hooks <= engine.loaded.programs.keys():
            return Told(operation, detail="nothing judges it without LSM hooks")
        policy, command, denied = other(suite.ground, lenient), suite.probe(*words), []
        for number in range(ROUNDS):
            try:
                engine.install(policy)
                assert not hooks & engine.loaded.links(), "attached, and nothing to judge"
                fine = suite.host.run(command, agent)
                assert fine.result() is Result.ALLOWED and not fine.denials, f"where it is allowed: {fine}"
            finally:
                engine.install(suite.host.compiled)
            assert hooks <= engine.loaded.links(), "not attached"
            denied += suite.host.run(command, agent).denials
            assert len(denied) == number + 1, f"escaped after change {number + 1}: {denied}"
        return Told(operation, denied[-1]["point"], denied[-1]["guarantee"], f"{ROUNDS} changes")

    return run


PROBES: Final = (
    Scenario(
        12,
        "executable memory, when a policy begins to deny it",
        on_demand("execmem", {"lsm_mmap_file", "lsm_file_mprotect"}, "lenient", "pure", ("code",)),
    ),
    Scenario(
        31,
        "a source route, when a policy begins to deny it",
        on_demand(
            "socket",
            {"lsm_socket_setsockopt", "lsm_socket_post_create"},
            "open",
            "roamer",
            ("names", "udp/0", "route/0/127.8.8.8", "hello/0/127.0.0.1/9"),
        ),
    ),
)
