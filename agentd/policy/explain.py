"""Why a decision is what it is: which entry named the operation, which rule decided, why the others didn't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.model import Action, Decision, Endpoint, Family, Op, Risk
from agentd.policy.evaluate import evaluate, first_of, groups_of, judged_by, matched_patterns, rule_reaches
from agentd.policy.reader import shown
from agentd.policy.resolved import (
    NO_RULE,
    RULE_ABOVE,
    RULE_DEFAULT,
    RULE_GUARD,
    RULE_UNRESOLVED,
    Entry,
    ResolvedAgent,
    Rule,
)


@dataclass(frozen=True, slots=True)
class RuleNote:
    rule: Rule
    decides: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    agent: str
    tool: str
    operation: str
    risk: Risk
    decision: Decision
    action: Action
    timeout: int  # seconds, when the action is pause
    rule: str  # the id of the rule that decides, `default` or `unresolved`
    reason: str
    entry: Entry | None  # None for a question about a tool call
    passed_over: tuple[tuple[Entry, str], ...]  # entries before it that match the object but not the arguments
    notes: tuple[RuleNote, ...]  # one for each rule, in the order they are judged


def explain_kernel(
    agent: ResolvedAgent, op: Op, obj: bytes | Endpoint | None, argv: Sequence[bytes] = (), text: bytes = b""
) -> Explanation:
    """Explains what `evaluate.decide` answers."""
    groups = None if obj is None else groups_of(agent, op, obj, argv, text)
    if obj is None or groups is None:
        outcome = agent.unresolved(op)
        entry = next(entry for entry in reversed(agent.entries) if entry.op is op)
        return _explanation(agent, entry, (), outcome.action, outcome.timeout, RULE_UNRESOLVED, frozenset())
    forms = [(agent.outcome(op, found, groups), found) for found in _matched(agent, op, obj)]
    stands = first_of([outcome for outcome, _ in forms])
    matched = next(found for outcome, found in forms if outcome == stands)
    if stands.rule in (RULE_GUARD, RULE_ABOVE):
        entry = Entry(*agent.toolops[stands.toolop], stands.risk, op, (), None, "before the catalogue")
        return _explanation(agent, entry, (), stands.action, 0, stands.rule, matched)
    passed: list[tuple[Entry, str]] = []
    for entry in agent.entries:
        if entry.op is not op or matched.isdisjoint(entry.patterns):
            continue
        if entry.group is not None and entry.group not in groups:
            passed.append((entry, _missing(agent, op, entry.group)))
            continue
        outcome = agent.outcome(op, matched, groups)
        return _explanation(agent, entry, tuple(passed), outcome.action, outcome.timeout, outcome.rule, matched)
    raise AssertionError("the catalogue has an entry for everything")


def _missing(agent: ResolvedAgent, op: Op, group: int) -> str:
    if op is Op.CALL:
        return f"nothing in the text matches {_list(agent.text_groups[group])}"
    globs = ", ".join(glob.text for glob in agent.arg_groups[group])
    return f"no argument matches {globs}"


def _matched(agent: ResolvedAgent, op: Op, obj: bytes | Endpoint) -> list[frozenset[int]]:
    return [matched_patterns(agent, one) for one in judged_by(agent, op, obj)]


def explain_call(
    agent: ResolvedAgent,
    tool: str,
    operation: str,
    risk: Risk = Risk.LOW,
    paths: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Explanation:
    """Explains what `evaluate.evaluate` answers about a tool call."""
    verdict = evaluate(agent, tool, operation, risk, paths, hosts)
    rule = agent.rules[verdict.rule] if verdict.rule >= 0 else None
    action = agent.action_of(rule) if rule else agent.on_violation
    notes = []
    for other in agent.rules:
        why = _not_covered(other, tool, operation, risk)
        if not why and not rule_reaches(agent, other, paths, hosts):
            why = _no_reach(other, bool(paths), bool(hosts))
        notes.append(_note(agent, other, verdict.rule, why))
    timeout = rule.timeout if rule and action is Action.PAUSE else 0
    return Explanation(
        agent.name, tool, operation, risk, verdict.decision, action, timeout, rule.id if rule else "default",
        verdict.reason, None, (), tuple(notes),
    )  # fmt: skip


def _explanation(
    agent: ResolvedAgent,
    entry: Entry,
    passed: tuple[tuple[Entry, str], ...],
    action: Action,
    timeout: int,
    number: int,
    matched: frozenset[int],
) -> Explanation:
    notes: list[RuleNote] = []
    family = entry.op.family
    for rule in agent.rules:
        why = _not_covered(rule, entry.tool, entry.operation, entry.risk)
        if not why and (rule.paths is not None or rule.hosts is not None):
            patterns = rule.paths if family is Family.PATH else rule.hosts
            if patterns is None or matched.isdisjoint(patterns):
                why = _no_reach(rule, family is Family.PATH, family is Family.HOST)
        notes.append(_note(agent, rule, number, why))
    if number >= 0:
        rule = agent.rules[number]
        decision, name, reason = rule.decision, rule.id, f"{rule.decision.word} by {rule.id}"
    elif number == RULE_GUARD:
        decision, name, reason = (
            Decision.DENY,
            "guard",
            "it is agentd's own, which no workload may touch (always denied)",
        )
    elif number == RULE_ABOVE:
        decision, name, reason = Decision.DENY, "above", "a rule denies or asks about what is below it (always denied)"
    elif number == RULE_UNRESOLVED:
        decision, name, reason = Decision.DENY, "unresolved", "the object could not be resolved (always denied)"
    else:
        decision, name, reason = Decision.DENY, "default", "no rule covers it (default deny)"
    return Explanation(
        agent.name, entry.tool, entry.operation, entry.risk, decision, action, timeout, name, reason, entry, passed,
        tuple(notes),
    )  # fmt: skip


def _not_covered(rule: Rule, tool: str, operation: str, risk: Risk) -> str:
    if rule.tool not in (None, tool):
        return f"its tool is {rule.tool}"
    if rule.operations is not None and operation not in rule.operations:
        return f"its operations are {', '.join(sorted(rule.operations)) or 'none'}"
    if not rule.bears(risk):
        return f"risk {risk.word} is above its risk_level_max {rule.risk_max.word if rule.risk_max is not None else ''}"
    return ""


def _no_reach(rule: Rule, has_path: bool, has_host: bool) -> str:
    if has_path and rule.paths_text is not None:
        return f"the path matches none of {_list(rule.paths_text)}"
    if has_host and rule.hosts_text is not None:
        return f"the address matches none of {_list(rule.hosts_text)}"
    return "it only covers paths" if rule.hosts_text is None else "it only covers hosts"


def _list(texts: tuple[str, ...]) -> str:
    listed = ", ".join(shown(text)[1:-1] for text in texts[:6])
    return listed if len(texts) <= 6 else f"{listed} and {len(texts) - 6} more"


def _note(agent: ResolvedAgent, rule: Rule, winner: int, why: str) -> RuleNote:
    if rule.index == winner:
        return RuleNote(rule, True, "decides")
    if why:
        return RuleNote(rule, False, why)
    if winner in (RULE_GUARD, RULE_ABOVE):
        return RuleNote(rule, False, f"`{NO_RULE[winner]}` stands before any rule")
    if winner == RULE_UNRESOLVED:
        return RuleNote(rule, False, "what is unresolved is denied before any rule")
    if winner == RULE_DEFAULT:
        return RuleNote(rule, False, "does not apply to tool calls")  # only the baseline, in an aegize document
    first = agent.rules[winner]
    if first.decision is rule.decision:
        return RuleNote(rule, False, f"covers it too, but {first.id} stands before it")
    return RuleNote(rule, False, f"covers it too, but {first.decision.word} goes before {rule.decision.word}")
