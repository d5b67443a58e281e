"""Warnings about rules that are well formed and yet don't do what their author may expect. Nothing here refuses."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.model import HOST_OPS, Endpoint
from agentd.policy.hosts import HostPattern, host_matches, parse_host
from agentd.policy.ir import EntrySource, Language, PolicySource, RuleSource, TextAt
from agentd.policy.problem import Problems
from agentd.policy.reader import shown


def advise(policy: PolicySource, shipped: Sequence[EntrySource], problems: Problems) -> None:
    """Add warnings about `policy`, which has no errors. `shipped`: the entries of the shipped catalogue."""
    entries = (*policy.tools, *shipped)
    known: dict[str, set[str]] = {}
    for entry in entries:
        known.setdefault(entry.tool, set()).add(entry.operation)
    ports = _HostEntries(entries)
    for agent in policy.agents:
        for rule in agent.rules:
            _unknown_tool(rule, known, policy.language, problems)
            for text in rule.hosts or ():
                _other_tool(rule, text, ports, problems)


def _unknown_tool(rule: RuleSource, known: dict[str, set[str]], language: Language, problems: Problems) -> None:
    """A tool that no entry gives never decides anything in the kernel: a deny of it prevents nothing."""
    at = rule.at
    if rule.tool not in known:
        hint = "map kernel operations to it under `tools:`" if language is Language.AGENTD else ""
        message = f"no kernel operation is {shown(rule.tool)}: the rule only matters to `policy test`"
        problems.warn(at.line, at.column, f"{at.path}.tool", message, hint)
        return
    for text in rule.operations or ():
        if text.text not in known[rule.tool] and text.text != "*":
            message = f"no kernel operation is {rule.tool}/{shown(text.text)[1:-1]}"
            hint = f"{rule.tool} has {', '.join(sorted(known[rule.tool]))}"
            problems.warn(text.at.line, text.at.column, text.at.path, message, hint)


def _other_tool(rule: RuleSource, text: TextAt, entries: _HostEntries, problems: Problems) -> None:
    """An address and port that is another tool's in the catalogue (`*:5432` is database/query) never meets the rule."""
    named = {operation.text for operation in rule.operations} if rule.operations is not None else None
    for pattern in parse_host(text.text):
        if pattern.name is not None or pattern.port_low != pattern.port_high:
            continue
        meant = entries.toolops(Endpoint(pattern.network or b"\0\0\0\0", pattern.port_low))
        if any(tool == rule.tool and (named is None or operation in named) for tool, operation in meant):
            continue
        names = " or ".join("/".join(toolop) for toolop in meant)
        message = f"{shown(text.text)} is {names} in the catalogue, so the rule never covers it"
        problems.warn(text.at.line, text.at.column, text.at.path, message, "name that tool, or map it under `tools:`")


class _HostEntries:
    """The entries of network operations with their patterns parsed, and the answers remembered."""

    def __init__(self, entries: Sequence[EntrySource]) -> None:
        self._entries: list[tuple[EntrySource, tuple[HostPattern, ...]]] = []
        self._known: dict[Endpoint, tuple[tuple[str, str], ...]] = {}
        for entry in entries:
            if entry.op in HOST_OPS:
                patterns = tuple(pattern for text in entry.patterns for pattern in parse_host(text.text))
                self._entries.append((entry, patterns))

    def toolops(self, endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
        """What the network operations on `endpoint` are, each once."""
        if endpoint not in self._known:
            found: dict[tuple[str, str], None] = {}
            for op in HOST_OPS:
                for entry, patterns in self._entries:
                    if entry.op is op and any(host_matches(pattern, endpoint) for pattern in patterns):
                        found[entry.tool, entry.operation] = None
                        break
            self._known[endpoint] = tuple(found)
        return self._known[endpoint]
