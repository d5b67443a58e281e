"""From exact counts to the records of the audit log that say them.

What one agent was allowed by one rule in one interval is one record for up to many.OBJECTS_MAX objects (audit/many.py):
a record for each object of an unpacked archive cost thirty times what judging it did. A lone object has a
record of its own, and so has each that was denied and counted because the ring was full; those whose names were lost
have one together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from agentd.audit import many, rawbytes
from agentd.audit.canonical import Json
from agentd.audit.many import Row
from agentd.audit.record import Record, object_json, summarize
from agentd.audit.writer import new_action_id
from agentd.engine.accounts import Counted
from agentd.engine.archive import AgentView
from agentd.engine.records import object_of, reason_of, wall_time
from agentd.kernel import abi
from agentd.model import Action, Decided, Decision, Endpoint, Family, Guarantee, Op, Point
from agentd.policy.resolved import RULE_UNRESOLVED, Outcome

Kind = tuple[int, int, int, int, int]  # agent, generation, outcome, operation, point

_BY_FIRST: Final = itemgetter(Counted._fields.index("first"))


class Summaries:
    """The records of one flush. view: what an agent's generation means; name: of an agent's number.

    ignored: an agent of whom nothing is said.
    """

    def __init__(
        self, view: Callable[[int, int], AgentView | None], names: Mapping[int, str], ignored: str = ""
    ) -> None:
        self._view = view
        self._names = names
        self._ignored = ignored
        self._kinds: dict[Kind, _Kind] = {}
        self._wall = wall_time(0)

    def decided(self) -> Counter[Decided]:
        """How often what was decided, of all that records() has taken so far."""
        counted: Counter[Decided] = Counter()
        for kind in self._kinds.values():
            if not kind.ignored:
                counted[kind.decided] += kind.count
        return counted

    def records(self, counts: Iterable[Counted]) -> Iterator[Record]:
        """What is to be written."""
        kinds = self._kinds
        for one in counts:
            key = (*one.key[:4], one.point)
            kind = kinds.get(key)
            if kind is None:
                kind = kinds[key] = self._begin(key)
            kind.count += one.times
            name = one.name
            if kind.alone:
                if not kind.ignored:
                    yield kind.single(one, self._wall)
                continue
            if not name:
                kind.nameless.append(one)
                continue
            kind.counts.append(one)
            kind.size += len(name)
            if len(kind.counts) >= many.OBJECTS_MAX or kind.size >= many.BYTES_MAX:
                yield kind.record(self._wall)
        for kind in kinds.values():
            if kind.counts:
                yield kind.record(self._wall)
            if kind.nameless:
                yield kind.unnamed(self._wall)

    def _begin(self, key: Kind) -> _Kind:
        agent, generation, number, op, point = key
        view = self._view(agent, generation)
        name = view.name if view else self._names.get(agent, f"agent-{agent}")
        outcome = view.outcomes[number] if view and number < len(view.outcomes) else None
        unknown = Decision.DENY if number == abi.NO_OUTCOME else Decision.ALLOW
        decision = outcome.decision if outcome else unknown
        return _Kind(name, generation, Op(op), Point(point), view, outcome, decision, name == self._ignored)


@dataclass(slots=True)
class _Kind:
    """Operations that differ in their objects alone."""

    agent: str
    generation: int
    op: Op
    point: Point
    view: AgentView | None
    outcome: Outcome | None
    decision: Decision
    ignored: bool
    count: int = 0
    counts: list[Counted] = field(default_factory=list)
    nameless: list[Counted] = field(default_factory=list)
    size: int = 0  # bytes of their names
    alone: bool = field(init=False)  # has each object a record of its own?

    def __post_init__(self) -> None:
        self.alone = self.ignored or self.decision is not Decision.ALLOW

    @property
    def names(self) -> tuple[str, str]:
        """(tool, operation)."""
        return self.view.toolop(self.outcome.toolop) if self.view and self.outcome else ("unknown", "unknown")

    @property
    def rule(self) -> str | None:
        number = self.outcome.rule if self.outcome else RULE_UNRESOLVED
        return self.view.rule_id(number) if self.view else None

    @property
    def decided(self) -> Decided:
        """What its operations are counted as."""
        action = self.outcome.action if self.outcome else Action.NONE
        return (self.agent, *self.names, self.decision, action, self.rule or "")

    def record(self, wall: int) -> Record:
        """Of the objects so far, which are told with it. wall: ns between the clocks."""
        counts, self.counts, self.size = self.counts, [], 0
        if len(counts) == 1:
            return self.single(counts[0], wall)
        counts.sort(key=_BY_FIRST)
        first = counts[0].first + wall
        begin, json_of = first // 1000, self._encoder()
        rows: list[Row] = [
            [json_of(name or b""), times, (began + wall) // 1000 - begin, (ended + wall) // 1000 - begin]
            for _, times, began, ended, _, name in counts
        ]
        said = many.summarize(self.op.word, rows)
        last = max(one.last for one in counts) + wall
        return self._record(said, None, sum(one.times for one in counts), first, last, {}, rows)

    def unnamed(self, wall: int) -> Record:
        """Of all objects whose names were lost: counted exactly, and nobody knows which they were."""
        counts, self.nameless = self.nameless, []
        if len(counts) == 1:
            return self.single(counts[0], wall)
        said = f"{self.op.word} {len(counts)} objects (names lost)"
        first, last = min(one.first for one in counts) + wall, max(one.last for one in counts) + wall
        metadata: dict[str, Json] = {"names_lost": len(counts)}
        return self._record(said, None, sum(one.times for one in counts), first, last, metadata, None)

    def single(self, one: Counted, wall: int) -> Record:
        """Of one object."""
        metadata: dict[str, Json] = {}
        if self.decision is not Decision.ALLOW:
            metadata["summarised"] = "ring-full"
        if one.name is None:
            metadata["object_hash"] = f"{one.key[4]:016x}{one.key[5]:016x}"
        target = None if one.name is None else object_of(self.op, one.name)
        said = f"{self.op.word} (name lost)" if one.name is None else summarize(self.op, target)
        return self._record(said, target, one.times, one.first + wall, one.last + wall, metadata, None)

    def _encoder(self) -> Callable[[bytes], Json]:
        """What makes the JSON of an object from its bytes."""
        op = self.op
        if op.family is Family.PATH:
            return rawbytes.encode  # type: ignore[return-value]
        return lambda name: object_json(object_of(op, name))

    def _record(
        self, said: str, target: bytes | Endpoint | None, count: int, first: int, last: int,
        metadata: dict[str, Json], rows: list[Row] | None,
    ) -> Record:  # fmt: skip
        tool, operation = self.names
        rule = self.outcome.rule if self.outcome else RULE_UNRESOLVED
        return Record(
            timestamp=last,
            event="allowed" if self.decision is Decision.ALLOW else "denied",
            action_id=new_action_id(),
            agent_id=self.agent,
            tool_name=tool,
            operation=operation,
            risk=self.outcome.risk if self.outcome else None,
            input_summary=said,
            reason=reason_of(self.decision, rule, tool, operation),
            metadata={"generation": self.generation, **metadata},
            decision=self.decision,
            rule=self.rule,
            action=self.outcome.action if self.outcome else Action.NONE,
            guarantee=Guarantee.NONE,
            point=self.point,
            kernel_operation=self.op,
            object=target,
            policy_sha256=self.view.policy_sha256 if self.view else None,
            count=count,
            first=first,
            last=last,
            objects=rows,
        )
