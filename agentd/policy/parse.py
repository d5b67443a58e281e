"""Nodes -> the typed source of a policy, with every mistake of form named at its place.

Two languages share this reading. A document without `version:` is an aegize policy: it may only say what aegize knows,
and where aegize would quietly do something else than the text says (a string where a list belongs, a misspelt key) the
document is refused. `version: 1` adds everything else.
"""

from __future__ import annotations

import re
from typing import Final

from agentd.model import OP_BY_WORD, RISK_BY_WORD, Action, Family, Guarantee, Mode, Op, Risk
from agentd.policy.calls import parse_call, parse_text
from agentd.policy.hosts import parse_host
from agentd.policy.ir import (
    SECTIONS,
    AgentSource,
    At,
    CallPoint,
    EntrySource,
    Language,
    Match,
    MatchKind,
    PolicySource,
    RuleSource,
    TextAt,
)
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.patterns import parse as parse_glob
from agentd.policy.problem import Problems
from agentd.policy.reader import Reader, Value, shown
from agentd.policy.source import Mapping, Node, Scalar

MAX_TIMEOUT: Final = 7 * 86400
MAX_APPROVERS: Final = 9
DEFAULT_ENTRY_RISK: Final = Risk.HIGH  # of a policy's own `tools:` entry: unknown is not low

_TOP: Final = {Language.AEGIZE: ("agents",), Language.AGENTD: ("version", "tools", "agents")}
_AGENT: Final = {
    Language.AEGIZE: ("allow", "require_approval", "deny"),
    Language.AGENTD: (
        "match",
        "workspace",
        "mode",
        "on_violation",
        "minimum_guarantee",
        "below_minimum",
        "audit",
        "library_calls",
        "allow",
        "require_approval",
        "deny",
    ),
}
_RULE: Final = {
    Language.AEGIZE: ("tool", "operations", "risk_level_max", "paths"),
    Language.AGENTD: ("tool", "operations", "paths", "hosts", "risk_level_max", "timeout", "action", "id", "approvers"),
}
_ENTRY: Final = (*OP_BY_WORD, "args", "text", "detect", "risk")
CALLS: Final = {"alert": False, "required": True}
ACTIONS: Final = {"deny": Action.DENY, "kill": Action.KILL, "pause": Action.PAUSE}
BELOW: Final = {"pause": Action.PAUSE, "kill": Action.KILL}
GUARANTEES: Final = {level.word: level for level in Guarantee if level}
ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_ID = re.compile(ID_PATTERN)
_ENV_NAME = re.compile(r"[^=\0]+")


def parse_policy(node: Node, problems: Problems, *, catalogue: bool = False) -> PolicySource:
    """The typed source of the document `node`. Mistakes go to `problems`; what they concern is left out.

    catalogue: it is the shipped catalogue, which has tools and no agents.
    """
    root = Reader(node, "", problems)
    language = parse_language(root)
    top = root.keys(_TOP[language], _newer_hints(language, "tools", "version")) or {}
    tools = parse_tools(top["tools"]) if "tools" in top else ()
    agents: list[AgentSource] = []
    if "agents" in top:
        agents = [_agent(name, reader, language) for name, reader in top["agents"].names("the name of an agent")]
    elif isinstance(node, Mapping) and not catalogue:
        root.error("the top-level key agents is missing", "write `agents:` with one entry for each agent")
    return PolicySource(problems.file, language, tools, tuple(agents))


def parse_language(root: Reader) -> Language:
    """Which of the two languages a document is; a version that isn't known is an error."""
    version = root.node.get("version") if isinstance(root.node, Mapping) else None
    if version is None:
        return Language.AEGIZE
    if not (isinstance(version, Scalar) and version.value == 1 and version.kind == "a number"):
        root.below("version", version).error("this agentd reads version 1 only", "write `version: 1`")
    return Language.AGENTD


def _newer_hints(language: Language, *words: str) -> dict[str, str]:
    """In an aegize document, the keys that only `version: 1` knows are explained."""
    if language is Language.AGENTD:
        return {}
    return dict.fromkeys(words, "only documents with `version: 1` have it: add that line at the top")


