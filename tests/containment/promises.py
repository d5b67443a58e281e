"""What is promised, and what is known not to hold: the two tables that the outcomes of the suite are compared with.

A promise is what an enforcement point gives for one kind of operation; they stand in agentd/engine/coverage.py. A gap
is a probe that agentd doesn't stop on some hosts, with the reason. It must be open exactly there: a probe that is
stopped although its gap is listed fails, so that the table follows a fix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.engine.coverage import INLINE, KINDS
from agentd.model import Guarantee, Op, Point

PROMISES: Final[dict[str, dict[Point, Guarantee]]] = {
    **{kind.name: kind.promises for kind in KINDS},
    "guard": dict.fromkeys(INLINE, Guarantee.PREVENTED),  # whatever operation agentd's own guard is recorded as
}


def operation(kind: str) -> str:
    """The kernel operation that a kind is of."""
    return kind.partition(",")[0]


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a probe isn't stopped. closed_by: on a host with one of these points it is."""

    why: str
    closed_by: frozenset[Point] = INLINE


_CODE: Final = Gap("without LSM hooks nothing judges memory that is made executable")
_ELSEWHERE: Final = Gap("a descriptor is judged where it was opened, and that was outside the workload")
_GUARD: Final = Gap("agentd has no guard for itself on this kind of host")
_OTHERS: Final = Gap("without LSM hooks only what is done by kill(2), ptrace(2) and their kin is judged")
_NOWHERE: Final = frozenset[Point]()
_STARTED: Final = Gap("for commands that agentd starts, their filter refuses it")
_BITS: Final = ("", ", by a number with more bits")
_RING: Final = Gap("where the policy allows io_uring, its requests pass no system call")

# (row, name of the probe): why it is open.
GAPS: Final[dict[tuple[int, str], Gap]] = {
    (12, "LD_PRELOAD of a file of its own"): _CODE,
    (12, "a denied file as the dynamic loader"): _CODE,
    (12, "machine code in memory"): _CODE,
    (12, "machine code in its heap"): Gap("brk() asks no hook", _NOWHERE),
    (12, "machine code in memory that may be written to"): _CODE,
    (12, "machine code in its copy of a library"): _CODE,
    (12, "machine code in a file of its own"): _CODE,
    **{
        (21, f"utimes through a bind mount{started}"): Gap("a file is judged by the name it was asked for")
        for started in ("", ", started")
    },
    **{(20, f"a watch on a denied {what}"): Gap("inotify is not looked at") for what in ("folder", "file")},
    **{(20, f"a message queue{note}"): Gap("mq_open() is no open()") for note in ("", ", as if by execve")},
    (22, "over a unix socket"): _ELSEWHERE,
    **{(22, f"inherited, {how}"): _ELSEWHERE for how in ("read", "readv", "splice", "duplicate", "map")},
    **{
        (22, f"inherited, {how}{started}"): _ELSEWHERE
        for how in ("write", "map to write", "map, then write", "truncate")
        for started in ("", ", started")
    },
    **{
        (24, f"{operation}{how}, where rings are allowed"): _RING
        for operation in ("open", "unlink", "rename", "link")
        for how in ("", ", SQPOLL", ", a worker thread")
    },
    (24, "open into registered files, where rings are allowed"): _RING,
    (31, "a source route, by an option of a message"): Gap("options of a message are not looked at"),
    (31, "a source route, by an option of the second message"): Gap(
        "a second message to the same address in one sendmmsg() asks no hook (net/socket.c, ____sys_sendmsg)", _NOWHERE
    ),
    (34, "the second message of sendmmsg"): Gap("of several messages only the first is judged"),
    **{(45, f"a stranger's pipe{how}"): Gap("a pipe has no name to tell") for how in ("", ", by a path descriptor")},
    **{
        (60, f"a stranger's signal, by {how}"): _OTHERS
        for how in ("F_SETOWN", "F_SETOWN, a group", "F_SETOWN_EX", "FIOSETOWN", "SIOCSPGRP")
    },
    (60, "a stranger's limit"): _OTHERS,
    **{
        (60, f"{how}{whose}"): _OTHERS
        for how in ("ioprio_set", "setpriority", "sched_setscheduler", "sched_setaffinity", "migrate_pages")
        for whose in (" of a stranger", ", where signals are allowed")
    },
    **{(60, f"another program's name{note}"): _OTHERS for note in _BITS},
    (41, "a child in another cgroup"): Gap("the namespaces of a child are looked at, and its cgroup is not"),
    (45, "a key that the kernel has a helper ask for"): _OTHERS,
    **{(45, f"a device's event, as {who} tells it"): _OTHERS for who in ("kernel", "udev")},
    **{(60, f"the machine's ports, by {how}"): _STARTED for how in ("iopl", "ioperm")},
    (60, "a stranger's memory, written out"): _OTHERS,
    (60, "memory that is called broken"): _OTHERS,
    (62, "a terminal that is hung up"): _OTHERS,
    **{(62, f"another session's terminal{note}"): _OTHERS for note in _BITS},
    (62, "what is written to the console"): _OTHERS,
    **{
        (32, f"SCTP, {how}"): Gap("cgroup programs are told none of its addresses")
        for how in ("connect", "connectx", "connectx to two addresses", "a message to two addresses", "bindx")
    },
    **{(21, what): Gap("a whole file system") for what in ("quotas of btrfs", "a file system's label")},
    **{
        (25, f"{call}, of the 32-bit table"): _OTHERS
        for call in ("prlimit", "F_SETOWN", "F_SETOWN_EX", "setpriority", "sched_setaffinity", "process_madvise")
    },
    **{(25, f"{call}, of the 32-bit table"): _OTHERS for call in ("TIOCSTI", "request_key")},
    (62, "a module that the kernel loads by itself"): _OTHERS,
    (62, "input typed on a terminal"): _STARTED,
    (62, "a file system that stands still"): _STARTED,
    (60, "prlimit"): _GUARD,
    **{(60, f"its memory, as {name} in /proc shows it"): _GUARD for name in ("maps", "environ")},
    (60, "ptrace, where it is allowed"): _GUARD,
}


def complaints(enforcement: list[dict[str, str]]) -> list[str]:
    """Where what `agentd status` claims and PROMISES differ."""
    found = []
    claimed = {row["operation"]: row for row in enforcement}
    for op in Op:
        row = claimed[op.word]
        point = next(point for point in Point if point.word == row["point"])
        promised = PROMISES[op.word].get(point)
        if promised is None or not row["guarantee"].startswith(promised.word):
            found.append(f"status says of {op.word}: {row['point']}, {row['guarantee']}; promised is {promised}")
    return found
