"""The kernel's words say what the resolved rules say, and what does not fit is refused."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import AgentdError
from agentd.model import HOST_OPS, PATH_OPS, Decision, Endpoint, Op
from agentd.policy.hosts import host_key, host_matches
from agentd.policy.patterns import Glob, matches
from agentd.policy.resolve import load
from agentd.policy.resolved import Outcome, ResolvedAgent
from agentd.policy.tables import AgentTables, build
from agentd.policy.walk import lookup

ROOM = 1 << 22

TOOLS = """version: 1
tools:
  work:
    read: [{read: ["/w/**", "**/*.txt"]}]
    write: [{write: ["/w/**"], risk: high}, {create: ["/w/*"]}]
  shell:
    danger: [{exec: ["**/find", "/w/bin/*"], args: ["-delete", "*rm*"]}, {exec: ["**/dd"], args: ["of=*"]}]
    tidy: [{exec: ["**/find"], args: ["-print"]}]
  site:
    call: [{connect: ["10.0.0.0/8:443", "*:80"]}]
agents:
  bot:
"""
RULES = [
    '{tool: work, operations: [read], paths: ["/w/a/**"]}',
    '{tool: work, paths: ["**/b"]}',
    "{tool: work}",
    '{tool: file_reader, operations: [read], paths: ["/w/**", "/etc/*"]}',
    "{tool: shell, operations: [danger]}",
    '{tool: shell, paths: ["/w/bin/*"]}',
    "{tool: shell}",
    '{tool: site, hosts: ["10.1.0.0/16"]}',
    '{tool: network, operations: [connect], hosts: ["*:80", "127.0.0.1"]}',
    '{tool: secrets, operations: [read], paths: ["**/*.pem"]}',
]
PATHS = [
    "/w/a/b",
    "/w/a",
    "/w/b",
    "/w/x.txt",
    "/w/bin/find",
    "/usr/bin/find",
    "/bin/dd",
    "/etc/passwd",
    "/w/k.pem",
    "/b",
]
PATHS += ["/w/bin/b", "/usr/bin/git", "/bin/sh", "/home/u/.ssh/id_rsa", "/dev/null", "/usr/lib/x.so", "user", "anon:x"]
ARGV = st.lists(st.sampled_from(["find", "-delete", "-print", "of=x", "xrmx", "push", "status", ""]), max_size=4)
SECTION = st.lists(st.sampled_from(RULES), max_size=3, unique=True)


@functools.lru_cache(maxsize=64)
def agent_of(allow: tuple[str, ...], approve: tuple[str, ...], deny: tuple[str, ...], mode: str) -> ResolvedAgent:
    lines = [TOOLS, f"    mode: {mode}\n"]
    for name, rules in (("allow", allow), ("require_approval", approve), ("deny", deny)):
        if rules:
            lines.append(f"    {name}:\n" + "".join(f"      - {rule}\n" for rule in rules))
    return load("".join(lines).encode(), workspace="/w").agents["bot"]


@functools.lru_cache(maxsize=64)
def tables_of(agent_key: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]) -> AgentTables:
    return build(agent_of(*agent_key), max_words=ROOM)


def expected(agent: ResolvedAgent, op: Op, obj: bytes | Endpoint, argv: list[bytes]) -> Outcome:
    """The outcome by the resolved rules and the matchers alone."""
    if isinstance(obj, Endpoint):
        return agent.outcome(op, frozenset(i for i, p in enumerate(agent.host_patterns) if host_matches(p, obj)))
    groups = frozenset(
        number
        for number, globs in enumerate(agent.arg_groups)
        if any(matches(glob, argument) for glob in globs for argument in argv[1:])
    )
    return agent.outcome(op, matched_paths(agent.path_patterns, obj), groups)


@functools.lru_cache(maxsize=4096)
def matched_paths(patterns: tuple[Glob, ...], path: bytes) -> frozenset[int]:
    return frozenset(i for i, glob in enumerate(patterns) if matches(glob, path))


@settings(max_examples=10, deadline=None)
@given(SECTION, SECTION, SECTION, st.sampled_from(["enforce", "monitor"]), st.data())
def test_the_words_say_what_the_rules_say(
    allow: list[str], approve: list[str], deny: list[str], mode: str, data: st.DataObject
) -> None:
    """For any policy, operation, object and arguments, walking the words gives the resolved rules' outcome."""
    key = (tuple(allow), tuple(approve), tuple(deny), mode)
    agent, tables = agent_of(*key), tables_of(key)
    argv = [argument.encode() for argument in data.draw(ARGV)]
    for path in PATHS:
        for op in PATH_OPS:
            assert lookup(tables, op, path.encode(), argv) == expected(agent, op, path.encode(), argv), (op, path)
    for address in (b"\x0a\x01\0\1", b"\x0a\x02\0\1", b"\x7f\0\0\1", b"\x08\x08\x08\x08", bytes(15) + b"\1"):
        for port in (22, 25, 80, 443):
            endpoint = Endpoint(address, port)
            for op in HOST_OPS:
                assert lookup(tables, op, host_key(endpoint)) == expected(agent, op, endpoint, []), (op, endpoint)


