"""Policies of several files, and environments: joined in order, named by file, and never loosened unless said."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.model import Action, Decision, Endpoint, Mode, Op
from agentd.policy import resolve
from agentd.policy.evaluate import decide
from agentd.policy.problem import PolicyError
from agentd.policy.recognise import recognitions

BASE = """\
version: 1
agents:
  bot:
    on_violation: deny
    allow:
      - {tool: file_reader, operations: [read], paths: ["/srv/**"]}
      - {tool: network, operations: [connect], hosts: ["10.0.0.0/8:8080"]}
    require_approval:
      - {tool: email, operations: [send], approvers: 2}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def agent_file(body: str, top: str = "") -> str:
    return f"version: 1\n{top}agents:\n  bot:\n    {body}\n"


def load(folder: Path, environment: str = "") -> resolve.ResolvedPolicy:
    return resolve.load(folder, workspace="/", environment=environment)


def reads(policy: resolve.ResolvedPolicy, path: bytes) -> Decision:
    return decide(policy.agents["bot"], Op.READ, path).decision


def test_files_are_one_policy_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Rules stand behind one another, a later file's other keys win, and each place names its own file."""
    write(
        tmp_path,
        **{
            "10-base": BASE,
            "20-more": agent_file('{mode: monitor, deny: [{tool: file_reader, paths: ["/srv/key"]}]}'),
            "30-again": "version: 1\nagents:\n  bot: {mode: enforce}\n  other: {}\n",
        },
    )
    (tmp_path / "notes.txt").write_text("not a policy")
    (tmp_path / ".hidden.yaml").write_text("]")
    (tmp_path / "10-base.cases.yaml").write_text("tests: []")
    policy = load(tmp_path)
    bot = policy.agents["bot"]
    assert set(policy.agents) == {"bot", "other"} and bot.mode is Mode.ENFORCE
    assert reads(policy, b"/srv/a") is Decision.ALLOW and reads(policy, b"/srv/key") is Decision.DENY
    assert [rule.where.rpartition("/")[2] for rule in bot.rules[:3]] == [
        "20-more.yaml:4:28",
        "10-base.yaml:9:9",
        "10-base.yaml:6:9",
    ]


def test_one_file_in_a_folder_is_that_file(tmp_path: Path) -> None:
    """A folder with one file has the file's own hash, and may be an aegize policy."""
    write(tmp_path, one="agents:\n  bot:\n    allow:\n      - {tool: email}\n")
    alone = resolve.load(tmp_path / "one.yaml", workspace="/")
    assert load(tmp_path).sha256 == alone.sha256 and load(tmp_path).language is resolve.Language.AEGIZE


def test_tools_of_all_files_count(tmp_path: Path) -> None:
    """A tool that a later file maps is known to the whole policy."""
    write(
        tmp_path,
        a=BASE,
        b='version: 1\ntools: {payments: {charge: [{connect: ["10.1.1.1:9"]}]}}\n',
        c=agent_file("{allow: [{tool: payments}]}"),
    )
    outcome = decide(load(tmp_path).agents["bot"], Op.CONNECT, Endpoint(b"\x0a\1\1\1", 9))
    assert outcome.decision is Decision.ALLOW


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({"b": agent_file("{allow: [{tool: email, operatons: [send]}]}")}, "b.yaml:4:28", "unknown key"),
        ({"b": "agents: {}\n"}, "b.yaml:1:1", "an aegize policy stands alone"),
        ({"b": agent_file("7")}, "b.yaml:4:5", "expected a mapping"),
        ({"b": agent_file("{}", "loosens: true\n")}, "b.yaml:2:10", "only a file of an environment"),
        ({"b": "version: 1\nagents: [1]\n"}, "b.yaml:2:9", "expected a mapping"),
        ({"b": agent_file("{allow: 3}")}, "b.yaml:4:13", "expected a list"),
        ({"b": "version: 1\nrules: 3\n"}, "b.yaml:2:1", "unknown key"),
        ({"b": "a: [\n"}, "b.yaml:2:1", "not valid YAML"),
    ],
)
def test_mistakes_name_their_file(tmp_path: Path, files: dict[str, str], where: str, what: str) -> None:
    """A mistake in any file refuses the whole policy, with the file, line and column it stands at."""
    write(tmp_path, a=BASE, **files)
    with pytest.raises(PolicyError) as caught:
        load(tmp_path)
    assert any(p.where.endswith(where) and what in p.message for p in caught.value.problems), caught.value.problems


