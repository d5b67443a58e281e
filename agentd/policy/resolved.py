"""The resolved rules of an agent: what both the Python evaluator and the kernel tables are made from.

Deciding has two steps. An operation's object matches some patterns; the first catalogue entry among them names the
(tool, operation). Then the first rule that covers it decides: rules stand in the order they are judged (deny,
require_approval, allow, the baseline), so the smallest index wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.model import Action, Decision, Family, Guarantee, Mode, Op, Risk
from agentd.policy import guard
from agentd.policy.guard import Fence
from agentd.policy.hosts import HostPattern
from agentd.policy.ir import CallPoint, Language, Match
from agentd.policy.patterns import Glob
from agentd.policy.problem import Problem

RULE_DEFAULT: Final = -1  # no rule covers the operation: default deny
RULE_UNRESOLVED: Final = -2  # the object could not be resolved completely
RULE_GUARD: Final = -3  # it is agentd's own (guard.py): denied, whatever the rules and the mode say
RULE_ABOVE: Final = -4  # a folder above something that a rule denies or asks about: its renaming is denied
NO_RULE: Final = {RULE_DEFAULT: "default", RULE_UNRESOLVED: "unresolved", RULE_GUARD: "guard", RULE_ABOVE: "above"}
DEFAULT_TIMEOUT: Final = 300  # seconds that a held operation waits when its rule says nothing
BASELINE: Final = frozenset({("runtime", "load"), ("runtime", "code"), ("runtime", "generate")})


@dataclass(frozen=True, slots=True)
class Rule:
    """`paths` and `hosts` index the agent's patterns; None: not limited by them.

    With either, the rule covers only operations whose object is of that kind; with neither, any. An empty tuple matches
    nothing. `*_text` is what the file says.
    """

    id: str
    index: int  # of the rule in the agent's rules
    decision: Decision
    tool: str | None
    operations: frozenset[str] | None
    paths: tuple[int, ...] | None
    hosts: tuple[int, ...] | None
    risk_max: Risk | None
    action: Action | None
    timeout: int  # seconds; how long the operation is held if its action is pause
    where: str
    paths_text: tuple[str, ...] | None = None
    hosts_text: tuple[str, ...] | None = None
    approvers: int = 1  # different people who must say yes to a held operation

    @property
    def digest(self) -> str:
        """The same for two rules that say the same, wherever they stand."""
        operations = None if self.operations is None else sorted(self.operations)
        said = (
            self.id, self.decision.word, self.tool, operations, self.paths_text, self.hosts_text,
            None if self.risk_max is None else self.risk_max.word, self.approvers,
        )  # fmt: skip
        return hashlib.sha256(repr(said).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def text(self) -> str:
        """The rule as a line of the policy, for people."""
        parts = [f"tool: {self.tool}"]
        for word, value in (
            ("operations", None if self.operations is None else ", ".join(sorted(self.operations))),
            ("paths", None if self.paths_text is None else ", ".join(self.paths_text)),
            ("hosts", None if self.hosts_text is None else ", ".join(self.hosts_text)),
        ):
            if value is not None:
                parts.append(f"{word}: [{value}]")
        if self.risk_max is not None:
            parts.append(f"risk_level_max: {self.risk_max.word}")
        if self.decision is Decision.REQUIRE_APPROVAL:
            parts.append(f"timeout: {self.timeout}s")
            parts += [f"approvers: {self.approvers}"] if self.approvers > 1 else []
        return f"{self.decision.word}: {{{', '.join(parts)}}}"

    def names(self, tool: str, operation: str) -> bool:
        """Whether the rule speaks of this tool and operation at all."""
        return self.tool in (None, tool) and (self.operations is None or operation in self.operations)

    def bears(self, risk: Risk) -> bool:
        return self.risk_max is None or risk <= self.risk_max


@dataclass(frozen=True, slots=True)
class Entry:
    tool: str
    operation: str
    risk: Risk
    op: Op
    patterns: tuple[int, ...]  # into path_patterns or host_patterns, by op.family; any suffices
    group: int | None  # into arg_groups (of a call: text_groups): then some argument, or the text, must match too
    where: str
    own: bool = False  # from the policy's own `tools:`


@dataclass(frozen=True, slots=True)
class Outcome:
    decision: Decision
    action: Action
    risk: Risk
    rule: int  # index into the agent's rules, or RULE_...
    toolop: int  # index into the agent's toolops
    timeout: int  # seconds; 0 unless the action is pause


@dataclass(slots=True)
class _Plan:
    """The rules that cover one (tool, operation, risk) for one kind of object; the smallest index decides."""

    always: int  # the first rule that needs no pattern; len(rules) if there is none
    by_pattern: dict[int, int]  # pattern -> the first rule that needs it


class _Index:
    """What is looked up per decision, derived from an agent once."""

    __slots__ = ("catch_all", "entries", "plans", "toolops")

    def __init__(self, agent: ResolvedAgent) -> None:
        self.entries: dict[Op, dict[int, list[int]]] = {op: {} for op in Op}
        self.catch_all: dict[Op, int] = {}
        for number, entry in enumerate(agent.entries):
            for pattern in entry.patterns:
                self.entries[entry.op].setdefault(pattern, []).append(number)
            self.catch_all[entry.op] = number
        self.toolops = {toolop: number for number, toolop in enumerate(agent.toolops)}
        self.plans: dict[tuple[str, str, Risk, Family], _Plan] = {}


@dataclass(frozen=True, slots=True)
class ResolvedAgent:
    name: str
    language: Language
    mode: Mode
    on_violation: Action
    minimum_guarantee: Guarantee
    below_minimum: Action  # what is done about its running workloads: PAUSE or KILL
    strict_audit: bool
    calls_required: bool  # no workload without the probes of its library calls; else losing one is only told
    workspace: str
    match: tuple[Match, ...]
    path_patterns: tuple[Glob, ...]
    host_patterns: tuple[HostPattern, ...]
    arg_groups: tuple[tuple[Glob, ...], ...]
    rules: tuple[Rule, ...]
    entries: tuple[Entry, ...]
    toolops: tuple[tuple[str, str], ...]
    where: str
    text_groups: tuple[tuple[str, ...], ...] = ()
    calls: tuple[CallPoint, ...] = ()  # the library functions that some rule of the agent speaks of
    fences: tuple[Fence, ...] = ()  # they stand before every rule; the first one decides
    _index: _Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", _Index(self))

    def candidates(self, op: Op, matched: frozenset[int]) -> tuple[tuple[int | None, Outcome], ...]:
        """What may come of `op` on an object that matches exactly the patterns `matched`, in order.

        Each is (argument group that must match, outcome); the last one has no group. An object that matches no entry
        at all (the catalogue's catch-all entries leave none) is unresolved, and so denied.
        """
        for fence in self.fences:
            if op in fence.ops and not matched.isdisjoint(fence.patterns):
                return ((None, self.fenced(fence)),)
        by_pattern = self._index.entries[op]
        numbers = sorted({number for pattern in matched for number in by_pattern.get(pattern, ())})
        found: list[tuple[int | None, Outcome]] = []
        for number in numbers:
            entry = self.entries[number]
            found.append((entry.group, self.judge(entry, matched)))
            if entry.group is None:
                return tuple(found)
        return (*found, (None, self.unresolved(op)))

    def outcome(self, op: Op, matched: frozenset[int], groups: frozenset[int] = frozenset()) -> Outcome:
        """The outcome of `op` when the object matches `matched` and the arguments match `groups`."""
        candidates = self.candidates(op, matched)
        return next(outcome for group, outcome in candidates if group is None or group in groups)

    def last_entry(self, op: Op) -> int:
        """The number of the entry that matches whatever no other one does."""
        return self._index.catch_all[op]

    def fenced(self, fence: Fence) -> Outcome:
        """The outcome of what a fence keeps from. Monitor mode doesn't open the guard."""
        if fence.rule == RULE_GUARD:
            action = Action.KILL if self.on_violation is Action.KILL else Action.DENY
            toolop = self._index.toolops[guard.TOOL, guard.OPERATION]
            return Outcome(Decision.DENY, action, Risk.CRITICAL, fence.rule, toolop, 0)
        toolop = self._index.toolops["file", "rename"]
        action = Action.DENY if self.on_violation is Action.PAUSE else self.on_violation
        return self._outcome(Decision.DENY, action, 0, Risk.HIGH, fence.rule, toolop)

    def unresolved(self, op: Op) -> Outcome:
        """The outcome for an object that could not be resolved completely: always deny."""
        entry = self.entries[self._index.catch_all[op]]
        toolop = self._index.toolops[entry.tool, entry.operation]
        return self._outcome(Decision.DENY, self.on_violation, DEFAULT_TIMEOUT, entry.risk, RULE_UNRESOLVED, toolop)

    def rule_for(self, tool: str, operation: str, risk: Risk, family: Family, matched: frozenset[int]) -> int:
        """The index of the rule that decides, or RULE_DEFAULT."""
        plan = self._plan(tool, operation, risk, family)
        by_pattern, last = plan.by_pattern, len(self.rules)
        first = min((by_pattern.get(pattern, last) for pattern in matched), default=last)
        first = min(first, plan.always)
        return first if first < last else RULE_DEFAULT

    def allows_all(self, op: Op) -> bool:
        """Do the rules allow `op` whatever its object is? (agentd's own is fenced off all the same.)"""
        for entry in self.entries:
            if entry.op is not op:
                continue
            plan = self._plan(entry.tool, entry.operation, entry.risk, op.family)
            deciding = [plan.always, *plan.by_pattern.values()]
            if any(rule == len(self.rules) or self.rules[rule].decision is not Decision.ALLOW for rule in deciding):
                return False
        return True

    def judge(self, entry: Entry, matched: frozenset[int]) -> Outcome:
        """The outcome of an operation that `entry` names, on an object that matches the patterns `matched`."""
        return self.judge_by(entry, self.rule_for(entry.tool, entry.operation, entry.risk, entry.op.family, matched))

    def judge_by(self, entry: Entry, number: int) -> Outcome:
        """The outcome when rule `number` (or RULE_DEFAULT) decides about an operation that `entry` names."""
        toolop = self._index.toolops[entry.tool, entry.operation]
        if number == RULE_DEFAULT:
            return self._outcome(Decision.DENY, self.on_violation, DEFAULT_TIMEOUT, entry.risk, number, toolop)
        rule = self.rules[number]
        action = self.action_of(rule)
        return self._outcome(rule.decision, action, rule.timeout, entry.risk, number, toolop)

    def action_of(self, rule: Rule) -> Action:
        """What is done about an operation that `rule` decides, the mode left aside."""
        if rule.decision is Decision.ALLOW:
            return Action.NONE
        if rule.decision is Decision.REQUIRE_APPROVAL:
            return Action.PAUSE
        return rule.action or self.on_violation

    def _outcome(self, decision: Decision, action: Action, timeout: int, risk: Risk, rule: int, toolop: int) -> Outcome:
        if self.mode is Mode.MONITOR:
            action = Action.NONE
        return Outcome(decision, action, risk, rule, toolop, timeout if action is Action.PAUSE else 0)

    def _plan(self, tool: str, operation: str, risk: Risk, family: Family) -> _Plan:
        key = (tool, operation, risk, family)
        plan = self._index.plans.get(key)
        if plan is None:
            plan = self._index.plans[key] = self._make_plan(tool, operation, risk, family)
        return plan

    def _make_plan(self, tool: str, operation: str, risk: Risk, family: Family) -> _Plan:
        plan = _Plan(len(self.rules), {})
        for rule in self.rules:
            if not (rule.names(tool, operation) and rule.bears(risk)):
                continue
            if rule.paths is None and rule.hosts is None:
                plan.always = rule.index
                break  # nothing behind it can come first
            for pattern in (rule.paths if family is Family.PATH else rule.hosts) or ():
                plan.by_pattern.setdefault(pattern, rule.index)
        return plan


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """A loaded policy. `sha256` is over the file's bytes, a NUL and the shipped catalogue's bytes, in hex."""

    agents: Mapping[str, ResolvedAgent]
    sha256: str
    source: str  # the file's name, for messages
    language: Language
    warnings: tuple[Problem, ...]
