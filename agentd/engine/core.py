"""The engine: event -> operation -> decision -> action -> record. The only place where that order is written.

The kernel decides and acts by itself; what arrives here has happened (a denial), is held (and waits for an answer), or
is a count. The engine records it, asks, answers, and keeps the books. It is synchronous and single-threaded: whoever
runs it calls pump() when a ring is readable and tick() once a second.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from agentd.actions import signals
from agentd.audit.record import Record, gap
from agentd.audit.writer import AuditWriter, new_action_id
from agentd.engine import capacity, orphans, records
from agentd.engine.accounts import Accounts
from agentd.engine.archive import Archive
from agentd.engine.calls import LibraryCalls
from agentd.engine.census import Census
from agentd.engine.connections import Connections
from agentd.engine.descriptors import Descriptors
from agentd.engine.minimum import Minimum
from agentd.engine.origins import Origins
from agentd.engine.pending import object_text
from agentd.engine.policies import CANARY, Compiled, PolicySet
from agentd.engine.questions import Questions
from agentd.engine.reasons import Reasons
from agentd.engine.recognition import Recognisers
from agentd.engine.records import Names
from agentd.engine.refused import Refused
from agentd.engine.resolvers import Resolvers
from agentd.engine.status import status_of, top_of
from agentd.engine.summaries import Summaries
from agentd.engine.supervision import Supervision
from agentd.engine.surroundings import Surroundings
from agentd.engine.tagging import Tagging
from agentd.engine.takeover import Takeover
from agentd.engine.upkeep import Upkeep
from agentd.engine.verify import Verification
from agentd.errors import AgentdError
from agentd.kernel import abi
from agentd.kernel.foreign import ForeignFiles
from agentd.kernel.hooks import Need
from agentd.kernel.hosts import HostNames, Resolver
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import EventRing, KernelEvent, parse
from agentd.kernel.tables import PolicyTables
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import RANKS, Metrics
from agentd.model import Action, Decision, Op
from agentd.workloads import processes
from agentd.workloads.match import uid_of

FLUSH_SECONDS: Final = 10


class Engine:
    """One loaded object, one audit log, one policy."""

    def __init__(
        self,
        loaded: LoadedObject,
        audit: AuditWriter,
        metrics: Metrics,
        resolvers: Sequence[Resolver] | None = None,
        *,
        matching: bool = False,
        slices: bool = False,
    ) -> None:
        """resolvers: whose answers teach host names; None: resolv.conf's. matching, slices: see Recognisers."""
        self.loaded = loaded
        self.audit = audit
        self.metrics = metrics
        pins = orphans.identity(loaded.control.hash_seed)
        self._tables = PolicyTables(loaded)
        self._tables.set_unrecorded(False)
        self._unrecorded = False
        self.policies = PolicySet(self._tables, Archive(audit.path.parent / "generations", pins))
        self.marks = TaskMarks(loaded)
        self.names = HostNames(loaded)
        self.resolvers = Resolvers(self.names, resolvers)
        self.on_event: Callable[[Record], None] | None = None
        self._accounts = Accounts(loaded)
        self._origins = Origins(audit.path.parent / "workloads.json", pins)
        self.workloads = Census(self.marks.list(), self._origins.load())
        self.foreign = ForeignFiles(loaded)
        lookups = (self.policies.names, self.policies.agent, self._record)
        self.connections = Connections(self.marks, self.names, *lookups)
        self.descriptors = Descriptors(self.foreign, self.marks, *lookups)
        look = (self.connections.judge, self.descriptors.judge)
        users = uid_of if matching else None
        self.recognisers = Recognisers(loaded, self._tables, self.workloads, self._record, look, users, slices=slices)
        seed = b"".join(number.to_bytes(8, "little") for number in loaded.control.hash_seed)
        self.reasons = Reasons(seed, self.policies.agent)
        around = Surroundings(
            record=self._record,
            commit=self.commit,
            pump=self.pump,
            agents=self.policies.names,
            agent=self.policies.agent,
            origin=self.workloads.origin,
            denied=self.reasons.denied,
        )
        self.questions = Questions(loaded, self.marks, metrics, audit.path.parent, pins, around)
        self.takeover = Takeover(self.questions)
        self.calls = LibraryCalls(loaded, self.questions, self._record)
        self.refused = Refused()
        self.supervision = Supervision(loaded, self.policies, self.marks, self.questions.answers)
        self._events = EventRing(loaded, "events")
        self._backlog: deque[bytes] = deque()
        self.behind = False  # events wait there
        self._upkeep = Upkeep(loaded, audit, metrics, self._record)
        self._flushed = time.monotonic()
        self.verification = Verification(
            loaded, self.marks, self.policies, self.supervision, metrics,
            record=self._record, pump=self.pump, calls=self.calls.broken,
        )  # fmt: skip
        held = (self.verification, self.marks, self.policies, self.workloads)
        self.minimum = Minimum(*held, audit.path.parent, self._record)
        self.tagging = Tagging(
            self.marks,
            self.policies,
            self.workloads,
            self.minimum,
            self.supervision,
            self.reasons,
            self.calls,
            self.connections,
            self.descriptors,
            self._record,
        )
        self._handlers: dict[int, Callable[[KernelEvent, str, Names], None]] = {
            abi.EVENT_VIOLATION: self._violation,
            abi.EVENT_HOLD: self._hold,
            abi.EVENT_GONE: self._gone,
            abi.EVENT_ALLOWED: self._allowed_one,
            abi.EVENT_GRANTED: self._granted,
            abi.EVENT_REFUSED: self._refused,
            abi.EVENT_ENDED: self._ended,
            abi.EVENT_MATCHED: self.recognisers.matched,
            abi.EVENT_UNMATCHED: self.recognisers.unmatched,
            abi.EVENT_ASKED: self.recognisers.asked,
        }
        metrics.read_verdicts(lambda: capacity.verdict_times(loaded.stats.read()))
        metrics.read_programs(loaded.programs, loaded.program_seconds, loaded.skipped)
        metrics.read_maps(*capacity.of(loaded, self._tables, self.names, self.foreign))
        metrics.read_audit(lambda: (audit.bytes_written, audit.head.seq), audit.status)

    # -- policy

    def install(self, compiled: Compiled) -> None:
        """Puts a compiled policy in force and records it."""
        self.resolvers.refresh()
        needs = {
            Need.NAMES: compiled.names,
            Need.CODE: self.policies.judges(Op.EXECMEM, compiled),
            Need.ROUTES: self.policies.judges(Op.SOCKET, compiled),
        }
        for need in (need for need, there in needs.items() if there):  # before anything is decided by it
            self.loaded.watch_for(need, True)
        self.calls.prepare(compiled.policy.agents.values(), lambda: {line.pid for line in self.marks.list()})
        with self.recognisers.prepared(compiled.policy):
            self.policies.install(compiled)
        self.calls.settle(compiled.policy.agents.values())
        for need, there in needs.items():
            self.loaded.watch_for(need, there)
        for agent in compiled.policy.agents.values():
            self.metrics.declare_agent(agent.name, agent.toolops, (rule.id for rule in agent.rules))
        self.metrics.policy_loaded(compiled.policy.sha256)
        self._record(records.policy_loaded(compiled.policy))
        self.verification.check_calls()
        self.connections.judge("the policy was loaded")
        self.descriptors.judge("the policy was loaded")

    def policy_rejected(self, error: AgentdError) -> None:
        """A reload that failed: the old policy stays, whole."""
        self.metrics.policy_rejected()
        self._record(records.note("policy_rejected", str(error)[:2000], metadata={"code": error.code}))

    @property
    def supervises(self) -> bool:
        """Do workloads that are started here have a supervisor? Where there are no LSM hooks."""
        return not self.loaded.prevented

    # -- events

    def filenos(self) -> tuple[int, ...]:
        """Readable when pump() has something to do."""
        return self._events.fileno(), self._accounts.fileno(), self.supervision.fileno()

    def pump(self, seconds: float = math.inf) -> int:
        """Handles the events that have arrived and puts their records on disk; how many events. seconds: what is left
        after that is for the next call (`behind`).

        An event is off the backlog before it is handled: what goes wrong with one doesn't take the others along.
        """
        self._accounts.learn()
        self._backlog.extend(self._events.take())
        handled, until = 0, time.monotonic() + seconds
        while self._backlog and (not handled or time.monotonic() < until):
            raw = self._backlog.popleft()
            handled += 1
            self._handle(parse(raw), raw)
        self.behind = bool(self._backlog)
        for told in self.supervision.take():
            handled += 1
            self._handle(told, b"")
        while self.supervision.problems:
            self._record(records.note("enforcement_failed", f"seccomp: {self.supervision.problems.popleft()} (EPERM)"))
        while self.supervision.missed:
            self._record(self.supervision.missed.popleft())
        self.supervision.reap()
        if self.supervision.crowded or self._accounts.crowded:
            self.flush()
        self.reasons.flush()  # before the disk: whoever was denied is looking already
        self.commit()
        return handled

    def _handle(self, event: KernelEvent, raw: bytes) -> None:
        if event.type == abi.EVENT_MAPPED:
            return self.calls.look_at(event.pid, event.start_time)
        view = self.policies.view(event.agent, event.generation)
        agent = view.name if view else self.policies.names().get(event.agent, f"agent-{event.agent}")
        if agent == CANARY:
            self.verification.saw(event)
            return
        names = records.names_of(event, view)
        if event.type == abi.EVENT_HOLD and not event.point.repeats:
            self.questions.memory.keep(event.hold_id, raw, names, self.workloads.origin(event.workload))
        self._handlers.get(event.type, self._unknown)(event, agent, names)
        if self.audit.crowded:
            self.commit()

    def _unknown(self, event: KernelEvent, agent: str, names: Names) -> None:
        """A kind of event that this agentd doesn't know: pins of a newer one."""
        self.metrics.lost("event-malformed")
        self._record(gap(time.time_ns(), new_action_id(), {f"events of kind {event.type}": 1}, "event-malformed"))

    def commit(self) -> bool:
        """Puts what was recorded on disk; is all of it there?"""
        if self.audit.pending:
            self.audit.commit()
        if bool(self.audit.failed) != self._unrecorded:
            self._unrecorded = bool(self.audit.failed)
            self._tables.set_unrecorded(self._unrecorded)
            self.supervision.unrecorded = self._unrecorded
        return not self.audit.pending

    def _record(self, record: Record) -> None:
        self.audit.append([record])
        if self.on_event:
            self.on_event(record)

    def _count(self, event: KernelEvent, agent: str, names: Names) -> None:
        self.metrics.decided(agent, names.tool, names.operation, event.decision, event.action, rule=names.rule)
        if event.decision is not Decision.ALLOW:
            self.refused.note(agent, (event.op.word, object_text(event), names.rule))

    def _violation(self, event: KernelEvent, agent: str, names: Names) -> None:
        reason = ""
        if event.decision is Decision.ALLOW:
            event = dataclasses.replace(event, decision=Decision.DENY)
            reason = "allowed by rule, but the audit log could not be written (strict: deny)"
        self._count(event, agent, names)
        if event.decision is Decision.REQUIRE_APPROVAL and event.action is not Action.NONE:
            reason = "approval required, and the operation could not be held (deny)"
        kind = "denied"
        if event.decision is Decision.REQUIRE_APPROVAL and event.action is Action.NONE:
            kind = "approval_required"
        self._record(records.event_record(kind, event, agent, names, reason=reason))
        if event.action is not Action.NONE:
            self.reasons.denied(event, agent, names, reason)
        if event.flags & abi.FLAG_DOOMED and event.action is Action.KILL:
            self._end(event.workload)

    def _end(self, workload: int) -> None:
        """The kernel ends a doomed workload's tasks at their next system call; those that sleep are ended here."""
        for line in self.marks.list():
            if line.workload == workload and line.pid == line.tid:
                signals.send(line.pid, processes.ticks(line.start_time), signal.SIGKILL, processes.start_ticks)

    def _hold(self, event: KernelEvent, agent: str, names: Names) -> None:
        self._count(event, agent, names)
        self.questions.ask(event, agent, names, self.workloads.origin(event.workload), event.time)

    def _gone(self, event: KernelEvent, agent: str, names: Names) -> None:
        self.questions.gone(event, agent)

    def _allowed_one(self, event: KernelEvent, agent: str, names: Names) -> None:
        self._count(event, agent, names)
        self._record(records.event_record("allowed", event, agent, names, count=1))

    def _granted(self, event: KernelEvent, agent: str, names: Names) -> None:
        self.metrics.decided(agent, names.tool, names.operation, Decision.ALLOW, Action.NONE)
        self._record(
            records.event_record(
                "allowed",
                event,
                agent,
                names,
                reason="approved, and carried out",
                count=1,
                metadata={"hold": event.hold_id},
            )
        )

    def _refused(self, event: KernelEvent, agent: str, names: Names) -> None:
        """The answer was recorded when it was given; this is its effect, EPERM."""

    def _ended(self, event: KernelEvent, agent: str, names: Names) -> None:
        self._record(records.ended_record(event, agent))

    # -- books

    def tick(self) -> None:
        """Once a second: timeouts, counts, losses, the number of processes."""
        self.questions.expire()
        self.metrics.set_oldest(self.questions.oldest())
        for agent in self.refused.changed():
            self.metrics.set_ranks(agent, [count for _, count in self.refused.top(agent, RANKS)])
        self.supervision.tick()
        if self.resolvers.refresh():
            self._record(records.note("resolvers_changed", f"host names are learned from {self.resolvers.text()}"))
        self._upkeep.tell_losses(self.supervision)
        lines = self.marks.list()
        if not self.behind:  # else whoever waits may be in the events that wait
            self.takeover.adopt(lines)
        self._census(lines)
        self.calls.tick(lines)
        self._origins.save(self.workloads.workloads)
        self.questions.follow_up(lines)
        due = time.monotonic() - self._flushed >= FLUSH_SECONDS
        if due:
            self.verification.check_calls()
        self.minimum.follow_up(lines)
        if due:
            self.flush()
            self.audit.maintain()
        self.commit()
        self._upkeep.rest(bool(lines or self.recognisers.rules), self.marks)  # with rules, who begins must be seen

    def flush(self) -> None:
        """Writes the counts of allowed operations."""
        self._flushed = time.monotonic()
        made = Summaries(self.policies.view, self.policies.names(), ignored=CANARY)
        try:
            for record in made.records(itertools.chain(self._accounts.flush(), self.supervision.flush())):
                self._record(record)
                if self.audit.crowded:
                    self.commit()
                self._accounts.learn()
        finally:
            self.metrics.decided_all(made.decided())
        self.commit()

    def _census(self, lines: list[abi.TaskLine]) -> None:
        ended, counts = self.workloads.take(lines, self.policies.names())
        self.descriptors.forget({line.workload for line in lines})
        self.reasons.forget([workload.number for workload in ended])
        for workload in ended:
            self.marks.forget_doom(workload.number)
            self.tagging.tell("workload_ended", workload, {})
        for name, count in counts.items():
            self.metrics.set_processes(name, count)

    def status(self) -> dict[str, Any]:
        """Everything `agentd status` shows."""
        self._census(self.marks.list())
        return status_of(self)

    def top(self) -> dict[str, Any]:
        """What `agentd top` shows."""
        self._census(self.marks.list())
        return top_of(self)

    def close(self) -> None:
        """Takes the last events and counts, and lets go of the rings (not of the kernel's programs)."""
        self.supervision.close()
        while self.pump():
            pass
        self.tick()
        self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Lets go of what close() does, of an engine that never came to enforce anything."""
        self.questions.ledger.journal.close()
        self._events.close()
        self._accounts.close()
        self.supervision.release()
        self.calls.close()