# -- agents


def _agent(name: str, reader: Reader, language: Language) -> AgentSource:
    if reader.is_null:
        if language is Language.AGENTD:
            reader.error("the agent has no rules", "write at least one section, or {} to deny everything")
        else:
            reader.warn("there is nothing below the name, so the agent stays unknown and everything is denied")
        return AgentSource(name, reader.at, known=False)
    extra = [key for key in _AGENT[Language.AGENTD] if key not in _AGENT[language]]
    keys = reader.keys(_AGENT[language], _newer_hints(language, *extra)) or {}
    rules: list[RuleSource] = []
    for section in SECTIONS:
        if section in keys:
            rules += parse_section(section, keys[section], language)
    check_unique_ids(rules, reader)
    return AgentSource(
        name,
        reader.at,
        match=_match(keys["match"]) if "match" in keys else (),
        workspace=_workspace(keys["workspace"]) if "workspace" in keys else None,
        mode=_or(keys.get("mode"), {mode.value: mode for mode in Mode}, Mode.ENFORCE),
        on_violation=_or(keys.get("on_violation"), ACTIONS, Action.DENY),
        minimum_guarantee=_or(keys.get("minimum_guarantee"), GUARANTEES, Guarantee.NONE),
        below_minimum=_or(keys.get("below_minimum"), BELOW, Action.PAUSE),
        strict_audit=_or(keys.get("audit"), {"normal": False, "strict": True}, False),
        calls_required=_or(keys.get("library_calls"), CALLS, False),
        rules=tuple(rules),
    )


def _or(reader: Reader | None, choices: dict[str, Value], default: Value) -> Value:
    if reader is None:
        return default
    value = reader.choice(choices)
    return default if value is None else value


def _workspace(reader: Reader) -> TextAt | None:
    text = reader.text_at()
    if text is None:
        return None
    if not text.text.startswith("/") or text.text.startswith("//"):
        reader.error(f"{shown(text.text)} is not an absolute path", "write it from the root, like /srv/research")
        return None
    if text.text != "/" and any(part in ("", ".", "..") for part in text.text[1:].split("/")):
        reader.error(f"{shown(text.text)} has an empty, `.` or `..` component", "write the resolved path")
        return None
    if "\0" in text.text:
        reader.error("a path can't contain a NUL byte")
        return None
    return text


def _match(reader: Reader) -> tuple[Match, ...]:
    found: list[Match] = []
    for item in reader.items("write a list of {kind: value}") or []:
        keys = item.keys([kind.value for kind in MatchKind])
        if keys is None:
            continue
        if len(keys) != 1:
            if keys or item.is_empty:
                item.error("expected exactly one kind of match", "write one list item for each; any one suffices")
            continue
        word, value = next(iter(keys.items()))
        match = _match_value(MatchKind(word), value)
        if match is not None:
            found.append(match)
    return tuple(found)


def _match_value(kind: MatchKind, value: Reader) -> Match | None:
    if kind in (MatchKind.ENV, MatchKind.LABEL):
        return _match_pairs(kind, value)
    if kind is MatchKind.USER and isinstance(value.node, Scalar) and type(value.node.value) is int:
        uid = value.node.value
        if 0 <= uid < 2**32 - 1:
            return Match(kind, str(uid))
        value.error(f"{uid} is not a uid")
        return None
    text = value.name()
    if text is None:
        return None
    if kind in (MatchKind.CGROUP, MatchKind.EXE) and not text.startswith(("/", "**")):
        value.error(f"{shown(text)} is not an absolute path", "start it with / or **/")
        return None
    if kind is MatchKind.SYSTEMD_UNIT and "/" in text:
        value.error("the name of a systemd unit has no /", 'write the unit\'s name, like "research-*.service"')
        return None
    if kind is not MatchKind.USER and value.checked(lambda glob: parse_glob(Glob(glob, Dialect.AGENTD))) is None:
        return None
    return Match(kind, text)


