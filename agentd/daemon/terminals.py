"""Does a workload hold the terminal of whoever answers? Then nobody knows who pressed the keys.

A process of a workload that has the terminal open, has it as its controlling terminal, or holds the other end of it
(the master of a pseudo-terminal: a shell inside script(1), tmux or an ssh that the workload started) can write what
looks like a question, and on the master side type the answer. So an answer from such a terminal is refused.

Sources: proc_pid_stat(5) field 7, proc_pid_fd(5), pts(4); `tty-index` of proc_pid_fdinfo(5) is which terminal a master
belongs to. What a process does between two looks is not seen; typing into a terminal without holding its master
(TIOCSTI) needs it open, and since Linux 6.2 a privileged process (dev.tty.legacy_tiocsti).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import Final

PTS_MAJORS: Final = range(136, 144)  # Unix98 slaves, Documentation/admin-guide/devices.txt
PTMX: Final = os.makedev(5, 2)
FRESH_SECONDS: Final = 0.2  # several answers in a row look once


def terminals_of(pid: int) -> set[int]:
    """The terminals (device numbers) that a process talks through: its controlling one, and what it has open."""
    found = set()
    controlling = _controlling(pid)
    if controlling:
        found.add(controlling)
    for number in ("0", "1", "2"):
        device = _character_device(f"/proc/{pid}/fd/{number}")
        if device is not None and (os.major(device) in PTS_MAJORS or os.major(device) == 4):
            found.add(device)
    return found


def held_by(pids: Iterable[int]) -> set[int]:
    """The terminals that these processes hold, either end."""
    found: set[int] = set()
    for pid in pids:
        controlling = _controlling(pid)
        if controlling:
            found.add(controlling)
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # gone
        for number in numbers:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            if not target.startswith("/dev/"):
                continue
            device = _character_device(f"/proc/{pid}/fd/{number}")
            if device is None:
                continue
            if device == PTMX or target.endswith("/ptmx"):
                index = _master_of(pid, number)
                found.add(os.makedev(136 + (index >> 8), index & 0xFF) if index is not None else 0)
            elif os.major(device) in (*PTS_MAJORS, 4):
                found.add(device)
    return found


class TerminalGuard:
    """Looks at the terminals of workloads. pids: the processes of all workloads."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._seen: set[int] = set()
        self._when = float("-inf")

    def shared(self, pid: int) -> bool:
        """Does a workload hold a terminal of process `pid`?"""
        mine = terminals_of(pid)
        if not mine:
            return False
        if time.monotonic() - self._when > FRESH_SECONDS:
            self._seen = held_by(self._pids())
            self._when = time.monotonic()
        return bool(mine & self._seen)


def _controlling(pid: int) -> int:
    """The controlling terminal of a process; 0: none. tty_nr has the minor number in bits 31..20 and 7..0."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            number = int(file.read().rpartition(b")")[2].split()[4])
    except (OSError, ValueError, IndexError):
        return 0
    number &= 0xFFFFFFFF
    return os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)) if number else 0


def _character_device(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_rdev if stat.S_ISCHR(status.st_mode) else None


def _master_of(pid: int, number: str) -> int | None:
    """Which terminal a master belongs to."""
    try:
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("tty-index:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None
