"""What a person needs to decide about a held operation."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any, Final

from agentd.approvals.book import Pending, Question
from agentd.audit.rawbytes import printable
from agentd.audit.record import object_json, summarize, time_text
from agentd.engine.calltext import excerpt
from agentd.engine.records import Names, object_of, summary_of
from agentd.kernel import abi
from agentd.kernel.ring import KernelEvent
from agentd.model import Endpoint, Op
from agentd.workloads import processes

# Kernel operation -> what it does, for people. Words that have an object of their own follow it.
VERBS: Final = {
    Op.EXEC: "run", Op.READ: "read", Op.WRITE: "write to", Op.CREATE: "create", Op.DELETE: "delete",
    Op.RENAME: "rename", Op.LINK: "link to", Op.SETATTR: "change mode, owner or times of", Op.MOUNT: "mount",
    Op.CHROOT: "change its root to", Op.UNIX_CONNECT: "connect to the unix socket", Op.PTRACE: "trace",
    Op.NAMESPACE: "enter a new namespace:", Op.BPF: "call bpf():", Op.MODULE: "load a kernel module:",
    Op.KEXEC: "load another kernel:", Op.IO_URING: "set up io_uring:", Op.SOCKET: "open a socket:",
    Op.PERF: "open a perf event:", Op.COMPAT: "make a 32-bit system call:", Op.EXECMEM: "run as code",
    Op.SIGNAL: "send a signal:",
    Op.CALL: "call", Op.CONNECT: "connect to", Op.BIND: "bind", Op.LISTEN: "listen on",
    Op.SEND: "send a datagram to", Op.ACCEPT: "take a connection on",
}  # fmt: skip


MAX_PIDS: Final = 32  # that are listed of one question


@dataclass(frozen=True, slots=True)
class HeldAction:
    """The event that held an operation, and what was seen around it then."""

    event: KernelEvent
    names: Names
    started_by: str  # how the workload came to be
    cwd: bytes | None
    ancestors: tuple[processes.Ancestor, ...]


def question_of(event: KernelEvent, agent: str, names: Names) -> Question:
    """What makes this hold the same question as another one: what is done, to which object, with which program, as
    which user, under which rule. Program and object of an exec by the very file, as it stands now.

    What isn't known completely (an object that could not be resolved, a command line that was cut) is never the same.
    """
    if event.flags & (abi.FLAG_UNRESOLVED | abi.FLAG_ARGV_CUT) or not event.object or not names.terms:
        return Question(agent, event.workload, "")
    files = [_file(f"/proc/{event.pid}/exe")]
    if event.op is Op.EXEC:
        files.append(_file(f"/proc/{event.pid}/root{os.fsdecode(event.object)}"))
    parts = (
        agent, names.tool, names.operation, names.rule, names.terms, int(event.op), event.uid, event.object, event.exe,
        event.argv if event.op is Op.EXEC else (), event.text, event.flags & abi.FLAG_SCRIPT, *files,
    )  # fmt: skip
    return Question(agent, event.workload, hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest())


def _file(path: str) -> tuple[int, ...]:
    """Which file stands there, with its time of change; () if none can be seen."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return (status.st_dev, status.st_ino, status.st_ctime_ns)


def object_text(event: KernelEvent) -> str:
    """The object alone, for people."""
    return summarize(event.op, object_of(event.op, event.object, event.flags)).removeprefix(f"{event.op.word} ")


def in_words(event: KernelEvent) -> str:
    """What it wants to do, for people: `connect to 127.0.0.1:25`, `run rm -rf /srv/x`."""
    target = object_of(event.op, event.object, event.flags)
    if target is None:
        shown = "something that could not be resolved"
    elif isinstance(target, Endpoint):
        shown = summarize(event.op, target).removeprefix(f"{event.op.word} ")
    elif event.op is Op.EXEC and event.argv and not event.point.repeats:
        shown = f"{printable(target)}: {' '.join(_word(argument) for argument in event.argv)}"
    elif event.text:
        shown = f"{printable(target)} with {excerpt(event)}"
    else:
        shown = printable(target)
    return f"{VERBS[event.op]} {shown}"


def _word(argument: bytes) -> str:
    """An argument as a shell would want it, so that two can't be taken for one."""
    text = printable(argument)
    plain = text and all(letter.isalnum() or letter in "%+,-./:=@_" for letter in text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"


def brief(pending: Pending[HeldAction], now: int) -> dict[str, Any]:
    """One approval as one line of a list. now: ns, CLOCK_BOOTTIME."""
    event = pending.detail.event
    names = pending.detail.names
    pids = sorted({hold.pid for hold in pending.holds.values()})
    return {
        "id": pending.id,
        "agent": pending.agent,
        "tool": names.tool,
        "operation": names.operation,
        "risk": None if names.risk is None else names.risk.word,
        "kernel_operation": event.op.word,
        "object": object_json(object_of(event.op, event.object, event.flags)),
        "summary": summary_of(event),
        "words": in_words(event),
        "exe": printable(event.exe),
        "rule": names.rule,
        "workload": event.workload,
        "processes": pids[:MAX_PIDS],
        "waiting_processes": len(pids),
        "waiting_threads": len(pending.holds),
        "latest_hold": max(pending.holds, default=0),
        "approvers": pending.approvers,
        "approved_by": list(pending.votes.values()),
        "seconds_waiting": round((now - pending.since) / 1e9, 1),
        "seconds_left": max(0.0, round((pending.expires - now) / 1e9, 1)),
    }


def describe(pending: Pending[HeldAction], now: int) -> dict[str, Any]:
    """One approval as JSON, with everything that can be said of it. now: ns, CLOCK_BOOTTIME."""
    event = pending.detail.event
    return {
        **brief(pending, now),
        "argv": [printable(argument) for argument in event.argv],
        "cwd": printable(pending.detail.cwd or b""),
        "uid": event.uid,
        "user": processes.user_name(event.uid),
        "started_by": pending.detail.started_by,
        "point": event.point.word,
        "guarantee": event.guarantee.word,
        "ancestors": [
            {"pid": a.pid, "name": printable(a.name), "command": printable(a.command)} for a in pending.detail.ancestors
        ],
        "expires": time_text(time.time_ns() + pending.expires - now),
    }
