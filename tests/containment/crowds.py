"""Row 63, what a workload can fill the kernel's maps with besides files and questions: tasks and names."""

from __future__ import annotations

from typing import Final

from agentd.kernel.hosts import TTL_MAX, TTL_MIN
from tests.containment.hostnames import EPERM, Space, ask, said, space, told
from tests.containment.paths import KEY
from tests.containment.suite import Probe, Scenario, Suite, Told, touch
from tests.live.names import WEB
from tests.live.probes import Run, untagged


def many_tasks(suite: Suite) -> Told:
    """Thousands of processes at once: each has its mark, the last one is held to the policy, and no mark stays."""
    ground, host, number = suite.ground, suite.host, suite.rounds(2000, 20_000)
    ground.fresh()
    go = ground.dir / "state/go"
    touch(go)
    assert b"data secret" in untagged(suite.probe("tasks", 5, go, ground.say(KEY))).out
    go.unlink()
    workload = host.start(suite.probe("tasks", number, go, ground.say(KEY)))
    host.until(lambda: b"made" in workload.output or workload.ended, "the last of them")
    marked = {line.pid for line in host.engine.marks.list() if line.workload == workload.number}
    touch(go)
    run = workload.wait()
    go.unlink()
    assert b"data secret" not in run.out and len(run.denials) == 1, run
    left = number + (run.denials[0]["action"] != "kill")  # with the first, and perhaps without the last
    assert len(marked) == left, f"{len(marked)} of {left} processes have a mark"
    assert not host.engine.marks.list()
    return Told("read", run.denials[0]["point"], run.denials[0]["guarantee"], f"{number} processes")


def many_names(suite: Suite) -> Told:
    """More names than there is room for: the latest is known, what was never asked for is not, and no room is made."""
    table, number = suite.host.engine.names.table, suite.rounds(4500, 20_000)
    here = space()
    last = "last.example.test"
    here.records = {
        (f"n{each}.example.test", "A"): [f"198.18.{each >> 8 & 255}.{each & 255}"] for each in range(number)
    }
    here.records[last, "A"] = [WEB[0]]
    steps = [step for each in range(number) for step in ask(f"n{each}.example.test")]
    steps += [*ask(last), f"visit/{WEB[0]}/443", f"visit/{WEB[1]}/443"]
    control = suite.host.engine.loaded.control
    control.name_ttl_min = control.name_ttl_max = TTL_MAX  # no name goes by itself
    try:
        assert said(once(suite, here, steps[-5:], tagged=False))[-2:] == ["ok", "ok"]
        suite.host.engine.names.forget()
        run = once(suite, here, steps, tagged=True)
        known = table.entries()
    finally:
        suite.host.engine.names.forget()
        here.records = {}
        control.name_ttl_min, control.name_ttl_max = TTL_MIN, TTL_MAX
    outcome = said(run)
    assert outcome[-2:] == ["ok", EPERM] and len(run.denials) == 1, run.lines[-5:]
    assert len(outcome) == number + 3, f"{len(outcome) - 3} of {number} names were answered"
    assert min(number, table.capacity // 2) <= known <= table.capacity, f"{known} addresses are known"
    return told(run)


def once(suite: Suite, here: Space, steps: list[str], *, tagged: bool) -> Run:
    """One run in the namespace of the names."""
    command = suite.probe("names", f"enter/{here.fd}", *steps)
    return suite.host.run(command, "surfer", keep=[here.fd]) if tagged else untagged(command, keep=[here.fd])


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    Scenario(63, "many tasks", many_tasks),
    Scenario(63, "many names", many_names),
)
