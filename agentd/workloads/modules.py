"""Where a library is: the files the host's loader knows, and those that processes have mapped.

A process may bring its own copy (a Python wheel, a container's file system) or have the library inside its
executable, so what is mapped counts, by file and not by name.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PROGRAM_DIRS: Final = ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")
LARGE: Final = 4 << 20  # bytes
OWN_TLS: Final = {
    "Go's crypto/tls": b"crypto/tls.(*Conn).Write",
    "rustls": b"rustls",
}  # stripped programs have them too
_MAPPING = re.compile(
    r"(?P<range>[0-9a-f]+-[0-9a-f]+) r.x. [0-9a-f]+ (?P<device>[0-9a-f]+:[0-9a-f]+) (?P<inode>\d+) +(?P<path>/.*)"
)


@dataclass(frozen=True, slots=True)
class Module:
    """A file with code. `device`, `inode` and `changed` (ns) say which; `opens`: a path that leads to it now."""

    device: int
    inode: int
    changed: int
    path: str
    opens: str

    @property
    def key(self) -> tuple[int, int, int]:
        return self.device, self.inode, self.changed


def installed(library: str) -> list[Module]:
    """The host's own copies, as the loader's cache has them (ldconfig(8))."""
    found: dict[tuple[int, int, int], Module] = {}
    for path in _cached():
        if is_library(path, library):
            module = _module(path, path)
            if module:
                found.setdefault(module.key, module)
    return list(found.values())


def programs() -> list[Module]:
    """The host's programs that are large enough to have a library inside: a TLS library alone takes some MiB."""
    found: dict[tuple[int, int, int], Module] = {}
    for folder in PROGRAM_DIRS:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode) and status.st_size >= LARGE:
                        key = (status.st_dev, status.st_ino, status.st_ctime_ns)
                        found.setdefault(key, Module(*key, entry.path, entry.path))
    return list(found.values())


def is_library(path: str, library: str) -> bool:
    """Is a file of this name a copy of the library: libNAME.so.5, libNAME-3f2a.so.5.16?"""
    name = os.path.basename(path)
    return bool(re.match(rf"lib{re.escape(library)}([.-][^/]*)?\.so(\.|$)", name))


def mapped(pids: Iterable[int]) -> Iterator[tuple[Module, bool]]:
    """The files that processes have mapped as code, each once; True: it is the program itself."""
    seen: set[tuple[str, str]] = set()
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
            program = os.stat(f"/proc/{pid}/exe")
        except OSError:
            continue
        for match in _MAPPING.finditer(text):
            key = match["device"], match["inode"]
            if key in seen:
                continue
            module = _module(f"/proc/{pid}/map_files/{match['range']}", match["path"])
            if module:
                seen.add(key)
                yield module, module.inode == program.st_ino and module.device == program.st_dev


def own_tls(module: Module) -> str:
    """The TLS that a program has of its own and that no probe can be set in, by the names it carries; empty: none."""
    return next(iter(_carries(module, OWN_TLS)), "")


def mentioned(module: Module, functions: Collection[str]) -> frozenset[str]:
    """Which of the names stand in the file as strings, as every symbol's does: a quick no for most files."""
    return frozenset(_carries(module, {name: b"\0" + name.encode() + b"\0" for name in functions}))


def _carries(module: Module, signs: Mapping[str, bytes]) -> list[str]:
    try:
        with open(module.opens, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return [name for name, sign in signs.items() if data.find(sign) >= 0]
    except (OSError, ValueError):
        return []


def _module(opens: str, path: str) -> Module | None:
    try:
        status = os.stat(opens)
    except OSError:
        return None
    return Module(status.st_dev, status.st_ino, status.st_ctime_ns, path, opens)


@cache
def _cached() -> tuple[str, ...]:
    try:
        listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.rpartition(" => ")[2] for line in listed.splitlines() if " => " in line)
