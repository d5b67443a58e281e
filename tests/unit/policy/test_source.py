"""YAML with positions: what comes back, and which documents are refused where."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentd.policy import source
from agentd.policy.problem import PolicyError, Problems
from agentd.policy.source import Mapping, Scalar, Sequence, parse, plain, read_file


def read(text: str | bytes) -> tuple[source.Node | None, list[str]]:
    problems = Problems("p.yaml")
    node = parse(text if isinstance(text, bytes) else text.encode(), problems)
    return node, [str(problem) for problem in problems.errors]


def test_nodes_know_their_line_and_column() -> None:
    """Lines and columns count from 1, columns in characters."""
    node, errors = read("a:\n  é: [x, 'y']\n")
    assert errors == []
    assert isinstance(node, Mapping)
    inner = node.get("a")
    assert isinstance(inner, Mapping)
    ((key, value),) = inner.entries
    assert (key.line, key.column) == (2, 3)
    assert isinstance(value, Sequence)
    assert [(item.line, item.column) for item in value.items] == [(2, 7), (2, 10)]


def test_scalars_are_what_a_safe_loader_makes_of_them() -> None:
    """A plain yes is a boolean, a quoted one a string, and a date is no string."""
    node, _ = read("[yes, 'yes', 7, 0x10, 1.5, ~, '', 2026-01-02, 1:20, null]")
    assert plain(node) == [True, "yes", 7, 16, 1.5, None, "", ("2026-01-02",), 80, None]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 2\na: 3\n", "p.yaml:3:1: duplicate key 'a': it stands in line 1 too; remove one"),
        ("a: {x: 1, x: 2}", "p.yaml:1:11: duplicate key 'x': it stands in line 1 too; remove one"),
        ("a: 1\n---\nb: 1\n", "p.yaml:2:1: a second document starts here; keep one document in the file"),
        ("a: !!python/object:os.system x", "is not supported; remove it"),
        ("a: *b", "p.yaml:1:4: the alias *b has no anchor before it"),
        ("a: &b [*b]", "p.yaml:1:8: the alias *b stands inside its own anchor"),
        ("[a]: 1", "p.yaml:1:1: a list can't be a key; write a string"),
        ("a: [1", "not valid YAML"),
        ("a: '\\ud800'\nb: \"\\ud800\"", ""),
        ("\x01", "p.yaml:1:1: control character U+0001 in the file; remove it"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("a: " + "9" * 5000, "is not a number"),
        ("a: {<<: 1}", "<< needs a mapping, got a number"),
    ],
)
def test_a_bad_document_is_refused_at_its_place(text: str, error: str) -> None:
    """Each document that can't be trusted gives an error with its line and column."""
    _, errors = read(text)
    assert errors
    assert error in errors[0]


def test_bytes_that_are_not_utf8_are_refused_at_their_place() -> None:
    """A file in another encoding is refused, with the place of the first bad byte."""
    assert read("a: é\nb: ".encode() + b"\xff\n")[1] == ["p.yaml:2:4: byte 0xff is not UTF-8; save the file as UTF-8"]


def test_an_alias_bomb_is_refused_quickly() -> None:
    """Aliases count as what they stand for, so nine lines can't become a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expanded" in read("\n".join(lines))[1][0]


def test_merge_keys_work_as_in_a_safe_loader() -> None:
    """`<<` fills in what the mapping itself doesn't say, the first source first."""
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\nd: {<<: *a}\n"
    node, errors = read(text)
    assert errors == []
    assert node is not None
    assert plain(node) == yaml.safe_load(text)


def test_a_missing_file_is_one_problem_with_exit_code_2(tmp_path: Path) -> None:
    """A file that can't be read says why."""
    with pytest.raises(PolicyError, match="no such file") as caught:
        read_file(tmp_path / "none.yaml")
    assert caught.value.exit_code == 2
    with pytest.raises(PolicyError, match="is a directory"):
        read_file(tmp_path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """A file above the limit isn't read into a policy."""
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * (source.MAX_BYTES + 1))
    with pytest.raises(PolicyError, match="larger than"):
        read_file(path)
    path.write_bytes(b"#" * source.MAX_BYTES)
    assert len(read_file(path)) == source.MAX_BYTES


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_a_yaml_writer_writes_comes_back(value: object) -> None:
    """Any tree of ordinary values survives being written as YAML and read here."""
    node, errors = read(yaml.safe_dump(value, allow_unicode=False))
    assert errors == []
    assert node is not None
    assert plain(node) == value


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_random_bytes_give_a_tree_or_an_error(data: bytes) -> None:
    """Reading never raises, whatever the bytes."""
    node, _ = read(data)
    assert node is None or isinstance(node, (Mapping, Sequence, Scalar))
