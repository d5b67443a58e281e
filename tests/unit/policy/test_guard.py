"""What stands before every rule: agentd's own files, and folders above what a rule protects."""

from __future__ import annotations

import functools
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.model import Action, Decision, Op
from agentd.policy import guard, resolve
from agentd.policy.explain import explain_kernel
from agentd.policy.patterns import Dialect, Glob, matches
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
        (r"/a/\**/b/**", Dialect.AGENTD, ["/a", r"/a/\**", r"/a/\**/b"]),
        ("/a/[**]/b", Dialect.AGENTD, ["/a", "/a/[**]"]),
        (r"/a\/b\\/c", Dialect.AGENTD, ["/a", r"/a\/b\\"]),
        (r"/**/\*/b", Dialect.AGENTD, [r"/**/\*"]),
        ("/a/b*/c/*", Dialect.FNMATCH, ["/a"]),
        ("/a/[*]/[]]/[[]/c/d?/e", Dialect.FNMATCH, ["/a", "/a/[*]", "/a/[*]/]", "/a/[*]/]/[[]", "/a/[*]/]/[[]/c"]),
        ("/a/[/b/c", Dialect.FNMATCH, ["/a", "/a/[", "/a/[/b"]),
    ],
)
def test_the_folders_that_a_pattern_names(text: str, dialect: Dialect, found: list[str]) -> None:
    """Each part up to the last one, but for those that stand for any folder."""
    assert [glob.text for glob in guard.above(Glob(text, dialect))] == found


PLAIN = st.sampled_from("ab.*?[]\\-é\udc80")
NAMES = st.text(PLAIN, min_size=1, max_size=3)
ATOMS = st.one_of(  # (as written, what it stands for)
    st.tuples(st.just("*"), st.text(PLAIN, max_size=3)),
    st.tuples(st.just("?"), st.sampled_from("ab.*?[\\")),
    st.sampled_from([("[**]", "*"), ("[!a]", "b"), (r"[\\*-]", "-"), ("[]a]", "]")]),
    st.sampled_from("*?[]\\ab").map(lambda char: ("\\" + char, char)),
    st.sampled_from("ab.-é\udc80").map(lambda char: (char, char)),
)
PARTS = (  # that stand for one name
    st.lists(ATOMS, min_size=1, max_size=4)
    .filter(lambda atoms: all((one[0], other[0]) != ("*", "*") for one, other in itertools.pairwise(atoms)))
    .map(lambda atoms: tuple(map("".join, zip(*atoms, strict=True))))
    .filter(lambda part: part[1])
)
ANY = st.lists(NAMES, max_size=2).map(lambda names: ("**", "/".join(names)))


@settings(deadline=None)
@given(st.lists(st.one_of(PARTS, ANY), min_size=1, max_size=5), PARTS, st.sampled_from(["/", r"\/"]))
def test_no_part_that_names_a_folder_is_overlooked(
    parts: list[tuple[str, str]], last: tuple[str, str], slash: str
) -> None:
    """A path that a pattern matches: each folder of it that a part stands for is one of those above."""
    glob, path, before, named = "", "", "", []
    for text, meant in (*parts, last):
        glob += ("/" if "**" in (text, before) else slash) + text
        path += "/" * bool(meant) + meant
        if text != "**" and ("/**/" not in glob or not set(text) <= set("*?")):
            named.append(path)
        before = text
    assert matches(Glob(glob, Dialect.AGENTD), path.encode("utf-8", "surrogateescape"))
    folders = list(guard.above(Glob(glob, Dialect.AGENTD)))
    for folder in named:
        if folder != path:
            assert any(matches(one, folder.encode("utf-8", "surrogateescape")) for one in folders), (glob, folder)


@settings(deadline=None)
@given(st.lists(NAMES.filter(lambda name: "\\" not in name), min_size=2, max_size=5), st.booleans())
def test_no_folder_before_an_aegize_wildcard_is_overlooked(names: list[str], escaped: bool) -> None:
    """Written out, or with what has a meaning in brackets."""
    written = [re.sub(r"([*?\[])", r"[\1]", name) for name in names] if escaped else names
    glob = Glob("".join(f"/{name}" for name in written) + "/x*/y", Dialect.FNMATCH)
    folders = list(guard.above(glob))
    if not escaped and set("".join(names)) & set("*?["):
        assert len(folders) <= len(names)
        return
    assert len(folders) == len(names)
    path = ""
    for name, folder in zip(names, folders, strict=True):
        path += f"/{name}"
        assert matches(folder, path.encode("utf-8", "surrogateescape"))


def test_explain_says_what_stands_before_the_rules() -> None:
    """No entry of a catalogue and no rule: `guard` and `above`."""
    answer = explain_kernel(agent(), Op.READ, b"/var/lib/agentd/keys/signing.pem")
    assert (answer.tool, answer.operation, answer.rule) == ("agentd", "guard", "guard")
    answer = explain_kernel(agent(), Op.RENAME, b"/srv/x")
    assert (answer.rule, answer.decision) == ("above", Decision.DENY) and "below" in answer.reason