def test_a_rule_with_paths_changes_only_what_it_covers() -> None:
    """The rule decides inside its paths and for its tool, and the default decides elsewhere."""
    tables = tables_of((('{tool: work, operations: [read], paths: ["/w/a/**"]}',), (), (), "enforce"))
    assert lookup(tables, Op.READ, b"/w/a/x").decision is Decision.ALLOW
    assert lookup(tables, Op.READ, b"/w/b/x").decision is Decision.DENY
    assert lookup(tables, Op.WRITE, b"/w/a/x").decision is Decision.DENY


def test_arguments_decide_which_tool_a_program_is() -> None:
    """Any argument but argv[0] makes a program the tool whose `args:` it matches; the first entry wins."""
    tables = tables_of((("{tool: shell}",), (), ("{tool: shell, operations: [danger]}",), "enforce"))
    find = b"/usr/bin/find"
    assert lookup(tables, Op.EXEC, find, [b"find", b"-print", b"-delete"]).decision is Decision.DENY
    assert lookup(tables, Op.EXEC, find, [b"find", b"-print"]).decision is Decision.ALLOW
    assert lookup(tables, Op.EXEC, find, [b"-delete"]).decision is Decision.ALLOW


@pytest.mark.parametrize("op", list(Op))
def test_what_is_unresolved_is_denied(op: Op) -> None:
    """An object that could not be resolved is denied, whatever the rules allow."""
    key = (("{tool: work}", "{tool: shell}"), (), (), "enforce")
    assert lookup(tables_of(key), op, None) == agent_of(*key).unresolved(op)
    assert lookup(tables_of(key), op, None).decision is Decision.DENY


def test_every_offset_lies_in_the_region() -> None:
    """The header's offsets, and every state's furthest comb entry, are inside the words."""
    tables = tables_of((("{tool: work}",), (), (), "enforce"))
    words, header = tables.words, tables.header
    assert header.words == len(words)
    for dfa in (header.path, header.exec, header.rules, header.host, header.args):
        assert dfa.classes + 64 <= dfa.states
        assert dfa.states + 4 * dfa.n_states <= dfa.comb
        assert dfa.comb + 2 * dfa.n_comb <= len(words)
        columns = max(words[dfa.classes + i // 4] >> 8 * (i % 4) & 0xFF for i in range(256)) + 1
        for state in range(dfa.n_states):
            assert words[dfa.states + 4 * state] + columns <= dfa.n_comb
            assert words[dfa.states + 4 * state + 1] < dfa.n_states
    assert header.outcomes + 4 * header.n_outcomes == len(words)


def test_outcomes_are_written_as_the_kernel_reads_them() -> None:
    """An outcome is decision, action and risk in one word, then rule, toolop and timeout; no rule is 0xffffffff."""
    tables = tables_of((("{tool: work}",), (), (), "enforce"))
    for number, outcome in enumerate(tables.outcomes):
        at = tables.header.outcomes + 4 * number
        assert tables.words[at] == outcome.decision | outcome.action << 8 | outcome.risk << 16
        assert tables.words[at + 1] == outcome.rule % 2**32
        assert (tables.words[at + 2], tables.words[at + 3]) == (outcome.toolop, outcome.timeout)


def many(shape: str, count: int) -> ResolvedAgent:
    rng = random.Random(1)
    paths = [shape.format(i, f"{rng.getrandbits(128):032x}") for i in range(count)]
    rules = "".join(f'      - {{tool: file_reader, operations: [read], paths: ["{path}"]}}\n' for path in paths)
    return load(f"version: 1\nagents:\n  bot:\n    allow:\n{rules}".encode(), workspace="/w").agents["bot"]


@pytest.mark.parametrize(("shape", "limit"), [("/srv/data/dir_{0}/**", 350_000), ("**/name_{0}", 260_000)])
def test_ten_thousand_rules_beside_the_whole_catalogue_stay_small(shape: str, limit: int) -> None:
    """The catalogue's patterns and a policy's own do not multiply one another."""
    tables = build(many(shape, 10_000), max_words=ROOM)
    assert tables.header.words < limit
    name = shape.replace("**/", "/x/").format(77).replace("/**", "/x").encode()
    assert lookup(tables, Op.READ, name).decision is Decision.ALLOW
    assert lookup(tables, Op.READ, name.replace(b"77", b"7x")).decision is Decision.DENY


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    """A policy larger than the kernel's room is one error that names the agent and the numbers."""
    with pytest.raises(AgentdError) as error:
        build(many("/srv/{1}", 100), max_words=90_000 // 8)
    assert error.value.code == "policy-too-large"
    assert "agent bot" in str(error.value)
    assert any(character.isdigit() for character in error.value.why)
