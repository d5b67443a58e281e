"""Typed source + the shipped catalogue -> resolved agents.

`load` is the one way in for every caller: it returns a policy that is right in every part, or raises with all that is
wrong with it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import posixpath
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from agentd.errors import AgentdError
from agentd.model import Action, Decision, Family, Op
from agentd.policy import source
from agentd.policy.advice import advise
from agentd.policy.anchor import aegize_globs, agentd_globs, word_glob
from agentd.policy.callpoints import WantedCalls
from agentd.policy.hosts import HostPattern, parse_host
from agentd.policy.ir import (
    OVERLAY_SECTION,
    AgentSource,
    At,
    EntrySource,
    Language,
    PolicySource,
    RuleSource,
    TextAt,
)
from agentd.policy.layers import Document, JoinedProblems, Part, join, read_parts
from agentd.policy.named import check_names
from agentd.policy.overlay import parse_overlay
from agentd.policy.parse import parse_policy
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.problem import PolicyError, Problem, Problems, in_order
from agentd.policy.reader import shown
from agentd.policy.resolved import (
    BASELINE,
    DEFAULT_TIMEOUT,
    RULE_DEFAULT,
    RULE_UNRESOLVED,
    Entry,
    Outcome,
    ResolvedAgent,
    ResolvedPolicy,
    Rule,
)
from agentd.policy.tighter import require_tighter
from agentd.resources import policies_dir

__all__ = [
    "DEFAULT_TIMEOUT",
    "RULE_DEFAULT",
    "RULE_UNRESOLVED",
    "Entry",
    "Language",
    "Outcome",
    "ResolvedAgent",
    "ResolvedPolicy",
    "Rule",
    "load",
    "load_text",
    "shipped_catalogue",
]

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


def load(
    policy: source.FilePath | bytes, *, workspace: str, overlay: Overlay | None = None, environment: str = ""
) -> ResolvedPolicy:
    """The policy in a file, a folder of files (layers.py) or bytes, resolved against the shipped catalogue.

    workspace: the absolute path that anchors the relative paths of agents that name no workspace of their own.
    overlay: rules that people have approved since (overlay.py). environment: the folder of files that tighten it.
    Raises PolicyError with every mistake of the files; its exit code is 2 when one can't be read.
    """
    if isinstance(policy, bytes):
        return load_text(policy, "policy.yaml", workspace=workspace, overlay=overlay)
    files = source.files_of(policy, environment)
    documents = [Document(source.read_file(file), str(file), environment=extra) for file, extra in files]
    if len(documents) == 1:
        return load_text(documents[0].data, documents[0].file, workspace=workspace, overlay=overlay)
    return _load_documents(documents, str(policy), _anchor(workspace), overlay)


def load_text(data: bytes, file: str, *, workspace: str, overlay: Overlay | None = None) -> ResolvedPolicy:
    """As `load`, for bytes already read; `file` is the name that messages show."""
    workspace = _anchor(workspace)
    problems = Problems(file)
    node = source.parse(data, problems)
    if node is None:
        if not problems.errors:
            problems.error(0, 0, "", "the file is empty", "write `agents:` with one entry for each agent")
        problems.raise_errors()
        raise AssertionError("unreachable")
    return _resolve(node, data, problems, file, workspace, overlay)


def _load_documents(
    documents: Sequence[Document], name: str, workspace: str, overlay: Overlay | None
) -> ResolvedPolicy:
    files = [document.file for document in documents]
    problems = JoinedProblems(name, files=files)
    parts = read_parts(documents, problems)
    problems.raise_errors()
    for end, part in enumerate(parts):
        if part.document.environment and not part.loosens:
            before, after = (_joined(parts[:stop], files, name, workspace, None) for stop in (end, end + 1))
            require_tighter(before, after, part.document.file)
    return _joined(parts, files, name, workspace, overlay)


def _joined(
    parts: Sequence[Part], files: Sequence[str], name: str, workspace: str, overlay: Overlay | None
) -> ResolvedPolicy:
    problems = JoinedProblems(name, files=files)
    if not parts:
        raise PolicyError([Problem(name, 0, 0, "", "every file is empty", "write `agents:` in one")])
    data = b"".join(hashlib.sha256(part.document.data).digest() for part in parts)
    return _resolve(join(parts, problems), data, problems, name, workspace, overlay)


def _anchor(workspace: str) -> str:
    if not workspace.startswith("/") or "\0" in workspace:
        raise AgentdError("usage", "workspace", f"{shown(workspace)} is not an absolute path", "start it with /")
    return posixpath.normpath(workspace)


def _resolve(
    node: source.Node, data: bytes, problems: Problems, file: str, workspace: str, overlay: Overlay | None
) -> ResolvedPolicy:
    parsed = parse_policy(node, problems)
    if overlay is not None:
        parsed = _with_overlay(parsed, overlay)
        data += b"\0" + overlay.data
    catalogue = shipped_catalogue()
    builders = [_AgentBuilder(agent, parsed, catalogue, workspace, problems) for agent in parsed.agents if agent.known]
    if not builders:  # the tools are still to be checked
        nobody = AgentSource("", At(0, 0, "agents"))
        _AgentBuilder(nobody, parsed, catalogue, workspace, problems)
    if not problems.errors:
        check_names(parsed, problems)
    if not problems.errors:
        advise(parsed, catalogue.entries, problems)
    problems.raise_errors()
    return ResolvedPolicy(
        MappingProxyType({builder.agent.name: builder.build() for builder in builders}),
        hashlib.sha256(data + b"\0" + catalogue.data).hexdigest(),
        file,
        parsed.language,
        in_order(problems.warnings),
    )


@dataclass(frozen=True, slots=True)
class Overlay:
    """The bytes of an overlay; `file` is the name that messages show."""

    data: bytes
    file: str


def _with_overlay(policy: PolicySource, overlay: Overlay) -> PolicySource:
    """The policy with the overlay's rules of the agents that it names. Raises PolicyError."""
    problems = Problems(overlay.file)
    node = source.parse(overlay.data, problems)
    rules = parse_overlay(node, problems) if node is not None else {}
    if rules and policy.language is not Language.AGENTD:
        problems.error(
            0, 0, "", "an aegize policy has no overlay", "add `version: 1` to the policy, or remove this file"
        )
    problems.raise_errors()
    agents = []
    for agent in policy.agents:
        first = [rule for rule in agent.rules if rule.section == "deny"]
        later = [rule for rule in agent.rules if rule.section != "deny"]
        agents.append(dataclasses.replace(agent, rules=(*first, *rules.get(agent.name, ()), *later)))
    return dataclasses.replace(policy, agents=tuple(agents))


