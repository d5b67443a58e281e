"""Host names in rules: where they would mean less than they say, and what an agent needs so that they mean anything.

A name is what the agent was told an address is. An address that it did not ask about has none, so a rule that denies a
name, or holds it, can be walked round by anybody who has the address from elsewhere. It holds where addresses without a
name are not allowed either: then not to ask, or to let an answer expire, only loses what other names allow.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentd.policy.hosts import RESOLVERS, HostPattern, parse_host
from agentd.policy.ir import OVERLAY_SECTION, AgentSource, PolicySource, RuleSource, TextAt
from agentd.policy.problem import Problems
from agentd.policy.reader import shown

_ORDER = ("deny", OVERLAY_SECTION, "require_approval", "allow")


def check_names(policy: PolicySource, problems: Problems) -> None:
    """Errors for names that would be weaker than they are written, warnings for names that can't be learned."""
    for agent in policy.agents:
        for rule in agent.rules:
            for text, pattern in _patterns(rule):
                if pattern.name is None or pattern.name == RESOLVERS or rule.section in ("allow", OVERLAY_SECTION):
                    continue
                way_round = next((other for other in agent.rules if _opens(other, rule, pattern)), None)
                if way_round is not None:
                    at = text.at
                    problems.error(
                        at.line,
                        at.column,
                        at.path,
                        f"{shown(text.text)} in {rule.section} would be weaker than written: {way_round.at.path} covers"
                        f" addresses without a name, and who has the address from elsewhere needs no name",
                        "let that rule name hosts instead of addresses, or name addresses here",
                    )
        _needs_resolvers(agent, problems)


def _needs_resolvers(agent: AgentSource, problems: Problems) -> None:
    rules = [rule for rule in agent.rules if rule.section != "deny"]
    named = next((rule for rule in rules if any(_is_name(pattern) for _, pattern in _patterns(rule))), None)
    if named is None or any(_asks(rule) for rule in rules):
        return
    at = named.at
    problems.warn(
        at.line,
        at.column,
        f"{at.path}.hosts",
        "no rule allows the agent to ask for names, and a name that was not asked for matches nothing",
        'allow {tool: network, operations: [connect, send], hosts: ["resolvers:53"]}',
    )


def _asks(rule: RuleSource) -> bool:
    """May a rule cover a datagram to port 53?"""
    if rule.hosts is None:
        return rule.paths is None and rule.tool == "network"
    return any(not _is_name(pattern) and pattern.port_low <= 53 <= pattern.port_high for _, pattern in _patterns(rule))


def _is_name(pattern: HostPattern) -> bool:
    return pattern.name not in (None, RESOLVERS)


def _opens(other: RuleSource, rule: RuleSource, pattern: HostPattern) -> bool:
    """Does `other` cover, for addresses without a name, something that `rule` forbids by a name?"""
    if _ORDER.index(other.section) <= _ORDER.index(rule.section) or other.tool != rule.tool:
        return False
    ours, theirs = _operations(rule), _operations(other)
    if ours is not None and theirs is not None and ours.isdisjoint(theirs):
        return False
    if other.hosts is None:
        return other.paths is None
    return any(
        one.name is None and one.port_low <= pattern.port_high and pattern.port_low <= one.port_high
        for _, one in _patterns(other)
    )


def _operations(rule: RuleSource) -> frozenset[str] | None:
    return None if rule.operations is None else frozenset(text.text for text in rule.operations)


def _patterns(rule: RuleSource) -> Iterator[tuple[TextAt, HostPattern]]:
    """(what is written, what it means) of each host of a rule."""
    for text in rule.hosts or ():
        for pattern in parse_host(text.text):
            yield text, pattern
