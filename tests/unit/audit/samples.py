"""Records and logs that the audit tests share."""

from __future__ import annotations

from pathlib import Path

from agentd.audit.opening import open_log
from agentd.audit.record import Parent, Process, Record, summarize
from agentd.audit.writer import AuditWriter
from agentd.model import Action, Decision, Endpoint, Guarantee, Op, Point, Risk

START = 1_795_294_800_123_456_789
BOOT = "0e3f9a3e-2f44-4d55-8f6f-0123456789ab"
ARGV = (b"rm", b"-rf", b"/srv/\xff\n\x1b[31m", "/srv/\u202eé\U0001f600".encode())


def denied(number: int = 0, **changes: object) -> Record:
    """A denial with every member filled in."""
    process = Process(4243 + number, 98765, b"/usr/bin/rm", ARGV, 1000, b"/user.slice/a.scope", Parent(1, 2, b"/init"))
    members: dict[str, object] = {
        "timestamp": START + number * 1000,
        "event": "denied",
        "action_id": f"action-{number}",
        "agent_id": "research_bot",
        "tool_name": "shell",
        "operation": "rm",
        "risk": Risk.HIGH,
        "input_summary": summarize(Op.EXEC, b"/usr/bin/rm", ARGV),
        "reason": "denied by rule for tool 'shell'",
        "decision": Decision.DENY,
        "rule": "research_bot/deny/0",
        "action": Action.KILL,
        "guarantee": Guarantee.CONTAINED,
        "point": Point.EXEC,
        "kernel_operation": Op.EXEC,
        "process": process,
        "object": b"/usr/bin/rm",
        "policy_sha256": "a" * 64,
    }
    return Record(**{**members, **changes})  # type: ignore[arg-type]


def allowed(number: int = 0) -> Record:
    """A summary of allowed connections."""
    return Record(
        timestamp=START + number * 1000, event="allowed", action_id=f"sum-{number}", agent_id="research_bot",
        decision=Decision.ALLOW, object=Endpoint(b"\x0a\x00\x00\x01", 5432), count=7, first=START, last=START + 5,
    )  # fmt: skip


def opened(path: Path, **options: object) -> AuditWriter:
    """The log `path`, open for writing."""
    return open_log(path, host="deb", boot_id=BOOT, **options)  # type: ignore[arg-type]


def make(path: Path, count: int, first: int = 0) -> Path:
    """A log of `count` records."""
    writer = opened(path)
    for number in range(first, first + count):
        writer.append([denied(number) if number % 3 else allowed(number)])
        if number % 1000 == 999:  # before the queue is full
            writer.commit()
    writer.commit()
    writer.close()
    return path
