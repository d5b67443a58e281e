"""From counts to records: which stand together, and that nothing is counted otherwise than it was."""

from __future__ import annotations

from collections import Counter

import pytest

from agentd.audit import many
from agentd.audit.record import Record, body
from agentd.engine.accounts import Counted
from agentd.engine.archive import AgentView
from agentd.engine.summaries import Summaries
from agentd.kernel import abi
from agentd.model import Action, Decision, Op, Point, Risk
from agentd.policy.resolved import Outcome

ALLOW = Outcome(Decision.ALLOW, Action.NONE, Risk.LOW, 0, 0, 0)
DENY = Outcome(Decision.DENY, Action.KILL, Risk.HIGH, 1, 1, 0)
VIEW = AgentView("bot", (("reader", "read"), ("shell", "rm")), ("bot/allow/0", "bot/deny/0"), (ALLOW, DENY), "a" * 64)


def view(agent: int, generation: int) -> AgentView | None:
    """Agent 1 is the bot, 2 the canary; 3 is of an earlier agentd whose notes are lost."""
    canary = AgentView("canary", VIEW.toolops, VIEW.rules, VIEW.outcomes, "b" * 64)
    return {1: VIEW, 2: canary}.get(agent) if generation == 7 else None


def made(*counts: Counted) -> tuple[list[Record], Summaries]:
    """The records of these counts."""
    summaries = Summaries(view, {3: "old"}, ignored="canary")
    return list(summaries.records(counts)), summaries


def counted(
    name: bytes | None, times: int = 1, *, agent: int = 1, outcome: int = 0, op: Op = Op.READ, at: int = 1000,
    point: Point = Point.LSM,
) -> Counted:  # fmt: skip
    """A count as the kernel keeps it."""
    return Counted((agent, 7, outcome, op, hash(name) & 0xFFFF, 1), times, at, at + 5000, point, name)


def test_what_differs_in_the_object_alone_is_one_record() -> None:
    """Sorted by when it began; the record's count and times are those of all."""
    records, summaries = made(
        counted(b"/b", 2, at=9_000_000), counted(b"/a", at=1_000_000), counted(b"/a", op=Op.WRITE), counted(b"/c"),
        counted(b"/d", point=Point.SECCOMP),
    )  # fmt: skip
    first, *rest = records
    assert first.objects == [["/c", 1, 0, 5], ["/a", 1, 999, 1004], ["/b", 2, 8999, 9004]]
    assert (first.count, first.object, first.rule) == (4, None, "bot/allow/0")
    assert first.first is not None and first.last is not None and first.last - first.first == 9_005_000 - 1000
    assert [(one.object, one.count, one.objects) for one in rest] == [(b"/a", 1, None), (b"/d", 1, None)]
    assert "objects" not in body(rest[0], "h", "b")
    assert summaries.decided() == Counter({("bot", "reader", "read", Decision.ALLOW, Action.NONE, "bot/allow/0"): 6})


def test_a_record_has_an_end() -> None:
    """At so many objects, and at so many bytes of their names; none is told twice."""
    names = [b"/%d" % number for number in range(2 * many.OBJECTS_MAX + 1)]
    records, _ = made(*map(counted, names))
    assert [len(one.objects or [0]) for one in records] == [many.OBJECTS_MAX, many.OBJECTS_MAX, 1]
    assert sorted(found for one in records for found in names_in(one)) == sorted(name.decode() for name in names)
    longer = [b"/%d" % number + b"x" * 4000 for number in range(9)]
    records, _ = made(*map(counted, longer))
    assert [len(one.objects or [0]) for one in records] == [5, 4]


def names_in(record: Record) -> list[object]:
    """The objects of a record."""
    return many.objects(body(record, "h", "b"))  # type: ignore[return-value]


def test_what_stands_alone() -> None:
    """Denials that were counted, and what has lost its name, which is told by its hash."""
    records, summaries = made(counted(b"/x", 3, outcome=1), counted(b"/y", outcome=1), counted(None), counted(b"/z"))
    assert [(one.event, one.object, one.count) for one in records] == [
        ("denied", b"/x", 3), ("denied", b"/y", 1), ("allowed", b"/z", 1), ("allowed", None, 1),
    ]  # fmt: skip
    assert records[0].metadata["summarised"] == "ring-full" and records[0].action is Action.KILL
    assert records[3].input_summary == "read (name lost)" and len(str(records[3].metadata["object_hash"])) == 32
    assert sum(summaries.decided().values()) == 6


def test_lost_names_are_told_together() -> None:
    """However many they are: exactly how often, and of how many objects."""
    records, summaries = made(
        counted(None, 2, at=5), counted(None, 3, at=9), counted(None, op=Op.WRITE), counted(b"/z")
    )
    (told,) = (one for one in records if "names_lost" in one.metadata)
    assert (told.input_summary, told.count, told.object) == ("read 2 objects (names lost)", 5, None)
    assert told.metadata["names_lost"] == 2 and told.objects is None
    assert told.first is not None and told.last is not None and told.last - told.first == 5004
    assert sum(summaries.decided().values()) == 7


def test_of_whom_nothing_is_said() -> None:
    """The canary is neither recorded nor counted; an agent of lost notes is, under its name."""
    records, summaries = made(counted(b"/x", agent=2), counted(b"/y", agent=2), counted(b"/x", agent=3))
    assert [(one.agent_id, one.tool_name, one.rule) for one in records] == [("old", "unknown", None)]
    assert summaries.decided() == Counter({("old", "unknown", "unknown", Decision.ALLOW, Action.NONE, ""): 1})


@pytest.mark.parametrize(("number", "event"), [(abi.NO_OUTCOME, "denied"), (99, "allowed")])
def test_outcomes_that_are_not_known(number: int, event: str) -> None:
    """No outcome is a denial."""
    records, _ = made(counted(b"/x", outcome=number))
    assert records[0].event == event
