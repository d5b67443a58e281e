"""What `agentd run` adds where there are no LSM hooks: the rows about changes once more, of commands with the seccomp
filter and its supervisor, which must prevent them; and names that are swapped during the call (row 50).

Rounds of row 50 by default and in full: 300 and 100,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentd.engine.coverage import KINDS
from tests.containment import files, tag
from tests.containment.suite import Probe, Scenario, Suite, Told, numbers
from tests.live.probes import untagged

SUPERVISED: Final = {kind.name for kind in KINDS if kind.filtered} - {
    "bpf", "module", "kexec", "io_uring", "io_uring, setup", "perf", "perf, fanotify and userfaultfd",
}  # fmt: skip


def again(probes: tuple[Probe | Scenario, ...], rows: set[int]) -> list[Probe]:
    """The probes of these rows that a supervisor judges, and those that are permitted."""
    return [
        replace(probe, name=f"{probe.name}, started", seccomp=True, supervised=bool(probe.kind))
        for probe in probes
        if isinstance(probe, Probe) and probe.row in rows and (probe.kind in SUPERVISED or not probe.kind)
    ]


def swaps(how: str, what: str) -> Callable[[Suite], Told]:
    """A name that means a file in a free folder and one in a denied folder by turns, while it is changed."""

    def run(suite: Suite) -> Told:
        rounds = suite.rounds(300, 100_000)
        run = None
        for tagged in (False, True):
            suite.ground.fresh()
            d = suite.ground.dir
            if what != "create":
                (d / "denied/swap").write_text("text")
                (d / "denied/swap").chmod(0o644)
            command = suite.probe("swaps", how, what, rounds if tagged else 20_000, d / "free", d / "denied")
            run = suite.host.run(command, seccomp=True) if tagged else untagged(command)
            escaped = numbers(run, "escaped")[0]
            assert escaped == (0 if tagged else 1), f"{'escaped' if tagged else 'untagged nothing changes'}: {run}"
        assert run
        tries, good, refused = numbers(run, "done")
        assert good and refused and run.denials, f"not both sides were tried: {run}"
        points = {(record["point"], record["guarantee"]) for record in run.denials}
        assert points == {("seccomp", "prevented")}, points
        assert len(run.denials) == refused, f"{len(run.denials)} records of {refused} refusals"
        return Told(run.denials[0]["kernel_operation"], "seccomp", "prevented", f"{tries} tries, {refused} refused")

    return run


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    *again(files.PROBES, {20, 21, 22, 25}),
    *again(tag.PROBES, {41}),
    *(
        Scenario(50, f"{how} swapped during {what}", swaps(how, what))
        for how, calls in {
            "text": ("chmod", "unlink", "rename", "truncating open", "create"),
            "link": ("chmod", "create"),
            "descriptor": ("chmod", "unlink", "create"),
            "cwd": ("chmod", "create"),
        }.items()
        for what in calls
    ),
)
