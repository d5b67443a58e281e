"""The end of a log that is opened again: where the chain stands, and what a crash left half written.

A writer acknowledges records after fdatasync, so what a crash can tear was never acknowledged: bytes after the last
newline, or (after a power cut, when a later block reached the disk and an earlier one didn't) a stretch with NUL
bytes, which no canonical line contains. Both are cut and reported; a cut that holds whole lines is first copied aside,
because it might be somebody's doing and not the crash's. A complete last line that doesn't verify is another matter:
it was changed, and the log is refused.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from agentd.audit import chain
from agentd.errors import AgentdError

SEARCHED: Final = 64 << 20  # bytes at the end in which a hole is looked for: more than one commit can write
CHECKED: Final = 1 << 20  # bytes of good lines before the end whose chain is verified at every start
WRITTEN_AGAIN: Final = 4 << 20  # more than a commit that failed can have left
_TIME = re.compile(rb',"timestamp":"([0-9T:.-]+)Z"')


@dataclass(frozen=True, slots=True)
class Tail:
    """size: bytes that stand; cut, cut_sha256: the torn bytes after them (0 and "" if none); lines: are some whole?

    first: seq of the file's first record, begun: its time in ns; 0 if there is none.
    """

    size: int
    link: chain.Link
    cut: int
    cut_sha256: str
    lines: bool
    first: int = 0
    begun: int = 0

    def after(self, link: chain.Link) -> Tail:
        """The same for an empty file that follows another one, which ends at `link`."""
        return replace(self, link=link)


def inspect(fd: int, path: str) -> Tail:
    """Read the end of the log in `fd`, changing nothing. Raises AgentdError audit-corrupt."""
    length = os.fstat(fd).st_size
    if length == 0:
        return Tail(0, chain.Link(), 0, "", False)
    with mmap.mmap(fd, length, prot=mmap.PROT_READ) as log:
        whole = size = log.rfind(b"\n") + 1
        hole = log.find(b"\0", max(0, length - SEARCHED), size)
        if hole >= 0:
            size = log.rfind(b"\n", 0, hole) + 1
        digest = hashlib.sha256()
        for at in range(size, length, 1 << 20):
            digest.update(log[at : min(at + (1 << 20), length)])
        link = _check(log, size, path)
        first, begun = _beginning(log, size)
    torn = digest.hexdigest() if size < length else ""
    return Tail(size, link, length - size, torn, whole > size, first, begun)


def end_of(file: Path) -> chain.Link:
    """The last record of a closed file. Raises AgentdError audit-corrupt, OSError."""
    with file.open("rb") as closed:
        tail = inspect(closed.fileno(), str(file))
    if tail.cut or tail.size == 0:
        raise _corrupt(str(file), tail.size, "a closed file of the log doesn't end with a whole record")
    return tail.link


def write_again(path: Path, size: int) -> None:
    """Writes the last good bytes once more, the same: the next fsync is about them then. Raises OSError.

    After an fsync that failed the kernel may think pages clean that never reached the disk (a process that ended there
    has left them in the page cache), and reading them back proves nothing. What was acknowledged before is not changed.
    """
    start = max(0, size - WRITTEN_AGAIN)
    if size == start:
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while start < size:
            data = os.pread(fd, min(1 << 20, size - start), start)
            if not data:
                return
            start += os.pwrite(fd, data, start)
    finally:
        os.close(fd)


def _beginning(log: mmap.mmap, size: int) -> tuple[int, int]:
    if size == 0:
        return 0, 0
    line = log[: min(log.find(b"\n", 0, size) + 1, chain.MAX_LINE)]
    try:
        seq = chain.read(line)[0]
    except chain.Damage:
        return 0, 0  # verify's to judge
    found = _TIME.search(line, line.rfind(b',"timestamp":'))
    begun = datetime.fromisoformat(found[1].decode() + "+00:00").timestamp() if found else 0
    return seq, int(begun * 1_000_000_000)


def cut(fd: int, path: str, tail: Tail) -> str:
    """Truncate the log in `fd` to `tail.size`; returns the name of the copy of what was cut, or "". Raises OSError."""
    copy = ""
    if tail.lines:
        copy = f"{path}.cut-{tail.size}"
        out = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            at = tail.size
            while data := os.pread(fd, 1 << 20, at):
                at += os.write(out, data)
            os.fsync(out)
        finally:
            os.close(out)
    os.ftruncate(fd, tail.size)
    return copy


def _check(log: mmap.mmap, size: int, path: str) -> chain.Link:
    """Verify the chain of the last good lines and return its end."""
    start = max(0, size - CHECKED)
    if start:
        start = log.find(b"\n", start, size) + 1
        if start == size:  # one line longer than the window
            start = log.rfind(b"\n", 0, size - 1) + 1
    link: chain.Link | None = chain.Link() if start == 0 else None
    log.seek(start)
    at = start
    while at < size:
        line = log.readline()
        try:
            seq, prev, digest = chain.read(line)
        except chain.Damage as damage:
            raise _corrupt(path, at, str(damage)) from None
        # A log may begin in the middle of a chain (an older segment was moved away); that is verify's to judge.
        why = chain.follow(link, seq, prev) if link is not None and at > 0 else ""
        if why:
            raise _corrupt(path, at, why)
        link = chain.Link(seq, digest)
        at += len(line)
    return link or chain.Link()


def _corrupt(path: str, at: int, why: str) -> AgentdError:
    hint = f"look at it with `agentd audit verify {path}`, then move it away to start a new chain"
    return AgentdError("audit-corrupt", path, f"byte {at}: {why}", hint)
