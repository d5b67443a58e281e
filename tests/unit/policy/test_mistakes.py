"""Every kind of mistake in a policy: found, all at once, at its place, with a hint."""

# ruff: noqa: E501 - the table reads best with one case a line

from __future__ import annotations

import contextlib

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import AgentdError
from agentd.policy.problem import PolicyError
from agentd.policy.resolve import ResolvedPolicy, load, load_text
from agentd.policy.schema import SCHEMA

SCHEMA_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_text(text.encode(), "p.yaml", workspace="/w")
    return [str(problem) for problem in caught.value.problems]


def warnings(text: str) -> list[str]:
    return [str(problem) for problem in load_text(text.encode(), "p.yaml", workspace="/w").warnings]


RULE = "agents: {bot: {allow: [{tool: file_reader, %s}]}}"
V1 = "version: 1\nagents: {bot: {%s}}"
V1_RULE = "version: 1\nagents: {bot: {allow: [{tool: network, %s}]}}"

CALL = "version: 1\ntools: {t: {o: [{call: {library: x, as: string, %s}}]}}\nagents: {}"

# (document, what its only error says, whether the schema refuses it as well)
CASES = [
    # aegize's holes
    (RULE % "operations: read", 'p.yaml:1:56: agents.bot.allow[0].operations: expected a list, got a string; write ["read"]', True),
    (RULE % "paths: x/*", 'agents.bot.allow[0].paths: expected a list, got a string; write ["x/*"]', True),
    (RULE % "path: [x]", 'p.yaml:1:44: agents.bot.allow[0].path: unknown key; did you mean "paths"?', True),
    (RULE % "operation: [read]", 'operation: unknown key; did you mean "operations"?', True),
    (RULE % "risk_level_max: hihg", 'risk_level_max: "hihg" is not one of low, medium, high, critical; did you mean "high"?', True),
    (RULE % "risk_level_max: 3", "risk_level_max: expected one of low, medium, high, critical, got a number", True),
    (RULE % "operations: [yes]", 'operations[0]: expected a string, got a boolean; write "yes" in quotes', True),
    (RULE % "operations: {read: 1}", "operations: expected a list, got a mapping", True),
    (RULE % "operations: ['']", "operations[0]: the string is empty", True),
    (RULE % "hosts: [127.0.0.1]", "hosts: unknown key; only documents with `version: 1` have it", True),
    ("agents: {bot: {denied: []}}", 'agents.bot.denied: unknown key; did you mean "deny"?', True),
    ("agents: {bot: {mode: monitor}}", "agents.bot.mode: unknown key; only documents with `version: 1` have it", True),
    ("agents: {bot: {allow: [shell]}}", "agents.bot.allow[0]: expected a mapping, got a string", True),
    ("agents: {bot: {allow: {tool: x}}}", "agents.bot.allow: expected a list, got a mapping; write a list of rules", True),
    ("agents: {bot: {deny: [{operations: [rm]}]}}", "agents.bot.deny[0]: the rule names no tool; add `tool:`", True),
    ("agents: {bot: {deny: [{tool: 7}]}}", 'agents.bot.deny[0].tool: expected a string, got a number; write "7" in quotes', True),
    ("agents: {7: {}}", 'agents.7: the name of an agent must be a string, got a number; write "7" in quotes', False),
    ("agents: {bot: [x]}", "agents.bot: expected a mapping, got a list", True),
    ("agents: [bot]", "agents: expected a mapping, got a list", True),
    ("agents:", "agents: expected a mapping, got nothing", True),
    ("{}", "p.yaml:1:1: the top-level key agents is missing", True),
    ("- x", "p.yaml:1:1: expected a mapping, got a list", True),
    ("", "p.yaml: the file is empty", True),
    ("tools: {}\nagents: {}", "tools: unknown key; only documents with `version: 1` have it", True),
    ("agents: {bot: {deny: [], deny: []}}", "duplicate key 'deny'", False),
    ("agents: {\"a\\nb\": {}}", "has a control character", False),
    # version 1
    ("version: 2\nagents: {}", "p.yaml:1:10: version: this agentd reads version 1 only; write `version: 1`", True),
    ("version: '1'\nagents: {}", "version: this agentd reads version 1 only", True),
    ("version: 1\nagent: {}\nagents: {}", 'p.yaml:2:1: agent: unknown key; did you mean "agents"?', True),
    ("version: 1", "the top-level key agents is missing", True),
    (V1 % "mode: enfroce", 'mode: "enfroce" is not one of enforce, monitor; did you mean "enforce"?', True),
    (V1 % "on_violation: stop", 'on_violation: "stop" is not one of deny, kill, pause', True),
    (V1 % "minimum_guarantee: none", "minimum_guarantee: \"none\" is not one of detected, contained, prevented", True),
    (V1 % "below_minimum: deny", 'below_minimum: "deny" is not one of pause, kill', True),
    (V1 % "audit: yes", "audit: expected one of normal, strict", True),
    (V1 % "library_calls: yes", "library_calls: expected one of alert, required", True),
    (CALL % "argument: 1", "the call says no function", True),
    (CALL % "function: f", "the call says no argument", True),
    (CALL % "function: f, argument: 7", "expected a number from 1 to 6", True),
    (CALL % "function: f-g, argument: 1", "can't be the name of a function; as `nm -D` shows it", False),
    (CALL % "function: f, usdt: 'p:n', argument: 1", "a call is a function or a USDT probe", True),
    (CALL % "usdt: n, argument: 1", "can't be the name of a USDT probe; write PROVIDER:NAME", True),
    (CALL % "usdt: ['p:n', 'p::n'], argument: 1", "can't be the name of a USDT probe", False),
    (CALL % "usdt: 'p:n', argument: 13", "expected a number from 1 to 12", True),
    (CALL % "usdt: 'p:n', argument: 1, length: 2, signed: int", "says by itself which type its arguments have", True),
    (V1 % "workspace: srv", 'workspace: "srv" is not an absolute path', True),
    (V1 % "workspace: /srv/../x", "workspace: \"/srv/../x\" has an empty, `.` or `..` component", False),
    (V1 % "match: {user: x}", "match: expected a list, got a mapping", True),
    (V1 % "match: [{uesr: x}]", 'match[0].uesr: unknown key; did you mean "user"?', True),
    (V1 % "match: [{user: x, exe: /y}]", "match[0]: expected exactly one kind of match", True),
    (V1 % "match: [{}]", "match[0]: expected exactly one kind of match", True),
    (V1 % "match: [{exe: bin/x}]", 'exe: "bin/x" is not an absolute path; start it with / or **/', True),
    (V1 % "match: [{exe: '/x['}]", "exe: `[` is not closed", False),
    (V1 % "match: [{systemd_unit: a/b}]", "systemd_unit: the name of a systemd unit has no /", True),
    (V1 % "match: [{env: {}}]", "env: no variable is named", True),
    (V1 % "match: [{env: {A: 1}}]", 'env.A: expected a string, got a number; write "1" in quotes', True),
    (V1 % "match: [{user: -1}]", "user: -1 is not a uid", True),
    (V1_RULE % "operations: ['*']", "operations have no wildcards; leave operations out", True),
    (V1_RULE % "paths: []", "paths: an empty list matches no path", True),
    (V1_RULE % "hosts: []", "hosts: an empty list matches no host", True),
    (V1_RULE % "hosts: ['10.0.0.1/8']", "hosts[0]: ", False),
    (V1_RULE % "hosts: ['1.2.3.4:99999']", "hosts[0]: ", False),
    (V1_RULE % "timeout: 5m", "timeout: an allow rule never waits", True),
    (V1_RULE % "action: kill", "action: an allow rule takes no action", True),
    (V1_RULE % "id: a/b", 'id: "a/b" can\'t be an id', True),
    (V1_RULE % "id: ", "id: expected a value, got nothing", True),
    (V1_RULE % "paths: ['a**b']", "`**` must be a whole path component", False),
    (V1_RULE % "paths: ['/a/']", "a path has no trailing slash", False),
    (V1_RULE % "paths: ['/a//b']", "`//` never occurs in a resolved path", False),
    (V1_RULE % "paths: ['../x']", "`.` and `..` never occur in a resolved path", False),
    (V1_RULE % "paths: ['~bob/x']", "only `~/` is known", False),
    (V1_RULE % "reason: x", "reason: unknown key", True),
    (V1 % "allow: [{tool: x}], deny: [{tool: x, hosts: ['a.example.com:443']}]", "weaker than written", False),
    (V1 % "allow: [{tool: x, hosts: ['*:443']}], require_approval: [{tool: x, hosts: [a.b]}]", "weaker than", False),
    (V1 % "require_approval: [{tool: x, hosts: ['1.1.1.1']}], deny: [{tool: x, hosts: [a.b]}]", "weaker than", False),
    (V1 % "require_approval: [{tool: x, action: kill}]", "an approval is always waited for", True),
    (V1 % "require_approval: [{tool: x, timeout: soon}]", "timeout: expected a duration", True),
    (V1 % "require_approval: [{tool: x, timeout: 0}]", "timeout: 0 seconds is not between 1 and 604800", True),
    (V1 % "require_approval: [{tool: x, timeout: 8d}]", "timeout: 691200 seconds is not between 1 and 604800", False),
    (V1 % "deny: [{tool: x, timeout: 5m}]", "timeout: the rule denies at once", False),
    (V1 % "deny: [{tool: x, approvers: 2}]", "approvers: the rule denies at once", False),
    (V1_RULE % "approvers: 2", "approvers: an allow rule asks nobody", True),
    (V1 % "require_approval: [{tool: x, approvers: 0}]", "approvers: expected a number from 1 to 9", True),
    (V1 % "require_approval: [{tool: x, approvers: true}]", "approvers: expected a number from 1 to 9", True),
    (V1 % "require_approval: [{tool: x, approvers: 10}]", "approvers: expected a number from 1 to 9", True),
    (V1 % "deny: [{tool: x, id: a}, {tool: y, id: a}]", "a is the id of agents.bot.deny[0] too", False),
    ("version: 1\nagents: {bot: }", "agents.bot: the agent has no rules", True),
    ("version: 1\ntools: {t: {o: {exec: [x]}}}\nagents: {}", "tools.t.o: expected a list, got a mapping", True),
    ("version: 1\ntools: {t: {o: [{risk: low}]}}\nagents: {}", "tools.t.o[0]: the entry names no kernel operation", True),
    ("version: 1\ntools: {t: {o: [{exce: ['**/x']}]}}\nagents: {}", 'exce: unknown key; did you mean "exec"?', True),
    ("version: 1\ntools: {t: {o: [{exec: [rm]}]}}\nagents: {}", 'write "**/rm" for any folder', False),
    ("version: 1\ntools: {t: {o: [{read: [/x], args: [y]}]}}\nagents: {}", "args: only exec has arguments", True),
    ("version: 1\ntools: {t: {o: [{exec: []}]}}\nagents: {}", "exec: an empty list matches nothing", True),
    ("version: 1\ntools: {t: {o: [{exec: [/x], args: ['[']}]}}\nagents: {}", "args[0]: `[` is not closed", False),
    ("version: 1\ntools: {t: {o: [{connect: ['1.2.3.4:x']}]}}\nagents: {}", "connect[0]: ", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error", "by_schema"), CASES, ids=[error for _, error, _ in CASES])
def test_a_mistake_is_named_at_its_place(text: str, error: str, by_schema: bool) -> None:
    """A mistake gives an error that says where it is and what to write, and an editor sees what a schema can see."""
    found = mistakes(text)
    assert any(error in line for line in found), found
    assert all(line.startswith("p.yaml") and "\n" not in line for line in found)
    with contextlib.suppress(yaml.YAMLError):
        assert SCHEMA_VALIDATOR.is_valid(yaml.safe_load(text)) is not by_schema or "agents: {7" in text


def test_all_mistakes_of_a_file_come_at_once_and_in_order() -> None:
    """One run names every mistake, each once, from the top of the file to its end."""
    text = (
        "version: 1\n"
        "agents:\n"
        "  bot:\n"
        "    mode: nope\n"
        "    deny:\n"
        "      - {tool: shell, operations: rm}\n"
        "      - {tol: shell}\n"
        "    allow:\n"
        "      - {tool: x, paths: [/a/], hosts: [1.2.3.4/40]}\n"
    )
    found = mistakes(text)
    assert [line.split(":")[1] for line in found] == ["4", "6", "7", "7", "9", "9"]
    assert found[1] == 'p.yaml:6:35: agents.bot.deny[0].operations: expected a list, got a string; write ["rm"]'


def test_the_error_itself_is_one_line() -> None:
    """Raised out of a daemon, the error names the first mistake and counts the others."""
    with pytest.raises(AgentdError) as caught:
        load(b"version: 1\nagents: {bot: {mode: x, audit: x}}", workspace="/w")
    assert caught.value.code == "policy-invalid"
    assert "\n" not in str(caught.value)
    assert "1 more mistake" in str(caught.value)


def test_what_aegize_ignores_is_warned_about() -> None:
    """paths and risk_level_max outside allow, a literal "*" and an empty agent load with a warning in aegize documents."""
    text = "agents:\n  bot:\n    deny:\n      - {tool: shell, paths: [x], risk_level_max: low, operations: ['*']}\n  nobody:\n"
    found = warnings(text)
    assert any("paths has no effect in deny" in line for line in found)
    assert any("risk_level_max has no effect in deny" in line for line in found)
    assert any('"*" is no wildcard' in line for line in found)
    assert any("the agent stays unknown" in line for line in found)


def test_rules_that_no_kernel_operation_meets_are_warned_about() -> None:
    """A tool or operation that nothing maps to is named, because a deny of it prevents nothing."""
    found = warnings("version: 1\nagents: {bot: {deny: [{tool: shel}, {tool: shell, operations: [remove]}]}}")
    assert any('no kernel operation is "shel"' in line for line in found)
    assert any("no kernel operation is shell/remove; shell has delete, execute, rm" in line for line in found)


ASKING = "{tool: network, operations: [connect, send], hosts: ['resolvers:53']}"


@pytest.mark.parametrize(
    "rules",
    [
        "allow: [{tool: web, hosts: ['*.a.b']}, %s], deny: [{tool: web, hosts: ['x.a.b']}]",
        "allow: [{tool: web, hosts: ['*:80', 'a.b']}, %s], deny: [{tool: web, hosts: ['a.b:443']}]",
        "allow: [{tool: web, operations: [search]}, {tool: web, operations: [fetch], hosts: [a.b]}, %s], "
        "deny: [{tool: web, operations: [fetch], hosts: ['x.a.b']}]",
        "allow: [{tool: web, paths: ['**']}, %s], deny: [{tool: web, hosts: ['x.a.b']}]",
    ],
)
def test_a_name_can_be_denied_where_only_names_are_allowed(rules: str) -> None:
    """What is carved out of other names is as strong as they are, and no address gets round it."""
    assert not [line for line in warnings(V1 % (rules % ASKING)) if "name" in line and "catalogue" not in line]


def test_names_that_nobody_may_ask_for_are_warned_about() -> None:
    """An agent with names and no way to a resolver is told what rule it needs; with one it isn't."""
    named = "allow: [{tool: web, operations: [fetch], hosts: ['a.b:443']}%s]"
    (line,) = warnings(V1 % (named % ""))
    assert "no rule allows the agent to ask for names" in line and "resolvers:53" in line
    assert warnings(V1 % (named % f", {ASKING}")) == []
    assert warnings(V1 % (named % ", {tool: network, operations: [send], hosts: ['*:53']}")) == []


YAML_WORDS = st.sampled_from(
    ["agents:", "version: 1", "tools:", "bot:", "allow:", "deny:", "- ", "tool: shell", "operations: [rm]", "paths:",
     "hosts: ['1.2.3.4']", "exec: ['**/x']", "  ", "    ", "\n", "{", "}", "[", "]", ",", ": ", "&a", "*a", "<<: *a", "'",
     "match:", "null", "risk: low", "timeout: 5m", "!!", "|", "#", "\t", "-", "?"]
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(YAML_WORDS, max_size=30).map("".join) | st.text(max_size=80))
def test_any_text_is_a_policy_or_an_error(text: str) -> None:
    """Whatever a file says, loading it gives a policy or an AgentdError, never anything else."""
    try:
        policy = load_text(text.encode("utf-8", "replace"), "p.yaml", workspace="/w")
    except AgentdError as error:
        assert str(error)
        return
    assert isinstance(policy, ResolvedPolicy)


PLAIN = st.none() | st.booleans() | st.integers(-5, 9) | st.text("ab*/.~[-", max_size=5) | st.floats(0, 1)
KEYS = st.sampled_from(
    ["agents", "version", "tools", "bot", "allow", "deny", "require_approval", "tool", "operations", "paths", "hosts",
     "risk_level_max", "timeout", "action", "id", "match", "workspace", "mode", "exec", "read", "connect", "args", "risk",
     "env", "user"]
)  # fmt: skip
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=25
)


@settings(max_examples=150)
@given(TREES, st.booleans())
def test_any_tree_is_a_policy_or_an_error(tree: object, wrapped: bool) -> None:
    """The right words in any shape give a policy or an AgentdError."""
    document = {"version": 1, "agents": {"bot": tree}} if wrapped else tree
    with contextlib.suppress(AgentdError):
        assert isinstance(load(yaml.safe_dump(document).encode(), workspace="/w"), ResolvedPolicy)


def test_a_port_that_is_another_tools_is_a_warning() -> None:
    """A rule for an address and port that the catalogue gives to another tool is never met, and that is said."""
    found = warnings(V1_RULE % "hosts: ['10.0.0.0/8:5432', '10.0.0.0/8:9000', 10.0.0.0/8], operations: [connect]")
    assert [line.split(": warning: ")[1] for line in found] == [
        'agents.bot.allow[0].hosts[0]: "10.0.0.0/8:5432" is database/query or network/listen in the catalogue, so the rule '
        "never covers it; name that tool, or map it under `tools:`"
    ]
