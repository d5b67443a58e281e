"""`agentd policy`: output, streams and exit codes, as a person or a script meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from agentd.cli import COMMANDS, main
from agentd.resources import policies_dir

EXAMPLE = str(policies_dir() / "aegize-example.yaml")
CODING = str(policies_dir() / "coding-agent.yaml")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_a_valid_policy_is_ok() -> None:
    """check says what it read on stdout, warnings on stderr, and exits with 0."""
    result = run("policy", "check", EXAMPLE)
    assert result.exit_code == 0
    assert result.stdout == f"{EXAMPLE}: ok (aegize policy, 1 agent, 6 rules, 2 warnings)\n"
    assert all(": warning: " in line for line in result.stderr.splitlines())


def test_warnings_fail_when_asked_to() -> None:
    """check --strict exits with 1 for warnings."""
    assert run("policy", "check", "--strict", EXAMPLE).exit_code == 1


def test_an_invalid_policy_names_every_mistake(tmp_path: Path) -> None:
    """check gives one line a mistake on stderr, nothing on stdout, and exits with 1."""
    path = tmp_path / "p.yaml"
    path.write_text("agents:\n  bot:\n    deny:\n      - {tool: shell, operations: rm}\n      - {tol: shell}\n")
    result = run("policy", "check", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f'{path}:4:35: agents.bot.deny[0].operations: expected a list, got a string; write ["rm"]',
        f"{path}:5:9: agents.bot.deny[1]: the rule names no tool; add `tool:`",
        f'{path}:5:10: agents.bot.deny[1].tol: unknown key; did you mean "tool"?',
    ]


def test_a_missing_policy_is_exit_code_2(tmp_path: Path) -> None:
    """check exits with 2 for a file that can't be read, and still checks the others."""
    result = run("policy", "check", str(tmp_path / "none.yaml"), EXAMPLE)
    assert result.exit_code == 2
    assert "can't be read: no such file or directory" in result.stderr
    assert "ok (aegize policy" in result.stdout


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    """Text from a file is escaped before it is shown."""
    path = tmp_path / "p.yaml"
    path.write_text('agents: {"a\\e[2J": {}}')
    result = run("policy", "check", str(path))
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr + result.stdout


