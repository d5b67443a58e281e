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
from dataclasses import dataclass
from typing import Final

from agentd.audit import chain
from agentd.errors import AgentdError

SEARCHED: Final = 64 << 20  # bytes at the end in which a hole is looked for: more than one commit can write
CHECKED: Final = 1 << 20  # bytes of good lines before the end whose chain is verified at every start


@dataclass(frozen=True, slots=True)
class Tail:
    """size: bytes that stand; cut, cut_sha256: the torn bytes after them (0 and "" if none); lines: are some whole?"""

    size: int
    link: chain.Link
    cut: int
    cut_sha256: str
    lines: bool


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
    return Tail(size, link, length - size, digest.hexdigest() if size < length else "", whole > size)


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
