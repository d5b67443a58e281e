"""Is a policy nowhere looser than another one that it adds to? Compared in decisions, for every object there can be.

What is looser: an operation that was denied and is asked about, or was asked about and is allowed; an action that a
process survives (kill, then deny, then pause, then none); fewer approvers; a lower minimum_guarantee; an audit that is
no longer strict. Both policies name operations by the same entries, so per (tool, operation, risk) only rules decide,
and what they decide depends on which of their patterns match: every set of patterns that can match together is tried,
from the automata of the patterns. That can say no to a policy whose difference no real object meets, never yes to one
that is looser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from agentd.model import Action, Decision, Family, Mode
from agentd.policy.automaton import StateLimit, compile_globs, compile_hosts
from agentd.policy.nameclasses import NamePatterns
from agentd.policy.problem import PolicyError, Problem
from agentd.policy.resolved import Entry, Outcome, ResolvedAgent, ResolvedPolicy

MAX_STATES: Final = 400_000
_SEVERITY: Final = {Action.NONE: 0, Action.PAUSE: 1, Action.DENY: 2, Action.KILL: 3}

Loosened = tuple[str, str]
"""(`file:line:column` of what makes it so, what is looser)."""


def loosened(before: ResolvedPolicy, after: ResolvedPolicy) -> Iterator[Loosened]:
    """Where `after` is looser than `before`, or can't be compared; nothing when it is nowhere looser."""
    yield from _recognised(before, after)
    for name, agent in before.agents.items():
        now = after.agents.get(name)
        if now is None:
            yield after.source, f"agent {name} is gone"
        else:
            yield from _agent(agent, now)


def _recognised(before: ResolvedPolicy, after: ResolvedPolicy) -> Iterator[Loosened]:
    """Who would be another, and perhaps milder, agent: rules of `match:` count in the order of the agents, and those of
    slices by the longest name (recognise.py).
    """
    names = list(after.agents)
    for number, name in enumerate(names):
        agent = after.agents[name]
        older = before.agents.get(name)
        if older is None:
            for other in before.agents:
                if name.startswith(f"{other}-"):
                    yield agent.where, f"agents.{name}: its slice lies in {other}'s, and what begins there is {other}"
        elif agent.match[: len(older.match)] != older.match:
            yield agent.where, f"agents.{name}: rules of match are gone"
        elif len(agent.match) > len(older.match):
            behind = [one for one in names[number + 1 :] if one in before.agents and before.agents[one].match]
            if behind:
                yield agent.where, f"agents.{name}: more rules of match could take what is {behind[0]}'s"


def _agent(before: ResolvedAgent, after: ResolvedAgent) -> Iterator[Loosened]:
    for word, low in (
        ("mode: monitor acts on nothing", before.mode is Mode.ENFORCE and after.mode is Mode.MONITOR),
        ("on_violation is milder", _SEVERITY[after.on_violation] < _SEVERITY[before.on_violation]),
        ("minimum_guarantee is lower", after.minimum_guarantee < before.minimum_guarantee),
        ("below_minimum is milder", _SEVERITY[after.below_minimum] < _SEVERITY[before.below_minimum]),
        ("audit is no longer strict", before.strict_audit and not after.strict_audit),
        ("library_calls are no longer required", before.calls_required and not after.calls_required),
    ):
        if low:
            yield after.where, f"agents.{before.name}: {word}"
    if before.workspace != after.workspace:
        yield after.where, f"agents.{before.name}: another workspace gives every relative path another meaning"
    elif [_meaning(before, one) for one in before.entries] != [_meaning(after, one) for one in after.entries]:
        yield after.where, f"agents.{before.name}: operations would be named by other entries of `tools:`"
    else:
        yield from _Comparison(before, after).run()


def _meaning(agent: ResolvedAgent, entry: Entry) -> object:
    patterns = agent.host_patterns if entry.op.family is Family.HOST else agent.path_patterns
    group = None if entry.group is None else agent.arg_groups[entry.group]
    return entry.tool, entry.operation, entry.risk, entry.op, tuple(patterns[n] for n in entry.patterns), group


