"""What one record says: the typed form that the engine fills in and the JSON object it becomes.

The members are aegize's (timestamp ... metadata), then agentd's. Every record has all members of `MEMBERS` but
`count`, `first` and `last`, which only records that stand for many (allowed operations, a loss) have, and `objects`,
which only those have that stand for operations on several objects (many.py); what doesn't apply is null, so that a
reader never has to ask whether a member exists. `seq`, `prev_hash` and `hash` come from the chain, `host` and `boot_id`
from the writer.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from agentd.audit import canonical, rawbytes
from agentd.audit.canonical import Json
from agentd.model import Action, Decision, Endpoint, Guarantee, Op, Point, Risk

EVENTS: Final = (
    "allowed",  # summary: `count` operations between `first` and `last`, exactly
    "denied",
    "approval_required",
    "approval_vote",  # a yes of one person where several must say it
    "approved",
    "approval_denied",
    "approval_expired",
    "approval_revoked",  # an answer that stood is taken back
    "gap",  # a loss: `count` things that have no record of their own, of what kinds and why in metadata
    "started",
    "stopped",
    "policy_loaded",
    "policy_rejected",
    "resolvers_changed",  # host names are learned from other resolvers from here on
    "workload_started",
    "workload_ended",
    "tagged",
    "disconnected",  # a connection that a workload had, and that the policy does not allow, was destroyed
    "descriptor_found",  # a workload has a file open from before its policy, which does not allow it
    "ended",  # the kernel ended a process without a verdict of its own
    "calls_unseen",  # a program has TLS of its own, whose calls no probe can see
    "enforcement_failed",  # a probe showed that an operation is not held as it is claimed
    "enforcement_verified",  # and, later, that it is again
    "below_minimum",  # a running workload has less than its policy's minimum_guarantee, and was paused or killed
    "workload_resumed",  # and, later, let go
    "log_repaired",  # a torn tail was cut when the log was opened
    "signing_key",  # who signs from here on
    "key_rotated",  # another key does, and the one before has signed that
    "signed",  # a Merkle root over all records since the last one, and receipts for single records among them
    "segment_started",  # the log goes on in a new file
    "pruned",  # an old file of the log was removed because of its age or the room it took
)

MEMBERS: Final = (
    *("timestamp", "event", "action_id", "agent_id", "tool_name", "operation", "risk_level", "input_summary"),
    *("reason", "metadata", "seq", "prev_hash", "hash", "decision", "rule", "action", "guarantee", "point"),
    *("kernel_operation", "process", "object", "policy_sha256", "host", "boot_id", "count", "first", "last"),
    "objects",
)
_RESERVED: Final = frozenset({"hash", "prev_hash", "seq", "guarantee"})  # what chain.read looks for

SUMMARY_MAX: Final = 200  # characters, as aegize
ARGV_MAX: Final = 65536  # bytes of arguments kept in one record


@dataclass(frozen=True, slots=True)
class Parent:
    """The process above: enough to find it again."""

    pid: int
    start_time: int
    exe: bytes | None


@dataclass(frozen=True, slots=True)
class Process:
    """Who did it. start_time: clock ticks since boot as in /proc/PID/stat (proc_pid_stat(5), field 22), which with the
    boot_id makes a pid unique; cgroup: path below the cgroup2 root; what isn't known is None."""

    pid: int
    start_time: int
    exe: bytes | None
    argv: tuple[bytes, ...]
    uid: int | None
    cgroup: bytes | None
    parent: Parent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record to be. Times are nanoseconds since the epoch (CLOCK_REALTIME), written with microseconds.

    metadata: canonical JSON values; its keys may not be `hash`, `prev_hash`, `seq` or `guarantee` at any depth.
    objects: of many.Row, as lists.
    """

    timestamp: int
    event: str
    action_id: str
    agent_id: str | None = None
    tool_name: str | None = None
    operation: str | None = None
    risk: Risk | None = None
    input_summary: str = ""
    reason: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    decision: Decision | None = None
    rule: str | None = None
    action: Action | None = None
    guarantee: Guarantee | None = None
    point: Point | None = None
    kernel_operation: Op | None = None
    process: Process | None = None
    object: bytes | Endpoint | None = None
    policy_sha256: str | None = None
    count: int | None = None
    first: int | None = None
    last: int | None = None
    objects: Sequence[list[Json]] | None = None

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"unknown event {self.event!r}")
        _check_metadata(self.metadata)


def body(record: Record, host: str, boot_id: str) -> dict[str, Json]:
    """The JSON object of `record`, less seq, prev_hash and hash."""
    made: dict[str, Json] = {
        "timestamp": time_text(record.timestamp),
        "event": record.event,
        "action_id": rawbytes.clean(record.action_id),
        "agent_id": _text(record.agent_id),
        "tool_name": _text(record.tool_name),
        "operation": _text(record.operation),
        "risk_level": _word(record.risk),
        "input_summary": short(rawbytes.clean(record.input_summary)),
        "reason": rawbytes.clean(record.reason),
        "metadata": dict(record.metadata),
        "decision": _word(record.decision),
        "rule": _text(record.rule),
        "action": _word(record.action),
        "guarantee": _word(record.guarantee),
        "point": _word(record.point),
        "kernel_operation": _word(record.kernel_operation),
        "process": None if record.process is None else _process(record.process),
        "object": object_json(record.object),
        "policy_sha256": record.policy_sha256,
        "host": host,
        "boot_id": boot_id,
    }
    if record.count is not None:
        made["count"] = record.count
        made["first"] = None if record.first is None else time_text(record.first)
        made["last"] = None if record.last is None else time_text(record.last)
    if record.objects is not None:
        made["objects"] = list(record.objects)
    return made


def gap(
    timestamp: int, action_id: str, lost: Mapping[str, int], why: str, *, first: int | None = None,
    last: int | None = None, operations: int | None = None, agent_id: str | None = None,
) -> Record:  # fmt: skip
    """The record of a loss: `lost` says how many of what; `operations` how many operations those stood for."""
    count = sum(lost.values())
    of: dict[str, Json] = dict(lost)
    metadata: dict[str, Json] = {"lost": of, "why": why}
    if operations is not None:
        metadata["operations"] = operations
    return Record(
        timestamp=timestamp, event="gap", action_id=action_id, agent_id=agent_id, metadata=metadata, count=count,
        reason=f"{count} not recorded: {why}", first=first, last=last,
    )  # fmt: skip


def time_text(nanoseconds: int) -> str:
    """RFC 3339 in UTC with microseconds: `2026-11-21T20:40:00.123456Z`."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(whole)}.{rest // 1000:06d}Z"


