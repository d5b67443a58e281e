"""Programs of several languages with the seccomp filter of `agentd run`, where there are no LSM hooks: each makes 32
files on many threads, renames and removes them, starts two processes, and then removes a file that it must not.

What each language's runtime does in its own way is what matters: vfork, posix_spawn, clone with flags of its own,
threads that share everything, io_uring. The programs are in languages/; they print the same but for the last line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import harness
from tests.live.harness import Host
from tests.live.probes import untagged

pytestmark = pytest.mark.root
SOURCES = Path(__file__).with_name("languages")
PRINTED = "changes 32\nchild\nchild\nkept "
COMPILE_C = ["gcc", "-pthread", "-o", "OUT", "SOURCES/program.c"]

# name -> (what it needs, how it is compiled, how it is run). SOURCES is where the programs are, OUT what is compiled.
LANGUAGES: dict[str, tuple[str, list[str], list[str]]] = {
    "c": ("gcc", COMPILE_C, ["OUT"]),
    "go": ("go", ["go", "build", "-o", "OUT", "SOURCES/program.go"], ["OUT"]),
    "rust": ("rustc", ["rustc", "--edition", "2021", "-o", "OUT", "SOURCES/program.rs"], ["OUT"]),
    "java": ("javac", ["javac", "-d", "OUT", "SOURCES/Program.java"], ["java", "-cp", "OUT", "Program"]),
    "node": ("node", [], ["node", "SOURCES/program.js"]),
    "node with io_uring": ("node", [], ["env", "UV_USE_IO_URING=1", "node", "SOURCES/program.js"]),
    "strace": ("strace", COMPILE_C, ["strace", "-f", "-o", "OUT.log", "OUT"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it happens."""
    made = tmp_path_factory.mktemp("languages")
    for name in ("free", "kept"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """An agent that may change anything but what is below `kept`."""
    deny: list[dict[str, Any]] = [{"tool": tool, "paths": [f"{folder}/kept/**"]} for tool in ("file_writer", "file")]
    with harness.enforcing(folder, {"bot": harness.agent(deny=deny)}) as host:
        if not host.engine.supervises:
            pytest.skip("there are LSM hooks on this host: nothing is supervised")
        yield host


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_works_and_changes_nothing_that_it_may_not(live: Host, folder: Path, language: str) -> None:
    """It prints what it prints untagged; the file that it must not remove is there, the program told EPERM, and its
    denial on record, prevented by seccomp.
    """
    needs, compiling, running = LANGUAGES[language]
    if not shutil.which(needs):
        pytest.skip(f"needs {needs}")
    kept = folder / "kept" / language.replace(" ", "-")
    words = {"SOURCES": str(SOURCES), "OUT": str(folder / language.replace(" ", "-"))}

    def said(command: list[str]) -> list[str]:
        for word, meant in words.items():
            command = [part.replace(word, meant) for part in command]
        return command

    if compiling:
        caches = {"GOCACHE": str(folder / "gocache"), "GO111MODULE": "off"}
        subprocess.run(said(compiling), check=True, env={**os.environ, **caches})
    command = [*said(running), str(folder / "free"), str(kept)]
    kept.write_text("text")
    control = untagged(command)
    assert (control.status, control.out.decode()) == (0, f"{PRINTED}removed\n"), control
    assert not kept.exists()
    kept.write_text("text")
    run = live.run(command, seccomp=True)
    assert (run.status, run.out.decode()) == (0, f"{PRINTED}EPERM\n"), run
    assert kept.read_text() == "text" and not list((folder / "free").iterdir())
    told = {(record["kernel_operation"], record["point"], record["guarantee"]) for record in run.denials}
    assert told == {("delete", "seccomp", "prevented")}, "Go tries rmdir, too"