def _match_pairs(kind: MatchKind, value: Reader) -> Match | None:
    pairs: list[tuple[str, str]] = []
    what = "variable" if kind is MatchKind.ENV else "label"
    names = value.names(f"the name of a {what}")
    for name, setting in names:
        if kind is MatchKind.ENV and not _ENV_NAME.fullmatch(name):
            setting.error(f"{shown(name)} can't be the name of a variable")
            continue
        text = setting.text()
        if text is not None:
            pairs.append((name, text))
    if value.is_empty:
        value.error(f"no {what} is named", f"write {{{kind.value}: {{NAME: value}}}}")
    return Match(kind, "", tuple(pairs)) if pairs else None


# -- rules


def parse_section(section: str, reader: Reader, language: Language) -> list[RuleSource]:
    """The rules of a section, in order."""
    if reader.is_null:
        return []
    found = [
        _rule(section, index, item, language)
        for index, item in enumerate(reader.items("write a list of rules, each `- {tool: ...}`") or [])
    ]
    return [rule for rule in found if rule is not None]


def _rule(section: str, index: int, reader: Reader, language: Language) -> RuleSource | None:
    extra = [key for key in _RULE[Language.AGENTD] if key not in _RULE[language]]
    keys = reader.keys(_RULE[language], _newer_hints(language, *extra))
    if keys is None:
        return None
    tool = keys["tool"].name() if "tool" in keys else None
    if "tool" not in keys:
        reader.error("the rule names no tool", "add `tool:`")
    present = {key: value for key, value in keys.items() if not value.is_null}
    for key in keys.keys() - present.keys() - {"tool", "operations", "paths", "risk_level_max"}:
        keys[key].expected("a value", f"remove {key}, or give it one")
    operations = _operations(present["operations"], language) if "operations" in present else None
    risk_max = present["risk_level_max"].choice(RISK_BY_WORD) if "risk_level_max" in present else None
    paths = _paths(present["paths"], language) if "paths" in present else None
    hosts = _hosts(present["hosts"]) if "hosts" in present else None
    if language is Language.AEGIZE and section != "allow":
        for key in ("paths", "risk_level_max"):
            if key in present:
                hint = "aegize ignores it outside allow, and the rule hits everything of the tool"
                present[key].warn(f"{key} has no effect in {section}", f"{hint}; `version: 1` makes it apply")
        paths, risk_max = None, None
    timeout = present["timeout"].duration(least=1, most=MAX_TIMEOUT) if "timeout" in present else None
    action = _action(section, present["action"]) if "action" in present else None
    if timeout is not None and section == "allow":
        present["timeout"].error("an allow rule never waits", "remove timeout")
    rule_id = _id(present["id"]) if "id" in present else None
    approvers = _approvers(section, present["approvers"]) if "approvers" in present else 1
    if tool is None:
        return None
    return RuleSource(
        section, index, reader.at, tool, operations, paths, hosts, risk_max, timeout, action, rule_id, approvers
    )


def _approvers(section: str, reader: Reader) -> int:
    value = reader.node.value if isinstance(reader.node, Scalar) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_APPROVERS:
        reader.expected(f"a number from 1 to {MAX_APPROVERS}", "write how many different people must say yes")
        return 1
    if section == "allow":
        reader.error("an allow rule asks nobody", "remove approvers, or move the rule to require_approval")
    return value


def _operations(reader: Reader, language: Language) -> tuple[TextAt, ...] | None:
    texts = reader.texts()
    if texts is None:
        return ()
    items = reader.items() or []
    for item, text in zip(items, texts, strict=True):
        item.name()
        if "*" in text.text and language is Language.AGENTD:
            item.error(f"{shown(text.text)}: operations have no wildcards", "leave operations out to mean all of them")
        elif text.text == "*":
            item.warn('"*" is no wildcard: it names an operation called *', "leave operations out to mean all of them")
    return texts


def _paths(reader: Reader, language: Language) -> tuple[TextAt, ...]:
    texts = reader.texts() or ()
    if language is Language.AGENTD and reader.is_empty:
        reader.error("an empty list matches no path", "name a path, or remove paths")
    return texts


