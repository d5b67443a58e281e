"""The seccomp point: what waits for the supervisor is judged by the policy in force, and told to the engine as the
kernel tells what its hooks have judged: events of denials and holds, exact counts of what was allowed.

The judging is done in the threads of the pools; everything that comes of it waits in a queue for the engine's pump(),
which alone writes records and asks people. Fails: to deny. A queue that is full turns denials into counts, and loses
counts of what was allowed only beyond MAX_COUNTS between two flushes (then strict agents are denied).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from agentd.actions import signals
from agentd.audit.record import Record, gap
from agentd.audit.writer import new_action_id
from agentd.engine.accounts import Counted
from agentd.engine.holds import HoldAnswers
from agentd.engine.policies import InForce, PolicySet
from agentd.errors import AgentdError
from agentd.kernel import abi
from agentd.kernel.loader import LoadedObject
from agentd.kernel.notify.device import Call, Listener, Received
from agentd.kernel.notify.pool import Pool
from agentd.kernel.notify.request import ARCH_I386, Held, Question, Refused
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tasks import TaskMarks
from agentd.model import Action, Decision, Guarantee, Op, Point
from agentd.policy.resolved import Outcome
from agentd.workloads import processes

MAX_EVENTS: Final = 4096
MAX_COUNTS: Final = 100_000
FLUSH_COUNTS: Final = 20_000  # that ask for a flush before its time
KEPT_ARGV: Final = 4096
U32: Final = 0xFFFFFFFF

CountName = tuple[int, int, int, Op, bytes | None]  # agent, generation, outcome, operation, object
Granted = tuple[Op, tuple[tuple[bytes | None, tuple[int, int]], ...], int, int]  # and generation, outcome


@dataclass(slots=True)
class _Waiting:
    """A call that is held."""

    call: Call
    event: KernelEvent
    grant: Granted


@dataclass(slots=True)
class _Workload:
    """One filter and those who have it."""

    agent: int
    number: int
    pool: Pool | None = None
    waiting: dict[int, _Waiting] = field(default_factory=dict)  # by hold
    grants: dict[int, dict[Granted, int]] = field(default_factory=dict)  # of a call: what was approved, by which hold


class Supervision:
    """All pools of one engine. answers: where the engine puts answers to holds into effect."""

    def __init__(self, loaded: LoadedObject, policies: PolicySet, marks: TaskMarks, answers: HoldAnswers) -> None:
        self.unrecorded = False  # the log can't be written: strict agents are denied
        self.retagged = False  # some process was given to another agent than the one it was started as
        self._lost = 0  # counts
        self.problems: deque[str] = deque(maxlen=100)
        self.missed: deque[Record] = deque()
        self._loaded = loaded
        self._policies = policies
        self._marks = marks
        self._answers = answers
        self._workloads: list[_Workload] = []
        self._lock = threading.Lock()
        self._events: deque[KernelEvent] = deque()
        self._counts: dict[CountName, list[int]] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._wake

    @property
    def calls(self) -> int:
        """That have arrived, of the workloads that live."""
        return sum(workload.pool.calls for workload in self._workloads if workload.pool)

    @property
    def crowded(self) -> bool:
        """Are there so many counts that they should be flushed now?"""
        return len(self._counts) > FLUSH_COUNTS

    def supervise(self, pidfd: int, listener: int, received: Received | None = None, refused: int = 0) -> None:
        """From now on judges what arrives on `listener`, which it owns: of a process that was marked for it, and of all
        that it becomes. received: a keeper's, which it owns too; refused: calls that this keeper has refused.

        Raises AgentdError `no-such-process`.
        """
        tag = self._marks.get(pidfd)
        if tag is None or not tag.flags & abi.TAG_NOTIFIED:
            os.close(listener)
            if received:
                received.close()
            raise AgentdError("no-such-process", "supervised process", "agentd has not marked it so")
        workload = _Workload(tag.agent, tag.workload)
        workload.pool = Pool(
            Listener(listener, received), lambda question: self._ask(workload, question), self._failed, self._poke
        )
        self._workloads.append(workload)
        if refused:
            kinds = {f"changes by workload {tag.workload}, refused (EPERM)": refused}
            self.missed.append(gap(time.time_ns(), new_action_id(), kinds, "no-agentd"))
            self._poke()

    def take(self) -> list[KernelEvent]:
        """The events so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def tick(self) -> None:
        """Once a second: lets go of calls that nobody waits for any more."""
        for workload in list(self._workloads):
            pool = workload.pool
            assert pool is not None
            for hold_id, waiting in list(workload.waiting.items()):
                if not pool.listener.valid(waiting.call.id):
                    del workload.waiting[hold_id]
                    self._answers.drop(hold_id)
                    self._tell(_as(waiting.event, abi.EVENT_GONE, waiting.event.action))
        self.reap()

    def reap(self) -> None:
        """Lets go of filters that nobody has any more."""
        for workload in list(self._workloads):
            if workload.pool and workload.pool.ended and not workload.waiting:
                workload.pool.close()
                self._workloads.remove(workload)

    def of(self, number: int) -> bool:
        """Does a process of this workload live, or has lived just now, that has a supervisor?"""
        return any(workload.number == number for workload in self._workloads)

    def flush(self) -> Iterator[Counted]:
        """Every count since the last flush, as engine/accounts.py gives the kernel's."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for (agent, generation, outcome, op, path), (count, first, last) in counts.items():
            yield Counted((agent, generation, outcome, op, 0, 0), count, first, last, Point.SECCOMP, path)

    def lost_since(self) -> int:
        """Operations that could not be counted since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Ends every pool: whoever waits for its answer gets EPERM."""
        for workload in self._workloads:
            assert workload.pool is not None
            workload.pool.close()
        self._workloads = []

    def release(self) -> None:
        """Frees the queue's descriptor; after close(), when nothing is pumped any more."""
        os.close(self._wake)

    # -- in the threads of a pool

    def _ask(self, workload: _Workload, question: Question) -> None:
        agent = self._agent_of(workload, question)
        now = self._policies.in_force.get(agent)
        if now is None:  # no policy knows it
            raise Refused
        found = [now.walk.outcome(question.op, target.path) for target in question.targets]
        index, worst = _worst(now, found)
        outcome = now.walk.tables.outcomes[index]
        if outcome.decision is Decision.ALLOW:
            self._allowed(workload, question, agent, now, found)
            return
        if question.check:
            question.check()
        if now.monitor:
            self._report(workload, question, agent, now, index, worst, abi.EVENT_VIOLATION, Action.NONE)
            return
        if outcome.decision is Decision.REQUIRE_APPROVAL or outcome.action is Action.PAUSE:
            if question.passing:
                return  # asked about by the trace point: here nobody could answer for the name that it reads then
            self._hold(workload, question, agent, now, index, worst)
            return
        self._report(workload, question, agent, now, index, worst, abi.EVENT_VIOLATION, outcome.action)
        if outcome.action is Action.KILL:
            self._kill(question)
        raise Refused

    def _agent_of(self, workload: _Workload, question: Question) -> int:
        """By the mark of the process, where it may be another one than the workload's."""
        if not self.retagged:
            return workload.agent
        pidfd = os.pidfd_open(question.caller.tgid)
        try:
            tag = self._marks.get(pidfd)
        finally:
            os.close(pidfd)
        return int(tag.agent) if tag else workload.agent

    def _allowed(self, workload: _Workload, question: Question, agent: int, now: InForce, found: list[int]) -> None:
        if now.strict and self.unrecorded and not now.monitor:
            self._report(workload, question, agent, now, found[0], 0, abi.EVENT_VIOLATION, Action.DENY)
            raise Refused
        if question.passing:
            return  # counted where it is judged again
        for target, index in zip(question.targets, found, strict=True):
            if not self._count(agent, now, index, question.op, target.path) and now.strict and not now.monitor:
                raise Refused

    def _count(self, agent: int, now: InForce, index: int, op: Op, path: bytes | None) -> bool:
        name = (agent, now.generation, index, op, path)
        at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with self._lock:
            count = self._counts.get(name)
            if count is not None:
                count[0] += 1
                count[2] = at
                return True
            if len(self._counts) >= MAX_COUNTS:
                self._lost += 1
                return False
            self._counts[name] = [1, at, at]
            crowded = len(self._counts) == FLUSH_COUNTS + 1
        if crowded:
            os.eventfd_write(self._wake, 1)
        return True

    def _hold(self, workload: _Workload, question: Question, agent: int, now: InForce, index: int, worst: int) -> None:
        targets = tuple((target.path, target.mark()) for target in question.targets)
        grant: Granted = (question.op, targets, now.generation, index)
        call = question.call
        granted = workload.grants.get(call.id, {})
        # A 32-bit call may be asked about a second time, for what it does, and is looked at from its beginning then.
        approved = granted.get(grant) if question.op is Op.COMPAT else granted.pop(grant, None)
        if approved is not None:
            event = _event(workload, question, agent, now, index, worst)
            self._tell(_as(event, abi.EVENT_GRANTED, Action.NONE, approved))
            return
        event = _as(
            _event(workload, question, agent, now, index, worst),
            abi.EVENT_HOLD,
            Action.PAUSE,
            self._loaded.next_hold(),
        )
        workload.waiting[event.hold_id] = _Waiting(call, event, grant)
        self._answers.supervised[event.hold_id] = lambda allow: self._answered(workload, event.hold_id, allow)
        self._tell(event)
        raise Held

    def _report(
        self,
        workload: _Workload,
        question: Question,
        agent: int,
        now: InForce,
        index: int,
        worst: int,
        kind: int,
        action: Action,
    ) -> None:
        if len(self._events) >= MAX_EVENTS:  # counted, as the kernel does when its ring is full
            self._count(agent, now, index, question.op, question.targets[worst].path)
            return
        event = _event(workload, question, agent, now, index, worst)
        self._tell(_as(event, kind, action))

    def _kill(self, question: Question) -> None:
        start = processes.start_ticks(question.caller.tgid)
        if start is not None:
            signals.send(question.caller.tgid, start, signal.SIGKILL, processes.start_ticks)

    def _tell(self, event: KernelEvent) -> None:
        self._events.append(event)
        os.eventfd_write(self._wake, 1)

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _failed(self, what: str) -> None:
        self.problems.append(what)
        os.eventfd_write(self._wake, 1)

    # -- in the engine's thread

    def _answered(self, workload: _Workload, hold_id: int, allow: bool | None) -> None:
        """allow None: the policy has changed; it is judged anew, and may be held again."""
        waiting = workload.waiting.pop(hold_id, None)
        pool = workload.pool
        if waiting is None or pool is None:
            return
        if allow is False:
            workload.grants.pop(waiting.call.id, None)
            pool.refuse(waiting.call)
            return
        if allow:
            while len(workload.grants) > MAX_EVENTS:  # of calls that were given up
                workload.grants.pop(next(iter(workload.grants)))
            workload.grants.setdefault(waiting.call.id, {})[waiting.grant] = hold_id
        pool.again(waiting.call)


