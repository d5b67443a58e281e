"""What the audit log's operations would come to under a policy, and which of its rules they met.

Only what the log keeps can be asked again: an operation that is counted has no arguments, so an exec that was counted
is taken for the tool and operation that it was then. Nothing here needs a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentd.audit import many, rawbytes
from agentd.audit.record import object_from_json
from agentd.engine.automata import for_this_host
from agentd.kernel.prepare import MAX_ARENA_WORDS
from agentd.model import OP_BY_WORD, Action, Decision, Endpoint, Family, Op
from agentd.policy.evaluate import decide, first_of, judged_by, matched_patterns
from agentd.policy.resolved import (
    RULE_ABOVE,
    RULE_DEFAULT,
    RULE_GUARD,
    RULE_UNRESOLVED,
    Outcome,
    ResolvedAgent,
    ResolvedPolicy,
)
from agentd.policy.tables import AgentTables, build
from agentd.policy.walk import lookup

EVENTS: Final = frozenset({"allowed", "denied", "approval_required"})
CARRIED_OUT: Final = "approved, and carried out"  # the second record of an operation that was asked about
UNKNOWN: Final = "unknown agent"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that an agent did or tried. named: the (tool, operation) that it was; argv: None if not recorded."""

    agent: str
    op: Op
    obj: bytes | Endpoint
    named: tuple[str, str]
    argv: tuple[bytes, ...] | None


@dataclass(slots=True)
class Seen:
    """How often an operation is in the log, and where."""

    count: int = 0
    first: int = 0
    last: int = 0
    summary: str = ""
    recorded: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        count = record.get("count")
        seq = record.get("seq")
        self.count += count if isinstance(count, int) else 1
        self.last = seq if isinstance(seq, int) else 0
        self.first = self.first or self.last
        self.summary = self.summary or str(record.get("input_summary"))
        self.recorded.add(str(record.get("decision")))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says: `allow`, `deny (kill)`, ... and by which rule."""

    decision: str
    rule: str
    tool: str
    operation: str


def operations(records: Iterable[Record]) -> dict[Operation, Seen]:
    """The operations of records; those whose object isn't known completely are left out."""
    found: dict[Operation, Seen] = {}
    for record in many.singles(records):
        operation = operation_of(record)
        if operation is not None:
            found.setdefault(operation, Seen()).add(record)
    return found


def operation_of(record: Record) -> Operation | None:
    """The operation of a record that is about one."""
    op = OP_BY_WORD.get(str(record.get("kernel_operation")))
    obj = object_from_json(record.get("object"))
    if record.get("event") not in EVENTS or record.get("reason") == CARRIED_OUT or op is None or obj is None:
        return None
    if isinstance(obj, Endpoint) is not (op.family is Family.HOST):
        return None
    named = (str(record.get("tool_name")), str(record.get("operation")))
    return Operation(str(record.get("agent_id")), op, obj, named, _argv(record) if op is Op.EXEC else ())


def _argv(record: Record) -> tuple[bytes, ...] | None:
    process = record.get("process")
    words = process.get("argv") if isinstance(process, dict) else None
    if not isinstance(words, list) or record.get("metadata", {}).get("argv_cut"):
        return None
    try:
        return tuple(rawbytes.decode(word) for word in words)
    except (ValueError, KeyError, TypeError):
        return None


class Judge:
    """A policy that is asked often: paths are judged by the kernel's tables, which a log's many paths need."""

    def __init__(self, policy: ResolvedPolicy) -> None:
        self._policy = policy
        self._tables: dict[str, AgentTables] = {}

    def verdict(self, operation: Operation) -> Verdict:
        """What the policy says about it. Raises AgentdError `policy-too-large`."""
        agent = self._policy.agents.get(operation.agent)
        if agent is None:
            return Verdict("deny", UNKNOWN, *operation.named)
        if isinstance(operation.obj, Endpoint) or operation.argv is None:
            return _verdict(agent, _outcome(agent, operation))
        if agent.name not in self._tables:
            self._tables[agent.name] = build(agent, max_words=MAX_ARENA_WORDS, automata=for_this_host())
        return _verdict(agent, lookup(self._tables[agent.name], operation.op, operation.obj, operation.argv))


def _verdict(agent: ResolvedAgent, outcome: Outcome) -> Verdict:
    done = "" if outcome.action in (Action.NONE, Action.DENY) else f" ({outcome.action.word})"
    if outcome.decision is not Decision.ALLOW and outcome.action is Action.NONE:
        done = " (monitor)"
    if outcome.decision is Decision.REQUIRE_APPROVAL and outcome.action is Action.PAUSE:
        done = ""
    return Verdict(f"{outcome.decision.word}{done}", rule_id(agent, outcome.rule), *agent.toolops[outcome.toolop])


def _outcome(agent: ResolvedAgent, operation: Operation) -> Outcome:
    if operation.argv is not None:
        return decide(agent, operation.op, operation.obj, operation.argv)
    return first_of([_as_named(agent, operation, one) for one in judged_by(agent, operation.op, operation.obj)])


def _as_named(agent: ResolvedAgent, operation: Operation, obj: bytes | Endpoint) -> Outcome:
    candidates = agent.candidates(operation.op, matched_patterns(agent, obj))
    same = (outcome for _, outcome in candidates if agent.toolops[outcome.toolop] == operation.named)
    return next(same, candidates[-1][1])


def rule_id(agent: ResolvedAgent, rule: int) -> str:
    """As records name it."""
    return {RULE_DEFAULT: "default-deny", RULE_UNRESOLVED: "unresolved", RULE_GUARD: "guard", RULE_ABOVE: "above"}.get(
        rule
    ) or agent.rules[rule].id


def changes(
    old: ResolvedPolicy, new: ResolvedPolicy, seen: Mapping[Operation, Seen]
) -> Iterator[tuple[Operation, Seen, Verdict, Verdict]]:
    """The operations that `new` decides otherwise than `old`."""
    before, after = Judge(old), Judge(new)
    for operation, times in seen.items():
        was, will = before.verdict(operation), after.verdict(operation)
        if was.decision != will.decision:
            yield operation, times, was, will


def hits(records: Iterable[Record]) -> dict[tuple[str, str], Seen]:
    """By (agent, rule): how many operations of the log it decided."""
    found: dict[tuple[str, str], Seen] = {}
    for record in records:
        if record.get("event") in EVENTS and record.get("reason") != CARRIED_OUT and record.get("rule"):
            found.setdefault((str(record.get("agent_id")), str(record["rule"])), Seen()).add(record)
    return found