class ShippedCatalogue:
    """The shipped catalogue, parsed once."""

    __slots__ = ("data", "entries", "file")

    def __init__(self, data: bytes, file: str, entries: tuple[EntrySource, ...]) -> None:
        self.data = data
        self.file = file
        self.entries = entries


@functools.cache
def shipped_catalogue() -> ShippedCatalogue:
    """policies/catalogue.yaml. Raises PolicyError if the installation's catalogue is broken."""
    path = policies_dir() / "catalogue.yaml"
    data = source.read_file(path)
    problems = Problems(path.name)
    node = source.parse(data, problems)
    problems.raise_errors()
    if node is None:
        raise PolicyError([Problem(path.name, 0, 0, "", "the shipped catalogue is empty", "install agentd again")])
    parsed = parse_policy(node, problems, catalogue=True)
    problems.raise_errors()
    return ShippedCatalogue(data, path.name, parsed.tools)


class _Table(Generic[Item]):
    """Items by number, each stored once."""

    def __init__(self) -> None:
        self._numbers: dict[Item, int] = {}

    def number(self, item: Item) -> int:
        return self._numbers.setdefault(item, len(self._numbers))

    def all(self) -> tuple[Item, ...]:
        return tuple(self._numbers)


class _AgentBuilder:
    """Makes one ResolvedAgent. Mistakes go to `problems` meanwhile; `build` is only called when there are none."""

    def __init__(
        self,
        agent: AgentSource,
        policy: PolicySource,
        catalogue: ShippedCatalogue,
        workspace: str,
        problems: Problems,
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
        )

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
