"""One agent of a typed source -> a resolved one: patterns numbered, entries, rules, and what stands before rules."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

from agentd.model import Action, Decision, Family, Op
from agentd.policy import guard
from agentd.policy.anchor import aegize_globs, agentd_globs, word_glob
from agentd.policy.callpoints import WantedCalls
from agentd.policy.guard import Fence, Guarded
from agentd.policy.hosts import HostPattern, parse_host
from agentd.policy.ir import (
    OVERLAY_SECTION,
    AgentSource,
    EntrySource,
    Language,
    PolicySource,
    RuleSource,
    TextAt,
)
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.problem import Problems
from agentd.policy.reader import shown
from agentd.policy.resolved import BASELINE, DEFAULT_TIMEOUT, RULE_ABOVE, RULE_GUARD, Entry, ResolvedAgent, Rule
from agentd.policy.shipped import ShippedCatalogue

_DECISIONS: Final = {
    "deny": Decision.DENY,
    "require_approval": Decision.REQUIRE_APPROVAL,
    "allow": Decision.ALLOW,
    OVERLAY_SECTION: Decision.ALLOW,
}
Item = TypeVar("Item", bound=Hashable)

# Operations whose object is a word, never a path: an entry's pattern is taken as it stands.
WORD_OPS: Final = frozenset(
    {
        Op.PTRACE,
        Op.NAMESPACE,
        Op.BPF,
        Op.MODULE,
        Op.KEXEC,
        Op.IO_URING,
        Op.SOCKET,
        Op.PERF,
        Op.COMPAT,
        Op.SIGNAL,
        Op.CALL,
    }
)


class _Table(Generic[Item]):
    """Items by number, each stored once."""

    def __init__(self) -> None:
        self._numbers: dict[Item, int] = {}

    def number(self, item: Item) -> int:
        return self._numbers.setdefault(item, len(self._numbers))

    def all(self) -> tuple[Item, ...]:
        return tuple(self._numbers)


class AgentBuilder:
    """Makes one ResolvedAgent. Mistakes go to `problems` meanwhile; `build` is only called when there are none."""

    def __init__(
        self,
        agent: AgentSource,
        policy: PolicySource,
        catalogue: ShippedCatalogue,
        workspace: str,
        problems: Problems,
        guarded: Guarded,
    ) -> None:
        self.agent = agent
        self._language = policy.language
        self._workspace = agent.workspace.text if agent.workspace else workspace
        self._problems = problems
        self._paths: _Table[Glob] = _Table()
        self._hosts: _Table[HostPattern] = _Table()
        self._groups: _Table[tuple[Glob, ...]] = _Table()
        self._toolops: _Table[tuple[str, str]] = _Table()
        self._calls = WantedCalls(agent)
        self._entries = [self._entry(entry, problems, own=True) for entry in policy.tools if self._calls.wants(entry)]
        shipped = Problems(catalogue.file)
        self._entries += [
            self._entry(entry, shipped, own=False) for entry in catalogue.entries if self._calls.wants(entry)
        ]
        shipped.raise_errors()
        self._rules = [self._rule(index, rule) for index, rule in enumerate(agent.rules)]
        self._rules.append(self._baseline(catalogue))
        self._toolops.number((guard.TOOL, guard.OPERATION))
        self._toolops.number(("file", "rename"))
        self._fences = self._fence(guarded)

    def build(self) -> ResolvedAgent:
        agent = self.agent
        return ResolvedAgent(
            name=agent.name,
            language=self._language,
            mode=agent.mode,
            on_violation=agent.on_violation,
            minimum_guarantee=agent.minimum_guarantee,
            below_minimum=agent.below_minimum,
            strict_audit=agent.strict_audit,
            calls_required=agent.calls_required,
            workspace=self._workspace,
            match=agent.match,
            path_patterns=self._paths.all(),
            host_patterns=self._hosts.all(),
            arg_groups=self._groups.all(),
            rules=tuple(self._rules),
            entries=tuple(self._entries),
            toolops=self._toolops.all(),
            where=self._problems.where(agent.at.line, agent.at.column),
            text_groups=self._calls.groups,
            calls=self._calls.points,
            fences=self._fences,
        )

    def _fence(self, guarded: Guarded) -> tuple[Fence, ...]:
        own = [(globs, ops, RULE_GUARD) for globs, ops in guard.globs(guarded)]
        strict = [rule for rule in self._rules if rule.decision is not Decision.ALLOW]
        paths = [self._paths.all()[number] for rule in strict for number in rule.paths or ()]
        folders = tuple(dict.fromkeys(folder for glob in paths for folder in guard.above(glob)))
        fences = (*own, (folders, frozenset({Op.RENAME}), RULE_ABOVE))
        return tuple(Fence(tuple(map(self._paths.number, globs)), ops, rule) for globs, ops, rule in fences if globs)

    def _entry(self, entry: EntrySource, problems: Problems, *, own: bool) -> Entry:
        self._toolops.number((entry.tool, entry.operation))
        if entry.op.family is Family.HOST:
            patterns = self._host_numbers(entry.patterns, names=own or self._lists(entry))
        else:
            patterns = self._path_numbers(entry.patterns, entry.op, problems)
        group = None
        if entry.args is not None:
            group = self._groups.number(tuple(Glob(text.text, Dialect.ARGUMENT) for text in entry.args))
        if entry.op is Op.CALL:
            group = self._calls.take(entry, problems)
        where = problems.where(entry.at.line, entry.at.column)
        return Entry(entry.tool, entry.operation, entry.risk, entry.op, patterns, group, where, own)

    def _rule(self, index: int, rule: RuleSource) -> Rule:
        name = self.agent.name
        action = rule.action
        held = rule.section == "require_approval" or (action or self.agent.on_violation) is Action.PAUSE
        if rule.timeout is not None and rule.section == "deny" and not held:
            at = rule.at
            hint = "remove timeout, or set `action: pause`"
            self._problems.error(at.line, at.column, f"{at.path}.timeout", "the rule denies at once", hint)
        if rule.approvers > 1 and rule.section == "deny" and not held:
            at = rule.at
            hint = "remove approvers, or set `action: pause`"
            self._problems.error(at.line, at.column, f"{at.path}.approvers", "the rule denies at once", hint)
        return Rule(
            id=rule.id or f"{name}/{rule.section}/{rule.index}",
            index=index,
            decision=_DECISIONS[rule.section],
            tool=rule.tool,
            operations=None if rule.operations is None else frozenset(text.text for text in rule.operations),
            paths=None if rule.paths is None else self._path_numbers(rule.paths, None, self._problems),
            hosts=None if rule.hosts is None else self._host_numbers(rule.hosts),
            risk_max=rule.risk_max,
            action=action,
            timeout=rule.timeout or DEFAULT_TIMEOUT,
            where=f"{rule.file}:{rule.at.line}:{rule.at.column}"
            if rule.file
            else self._problems.where(rule.at.line, rule.at.column),
            paths_text=None if rule.paths is None else tuple(text.text for text in rule.paths),
            hosts_text=None if rule.hosts is None else tuple(text.text for text in rule.hosts),
            approvers=rule.approvers,
        )

    def _baseline(self, catalogue: ShippedCatalogue) -> Rule:
        """What any program needs to start at all is allowed unless a rule of the policy speaks of it."""
        entry = next(entry for entry in catalogue.entries if (entry.tool, entry.operation) in BASELINE)
        return Rule(
            id=f"{self.agent.name}/baseline/0",
            index=len(self.agent.rules),
            decision=Decision.ALLOW,
            tool=entry.tool,
            operations=frozenset(operation for _, operation in BASELINE),
            paths=None,
            hosts=None,
            risk_max=None,
            action=None,
            timeout=DEFAULT_TIMEOUT,
            where=f"{catalogue.file}:{entry.at.line}:{entry.at.column}",
        )

    def _path_numbers(self, texts: Iterable[TextAt], op: Op | None, problems: Problems) -> tuple[int, ...]:
        """The numbers of the globs that `texts` mean: of an entry of `op`, or of a rule (None)."""
        numbers: list[int] = []
        for text in texts:
            try:
                numbers += [self._paths.number(glob) for glob in self._globs(text.text, op)]
            except ValueError as error:
                problems.error(text.at.line, text.at.column, text.at.path, f"{shown(text.text)}: {error}")
        return tuple(dict.fromkeys(numbers))

    def _globs(self, text: str, op: Op | None) -> tuple[Glob, ...]:
        if op in WORD_OPS:
            return word_glob(text)
        if op is None and self._language is Language.AEGIZE:
            return aegize_globs(text, self._workspace)
        if op is Op.EXEC and "/" not in text and text != "**" and not text.startswith("anon:"):
            raise ValueError(f"a program is named by its path; write {shown('**/' + text)} for any folder")
        return agentd_globs(text, self._workspace)

    def _lists(self, entry: EntrySource) -> bool:
        """Does a rule of the agent list the entry's very operation?

        Only then do the names of a shipped entry count: they would have to be learned for every agent otherwise, and
        take a site from the rules that were written for `*:443`.
        """
        listed = (rule.operations or () for rule in self.agent.rules if rule.tool == entry.tool)
        return any(entry.operation == text.text for texts in listed for text in texts)

    def _host_numbers(self, texts: Iterable[TextAt], *, names: bool = True) -> tuple[int, ...]:
        """The numbers of the host patterns; without `names`, of those that are addresses."""
        numbers: list[int] = []
        for text in texts:
            try:
                patterns = parse_host(text.text)
            except ValueError:
                continue  # parse has reported it
            numbers += [self._hosts.number(pattern) for pattern in patterns if names or pattern.name is None]
        return tuple(dict.fromkeys(numbers))
