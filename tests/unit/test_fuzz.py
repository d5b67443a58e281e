"""The targets of `./dev fuzz` stay whole: they compile, and what they ask of the kernel's side is what it has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fuzz import policies

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"


@pytest.mark.parametrize("target", ["verdict", "dns", "matcher"])
def test_a_target_compiles(target: str) -> None:
    """Each target is C for this host, with the files of bpf/ as they are now."""
    subprocess.run(["clang-16", "-fsyntax-only", "-Wno-everything", FUZZ / f"{target}.c"], check=True)


@pytest.mark.parametrize("target", ["verdict", "dns"])
def test_a_target_begins_with_something(target: str) -> None:
    """Each has a corpus, of small files."""
    sizes = [path.stat().st_size for path in (FUZZ / "corpus" / target).iterdir()]
    assert len(sizes) > 5 and max(sizes) < 20_000


def test_whole_policies_are_decided_alike(tmp_path: Path) -> None:
    """A few policies: text, rules, tables, and the matchers compiled for this host say what the evaluator says."""
    library = tmp_path / "matcher.so"
    subprocess.run(
        ["clang-16", "-O1", "-shared", "-fPIC", "-fsanitize=undefined", "-fsanitize-trap=all", "-Wno-everything",
         "-o", library, FUZZ / "matcher.c"],
        check=True,
    )  # fmt: skip
    assert policies.main(str(library), 0) == 0