@functools.lru_cache(maxsize=16)  # most records of a busy log are of the same few seconds
def _second(whole: int) -> str:
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"


def object_json(target: bytes | Endpoint | None) -> Json:
    """A path as rawbytes writes it, an endpoint as {"address", "port", "protocol"} and, if it was judged by one, its
    "name"; null when unresolved.
    """
    if target is None:
        return None
    if isinstance(target, Endpoint):
        address = str(ipaddress.ip_address(target.address))
        made: dict[str, Json] = {"address": address, "port": target.port, "protocol": target.protocol}
        return {**made, "name": target.names[0]} if target.names else made
    return _raw(target)


def object_from_json(value: object) -> bytes | Endpoint | None:
    """The object of a record, back from its JSON; None where it was not resolved, or is no object."""
    try:
        if isinstance(value, dict) and "address" in value:
            address = ipaddress.ip_address(value["address"]).packed
            names = (str(value["name"]),) if value.get("name") else ()
            return Endpoint(address, int(value["port"]), str(value["protocol"]), names)
        return None if value is None else rawbytes.decode(value)
    except (ValueError, KeyError, TypeError):
        return None


def summarize(operation: Op, target: bytes | Endpoint | None, argv: Sequence[bytes] = ()) -> str:
    """input_summary in aegize's manner, repr-like and at most 200 characters: `exec '/bin/rm' ['rm', '-rf', '/x']`."""
    text = shown(target)
    if argv:
        # Only what can still be seen is quoted: a summary of a 100 KB command line costs no more than a short one.
        text += " [" + ", ".join(_quoted(arg[:SUMMARY_MAX]) for arg in argv[:SUMMARY_MAX]) + "]"
    return short(f"{operation.word} {text}")


def shown(target: bytes | Endpoint | None) -> str:
    """An object for people: a quoted path, `10.0.0.1:25/tcp (mail.example.com)`, `(unresolved)`."""
    if target is None:
        return "(unresolved)"
    if isinstance(target, Endpoint):
        address = ipaddress.ip_address(target.address)
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{host}:{target.port}/{target.protocol}" + "".join(f" ({name})" for name in target.names)
    return _quoted(target)


def _quoted(raw: bytes) -> str:
    return "'" + rawbytes.printable(raw).replace("'", "\\'") + "'"


def short(text: str) -> str:
    """At most SUMMARY_MAX characters of it."""
    return text if len(text) <= SUMMARY_MAX else text[: SUMMARY_MAX - 1] + "…"


def _raw(data: bytes) -> Json:
    value = rawbytes.encode(data)
    return value if isinstance(value, str) else dict(value)


def _text(value: str | None) -> str | None:
    return None if value is None else rawbytes.clean(value)


def _word(value: Decision | Action | Point | Guarantee | Risk | Op | None) -> str | None:
    return None if value is None else value.word


def _process(process: Process) -> dict[str, Json]:
    argv, cut = _argv(process.argv)
    made: dict[str, Json] = {
        "pid": process.pid,
        "start_time": process.start_time,
        "exe": None if process.exe is None else _raw(process.exe),
        "argv": argv,
        "uid": process.uid,
        "cgroup": None if process.cgroup is None else _raw(process.cgroup),
        "parent": None,
    }
    if process.parent is not None:
        parent = process.parent
        exe = None if parent.exe is None else _raw(parent.exe)
        made["parent"] = {"pid": parent.pid, "start_time": parent.start_time, "exe": exe}
    if cut:
        made["argv_cut"] = cut
    return made


def _argv(argv: tuple[bytes, ...]) -> tuple[list[Json], int]:
    """The arguments that fit in ARGV_MAX (each counts one byte more, for its end), and how many bytes were left out."""
    kept: list[Json] = []
    room = ARGV_MAX
    for position, arg in enumerate(argv):
        room -= len(arg) + 1
        if room < 0:
            return kept, sum(len(rest) + 1 for rest in argv[position:])
        kept.append(_raw(arg))
    return kept, 0


def _check_metadata(metadata: Mapping[str, Json]) -> None:
    if not metadata:
        return
    if not canonical.check(dict(metadata)):
        raise ValueError("metadata: keys are plain words")
    stack: list[object] = [metadata]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            if not _RESERVED.isdisjoint(value):
                raise ValueError(f"metadata: {sorted(_RESERVED & value.keys())} belong to the chain")
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
