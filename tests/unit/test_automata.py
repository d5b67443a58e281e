"""Automata kept in files are those that would be compiled, and none that could be somebody else's is taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.engine.automata import FileAutomata, code_fingerprint
from agentd.policy import stored
from agentd.policy.automaton import Dfa, compile_globs
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.resolve import load
from agentd.policy.tables import build

KEY = "0" * 64
POLICY = """version: 1
tools:
  work:
    read: [{read: ["/w/**"]}]
  shell:
    danger: [{exec: ["**/find"], args: ["-delete"]}]
agents:
  bot:
    allow: [%s]
"""


def dfa() -> Dfa:
    globs = [Glob(text, Dialect.AGENTD) for text in ("/w/**", "/w/*.txt", "**/x")]
    return compile_globs(globs, lambda matched: tuple(sorted(matched)), max_states=1000)


def own(folder: Path) -> FileAutomata:
    return FileAutomata(None, folder)


def kept(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    """An automaton read back is equal to the one that was kept."""
    folder = tmp_path / "automata"
    own(folder).put(KEY, dfa())
    if os.geteuid() == 0:
        assert own(folder).get(KEY) == dfa()
    assert FileAutomata(folder, None).get(KEY) == dfa()
    assert FileAutomata(folder, None).get("1" * 64) is None


def test_rules_share_the_automata_of_the_catalogue(tmp_path: Path) -> None:
    """Two policies with one catalogue compile it once, and get the tables that they get without a store."""
    folder = tmp_path / "automata"
    for number, rules in enumerate(("{tool: work}", '{tool: shell, paths: ["/bin/**"]}')):
        agent = load(POLICY.replace("%s", rules).encode(), workspace="/w").agents["bot"]
        fresh = build(agent, max_words=1 << 22)
        assert build(agent, max_words=1 << 22, automata=own(folder)) == fresh
        assert build(agent, max_words=1 << 22, automata=FileAutomata(folder, None)) == fresh
        assert len(list(folder.iterdir())) == 4 + 1 + number  # path, exec, call and args; and the rules of each


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-4] + b"\xff\xff\xff\x7f",
        lambda data: data.replace(b"1 ", b"2 ", 1),
        lambda data: b"",
        lambda data: data + b"more",
    ],
    ids=["cut", "changed", "version", "empty", "longer"],
)
def test_a_damaged_file_is_not_used(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A file that does not carry the hash of its own content is as good as none."""
    own(tmp_path / "a").put(KEY, dfa())
    path = kept(tmp_path / "a")
    assert FileAutomata(tmp_path / "a", None).get(KEY) is not None
    path.write_bytes(damage(path.read_bytes()))
    assert FileAutomata(tmp_path / "a", None).get(KEY) is None


@pytest.mark.root
@pytest.mark.parametrize("what", ["file", "folder", "owner", "link"])
def test_what_others_could_have_written_is_not_used(what: str, tmp_path: Path) -> None:
    """In the host's folder, a file or folder that anybody but root may write is ignored."""
    folder = tmp_path / "a"
    own(folder).put(KEY, dfa())
    path = kept(folder)
    assert own(folder).get(KEY) is not None
    if what == "file":
        path.chmod(0o666)
    elif what == "folder":
        folder.chmod(0o777)
    elif what == "owner":
        os.chown(path, 65534, 65534)
    else:
        path.rename(folder / "real")
        path.symlink_to(folder / "real")
    assert own(folder).get(KEY) is None


def test_an_automaton_that_leads_out_of_itself_is_refused() -> None:
    """Every index that the kernel would follow is checked before it is used."""
    good = dfa()
    assert stored.parse(stored.dump(good)) == good
    for name in ("base", "default", "accept", "comb_next"):
        bad = dfa()
        column = getattr(bad, name)
        column[next(i for i in range(len(column)) if name != "comb_next" or bad.comb_check[i] != stored.FREE)] = 1 << 30
        with pytest.raises(ValueError, match="leads out of itself"):
            stored.parse(stored.dump(bad))


def test_other_code_makes_other_files() -> None:
    """The name of a kept file says which code compiled it."""
    fingerprint = code_fingerprint()
    assert fingerprint is not None and len(fingerprint) == 16
