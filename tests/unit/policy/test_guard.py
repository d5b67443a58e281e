"""What stands before every rule: agentd's own files, and folders above what a rule protects."""

from __future__ import annotations

import functools

import pytest

from agentd.model import Action, Decision, Op
from agentd.policy import guard, resolve
from agentd.policy.explain import explain_kernel
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.resolve import ResolvedAgent
from agentd.policy.resolved import RULE_ABOVE, RULE_GUARD
from agentd.policy.tables import AgentTables, build
from agentd.policy.walk import PathWalk, lookup
from tests.unit.policy.test_tables import matched_paths

OWN = guard.Guarded(secret=("/var/lib/agentd", "/odd/[x]*"), kept=("/opt/agentd", "/w/policy.yaml"))
POLICY = b"""
version: 1
agents:
  bot:
    mode: MODE
    allow: [{tool: file_reader}, {tool: file_writer}, {tool: file}]
    deny:
      - {tool: file_reader, paths: ["/srv/x/denied/**", "**/.env", "**/.keys/**", "./here/*/secret"]}
    require_approval:
      - {tool: file_writer, paths: ["/srv/asked/file"]}
"""


@functools.cache
def agent(mode: str = "enforce", own: guard.Guarded = OWN) -> ResolvedAgent:
    text = POLICY.replace(b"MODE", mode.encode())
    return resolve.load_text(text, "policy.yaml", workspace="/w", guarded=own).agents["bot"]


@pytest.fixture(scope="module")
def tables() -> AgentTables:
    return build(agent(), max_words=1 << 24)


def rule(tables: AgentTables, op: Op, path: str) -> int:
    """Decided by the tables, and by the rules themselves."""
    outcome = lookup(tables, op, path.encode())
    if op is not Op.EXEC:  # and the point that judges outside of the kernel
        assert tables.outcomes[PathWalk(tables).outcome(op, path.encode())] == outcome
    assert outcome == agent().outcome(op, matched_paths(agent().path_patterns, path.encode()))
    return outcome.rule


@pytest.mark.parametrize("op", sorted(guard.EVERYTHING))
def test_nothing_is_done_to_what_is_secret(tables: AgentTables, op: Op) -> None:
    """The folder itself, what is in it, and a name that looks like a glob."""
    for path in ("/var/lib/agentd", "/var/lib/agentd/audit/audit.jsonl", "/odd/[x]*/key"):
        assert rule(tables, op, path) == RULE_GUARD
    assert rule(tables, op, "/var/lib/agentd2") != RULE_GUARD
    assert rule(tables, op, "/odd/x/key") != RULE_GUARD


def test_what_is_kept_is_read_and_not_changed(tables: AgentTables) -> None:
    """The program and the policy are read and run as the rules say."""
    for path in ("/opt/agentd/cli/run.py", "/w/policy.yaml"):
        assert all(rule(tables, op, path) == RULE_GUARD for op in guard.CHANGES)
        assert rule(tables, Op.READ, path) >= 0 and rule(tables, Op.EXEC, path) != RULE_GUARD


def test_nobody_renames_or_hides_a_folder_above_agentds_own(tables: AgentTables) -> None:
    """`mv /var/lib` would give the log another name."""
    for path in ("/var", "/var/lib", "/opt", "/odd", "/w"):
        assert rule(tables, Op.RENAME, path) == rule(tables, Op.MOUNT, path) == RULE_GUARD
        assert rule(tables, Op.CREATE, path) != RULE_GUARD


def test_monitor_mode_does_not_open_the_guard() -> None:
    """Everything else is only recorded there."""
    watched = agent("monitor")
    log = watched.outcome(Op.WRITE, matched_paths(watched.path_patterns, b"/var/lib/agentd/audit"))
    assert (log.decision, log.action) == (Decision.DENY, Action.DENY)
    denied = watched.outcome(Op.RENAME, matched_paths(watched.path_patterns, b"/srv/x"))
    assert (denied.decision, denied.action, denied.rule) == (Decision.DENY, Action.NONE, RULE_ABOVE)


@pytest.mark.parametrize("path", ["/srv", "/srv/x", "/srv/x/denied", "/srv/asked", "/a/.keys", "/w/here/sub"])
def test_a_folder_above_a_protected_path_keeps_its_name(tables: AgentTables, path: str) -> None:
    """Renamed, what is below it would have a name that the rule doesn't know; other things may be done to it."""
    assert rule(tables, Op.RENAME, path) in (RULE_ABOVE, RULE_GUARD)
    assert rule(tables, Op.CREATE, path) >= 0


@pytest.mark.parametrize("path", ["/w/src", "/w/src/deep/er", "/srv/other", "/w/.env.d", "/tmp"])
def test_other_folders_are_renamed_as_before(tables: AgentTables, path: str) -> None:
    """A rule for `**/.env` keeps nobody from renaming the folders of a workspace: its name matches wherever it is."""
    assert rule(tables, Op.RENAME, path) >= 0


@pytest.mark.parametrize(
    ("text", "dialect", "found"),
    [
        ("/srv/x/denied/**", Dialect.AGENTD, ["/srv", "/srv/x", "/srv/x/denied"]),
        ("**/.ssh/**", Dialect.AGENTD, ["**/.ssh"]),
        ("**/.env", Dialect.AGENTD, []),
        ("/home/*/.ssh/id*", Dialect.AGENTD, ["/home", "/home/*", "/home/*/.ssh"]),
        ("/a/**/*/b", Dialect.AGENTD, ["/a"]),
        ("/a/b*/c/*", Dialect.FNMATCH, ["/a"]),
    ],
)
def test_the_folders_that_a_pattern_names(text: str, dialect: Dialect, found: list[str]) -> None:
    """Each part up to the last one, but for those that stand for any folder."""
    assert [glob.text for glob in guard.above(Glob(text, dialect))] == found


def test_explain_says_what_stands_before_the_rules() -> None:
    """No entry of a catalogue and no rule: `guard` and `above`."""
    answer = explain_kernel(agent(), Op.READ, b"/var/lib/agentd/keys/signing.pem")
    assert (answer.tool, answer.operation, answer.rule) == ("agentd", "guard", "guard")
    answer = explain_kernel(agent(), Op.RENAME, b"/srv/x")
    assert (answer.rule, answer.decision) == ("above", Decision.DENY) and "below" in answer.reason