TIGHTER = [
    'deny: [{tool: file_reader, paths: ["/srv/private/**"]}]',
    'require_approval: [{tool: file_reader, operations: [read], paths: ["/srv/x/**"]}]',
    "on_violation: kill",
    'deny: [{tool: network, hosts: ["10.2.0.0/16:8080"]}]',
    'allow: [{tool: file_reader, operations: [read], paths: ["/srv/again/**"]}]',
    "audit: strict",
    "library_calls: required",
    "minimum_guarantee: prevented",
    "match: [{user: bot}]",
]
LOOSER = [
    'allow: [{tool: file_reader, operations: [read], paths: ["/etc/**"]}]',
    'require_approval: [{tool: file_reader, operations: [read], paths: ["/etc/**"]}]',
    'require_approval: [{tool: file_reader, operations: [read], paths: ["/**/x"]}]',
    'allow: [{tool: network, operations: [connect], hosts: ["10.0.0.0/7:8080"]}]',
    "mode: monitor",
    "on_violation: pause",
    "workspace: /elsewhere",
    "deny: [{tool: shell, action: pause}]",
    'allow: [{tool: web, operations: [fetch], hosts: ["example.com:443"]}]',
]


@pytest.mark.parametrize("body", TIGHTER)
def test_an_environment_tightens(tmp_path: Path, body: str) -> None:
    """What denies, asks or checks more is taken."""
    write(tmp_path, a=BASE, prod__a=agent_file(f"{{{body}}}"))
    assert load(tmp_path, "prod").agents["bot"] != load(tmp_path).agents["bot"]


@pytest.mark.parametrize("body", LOOSER)
def test_an_environment_never_loosens(tmp_path: Path, body: str) -> None:
    """What would let any operation do more is refused at its place, and taken with `loosens: true`."""
    write(tmp_path, a=BASE, prod__a=agent_file(f"{{{body}}}"))
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, "prod")
    assert "loosens: true" in str(caught.value) and "prod/a.yaml" in str(caught.value)
    write(tmp_path, prod__a=agent_file(f"{{{body}}}", "loosens: true\n"))
    assert load(tmp_path, "prod").agents["bot"] != load(tmp_path).agents["bot"]


def test_fewer_approvers_are_looser(tmp_path: Path) -> None:
    """A rule that would come first and asks one person where two were asked is refused."""
    write(tmp_path, a=BASE, prod__a="version: 1\nagents: {bot: {deny: [{tool: email, action: pause}]}}\n")
    with pytest.raises(PolicyError):
        load(tmp_path, "prod")


def test_a_milder_answer_to_a_lost_guarantee_is_looser(tmp_path: Path) -> None:
    """below_minimum: kill doesn't become pause; the other way round it may."""
    write(tmp_path, a=BASE, b=agent_file("below_minimum: kill"), prod__a=agent_file("below_minimum: pause"))
    with pytest.raises(PolicyError, match="below_minimum is milder"):
        load(tmp_path, "prod")
    write(tmp_path, b=agent_file("below_minimum: pause"), prod__a=agent_file("below_minimum: kill"))
    assert load(tmp_path, "prod").agents["bot"].below_minimum is Action.KILL


@pytest.mark.parametrize(
    ("base", "more", "what"),
    [
        ("first: {allow: [{tool: shell}]}, bot: {match: [{user: bot}]}", "first: {match: [{user: bot}]}", "bot's"),
        ("bot: {match: [{user: bot}]}", "bot-lax: {allow: [{tool: shell}]}", "its slice lies in bot's"),
        ("bot: {match: [{user: bot}]}, last: {}", "last: {match: [{user: bot}]}", ""),
        ("bot: {match: [{user: bot}]}", "new: {match: [{user: bot}], allow: [{tool: shell}]}", ""),
        ("bot: {match: [{user: bot}]}", "bots: {}", ""),
    ],
)
def test_an_environment_takes_no_process_from_an_agent(tmp_path: Path, base: str, more: str, what: str) -> None:
    """What recognises an agent stays before what an environment adds to others; behind it rules may be added."""
    write(tmp_path, a=f"version: 1\nagents: {{{base}}}\n", prod__a=f"version: 1\nagents: {{{more}}}\n")
    if not what:
        assert recognitions(load(tmp_path, "prod"), lambda _: 7, slices=False)[1].agent == "bot"
        return
    with pytest.raises(PolicyError, match=what):
        load(tmp_path, "prod")


def test_tools_of_an_environment_are_no_way_round(tmp_path: Path) -> None:
    """An environment that renames operations is refused: a rule would cover something else."""
    write(tmp_path, a=BASE, prod__a='version: 1\ntools: {file_reader: {read: [{read: ["/etc/**"]}]}}\n')
    with pytest.raises(PolicyError, match="other entries"):
        load(tmp_path, "prod")


def test_an_environment_without_files_is_a_mistake(tmp_path: Path) -> None:
    """A misspelt environment must not mean: without its rules."""
    write(tmp_path, a=BASE, prod__a=agent_file("{on_violation: kill}"))
    with pytest.raises(PolicyError, match="environment prdo"):
        load(tmp_path, "prdo")


def test_an_empty_folder_is_no_policy(tmp_path: Path) -> None:
    """A folder without a policy file is an error and not an empty policy."""
    with pytest.raises(PolicyError, match="no policy file"):
        load(tmp_path)
