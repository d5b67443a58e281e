"""What user space can say about a process: for records, approvals and `agentd status`. Never for a verdict: it is read
after the fact, and the process may have changed or be gone.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
NS_PER_TICK: Final = 1_000_000_000 // TICKS_PER_SECOND


def ticks(boot_ns: int) -> int:
    """ns of CLOCK_BOOTTIME as the start time of proc_pid_stat(5), field 22."""
    return boot_ns // NS_PER_TICK


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def cgroup_path(pid: int) -> bytes | None:
    """The path of a process's cgroup below the v2 root; None if it is gone or there is no v2 hierarchy."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(b"0::"):
            return line[3:]
    return None


def mount_namespace(pid: int) -> int:
    """The inode number of a process's mount namespace; 0 if it is gone, or not for us to see."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def thread_stopped(pid: int, tid: int) -> bool:
    """Is a thread in state T (stopped by a signal)?"""
    try:
        stat = Path(f"/proc/{pid}/task/{tid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] == b"T"


def arguments(pid: int) -> tuple[bytes, ...]:
    """The arguments of a process, as it has them now; empty if it is gone."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(data.removesuffix(b"\0").split(b"\0")) if data else ()


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    found = _parent_name_start(pid)
    return found[0] if found else 0


def uid_of(pid: int) -> int:
    """The user of a process; 0 if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return 0


def user_name(uid: int) -> str:
    """The name of a user; its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def exe_path(pid: int) -> bytes | None:
    """The file a process runs; None if it is gone or a kernel thread."""
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One line of the tree above a process."""

    pid: int
    name: str
    command: str


def ancestors(pid: int, limit: int = 12) -> tuple[Ancestor, ...]:
    """The processes above `pid`, nearest first. Read from /proc by hand: it is done for every question, and a general
    library takes twenty times as long.
    """
    found: list[Ancestor] = []
    here = _parent_name_start(pid)
    while here is not None and here[0] and len(found) < limit:
        above = _parent_name_start(here[0])
        if above is None or above[2] > here[2]:
            break  # gone meanwhile, and its number was given again: what was found is still true
        command = b" ".join(arguments(here[0]))[:200]
        found.append(Ancestor(here[0], os.fsdecode(above[1]), os.fsdecode(command)))
        here = above
    return tuple(found)


def _parent_name_start(pid: int) -> tuple[int, bytes, int] | None:
    """(Parent, comm, start time in ticks) of a process; None if it is gone. proc_pid_stat(5), fields 4, 2 and 22."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
    except OSError:
        return None
    words = tail.split()
    return int(words[1]), head.partition(b"(")[2], int(words[19])


def working_directory(pid: int) -> bytes | None:
    """Where a process stands; None if it is gone."""
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None
