"""Held operations as questions: asked, answered, timed out, taken over from an agentd before this one.

The engine gives every hold here and every end of a held thread; what comes of it goes to the log through the engine's
own record and commit, in the order in which it was decided.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from typing import Any

from agentd.actions import signals
from agentd.approvals.book import Answer, ApprovalBook, Hold, Pending
from agentd.audit.canonical import Json
from agentd.audit.record import Record
from agentd.engine import orphans, records
from agentd.engine.holds import HoldAnswers
from agentd.engine.orphans import HoldMemory
from agentd.engine.pending import HeldAction, describe
from agentd.engine.records import Names
from agentd.kernel import abi
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import Metrics
from agentd.workloads import processes


class Questions:
    """The approvals of one engine. record, commit and pump are the engine's; agents gives kernel number -> name."""

    def __init__(
        self,
        loaded: LoadedObject,
        marks: TaskMarks,
        metrics: Metrics,
        memory: HoldMemory,
        *,
        record: Callable[[Record], None],
        commit: Callable[[], None],
        pump: Callable[[], int],
        agents: Callable[[], dict[int, str]],
        origin: Callable[[int], str],
    ) -> None:
        self.book: ApprovalBook[HeldAction] = ApprovalBook()
        self.memory = memory
        self.on_hold: Callable[[dict[str, Any]], None] | None = None
        self._marks = marks
        self._metrics = metrics
        self._answers = HoldAnswers(loaded)
        self._record = record
        self._commit = commit
        self._pump = pump
        self._agents = agents
        self._origin = origin

    def follow_up(self, lines: Collection[abi.TaskLine]) -> None:
        """Drops answers whose thread has gone on, and wakes those that haven't; lines: the marked threads."""
        self._answers.forget_used({line.hold_id for line in lines if line.hold_id})
        self._answers.wake_again(lines, self.book)

    def ask(self, event: KernelEvent, agent: str, names: Names, origin: str, now: int, again: str = "") -> None:
        """Makes a question of a hold. again: why, if it was asked before."""
        detail = HeldAction(
            event, names, origin, processes.working_directory(event.pid), processes.ancestors(event.pid)
        )
        hold = Hold(event.hold_id, event.pid, event.tid, processes.ticks(event.start_time), event.point.repeats)
        timeout = max(event.timeout, 1) * 1_000_000_000
        pending, fresh = self.book.add(agent, event.key, hold, now, timeout, detail)
        if pending is None:
            self._answers.settle([hold], event.key, False, self.book)
            self._record(
                records.event_record(
                    "denied", event, agent, names, reason="too many operations wait for approval (deny)"
                )
            )
            return
        self._record(
            records.event_record(
                "approval_required",
                event,
                agent,
                names,
                reason=again,
                metadata={"approval": pending.id},
                at=time.time_ns() if again else None,
            )
        )
        self._metrics.set_pending(agent, self.book.counts().get(agent, 0))
        if fresh and self.on_hold:
            self.on_hold(describe(pending, time.clock_gettime_ns(time.CLOCK_BOOTTIME)))

    def gone(self, event: KernelEvent, agent: str) -> None:
        self.memory.forget(event.hold_id)
        pending = self.book.gone(event.hold_id)
        if pending is not None:
            self._closed(pending, Answer.EXPIRED, "the process ended while it was held", None)
        elif not self.book.answered(event.hold_id) and not self.book.knows(event.hold_id):
            self._lapsed(event.hold_id, agent, event.pid, "the process ended while it was held")
        # Only the thread may be gone (by another one's exec), and its SIGSTOP holds the process for nobody.
        self._answers.wake(event.pid, processes.ticks(event.start_time), self.book)

    def answer(self, number: str, allow: bool, by: str, reason: str = "") -> Pending[HeldAction]:
        """Answers an approval. Raises AgentdError `no-such-approval`, `approval-answered`."""
        pending = self.book.get(number)
        self._settle(pending, Answer.APPROVED if allow else Answer.DENIED, reason, by)
        return pending

    def expire(self) -> None:
        """Timeouts end in deny."""
        for pending in self.book.late(time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
            self._settle(pending, Answer.EXPIRED, "nobody answered in time (deny)", None)

    def _settle(self, pending: Pending[HeldAction], answer: Answer, reason: str, by: str | None) -> None:
        holds = list(pending.holds.values())
        self.book.close(pending, answer)
        # On disk before it takes effect: what happens afterwards has its reason in the log.
        self._closed(pending, answer, reason, by)
        self._commit()
        self._answers.settle(holds, pending.key, answer is Answer.APPROVED, self.book)
        for hold in holds:
            self.memory.forget(hold.hold_id)

    def _lapsed(self, hold_id: int, agent: str, pid: int, reason: str) -> None:
        """The end of a question that an agentd before this one asked."""
        self._record(
            records.note("approval_expired", reason, agent=agent, metadata={"approval": str(hold_id), "pid": pid})
        )

    def resume(self) -> None:
        """Takes over what an agentd before this one left: its events, and whatever it has left held."""
        reason = "agentd was started again, and judges this anew"
        self._pump()
        agents = self._agents()
        for line in self._marks.list():
            if line.hold_id and not line.flags & abi.TAG_HELD and not self.book.knows(line.hold_id):
                self._lapsed(line.hold_id, agents.get(line.agent, f"agent-{line.agent}"), line.pid, reason)
        self.judge_again(reason)
        self.memory.forget_others({line.hold_id for line in self._marks.list()})

    def judge_again(self, reason: str) -> None:
        """After a change of policy: calls that are held and will be tried again are answered by the policy of now,
        which may hold them again; their questions end here.
        """
        self._pump()
        for pending in self.book:
            for hold in [hold for hold in pending.holds.values() if hold.retried]:
                self.book.take(hold.hold_id)
            if not pending.holds:
                self._closed(pending, Answer.EXPIRED, reason, None)
        self._commit()
        self.adopt(self._marks.list())

    def deny_all(self, reason: str) -> None:
        """Refuses whatever waits, because there will be nothing left that could hold it."""
        self._pump()
        for pending in self.book:
            self._settle(pending, Answer.EXPIRED, reason, None)
        for _ in range(200):
            held = {(line.pid, processes.ticks(line.start_time)) for line in self._marks.list() if line.hold_id}
            if not held:
                return
            time.sleep(0.01)
        for pid, start in held:
            signals.send(pid, start, signal.SIGKILL, processes.start_ticks)

    def adopt(self, lines: list[abi.TaskLine]) -> None:
        """Wakes or adopts what is held and that no question speaks of."""
        if not any(line.hold_id for line in lines):
            return
        self._pump()  # the question may just have come
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        agents = self._agents()
        for line in orphans.claim(lines, self.book, self._answers):
            note = self.memory.recall(line.hold_id)
            event = note.event if note else orphans.unknown_event(line)
            names = note.names if note else Names("unknown", "unknown", "unknown", None, None)
            origin = note.started_by if note else self._origin(line.workload)
            agent = agents.get(line.agent, f"agent-{line.agent}")
            self.ask(event, agent, names, origin, now, "still held: an agentd before this one asked")

    def _closed(self, pending: Pending[HeldAction], answer: Answer, reason: str, by: str | None) -> None:
        event = pending.detail.event
        waited = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - pending.since) / 1e9
        metadata: dict[str, Json] = {"approval": pending.id, "waited_ms": int(waited * 1000)}
        if by:
            metadata["by"] = by
        kind = {
            Answer.APPROVED: "approved",
            Answer.DENIED: "approval_denied",
            Answer.EXPIRED: "approval_expired",
        }[answer]
        self._record(
            records.event_record(
                kind,
                event,
                pending.agent,
                pending.detail.names,
                reason=reason or f"{answer.value} by {by}",
                metadata=metadata,
                at=time.time_ns(),
            )
        )
        self._metrics.answered(waited)
        self._metrics.set_pending(pending.agent, self.book.counts().get(pending.agent, 0))