def test_failed_cases_are_exit_code_1(tmp_path: Path) -> None:
    """test exits with 1 and says what it got, for tool calls and for kernel operations."""
    path = tmp_path / "t.yaml"
    path.write_text(
        "tests:\n"
        "  - {agent: research_bot, tool: shell, operation: rm, expect: allow}\n"
        "  - {name: k, agent: research_bot, kernel: {exec: /bin/rm, argv: [rm]}, expect: deny, tool: email}\n"
        "  - {agent: research_bot, kernel: {connect: '192.0.2.1:25'}, expect: require_approval, rule: nope}\n"
        "  - {agent: research_bot, kernel: {bpf: bpf}, expect: deny, rule: default}\n"
    )
    result = run("policy", "test", EXAMPLE, str(path))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "FAIL  test #1  (expected allow, got deny — denied by rule for tool 'shell')",
        "FAIL  k  (expected deny, got deny — it is shell/rm, not email/rm)",
        "FAIL  test #3  (expected require_approval, got require_approval — decided by "
        "research_bot/require_approval/0, not nope)",
        "PASS  test #4  (expected deny)",
        "",
        "1 passed, 3 failed",
    ]


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("{agent: a, kernel: {exce: /x}, expect: deny}", 'kernel.exce: unknown key; did you mean "exec"?'),
        ("{agent: a, kernel: {}, expect: deny}", "kernel: expected exactly one kernel operation"),
        ("{agent: a, kernel: {read: /x, argv: [x]}, expect: deny}", "argv: only exec has arguments"),
        ("{agent: a, kernel: {connect: example.com}, expect: deny}", "names no single port"),
        ("{agent: a, kernel: {connect: '*.example.com:443'}, expect: deny}", "is not one address"),
        ("{agent: a, kernel: {read: /x}, expect: deny, toool: x}", 'toool: unknown key; did you mean "tool"?'),
        ("{kernel: {read: /x}, expect: deny}", 'missing required field "agent"'),
    ],
)
def test_a_malformed_kernel_case_is_exit_code_2(case: str, error: str, tmp_path: Path) -> None:
    """A kernel case that can't be read is refused before any case runs."""
    path = tmp_path / "t.yaml"
    path.write_text(f"tests:\n  - {{agent: a, tool: t, operation: o, expect: deny}}\n  - {case}\n")
    result = run("policy", "test", EXAMPLE, str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr


def test_explain_says_what_decides_and_what_does_not() -> None:
    """explain names the entry, the rule and the reason of every rule that lost."""
    result = run("policy", "explain", "--policy", EXAMPLE, "--agent", "research_bot", "exec", "/usr/bin/find", "--",
                 "find", ".", "-delete")  # fmt: skip
    assert result.exit_code == 0
    assert "is        shell/delete, risk high: catalogue.yaml:" in result.stdout
    assert "not shell/rm: catalogue.yaml:" in result.stdout
    assert "decision  deny, action deny: deny by research_bot/deny/1" in result.stdout
    assert "its tool is payments" in result.stdout
    assert "its operations are execute" in result.stdout


@pytest.mark.parametrize(
    ("obj", "decision", "rule"),
    [
        ("pypi.org:443", "allow", "registries"),
        ("raw.githubusercontent.com:443", "allow", "code-hosts"),
        ("evilpypi.org:443", "deny", "default"),
        ("resolvers:53", "allow", "name-servers-and-this-host"),
        ("192.0.2.53:53", "deny", "default"),
    ],
)
def test_explain_takes_names(obj: str, decision: str, rule: str) -> None:
    """A question about a name is one about an address that was looked up by it."""
    result = run("policy", "explain", "--policy", CODING, "--agent", "coding-agent", "--json", "connect", obj)
    answer = json.loads(result.stdout)
    assert (answer["decision"], answer["rule"]) == (decision, rule)


def test_explain_speaks_json() -> None:
    """explain --json has the same answer for programs."""
    result = run("policy", "explain", "--policy", CODING, "--agent", "coding-agent", "--workspace", "/w", "--json",
                 "connect", "169.254.169.254:0")  # fmt: skip
    answer = json.loads(result.stdout)
    assert (answer["tool"], answer["operation"], answer["decision"]) == ("network", "connect", "deny")
    assert answer["rule"] == "no-metadata"
    why = {rule["id"]: rule["why"] for rule in answer["rules"]}
    assert "covers it too, but deny goes before allow" in why.values()
    assert why["no-kernel"] == "its tool is host"
    assert why["writes"] == "its tool is file_writer"
    assert [rule["id"] for rule in answer["rules"] if rule["decides"]] == ["no-metadata"]


def test_explain_takes_a_tool_call() -> None:
    """explain --tool --operation --path asks what a tool layer asks."""
    base = ("policy", "explain", "--policy", EXAMPLE, "--agent", "research_bot", "--tool", "file_reader", "--operation",
            "read", "--path")  # fmt: skip
    assert "allowed by rule for tool 'file_reader'" in run(*base, "safe_data/x").stdout
    denied = run(*base, "/etc/passwd").stdout
    assert "default deny" in denied
    assert "the path matches none of ./safe_data/**" in denied


def test_explain_unresolved_is_denied() -> None:
    """explain --unresolved shows the fate of an object that can't be resolved."""
    result = run("policy", "explain", "--policy", EXAMPLE, "--agent", "research_bot", "--unresolved", "read")
    assert "deny, action deny: the object could not be resolved (always denied)" in result.stdout


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("exec",), "name OP and OBJECT"),
        (("exce", "/x"), "exce is no kernel operation"),
        (("read", "/x", "--", "y"), "only exec has arguments"),
        (("connect", "*.example.com:443"), "is not one address"),
        (("--tool", "x"), "--tool and --operation go together"),
        (("--tool", "x", "--operation", "y", "exec"), "--tool and --operation go together"),
    ],
)
def test_explain_refuses_half_a_question(args: tuple[str, ...], error: str) -> None:
    """A question that makes no sense is one line on stderr and exit code 2."""
    result = run("policy", "explain", "--policy", EXAMPLE, "--agent", "research_bot", *args)
    assert result.exit_code == 2
    assert error in result.stderr
    assert result.stderr.startswith("agentd: policy explain: ")
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_agent_is_named_with_the_known_ones() -> None:
    """explain says which agents the policy has."""
    result = run("policy", "explain", "--policy", EXAMPLE, "--agent", "nobody", "exec", "/x")
    assert (result.exit_code, result.stderr) == (2, f"agentd: {EXAMPLE}: no agent 'nobody'; it has research_bot\n")


def test_the_schema_is_a_schema() -> None:
    """schema prints a valid JSON Schema of draft 2020-12."""
    schema = json.loads(run("policy", "schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_command_can_be_imported_and_has_an_example() -> None:
    """Each verb in the table exists, and its help is there."""
    for name, _ in COMMANDS:
        result = run(name, "--help")
        assert result.exit_code == 0, name
        assert result.stdout.startswith(f"Usage: agentd {name}")


def test_a_usage_error_is_one_line() -> None:
    """A misspelt verb is one line with a pointer to the help, and exit code 2."""
    result = run("polcy")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "--help`" in result.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    """When the reader of the output goes, there is no traceback."""
    command = f"{sys.executable} -m agentd policy schema | true; {sys.executable} -m agentd policy schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "{"