def _hosts(reader: Reader) -> tuple[TextAt, ...]:
    texts = reader.texts() or ()
    if reader.is_empty:
        reader.error("an empty list matches no host", "name a host, or remove hosts")
    for text in texts:
        _check_host(text, reader.problems)
    return texts


def _check_host(text: TextAt, problems: Problems) -> None:
    at = text.at
    try:
        parse_host(text.text)
    except ValueError as error:
        problems.error(at.line, at.column, at.path, str(error))


def _action(section: str, reader: Reader) -> Action | None:
    action = reader.choice(ACTIONS)
    if action is None:
        return None
    if section == "allow":
        reader.error("an allow rule takes no action", "remove action")
    elif section == "require_approval" and action is not Action.PAUSE:
        reader.error("an approval is always waited for: its action is pause", "remove action, or move the rule to deny")
    return action


def _id(reader: Reader) -> str | None:
    text = reader.text()
    if text is not None and not _ID.fullmatch(text):
        reader.error(f"{shown(text)} can't be an id", "use letters, digits, `.`, `_` and `-`, at most 128")
        return None
    return text


def check_unique_ids(rules: list[RuleSource], agent: Reader) -> None:
    """Two rules of an agent with one id are an error."""
    seen: dict[str, RuleSource] = {}
    for rule in rules:
        if rule.id is None:
            continue
        if rule.id in seen:
            at, first = rule.at, seen[rule.id].at
            agent.problems.error(at.line, at.column, f"{at.path}.id", f"{rule.id} is the id of {first.path} too")
        seen.setdefault(rule.id, rule)


# -- the catalogue's language, shared with a policy's own `tools:`


def parse_tools(reader: Reader) -> tuple[EntrySource, ...]:
    """The entries of a `tools:` mapping, in the order of the file: the first that matches an operation names it."""
    found: list[EntrySource] = []
    if reader.is_null:
        return ()
    for tool, operations in reader.names("the name of a tool"):
        for operation, entries in operations.names("the name of an operation"):
            for entry in entries.items("write a list of entries, each {exec: [...]} or the like") or []:
                found += _entry(tool, operation, entry)
    return tuple(found)


def _entry(tool: str, operation: str, reader: Reader) -> list[EntrySource]:
    keys = reader.keys(_ENTRY)
    if keys is None:
        return []
    risk = _or(keys.get("risk"), RISK_BY_WORD, DEFAULT_ENTRY_RISK)
    ops = [OP_BY_WORD[word] for word in keys if word in OP_BY_WORD]
    if not ops:
        reader.error("the entry names no kernel operation", 'write for example {exec: ["**/rm"]}')
    args: tuple[TextAt, ...] | None = None
    if "args" in keys:
        if Op.EXEC not in ops or len(ops) > 1:
            keys["args"].error("only exec has arguments", "write exec in an entry of its own with args")
        args = _globs(keys["args"], Dialect.ARGUMENT)
    text = parse_text(reader, keys, ops)
    found: list[EntrySource] = []
    for op in ops:
        calls: tuple[CallPoint, ...] = ()
        if op is Op.CALL:
            calls, patterns = parse_call(keys[op.word])
        elif op.family is Family.HOST:
            patterns = keys[op.word].texts() or ()
            for host in patterns:
                _check_host(host, reader.problems)
        else:
            patterns = keys[op.word].texts() or ()
        if keys[op.word].is_empty:
            keys[op.word].error("an empty list matches nothing", "name an object, or remove the key")
        at = reader.at
        found.append(
            EntrySource(tool, operation, op, patterns, args, risk, At(at.line, at.column, at.path), calls, text)
        )
    return found


def _globs(reader: Reader, dialect: Dialect) -> tuple[TextAt, ...]:
    texts = reader.texts() or ()
    if reader.is_empty:
        reader.error("an empty list matches nothing", "name an argument, or remove the key")
    for text in texts:
        try:
            parse_glob(Glob(text.text, dialect))
        except ValueError as error:
            reader.problems.error(text.at.line, text.at.column, text.at.path, str(error))
    return texts
