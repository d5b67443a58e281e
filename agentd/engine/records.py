"""From a kernel event, or a count, to a record of the audit log."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentd.audit.canonical import Json
from agentd.audit.record import Parent, Process, Record, summarize
from agentd.audit.writer import new_action_id
from agentd.engine.archive import AgentView
from agentd.engine.calltext import excerpt, told
from agentd.kernel import abi
from agentd.kernel.ring import KernelEvent
from agentd.model import Decision, Endpoint, Family, Op, Risk
from agentd.policy.resolved import RULE_ABOVE, RULE_DEFAULT, RULE_GUARD, RULE_UNRESOLVED, ResolvedPolicy
from agentd.workloads import processes


def wall_time(boot_ns: int) -> int:
    """ns of CLOCK_BOOTTIME as ns since the epoch, by the clocks as they stand now."""
    return boot_ns + time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def object_of(op: Op, raw: bytes, flags: int = 0) -> bytes | Endpoint | None:
    """The object of an operation from the kernel's bytes: a path or word, an endpoint, or None (unresolved)."""
    if flags & abi.FLAG_UNRESOLVED or not raw:
        return None
    if op.family is Family.PATH:
        return raw
    length = 4 if raw[:1] == b"4" else 16
    protocol = "tcp" if raw[1:2] == b"t" else "udp"
    name = raw[5 + length :].decode("ascii", "replace")
    port = int.from_bytes(raw[2 + length : 4 + length], "big")
    return Endpoint(raw[2 : 2 + length], port, protocol, (name,) if name else ())


def process_of(event: KernelEvent) -> Process:
    """Who did it. What the kernel said stands first; /proc adds what it can't (the process may be gone)."""
    return Process(
        pid=event.pid,
        start_time=processes.ticks(event.start_time),
        exe=event.exe or None,
        argv=event.argv or processes.arguments(event.pid),
        uid=event.uid,
        cgroup=processes.cgroup_path(event.pid),
        parent=Parent(event.ppid, processes.ticks(event.parent_start_time), processes.exe_path(event.ppid)),
    )


def reason_of(decision: Decision, rule: int, tool: str, operation: str) -> str:
    """Why, in aegize's words where aegize has them."""
    if rule in (abi.RULE_GUARD, RULE_GUARD):
        return "no workload may touch agentd (deny)"
    if rule in (abi.RULE_ABOVE, RULE_ABOVE):
        return "a rule denies or asks about what is below this folder (deny)"
    if rule in (abi.RULE_UNRESOLVED, RULE_UNRESOLVED):
        return f"the object could not be resolved for tool '{tool}' operation '{operation}' (deny)"
    if rule in (abi.RULE_DEFAULT, RULE_DEFAULT):
        return f"no matching allow rule for tool '{tool}' operation '{operation}' (default deny)"
    return {
        Decision.ALLOW: f"allowed by rule for tool '{tool}'",
        Decision.REQUIRE_APPROVAL: f"approval required for tool '{tool}'",
        Decision.DENY: f"denied by rule for tool '{tool}'",
    }[decision]


@dataclass(frozen=True, slots=True)
class Names:
    """What the policy calls an operation, and the rule that judged it."""

    tool: str
    operation: str
    rule: str
    risk: Risk | None
    policy_sha256: str | None
    terms: str = ""  # digest of what the rule says; empty: of no rule
    approvers: int = 1


def names_of(event: KernelEvent, view: AgentView | None) -> Names:
    """Without the view, an agentd before this one made the policy."""
    if view is None:
        return Names("unknown", "unknown", f"rule-{event.rule} (of an earlier policy)", None, None)
    risk = view.outcomes[event.outcome].risk if event.outcome < len(view.outcomes) else None
    return Names(
        *view.toolop(event.toolop), view.rule_id(event.rule), risk, view.policy_sha256, *view.rule_terms(event.rule)
    )


