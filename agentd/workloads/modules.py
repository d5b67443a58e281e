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
import struct
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

Name = TypeVar("Name")

PROGRAM_DIRS: Final = ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")
LARGE: Final = 4 << 20  # bytes
# Library -> what a file has of it, or instead of it, that no probe can be set in -> bytes by which it is known,
# stripped or not. The names of their own sources stand in the error messages of OpenSSL and BoringSSL.
_TLS: Final = {
    "Go's crypto/tls": (b"crypto/tls.(*Conn).Write",),
    "rustls": (b"rustls",),
    "OpenSSL without symbols": (b"ssl/ssl_lib.c", b"ssl/ssl_lib.cc"),
}
# Drivers that speak a server's protocol without its library are known by a name that only they have.
_MYSQL: Final[dict[str, tuple[bytes, ...]]] = {
    "PHP's own MySQL client (mysqlnd)": (b"mysqlnd_mysqlnd_command_methods",),
    "a MySQL driver of Go": (b"github.com/go-sql-driver/mysql.",),
}
UNSEEN: Final[dict[str, dict[str, tuple[bytes, ...]]]] = {
    "ssl": _TLS,
    "gnutls": _TLS,
    "sqlite3": {
        # a message of its own; what knows its files (libmagic) has their first bytes, too
        "SQLite without symbols": (b"unable to delete/modify user-function due to active statements",),
        "SQLite translated to Go": (b"modernc.org/sqlite/lib.",),
    },
    "mysqlclient": _MYSQL,
    "mariadb": _MYSQL,
    "pq": {
        "asyncpg's own PostgreSQL client": (b"asyncpg.protocol.protocol",),
        "a PostgreSQL driver of Go": (b"github.com/jackc/pgx/", b"github.com/lib/pq."),
        "a PostgreSQL driver of Rust": (b"tokio-postgres", b"sqlx-postgres"),
    },
}
# What a file has by its own symbols when functions of the library are found in it.
_BY_SYMBOLS: Final = {"OpenSSL without symbols": "ssl", "SQLite without symbols": "sqlite3"}
STATIC: Final = "no symbols, and all it needs inside"
NARROW: Final = "32-bit code"
_HEADER: Final = struct.Struct("<4s5B7x2HI3QI6H")  # Elf64_Ehdr
_SEGMENT: Final = struct.Struct("<2I6Q")  # Elf64_Phdr
_SECTION: Final = struct.Struct("<2I4Q2I2Q")  # Elf64_Shdr
_PT_INTERP, _SHT_SYMTAB, _SHT_DYNSYM, _SYMBOL = 3, 2, 11, 24
_BEGIN: Final = 5  # bytes of a name, with the NUL before it
_MOST: Final = 4096  # segments or sections that are looked at
_MAPPING = re.compile(
    r"(?P<begin>[0-9a-f]+)-(?P<end>[0-9a-f]+) r.x. [0-9a-f]+ "
    r"(?P<device>[0-9a-f]+:[0-9a-f]+) (?P<inode>\d+) +(?P<path>/.*)"
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
    """The files that processes have mapped as code, each once; True: it is the program itself. What has gone meanwhile
    is left out.
    """
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
            begin, end = int(match["begin"], 16), int(match["end"], 16)  # maps has leading zeros, map_files has none
            module = _module(f"/proc/{pid}/map_files/{begin:x}-{end:x}", match["path"])
            if module:
                seen.add(key)
                yield module, module.inode == program.st_ino and module.device == program.st_dev


def unseen(module: Module, libraries: Collection[str], *, has: Collection[str] = (), program: bool) -> str:
    """What a file has of these libraries, or instead of them, that no probe can be set in; empty: nothing known of.
    has: libraries of which it has functions that can be probed. program: it is the program that runs, and not a file
    that it has mapped. Raises OSError.
    """
    signs = {what: found for library in libraries for what, found in UNSEEN.get(library, {}).items()}
    known = [what for what in _carries(module, signs) if _BY_SYMBOLS.get(what) not in has]
    return " and ".join(known) or (_opaque(module) if program and not has else "")


def narrow(module: Module) -> str:
    """Is it of 32 bits? Such a program stops nobody: its library calls are none that a probe could judge."""
    with contextlib.suppress(OSError), open(module.opens, "rb") as file:
        return NARROW if file.read(5) == b"\x7fELF\1" else ""
    return ""


def mentioned(module: Module, names: Collection[str]) -> frozenset[str]:
    """Which of the names (of functions; PROVIDER:NAME of USDT probes) stand in the file as strings, as every symbol's
    does: a quick no for most files. Raises OSError.
    """
    signs = {name: (b"\0" + name.replace(":", "\0").encode() + b"\0",) for name in names}
    begins = {sign[:_BEGIN]: (sign[:_BEGIN],) for (sign,) in signs.values()}
    begun = _carries(module, begins)  # names of one library begin alike, and most files have none of them
    return frozenset(_carries(module, {name: sign for name, sign in signs.items() if sign[0][:_BEGIN] in begun}))


def _carries(module: Module, signs: Mapping[Name, Collection[bytes]]) -> list[Name]:
    with open(module.opens, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            return []
        with data:
            return [name for name, found in signs.items() if any(data.find(sign) >= 0 for sign in found)]


def _opaque(module: Module) -> str:
    """Why no function can be found in a program, by its headers, which are of bounded size; empty: some may be."""
    with open(module.opens, "rb") as file:
        head = file.read(_HEADER.size)
        if head.startswith(b"\x7fELF\1"):
            return NARROW
        if len(head) < _HEADER.size or not head.startswith(b"\x7fELF\2\1"):
            return ""
        *_, segments_at, sections_at, _, _, segment, segments, section, sections, _ = _HEADER.unpack(head)
        symbols = any(
            kind == _SHT_SYMTAB or (kind == _SHT_DYNSYM and size > _SYMBOL)  # each begins with one that is none
            for _, kind, _, _, _, size, *_ in _entries(file, sections_at, sections, section, _SECTION)
        )
        loader = any(part[0] == _PT_INTERP for part in _entries(file, segments_at, segments, segment, _SEGMENT))
    return "" if loader or symbols else STATIC


def _entries(file: BinaryIO, at: int, count: int, size: int, entry: struct.Struct) -> list[tuple[int, ...]]:
    if size != entry.size or count > _MOST:
        return []
    try:
        file.seek(at)
    except (OSError, ValueError, OverflowError):
        return []
    data = file.read(count * size)
    return list(entry.iter_unpack(data[: len(data) // size * size]))


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
