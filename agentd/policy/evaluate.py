"""The reference decision: of a tool call (aegize's question) and of a kernel operation (the kernel's question).

`decide` gives, from the same resolved rules, what the kernel tables give; property tests hold the two together.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agentd.model import Decision, Endpoint, Family, Op, Risk
from agentd.policy.anchor import aegize_normal
from agentd.policy.hosts import host_matches, live_names, name_matches, parse_host
from agentd.policy.ir import Language
from agentd.policy.patterns import matches
from agentd.policy.resolved import RULE_DEFAULT, Outcome, ResolvedAgent, ResolvedPolicy, Rule
from agentd.policy.sql import Sql, skeleton
from agentd.policy.texts import matches_text

NAMED_OPS: Final = (Op.CONNECT, Op.SEND)
SOME_ADDRESS: Final = b"\xcb\x00\x71\x01"  # 203.0.113.1, for documentation (RFC 5737)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer about a tool call. `reason` is word for word aegize's; rule: index into the agent's rules, or -1."""

    decision: Decision
    reason: str
    rule: int = RULE_DEFAULT


def evaluate_call(
    policy: ResolvedPolicy,
    agent: str,
    tool: str,
    operation: str,
    risk: Risk = Risk.LOW,
    paths: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Verdict:
    """As `evaluate`, for an agent by name; an unknown one is denied."""
    found = policy.agents.get(agent)
    if found is None:
        return Verdict(Decision.DENY, f"unknown agent '{agent}' (default deny)")
    return evaluate(found, tool, operation, risk, paths, hosts)


def evaluate(
    agent: ResolvedAgent,
    tool: str,
    operation: str,
    risk: Risk = Risk.LOW,
    paths: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Verdict:
    """What the policy says about one tool call.

    paths: every string of the call that may be a path; one that matches is enough, as in aegize. Unlike aegize, a path
    with `..` or a NUL byte only matches if what it leads to matches as well. hosts: `ADDRESS:PORT`.
    """
    rules = agent.rules[:-1] if agent.language is Language.AEGIZE else agent.rules  # aegize knows no baseline
    for rule in rules:
        if not (rule.names(tool, operation) and rule.bears(risk) and rule_reaches(agent, rule, paths, hosts)):
            continue
        if rule.decision is Decision.DENY:
            return Verdict(rule.decision, f"denied by rule for tool '{tool}'", rule.index)
        if rule.decision is Decision.REQUIRE_APPROVAL:
            return Verdict(rule.decision, f"approval required for tool '{tool}'", rule.index)
        return Verdict(rule.decision, f"allowed by rule for tool '{tool}'", rule.index)
    return Verdict(
        Decision.DENY, f"no matching allow rule for tool '{tool}' operation '{operation}' (default deny)", RULE_DEFAULT
    )


def rule_reaches(agent: ResolvedAgent, rule: Rule, paths: Sequence[str], hosts: Sequence[str]) -> bool:
    """Whether a tool call with these paths and hosts is among those that `rule` is limited to."""
    if rule.paths is None and rule.hosts is None:
        return True
    if any(_path_reaches(agent, rule, path) for path in paths):
        return True
    return any(_host_reaches(agent, rule, host) for host in hosts)


def _path_reaches(agent: ResolvedAgent, rule: Rule, path: str) -> bool:
    if "\0" in path:
        return False
    if agent.language is Language.AEGIZE:
        return _aegize_reaches(rule, path)
    absolute = posixpath.normpath(posixpath.join(agent.workspace, path))
    data = absolute.encode("utf-8", "surrogateescape")
    return any(matches(agent.path_patterns[number], data) for number in rule.paths or ())


def _aegize_reaches(rule: Rule, path: str) -> bool:
    written = aegize_normal(path)
    forms = {written}
    if ".." in written.split("/"):
        forms.add(posixpath.normpath(written))  # both must match: never wider than aegize, and `..` leads nowhere
    patterns = [aegize_normal(text) for text in rule.paths_text or ()]
    return all(any(fnmatch.fnmatchcase(form, pattern) for pattern in patterns) for form in forms)


def _host_reaches(agent: ResolvedAgent, rule: Rule, host: str) -> bool:
    endpoint = endpoint_of(host)
    return any(host_matches(agent.host_patterns[number], endpoint) for number in rule.hosts or ())


def endpoint_of(text: str, protocol: str = "tcp") -> Endpoint:
    """`ADDRESS:PORT` or `[ADDRESS]:PORT` as an endpoint; `NAME:PORT` as some public address that has this name, and
    `resolvers:PORT` as a resolver. Raises ValueError for anything else.
    """
    patterns = parse_host(text)
    pattern = patterns[0]
    named = pattern.name is not None and not pattern.name.startswith("*")
    whole = pattern.network is not None and pattern.prefix == 8 * len(pattern.network)
    if len(patterns) != 1 or not (named or whole):
        raise ValueError(f"{text} is not one address; write ADDRESS:PORT or NAME:PORT")
    if pattern.port_low != pattern.port_high:
        raise ValueError(f"{text} names no single port; write ADDRESS:PORT or NAME:PORT")
    if pattern.name is not None:
        return Endpoint(SOME_ADDRESS, pattern.port_low, protocol, (pattern.name,))
    assert pattern.network is not None
    return Endpoint(pattern.network, pattern.port_low, protocol)


def judged_by(agent: ResolvedAgent, op: Op, obj: bytes | Endpoint) -> tuple[bytes | Endpoint, ...]:
    """`obj` as it is judged: an endpoint with several names that the agent's patterns match once with each of them.

    Names are for what is reached; a local address has none.
    """
    if not isinstance(obj, Endpoint):
        return (obj,)
    patterns = [pattern.name for pattern in agent.host_patterns if pattern.name is not None]
    names = live_names(obj) if op in NAMED_OPS else ()
    known = [name for name in names if any(name_matches(pattern, name) for pattern in patterns)]
    return tuple(replace(obj, names=(name,)) for name in known) or (replace(obj, names=()),)


def first_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Which of the outcomes by different names stands: that of the rule that is judged first."""
    return min(outcomes, key=lambda outcome: (outcome.rule & 0xFFFFFFFF, outcome.toolop, outcome.risk))


def matched_patterns(agent: ResolvedAgent, obj: bytes | Endpoint) -> frozenset[int]:
    """The numbers of all the agent's patterns (of the object's family) that match it."""
    if isinstance(obj, Endpoint):
        return frozenset(number for number, host in enumerate(agent.host_patterns) if host_matches(host, obj))
    return frozenset(number for number, glob in enumerate(agent.path_patterns) if matches(glob, obj))


def matched_groups(agent: ResolvedAgent, argv: Sequence[bytes]) -> frozenset[int]:
    """The argument groups that some argument behind argv[0] matches."""
    arguments = argv[1:]
    return frozenset(
        number
        for number, globs in enumerate(agent.arg_groups)
        if any(matches(glob, argument) for argument in arguments for glob in globs)
    )


def matched_texts(agent: ResolvedAgent, word: bytes, text: bytes) -> frozenset[int] | None:
    """The text groups that the text of a library call matches; None: what it says can't be told."""
    language = next((point.language for point in agent.calls if point.word.encode() == word), Sql.PLAIN)
    seen = skeleton(text, language)
    if seen is None:
        return None
    return frozenset(number for number, group in enumerate(agent.text_groups) if matches_text(group, seen))


def groups_of(
    agent: ResolvedAgent, op: Op, obj: bytes | Endpoint, argv: Sequence[bytes], text: bytes
) -> frozenset[int] | None:
    """What arguments or a text match besides the object; None: unresolved."""
    if op is Op.CALL:
        return matched_texts(agent, obj if isinstance(obj, bytes) else b"", text)
    return matched_groups(agent, argv) if op is Op.EXEC else frozenset()


def decide(
    agent: ResolvedAgent, op: Op, obj: bytes | Endpoint | None, argv: Sequence[bytes] = (), text: bytes = b""
) -> Outcome:
    """The outcome of one kernel operation. obj: None when it could not be resolved; argv: with argv[0], for exec; text:
    what the library function is told, for a call.
    """
    if obj is None:
        return agent.unresolved(op)
    if isinstance(obj, Endpoint) is not (op.family is Family.HOST):
        raise TypeError(f"{op.word} takes {'an endpoint' if op.family is Family.HOST else 'a path'}")
    groups = groups_of(agent, op, obj, argv, text)
    if groups is None:
        return agent.unresolved(op)
    return first_of([agent.outcome(op, matched_patterns(agent, one), groups) for one in judged_by(agent, op, obj)])