def metadata_of(event: KernelEvent) -> dict[str, Json]:
    """What only some events have."""
    found: dict[str, Json] = {"workload": event.workload, "generation": event.generation, "tid": event.tid}
    found["comm"] = os.fsdecode(event.comm).encode("utf-8", "replace").decode()
    if event.syscall >= 0:
        found["syscall"] = event.syscall
    for flag, name in (
        (abi.FLAG_ARGV_CUT if not event.text else 0, "argv_cut"),
        (abi.FLAG_MONITOR, "monitor"),
        (abi.FLAG_SHARED_FDS, "shared_descriptors"),
        (abi.FLAG_COMPAT, "compat"),
        (abi.FLAG_SIGNAL_FAILED, "signal_failed"),
        (abi.FLAG_SCRIPT, "script"),
        (abi.FLAG_DOOMED, "whole_workload_ended"),
    ):
        if event.flags & flag:
            found[name] = True
    return {**found, **told(event)}


def summary_of(event: KernelEvent) -> str:
    """One line: the operation, its object, and the arguments of a program or an excerpt of a text."""
    target = object_of(event.op, event.object, event.flags)
    if event.text:
        return summarize(event.op, target, (excerpt(event).encode(),))
    return summarize(event.op, target, event.argv if event.op is Op.EXEC else ())


def event_record(
    kind: str,
    event: KernelEvent,
    agent: str,
    names: Names,
    *,
    reason: str = "",
    metadata: Mapping[str, Json] | None = None,
    at: int | None = None,
    count: int | None = None,
) -> Record:
    """The record of one kernel event. at: ns since the epoch, instead of the event's own time."""
    target = object_of(event.op, event.object, event.flags)
    when = wall_time(event.time) if at is None else at
    return Record(
        timestamp=when,
        event=kind,
        action_id=new_action_id(),
        agent_id=agent,
        tool_name=names.tool,
        operation=names.operation,
        risk=names.risk,
        input_summary=summary_of(event),
        reason=reason or reason_of(event.decision, event.rule, names.tool, names.operation),
        metadata={**metadata_of(event), **(metadata or {})},
        decision=event.decision,
        rule=names.rule,
        action=event.action,
        guarantee=event.guarantee,
        point=event.point,
        kernel_operation=event.op,
        process=process_of(event),
        object=target,
        policy_sha256=names.policy_sha256,
        count=count,
        first=when if count is not None else None,
        last=when if count is not None else None,
    )


ENDINGS: Final = {
    abi.END_DOOMED: "its workload gave a name to what it may not read: all of it ends",
    abi.END_RAN: "it was held, and somebody made it run before it was answered",
    abi.END_CONTINUED: "a held process got one SIGCONT too many, from this one: it ends, and this too if it is tagged",
}


def ended_record(event: KernelEvent, agent: str) -> Record:
    """A process that the kernel ended without a verdict of its own, or (END_CONTINUED) the one that was the cause."""
    reason = ENDINGS.get(event.reason, f"ended by the kernel side (reason {event.reason})")
    hold: dict[str, Json] = {"hold": event.hold_id} if event.hold_id else {}
    made = note("ended", reason, agent=agent, metadata={"workload": event.workload, "tid": event.tid, **hold})
    return dataclasses.replace(made, timestamp=wall_time(event.time), process=process_of(event))


def recovered(line: Mapping[str, object], metadata: Mapping[str, Json]) -> Record:
    """The record of an answer that had taken effect, and had not reached the log when agentd was killed."""
    kind = str(line.get("kind"))
    made = note(
        kind if kind in ("approved", "approval_denied", "approval_expired") else "approval_expired",
        str(line.get("reason", "")),
        agent=str(line.get("agent", "")),
        metadata=metadata,
    )
    return dataclasses.replace(made, action_id=str(line.get("action_id") or made.action_id))


def policy_loaded(policy: ResolvedPolicy) -> Record:
    """A policy is in force now."""
    metadata: dict[str, Json] = {"sha256": policy.sha256, "agents": [*sorted(policy.agents)]}
    return note("policy_loaded", f"policy {policy.source} is in force", metadata=metadata)


def note(event: str, reason: str, *, agent: str | None = None, metadata: Mapping[str, Json] | None = None) -> Record:
    """A record about agentd itself, or a workload as a whole."""
    return Record(
        timestamp=time.time_ns(),
        event=event,
        action_id=new_action_id(),
        agent_id=agent,
        reason=reason,
        metadata=dict(metadata or {}),
    )
