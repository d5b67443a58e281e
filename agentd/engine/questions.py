"""Held operations as questions: asked, answered, timed out.

The engine gives every hold here and every end of a held thread; what comes of it goes to the log through the engine's
own record and commit, in the order in which it was decided.

An answer takes effect when it is in the journal (ledger.py), which survives a killed agentd; the log's copy is synced
to the disk while the process goes on already, and before whoever answered is told. For an agent with a strict log the
sync comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from agentd.approvals.book import Answer, ApprovalBook, Approver, Hold, Pending
from agentd.approvals.standing import Scope, Standing, may_answer
from agentd.audit.canonical import Json
from agentd.engine import records
from agentd.engine.holds import HoldAnswers
from agentd.engine.ledger import Ledger
from agentd.engine.orphans import HoldMemory
from agentd.engine.pending import HeldAction, brief, describe, question_of
from agentd.engine.records import Names
from agentd.engine.surroundings import Surroundings
from agentd.errors import AgentdError
from agentd.kernel import abi
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import NOBODY, STANDING, Metrics
from agentd.model import Point
from agentd.workloads import processes

KINDS: Final = {
    Answer.APPROVED: "approved",
    Answer.DENIED: "approval_denied",
    Answer.EXPIRED: "approval_expired",
}
Notice = dict[str, Any]


def boot_now() -> int:
    """ns, CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Questions:
    """The approvals of one engine."""

    def __init__(
        self,
        loaded: LoadedObject,
        marks: TaskMarks,
        metrics: Metrics,
        folder: Path,
        identity: str,
        around: Surroundings,
    ) -> None:
        """folder: of the log; identity: of the set of pins."""
        self.book: ApprovalBook[HeldAction] = ApprovalBook()
        self.memory = HoldMemory(folder / "held", identity)
        self.ledger = Ledger(folder, identity)
        self.on_notice: list[Callable[[Notice], None]] = []  # whoever wants to know: they must not wait, nor raise
        self.marks = marks
        self._metrics = metrics
        self.answers = HoldAnswers(loaded)
        self.around = around

    def follow_up(self, lines: Collection[abi.TaskLine]) -> None:
        """Drops answers whose thread has gone on, and wakes those that haven't; lines: the marked threads."""
        self.answers.forget_used({line.hold_id for line in lines if line.hold_id})
        self.answers.wake_again(lines, self.book)
        live = {(line.pid, processes.ticks(line.start_time)) for line in lines} if len(self.ledger.standing) else set()
        self.ledger.follow_up(boot_now(), live, {line.workload for line in lines})
        if self.ledger.journal.grown:
            self.ledger.rewrite(self.book.carried(), list(self.book))

    # -- asked

    def ask(self, event: KernelEvent, agent: str, names: Names, origin: str, now: int, again: str = "") -> None:
        """Makes a question of a hold, unless an answer stands. again: why, if it was asked before."""
        hold = Hold(
            event.hold_id, event.pid, event.tid, processes.ticks(event.start_time), event.point.repeats, event.key
        )
        question = question_of(event, agent, names)
        standing = self.ledger.standing.find(question, hold.pid, hold.start, now)
        if standing is not None:
            self._by_standing(standing, hold, event, names)
            return
        detail = HeldAction(
            event, names, origin, processes.working_directory(event.pid), processes.ancestors(event.pid)
        )
        timeout = max(event.timeout, 1) * 1_000_000_000
        pending, fresh = self.book.add(question, hold, now, timeout, detail, names.approvers)
        if pending is None:
            self._flooded(hold, event, agent, names)
            return
        self.ledger.asked(pending, hold, fresh)
        self.around.record(
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
        self._metrics.set_pending(agent, self.book.count(agent))
        if fresh:
            self._tell("asked", pending)

    def _flooded(self, hold: Hold, event: KernelEvent, agent: str, names: Names) -> None:
        reason = f"{self.book.count(agent)} operations of the agent wait for approval already (deny)"
        self.around.denied(event, agent, names, reason)
        self.answers.settle([hold], False, self.book)
        self.around.record(records.event_record("denied", event, agent, names, reason=reason, metadata={"flood": True}))
        self._metrics.flooded(agent)
        flood = self.book.floods[agent]
        if flood.denied == 1:
            self._notify({"event": "flood", "agent": agent, "pending": self.book.count(agent), "reason": reason})

    def _by_standing(self, standing: Standing, hold: Hold, event: KernelEvent, names: Names) -> None:
        """An answer given before is given again: the process is on its way before the log is synced."""
        standing.uses += 1
        until = {Scope.PROCESS: "this process", Scope.WORKLOAD: "this workload"}.get(standing.scope, "a time")
        word = "approved" if standing.allow else "denied"
        reason = f"{word} for {until} by {standing.by}" + (f": {standing.reason}" if standing.reason else "")
        metadata: dict[str, Json] = {"standing": standing.id, "scope": standing.scope.value, "by": standing.by}
        kind = KINDS[Answer.APPROVED if standing.allow else Answer.DENIED]
        self.around.record(records.event_record(kind, event, standing.agent, names, reason=reason, metadata=metadata))
        self._metrics.answered((Answer.APPROVED if standing.allow else Answer.DENIED).value, STANDING)
        if not standing.allow:
            self.around.denied(event, standing.agent, names, reason, at_once=True)
        if self.around.strict(standing.agent):
            self.around.commit()
        self.book.unasked(hold.hold_id, Answer.APPROVED if standing.allow else Answer.DENIED)
        self.answers.settle([hold], standing.allow, self.book)
        self.memory.forget(hold.hold_id)

    def gone(self, event: KernelEvent, agent: str) -> None:
        """A held thread ended."""
        self.memory.forget(event.hold_id)
        pending = self.book.gone(event.hold_id)
        if pending is not None:
            self.closed(pending, Answer.EXPIRED, "the process ended while it was held", None)
        elif not self.book.answered(event.hold_id) and not self.book.knows(event.hold_id):
            if all(carried.id != str(event.hold_id) for _, carried in self.book.carried()):
                self.lapsed(str(event.hold_id), agent, "the process ended while it was held", event.pid)
        # Only the thread may be gone (by another one's exec), and its SIGSTOP holds the process for nobody.
        if event.point is not Point.SECCOMP:
            self.answers.wake(event.pid, processes.ticks(event.start_time), self.book)

    # -- answered

    def answer(
        self,
        number: str,
        allow: bool,
        by: Approver,
        reason: str = "",
        *,
        scope: Scope = Scope.ONCE,
        seconds: int = 0,
        upto: int | None = None,
    ) -> dict[str, Any]:
        """Answers an approval; what came of it, as JSON. What waits is under way when this returns, and on record.

        seconds: how long an answer of scope `time` stands. upto: the latest hold that whoever answers has seen; what
        came later stays a question. Raises AgentdError `no-such-approval`, `approval-answered`, `usage`.
        """
        pending = self.book.get(number)
        may_answer(pending, allow, by, scope, seconds)
        if allow and len(pending.votes) + 1 < pending.approvers:
            return self._vote(pending, by, reason, upto)
        seen = min(filter(None, (upto, pending.seen)), default=None)
        if seen is not None:
            self._split(pending, seen)
        standing = []
        if scope is not Scope.ONCE:
            standing = self.ledger.stand(pending, allow, str(by), reason, scope, boot_now(), seconds)
        answer = Answer.APPROVED if allow else Answer.DENIED
        count = len(pending.holds)
        # An answer for a time is for the agent, so for the same action of its other workloads too.
        others = self._same_action(pending) if scope is Scope.TIME else []
        for one in (pending, *others):
            self.settle(one, answer, reason, by, scope, standing)
        self.confirm()
        return {
            "id": number,
            "answer": answer.value,
            "by": str(by),
            "scope": scope.value,
            "waiting_threads": count,
            "standing": [one.id for one in standing],
        }

    def _same_action(self, pending: Pending[HeldAction]) -> list[Pending[HeldAction]]:
        """What else of the agent asks for the same."""
        return [
            other
            for other in self.book
            if other is not pending and (other.agent, other.question.action) == (pending.agent, pending.question.action)
        ]

    def _vote(self, pending: Pending[HeldAction], by: Approver, reason: str, upto: int | None) -> dict[str, Any]:
        seen = min(filter(None, (upto, pending.seen, max(pending.holds, default=0))))
        pending.seen = seen
        pending.votes[by.person] = str(by)
        self.book.version += 1
        self.ledger.voted(pending, by)
        missing = pending.approvers - len(pending.votes)
        self.around.record(
            records.event_record(
                "approval_vote",
                pending.detail.event,
                pending.agent,
                pending.detail.names,
                reason=reason or f"approved by {by}; {missing} more must",
                metadata={"approval": pending.id, "missing": missing, **_who(by)},
                at=time.time_ns(),
            )
        )
        self._tell("vote", pending, by=str(by), missing=missing)
        self.confirm()
        return {
            "id": pending.id,
            "answer": "waiting",
            "by": str(by),
            "missing": missing,
            "scope": "once",
            "standing": [],
        }

    def _split(self, pending: Pending[HeldAction], seen: int) -> None:
        if not any(number <= seen for number in pending.holds):
            raise AgentdError(
                "approval-answered", f"approval {pending.id}", "nothing that was shown waits any more", "look again"
            )
        later = self.book.split(pending, seen)
        if later is not None:
            for hold in later.holds.values():
                self.ledger.asked(later, hold, hold.hold_id == int(later.id))
            self._tell("asked", later)

    def revoke(self, name: str, by: Approver, reason: str = "") -> dict[str, Any]:
        """Takes a standing answer back: from the next operation on. Raises AgentdError `no-such-approval`,
        `audit-unwritable` (it is revoked then, but an agentd that starts after a crash would not know).
        """
        gone, kept = self.ledger.revoke(name)
        self.around.record(
            records.note(
                "approval_revoked",
                reason or f"revoked by {by}",
                agent=gone.agent,
                metadata={"standing": name, "uses": gone.uses, "workload": gone.workload, **_who(by)},
            )
        )
        self.book.version += 1
        self._notify(
            {"event": "revoked", "agent": gone.agent, "standing": name, "summary": gone.summary, "by": str(by)}
        )
        self.confirm()
        if not kept:
            why = f"revoked, but not written down: {self.ledger.journal.failed}"
            raise AgentdError("audit-unwritable", str(self.ledger.journal.path), why, "make room on the disk")
        return {"standing": name, "uses": gone.uses, "by": str(by)}

    def expire(self) -> None:
        """Timeouts end in deny."""
        now = boot_now()
        for pending in self.book.late(now):
            self.settle(pending, Answer.EXPIRED, "nobody answered in time (deny)", None)
        for question, carried in self.book.lapsed(now):
            self.lapsed(carried.id, question.agent, "agentd judged this anew, and nothing asks any more")

    def settle(
        self,
        pending: Pending[HeldAction],
        answer: Answer,
        reason: str,
        by: Approver | None,
        scope: Scope = Scope.ONCE,
        standing: Collection[Standing] = (),
    ) -> None:
        """Ends an approval, and puts the answer into effect."""
        holds = self.book.close(pending, answer)
        self.closed(pending, answer, reason, by, scope, standing, len(holds))
        if answer is not Answer.APPROVED:
            why = reason or "denied" + (f" by {by.name}" if by else "")
            self.around.denied(pending.detail.event, pending.agent, pending.detail.names, why, at_once=True)
        if self.around.strict(pending.agent):
            self.around.commit()
        self.answers.settle(holds, answer is Answer.APPROVED, self.book)
        for hold in holds:
            self.memory.forget(hold.hold_id)

    def closed(
        self,
        pending: Pending[HeldAction],
        answer: Answer,
        reason: str,
        by: Approver | None,
        scope: Scope = Scope.ONCE,
        standing: Collection[Standing] = (),
        holds: int = 0,
    ) -> None:
        """Records that an approval has ended."""
        waited = (boot_now() - pending.since) / 1e9
        metadata: dict[str, Json] = {"approval": pending.id, "waited_ms": int(waited * 1000), "threads": holds}
        if by:
            metadata.update(_who(by))
            metadata["scope"] = scope.value
        if pending.votes:
            metadata["approved_by"] = [
                *pending.votes.values(),
                *([str(by)] if by and answer is Answer.APPROVED else []),
            ]
        if standing:
            metadata["standing"] = [one.id for one in standing]
        record = records.event_record(
            KINDS[answer],
            pending.detail.event,
            pending.agent,
            pending.detail.names,
            reason=reason or f"{answer.value} by {by}",
            metadata=metadata,
            at=time.time_ns(),
        )
        self.around.record(record)
        self.ledger.ended(pending, answer, record.event, record.action_id, str(by or ""), record.reason, scope)
        self._metrics.answered(answer.value, by.login_name if by else NOBODY, waited)
        self._metrics.set_pending(pending.agent, self.book.count(pending.agent))
        if self.on_notice:
            self._tell("answered", pending, answer=answer.value, by=str(by or ""), reason=record.reason)

    def confirm(self) -> None:
        """Puts what was recorded on disk, and notes in the journal that it is."""
        if self.around.commit():
            self.ledger.logged()

    def _tell(self, event: str, pending: Pending[HeldAction], **more: Any) -> None:
        if self.on_notice:
            self._notify({"event": event, **brief(pending, boot_now()), **more})

    def _notify(self, notice: Notice) -> None:
        for listener in self.on_notice:
            listener(notice)

    def lapsed(self, number: str, agent: str, reason: str, pid: int | None = None) -> None:
        """The end of a question that an agentd before this one asked, or that nobody asks any more."""
        self.ledger.forgotten(number)
        self._metrics.answered(Answer.EXPIRED.value, NOBODY)
        metadata: dict[str, Json] = {"approval": number, **({} if pid is None else {"pid": pid})}
        self.around.record(records.note("approval_expired", reason, agent=agent, metadata=metadata))

    # -- for people

    def oldest(self) -> float:
        """Seconds that the oldest one has waited; 0: none waits."""
        since = min((pending.since for pending in self.book), default=None)
        return 0.0 if since is None else (boot_now() - since) / 1e9

    def show(self, number: str) -> dict[str, Any]:
        """Everything about one approval. Raises AgentdError as book.get()."""
        pending = self.book.get(number)
        return {**describe(pending, boot_now()), **self.ledger.before(pending.question)}

    def summary(self) -> dict[str, Any]:
        """What is not in the list: how many wait, floods, standing answers."""
        now = boot_now()
        return {
            "version": self.book.version,
            "pending": len(self.book),
            "by_agent": self.book.counts(),
            "standing": len(self.ledger.standing),
            "limit": self.book.limit,
            "floods": [
                {
                    "agent": agent,
                    "denied": flood.denied,
                    "seconds_since_first": round((now - flood.first) / 1e9, 1),
                    "seconds_since_last": round((now - flood.last) / 1e9, 1),
                }
                for agent, flood in self.book.floods.items()
            ],
            "journal": self.ledger.journal.failed,
        }


def _who(by: Approver) -> dict[str, Json]:
    return {"by": str(by), "by_uid": by.uid, "by_login_uid": by.login_uid}
