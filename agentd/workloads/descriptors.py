"""What a process's descriptors are, as /proc tells it (proc(5), proc_pid_fd(5), proc_pid_fdinfo(5))."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

TERMINALS: Final = (b"/dev/pts/", b"/dev/tty", b"/dev/console")
DELETED: Final = b" (deleted)"
KINDS: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISBLK, stat.S_ISCHR)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """path: from the root of the mount namespace that the file is in. inside: that is the process's own, and its root
    reaches the file. kept: it stays open over an exec.
    """

    path: bytes
    inside: bool
    kept: bool


UNREADABLE: Final = Descriptor(b"(unreadable)", inside=False, kept=True)  # only the kernel can tell what it is


def process_of(pidfd: int) -> int:
    """The process that a pidfd refers to; -1: it has ended. Raises OSError."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def numbers(pid: int) -> list[int]:
    """The open descriptors of a process; none if it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def mounts(pid: int) -> frozenset[int]:
    """The numbers of the mounts that a process can reach."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as lines:
            return frozenset(int(line.split(b" ", 1)[0]) for line in lines)
    except (OSError, ValueError):
        return frozenset()


def describe(pid: int, tid: int, fd: int, reachable: frozenset[int]) -> Descriptor | None:
    """One descriptor; None: it is gone, or has no path that a policy could name (pipes, sockets, memory, terminals)."""
    folder = f"/proc/{pid}/task/{tid}"
    try:
        path = os.readlink(os.fsencode(f"{folder}/fd/{fd}"))
        if not path.startswith(b"/") or path.startswith(TERMINALS):
            return None
        found = os.stat(f"{folder}/fd/{fd}")
        if not any(kind(found.st_mode) for kind in KINDS):
            return None
        with open(f"{folder}/fdinfo/{fd}", "rb") as lines:
            told = dict(line.split(b":", 1) for line in lines if b":" in line)
        flags, mount = int(told[b"flags"], 8), int(told[b"mnt_id"])
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (OSError, ValueError, KeyError):
        return UNREADABLE
    if not found.st_nlink:
        path = path.removesuffix(DELETED)
        if path.startswith(b"/memfd:"):
            return None
    return Descriptor(path, mount in reachable, not flags & os.O_CLOEXEC)
