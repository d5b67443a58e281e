"""A document without a version means what aegize says it means, compared with aegize itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from aegize import PermissionPolicy
from aegize.action import ToolAction
from aegize.cli import main as aegize_main
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentd.cli import main
from agentd.model import RISK_BY_WORD, Decision, Op
from agentd.policy.evaluate import decide, evaluate_call
from agentd.policy.resolve import load_text
from agentd.resources import policies_dir

SEED = """
agents:
  research_bot:
    allow:
      - {tool: file_reader, operations: [read], paths: ["./safe_data/**", "*.md"]}
      - {tool: web_search, risk_level_max: medium}
    require_approval: [{tool: email}]
    deny: [{tool: shell, operations: [rm]}]
"""

TOOLS = st.sampled_from(["shell", "email", "file_reader", "x y", "Shell", "é"])
OPERATIONS = st.sampled_from(["rm", "send", "read", "*", "Read", "r"])
RISKS = st.sampled_from(list(RISK_BY_WORD))
GLOBS = st.text("ab/.*?[]!-\\é", min_size=1, max_size=8)
PATHS = st.text("ab/.\\é\n[]*", max_size=8)

RULES = st.fixed_dictionaries(
    {"tool": TOOLS},
    optional={
        "operations": st.none() | st.lists(OPERATIONS, max_size=2),
        "risk_level_max": st.none() | RISKS,
        "paths": st.none() | st.lists(GLOBS, max_size=3),
    },
)
AGENTS = st.none() | st.fixed_dictionaries(
    {}, optional={key: st.none() | st.lists(RULES, max_size=3) for key in ("allow", "require_approval", "deny")}
)
DOCUMENTS = st.fixed_dictionaries({"agents": st.dictionaries(st.sampled_from(["bot", "other"]), AGENTS, max_size=2)})


def climbs(path: str) -> bool:
    return ".." in path.replace("\\", "/").split("/")


@settings(max_examples=400)
@given(DOCUMENTS, TOOLS, OPERATIONS, RISKS, st.lists(PATHS, max_size=2))
@example({"agents": {"bot": None}}, "shell", "rm", "low", [])
@example({"agents": {"bot": {"allow": [{"tool": "shell", "paths": ["*"]}]}}}, "shell", "rm", "low", ["a/b\nc"])
def test_every_answer_is_aegizes(document: dict, tool: str, operation: str, risk: str, paths: list[str]) -> None:
    """Decision and reason are aegize's own, but for a path with `..`, which may be denied where aegize lets it out."""
    metadata = {"path": paths[0], "candidate_paths": paths[1:]} if paths else {}
    theirs = PermissionPolicy.from_dict(document).evaluate(
        ToolAction(agent_id="bot", tool_name=tool, operation=operation, risk_level=risk, metadata=metadata)
    )
    policy = load_text(yaml.safe_dump(document, allow_unicode=True).encode(), "p.yaml", workspace="/w")
    ours = evaluate_call(policy, "bot", tool, operation, RISK_BY_WORD[risk], paths)
    if any(climbs(path) for path in paths) and theirs.decision.value == "allow" and ours.decision is Decision.DENY:
        return  # closed on purpose: see test_a_path_that_climbs_out_is_denied
    assert (ours.decision.word, ours.reason) == (theirs.decision.value, theirs.reason)


def test_a_path_that_climbs_out_is_denied() -> None:
    """aegize lets `safe_data/../secret` through; here it must match where it leads to as well."""
    policy = load_text(SEED.encode(), "p.yaml", workspace="/w")

    def ask(*paths: str) -> Decision:
        return evaluate_call(policy, "research_bot", "file_reader", "read", paths=paths).decision

    assert ask("safe_data/../secret") is Decision.DENY
    assert ask("safe_data/x/../y") is Decision.ALLOW
    assert ask("x/../safe_data/y") is Decision.DENY
    assert ask("safe_data/x\0") is Decision.DENY


def test_star_crosses_slashes_for_the_kernel_too() -> None:
    """An aegize glob judges resolved paths below the workspace with aegize's own wildcard."""
    policy = load_text(SEED.encode(), "p.yaml", workspace="/srv/a[1]")
    agent = policy.agents["research_bot"]

    def ask(path: str) -> Decision:
        return decide(agent, Op.READ, path.encode()).decision

    assert ask("/srv/a[1]/safe_data/x/y") is Decision.ALLOW
    assert ask("/srv/a[1]/deep/er/readme.md") is Decision.ALLOW
    assert ask("/elsewhere/readme.md") is Decision.ALLOW  # `*.md` crosses every slash
    assert ask("/srv/a1/safe_data/x") is Decision.DENY
    assert ask("/srv/a[1]/safe_data") is Decision.DENY
    assert ask("/srv/a[1]/secret") is Decision.DENY


CASES = st.lists(
    st.fixed_dictionaries(
        {"agent": st.sampled_from(["bot", "nobody"]), "tool": TOOLS, "operation": OPERATIONS,
         "expect": st.sampled_from(["allow", "deny", "require_approval"])},
        optional={"name": st.sampled_from(["", "a case", None, 7]), "risk_level": RISKS,
                  "metadata": st.none() | st.fixed_dictionaries({"path": st.sampled_from(["a/b", "x", "./a", 7])})},
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=60)
@given(DOCUMENTS, CASES)
def test_policy_test_prints_what_aegize_prints(document: dict, cases: list[dict]) -> None:
    """The same policy and cases give the same lines and the same exit code."""
    with tempfile.TemporaryDirectory() as folder:
        policy, tests = Path(folder, "policy.yaml"), Path(folder, "tests.yaml")
        policy.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        tests.write_text(yaml.safe_dump({"tests": cases}, allow_unicode=True), encoding="utf-8")
        ours = CliRunner().invoke(main, ["policy", "test", str(policy), str(tests)])
        theirs_code, theirs_out = run_aegize(policy, tests)
    assert (ours.exit_code, ours.stdout) == (theirs_code, theirs_out)


def run_aegize(policy: Path, tests: Path) -> tuple[int, str]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = aegize_main(["policy", "test", str(policy), str(tests)])
    return code, out.getvalue()


@pytest.mark.parametrize(
    "tests",
    ["", "tests: []", "tests: {}", "- x", "tests: [x]", "tests: [{agent: a}]",
     "tests: [{agent: a, tool: t, operation: o}]", "tests: [{agent: a, tool: t, operation: o, expect: maybe}]",
     "tests: [{agent: a, tool: t, operation: o, expect: deny, risk_level: huge}]",
     "tests: [{agent: a, tool: t, operation: o, expect: deny, metadata: [x]}]", "tests: [", "tests: [1"],
)  # fmt: skip
def test_malformed_cases_are_exit_code_2_in_both(tests: str, tmp_path: Path) -> None:
    """What aegize refuses as a test file, agentd refuses with the same exit code and `error:` on stderr."""
    policy, file = tmp_path / "p.yaml", tmp_path / "t.yaml"
    policy.write_text("agents: {}")
    file.write_text(tests)
    result = CliRunner().invoke(main, ["policy", "test", str(policy), str(file)])
    assert result.exit_code == 2 == run_aegize(policy, file)[0]
    assert result.stdout == ""
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())


def test_the_seeds_policy_passes_in_both() -> None:
    """aegize itself loads the shipped example and decides the same."""
    theirs = PermissionPolicy.from_yaml(policies_dir() / "aegize-example.yaml")
    action = ToolAction(agent_id="research_bot", tool_name="shell", operation="rm", risk_level="low", metadata={})
    assert theirs.evaluate(action).decision.value == "deny"
