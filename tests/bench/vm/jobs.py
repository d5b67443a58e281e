"""Whole jobs: what a workload does all day, each as one figure. Read by the host and by the guest.

The host packs the programs, with their libraries, headers and modules; the guest has all of it in memory below TOOLS,
because waiting for the host's files is no work. What a job takes is what its processes ran (wait4(2)), and what the
whole machine did until the service had written its books.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOOLS: Final = Path("/tmp/tools")  # where the guest has them
FILES, FOLDERS = 2000, 40
PROGRAMS: Final = ("true", "tar", "grep", "gcc", "as", "python3")
MODULES: Final = "argparse, asyncio, csv, decimal, html.parser, http.client, json, logging, sqlite3, unittest, zipfile"
# Of Python's own, those that nobody imports here and that are large.
LEFT_OUT: Final = ("test", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data", "config-*", "dist-packages")
SOURCE: Final = """
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) { return argc > 1 ? printf("%zu\\n", strlen(argv[1])) < 0 || errno : 0; }
"""


@dataclass(frozen=True, slots=True)
class Job:
    """command: with {new}, a folder that is empty each time."""

    name: str
    title: str
    command: tuple[str, ...]


EMPTY: Final = Job("true", "true", (f"{TOOLS}/bin/true",))  # what starting any costs, which `whole` leaves out
JOBS: Final = (
    Job("untar", f"untar {FILES:,} files", (f"{TOOLS}/bin/tar", "-xf", f"{TOOLS}/tree.tar", "-C", "{new}")),
    Job("grep", f"grep through {FILES:,} files", (f"{TOOLS}/bin/grep", "-rl", "needle", f"{TOOLS}/tree")),
    Job("imports", "Python with 11 imports", (f"{TOOLS}/bin/python3", "-S", "-c", f"import {MODULES}")),
    Job("compile", "gcc -c", (
        f"{TOOLS}/bin/gcc", "-O1", f"-B{TOOLS}/bin/", "-nostdinc", f"-I{TOOLS}/usr/include", f"-I{TOOLS}/own",
        f"-I{TOOLS}/usr/include/x86_64-linux-gnu", "-c", f"{TOOLS}/source.c", "-o", "{new}/object",
    )),
)  # fmt: skip
# Of Debian's Python and libraries, and of no other that the caller has in front of them.
ENVIRONMENT: Final = {
    "PATH": f"{TOOLS}/bin", "LD_LIBRARY_PATH": f"{TOOLS}/lib", "PYTHONHOME": f"{TOOLS}/usr", "LC_ALL": "C",
    "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp",
}  # fmt: skip


def pack(archive: Path, folder: Path) -> None:
    """Puts all of it into an archive whose root becomes TOOLS. folder: to work in. Raises OSError and
    subprocess.CalledProcessError.
    """
    for name in ("bin", "lib", "tree", "own", "usr/lib"):
        (folder / name).mkdir(parents=True)
    (folder / "source.c").write_text(SOURCE, encoding="ascii")
    for number in range(FILES):
        below = folder / "tree" / f"part-{number % FOLDERS}"
        below.mkdir(exist_ok=True)
        word = "needle" if number % 100 == 0 else "hay"
        (below / f"file-{number}.txt").write_text(f"{word} {number}\n" * 50, encoding="ascii")
    with tarfile.open(folder / "tree.tar", "w") as tree:
        tree.add(folder / "tree", ".")
    found = {name: os.path.realpath(f"/usr/bin/{name}") for name in PROGRAMS}
    found["cc1"] = _told("gcc", "-print-prog-name=cc1").strip()
    for name, program in found.items():
        shutil.copy(program, folder / "bin" / name)
    for library in sorted({one for program in found.values() for one in _libraries(program)}):
        shutil.copy(library, folder / "lib")
    python = Path(f"/usr/lib/{os.path.basename(found['python3'])}")
    shutil.copytree(python, folder / "usr/lib" / python.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for module in (folder / "usr/lib" / python.name / "lib-dynload").glob("*.so"):
        for library in _libraries(str(module)):
            shutil.copy(library, folder / "lib")
    for header in _told("gcc", "-O1", "-M", str(folder / "source.c")).split()[2:]:
        if header.startswith("/usr/include/"):
            place = folder / header[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(header, place)
        elif header.startswith("/"):  # of the compiler's own
            shutil.copy(header, folder / "own")
    with tarfile.open(archive, "w") as packed:
        packed.add(folder, ".")


def unpack(archive: Path) -> None:
    """In the guest."""
    with tarfile.open(archive) as packed:
        packed.extractall(TOOLS)


def _told(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return done.stdout


def _libraries(program: str) -> list[str]:
    """What it is linked with, but for what every program has in memory already."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)  # 1: none
    return re.findall(r"=> (/\S+)", done.stdout)