def _worst(now: InForce, found: list[int]) -> tuple[int, int]:
    """(Outcome, which target it is of): the first of the worst."""
    if len(found) == 1:
        return found[0], 0
    outcomes = now.walk.tables.outcomes
    worst = max(range(len(found)), key=lambda at: (outcomes[found[at]].decision, -at))
    return found[worst], worst


def _event(workload: _Workload, question: Question, agent: int, now: InForce, index: int, worst: int) -> KernelEvent:
    """What the kernel would say of it."""
    caller, call = question.caller, question.call
    outcome: Outcome = now.walk.tables.outcomes[index]
    path = question.targets[worst].path
    parent = processes.parent_of(caller.tgid)
    flags = 0 if path else abi.FLAG_UNRESOLVED
    flags |= abi.FLAG_COMPAT if call.arch == ARCH_I386 else 0
    flags |= abi.FLAG_MONITOR if now.monitor else 0
    return KernelEvent(
        type=abi.EVENT_VIOLATION,
        flags=flags,
        time=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        hold_id=0,
        key=(0, 0),
        start_time=(processes.start_ticks(caller.tgid) or 0) * processes.NS_PER_TICK,
        parent_start_time=(processes.start_ticks(parent) or 0) * processes.NS_PER_TICK,
        cgroup=0,
        agent=agent,
        generation=now.generation,
        outcome=index,
        workload=workload.number,
        pid=caller.tgid,
        tid=caller.tid,
        ppid=parent,
        uid=caller.facts.real_uid,
        op=question.op,
        decision=outcome.decision,
        action=outcome.action,
        point=Point.SECCOMP,
        guarantee=Guarantee.PREVENTED,
        syscall=call.number,
        rule=outcome.rule & U32,
        toolop=outcome.toolop,
        timeout=outcome.timeout,
        reason=0,
        comm=caller.facts.comm,
        object=path or b"",
        exe=processes.exe_path(caller.tgid) or b"",
        argv=_cut(processes.arguments(caller.tgid)),
    )


def _cut(argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    kept, room = [], KEPT_ARGV
    for word in argv:
        room -= len(word) + 1
        if room < 0:
            break
        kept.append(word)
    return tuple(kept)


def _as(event: KernelEvent, kind: int, action: Action, hold_id: int | None = None) -> KernelEvent:
    return dataclasses.replace(event, type=kind, action=action, hold_id=event.hold_id if hold_id is None else hold_id)
