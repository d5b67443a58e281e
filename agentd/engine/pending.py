"""What a person needs to decide about a held operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentd.approvals.book import Pending
from agentd.audit.rawbytes import printable
from agentd.audit.record import object_json, summarize
from agentd.engine.records import Names, object_of
from agentd.kernel.ring import KernelEvent
from agentd.model import Op
from agentd.workloads import processes


@dataclass(frozen=True, slots=True)
class HeldAction:
    """The event that held an operation, and what was seen around it then."""

    event: KernelEvent
    names: Names
    started_by: str  # how the workload came to be
    cwd: bytes | None
    ancestors: tuple[processes.Ancestor, ...]


def describe(pending: Pending[HeldAction], now: int) -> dict[str, Any]:
    """One approval as JSON: what the socket, the command line and the tests show. now: ns, CLOCK_BOOTTIME."""
    event = pending.detail.event
    names = pending.detail.names
    target = object_of(event.op, event.object, event.flags)
    return {
        "id": pending.id,
        "agent": pending.agent,
        "tool": names.tool,
        "operation": names.operation,
        "kernel_operation": event.op.word,
        "object": object_json(target),
        "summary": summarize(event.op, target, event.argv if event.op is Op.EXEC else ()),
        "argv": [printable(argument) for argument in event.argv],
        "exe": printable(event.exe),
        "cwd": printable(pending.detail.cwd or b""),
        "uid": event.uid,
        "workload": event.workload,
        "started_by": pending.detail.started_by,
        "rule": names.rule,
        "point": event.point.word,
        "guarantee": event.guarantee.word,
        "processes": sorted({hold.pid for hold in pending.holds.values()}),
        "waiting_threads": len(pending.holds),
        "ancestors": [
            {"pid": a.pid, "name": printable(a.name), "command": printable(a.command)} for a in pending.detail.ancestors
        ],
        "seconds_waiting": round((now - pending.since) / 1e9, 1),
        "seconds_left": max(0.0, round((pending.expires - now) / 1e9, 1)),
    }
