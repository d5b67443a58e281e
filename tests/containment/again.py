"""Row 50, remembered verdicts: what is worth remembering."""

from __future__ import annotations

from typing import Final

from agentd.kernel import abi
from agentd.kernel.hits import SIZE
from tests.containment.suite import Probe, Scenario, Suite, Told
from tests.live.probes import Result

TIMES: Final = 4


def met_again(suite: Suite) -> Told:
    """A file that is read once between two readings of the counts is judged in full twice, and from memory then; each
    reading says that it was once. Another file, read once, takes nothing of what memory has room for.
    """
    engine = suite.host.engine
    if not engine.loaded.prevented:
        return Told("read", detail="nothing is remembered without LSM hooks")
    again, once = (suite.ground.dir / "free" / name for name in ("met-again", "met-once"))
    for file in (again, once):
        file.write_text("x", encoding="ascii")

    def opened(name: str) -> tuple[int, int]:
        """(how often the log says, how often of that from memory)."""
        path = str(suite.ground.dir / "free" / name)
        records = [
            one for one in suite.host.counted("bot") if one["object"] == path and one["kernel_operation"] == "read"
        ]
        return sum(one["count"] for one in records), sum(number for number, at in hits() if at == path.encode())

    def hits() -> list[tuple[int, bytes]]:
        names = engine._accounts._hit_names
        found = []
        for number in range(1, engine._accounts._hits.used() + 1):
            hit = engine.loaded.hits_map.view(abi.Hit, number * SIZE)
            key = hit.key
            name = names.get((key.agent, key.generation, key.outcome, key.op, key.object[0], key.object[1]), b"")
            found.append((int(hit.count), name))
        return found

    seen = []
    for _ in range(TIMES):
        run = suite.host.run(suite.probe("read", again))
        assert run.result() is Result.ALLOWED, run
        seen.append(opened("met-again"))
    assert suite.host.run(suite.probe("read", once)).result() is Result.ALLOWED
    assert seen == [(1, 0), (2, 0), (3, 1), (4, 2)], seen
    assert opened("met-once") == (1, 0) and bytes(once) not in [name for _, name in hits()], hits()
    return Told("read", detail=f"{TIMES} times, {seen[-1][1]} from memory")


PROBES: Final[tuple[Probe | Scenario, ...]] = (Scenario(50, "a file that is met again later", met_again),)