class _Comparison:
    """Of two agents whose entries are the same."""

    def __init__(self, before: ResolvedAgent, after: ResolvedAgent) -> None:
        self.before = before
        self.after = after
        known = {rule.where for rule in before.rules}
        added = [rule for rule in after.rules if rule.where not in known]
        self.kinds = {
            (entry.tool, entry.operation, entry.risk, entry.op.family): entry
            for entry in after.entries
            if any(rule.names(entry.tool, entry.operation) and rule.bears(entry.risk) for rule in added)
        }
        self.found: dict[tuple[str, str], Loosened] = {}

    def run(self) -> Iterator[Loosened]:
        try:
            self._paths()
            self._hosts()
        except StateLimit:
            yield self.after.where, f"agents.{self.after.name}: too many patterns to be compared"
        yield from self.found.values()

    def _paths(self) -> None:
        after = self.after
        used = sorted({number for rule in after.rules for number in rule.paths or ()})
        olds = {glob: number for number, glob in enumerate(self.before.path_patterns)}
        users: dict[int, tuple[int, ...]] = {
            number: tuple(rule.index for rule in after.rules if number in (rule.paths or ())) for number in used
        }
        labels: dict[tuple[int, ...], int] = {}
        self._try(Family.PATH, frozenset(), {})
        compile_globs(
            [after.path_patterns[number] for number in used],
            lambda matched: self._try(
                Family.PATH, frozenset(used[i] for i in matched), {n: olds.get(after.path_patterns[n]) for n in used}
            ),
            max_states=MAX_STATES,
            labels=[labels.setdefault(users[number], len(labels)) for number in used],
        )

    def _hosts(self) -> None:
        after = self.after
        olds = {host: number for number, host in enumerate(self.before.host_patterns)}
        old_of = {number: olds.get(host) for number, host in enumerate(after.host_patterns)}
        named = NamePatterns(after)
        classes = named.classes(named.compile(MAX_STATES).payloads)
        self._try(Family.HOST, frozenset(), {})
        compile_hosts(
            after.host_patterns,
            lambda matched: self._try(Family.HOST, matched, old_of),
            max_states=MAX_STATES,
            names=classes,
        )

    def _try(self, family: Family, matched: frozenset[int], old_of: Mapping[int, int | None]) -> int:
        """Compares what is decided about an object that matches these patterns of `after`."""
        old = frozenset(number for new in matched if (number := old_of[new]) is not None)
        for (tool, operation, risk, kind), entry in self.kinds.items():
            if kind is not family:
                continue
            was = self.before.judge_by(entry, self.before.rule_for(tool, operation, risk, kind, old))
            will = self.after.judge_by(entry, self.after.rule_for(tool, operation, risk, kind, matched))
            if self._looser(was, will):
                self._note(entry, matched, was, will)
        return 0

    def _note(self, entry: Entry, matched: frozenset[int], was: Outcome, will: Outcome) -> None:
        after = self.after
        where = after.where if will.rule < 0 else after.rules[will.rule].where
        texts = [after.path_patterns[n].text for n in matched] if entry.op.family is Family.PATH else []
        like = f" of what matches {min(texts)}" if texts else ""
        words = f"{entry.tool}/{entry.operation}{like} would be {_word(will)}, and is {_word(was)} without this file"
        self.found.setdefault((where, entry.tool), (where, f"agents.{after.name}: {words}"))

    def _looser(self, was: Outcome, will: Outcome) -> bool:
        if was.action is not will.action:
            return _SEVERITY[will.action] < _SEVERITY[was.action]
        fewer = was.action is Action.PAUSE and _approvers(self.after, will) < _approvers(self.before, was)
        return fewer or will.decision < was.decision


def _approvers(agent: ResolvedAgent, outcome: Outcome) -> int:
    return agent.rules[outcome.rule].approvers if outcome.rule >= 0 else 1


def _word(outcome: Outcome) -> str:
    done = {Action.NONE: "", Action.DENY: "", Action.KILL: " (kill)", Action.PAUSE: ""}[outcome.action]
    if outcome.decision is Decision.DENY and outcome.action is Action.PAUSE:
        done = " (pause)"
    words = {Decision.ALLOW: "allowed", Decision.REQUIRE_APPROVAL: "asked about", Decision.DENY: "denied"}
    return words[outcome.decision] + done


def require_tighter(before: ResolvedPolicy, after: ResolvedPolicy, file: str) -> None:
    """Raises PolicyError when `after`, which is `before` and `file`, is looser anywhere."""
    hint = "an environment only tightens: change that, or say `loosens: true` at the top of " + file
    problems = [Problem(where, 0, 0, "", what, hint) for where, what in loosened(before, after)]
    if problems:
        raise PolicyError(problems)
