"""What is remembered about answers: which stand, which were given before, and the journal that keeps all of it.

Questions tells it what happens; what it knows is in memory, and in the journal before it takes effect.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from agentd.approvals.book import Answer, Approver, Carried, Hold, Pending, Question
from agentd.approvals.journal import PAST, Journal, Left, Line
from agentd.approvals.standing import Scope, Standing, StandingAnswers
from agentd.audit.record import time_text
from agentd.engine.pending import HeldAction
from agentd.engine.records import summary_of
from agentd.errors import AgentdError

SHOWN: Final = 10  # earlier answers that are shown with a question


class Ledger:
    """The answers of one engine. folder: of the log; identity: of the set of pins."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.standing = StandingAnswers()
        self.journal = Journal(folder, identity)
        self._past: dict[str, deque[Line]] = {}
        self._unlogged = False

    # -- over the end of an agentd

    def load(self, until: int) -> Left:
        """Takes over what an agentd before this one left; its questions are the caller's."""
        left = self.journal.load(until)
        self.standing.skip_to(left.next_standing)
        for standing in left.standing:
            self.standing.add(standing)
        for line in left.past:
            self._remember(line)
        self._unlogged = bool(left.unlogged)
        return left

    def rewrite(self, carried: Collection[tuple[Question, Carried]], pending: Collection[Pending[HeldAction]]) -> None:
        """Writes the journal anew: what is alive, and nothing else."""
        self.journal.open(self._lines(carried, pending), self.standing.next_number)

    def _lines(
        self, carried: Collection[tuple[Question, Carried]], pending: Collection[Pending[HeldAction]]
    ) -> Iterator[Line]:
        for question, one in carried:
            yield _ask(one.id, question, one.since, one.expires)
            yield from (_vote(one.id, person, by) for person, by in one.votes.items())
        for asked in pending:
            yield _ask(asked.id, asked.question, asked.since, asked.expires)
            yield from (_vote(asked.id, person, by) for person, by in asked.votes.items())
            yield from (_hold(asked.id, number) for number in asked.holds)
        for standing in self.standing:
            yield {"t": "stand", "standing": standing.to_json()}
        for past in self._past.values():
            yield from ({"t": "past", "answer": line} for line in past)

    # -- as it happens

    def asked(self, pending: Pending[HeldAction], hold: Hold, fresh: bool) -> None:
        """A hold was filed."""
        if fresh:
            self.journal.write(_ask(pending.id, pending.question, pending.since, pending.expires))
        self.journal.write(_hold(pending.id, hold.hold_id))

    def voted(self, pending: Pending[HeldAction], by: Approver) -> None:
        """One yes of several."""
        self.journal.write(_vote(pending.id, by.person, str(by)))

    def ended(
        self,
        pending: Pending[HeldAction],
        answer: Answer,
        kind: str,
        action_id: str,
        by: str,
        reason: str,
        scope: Scope,
    ) -> None:
        """An approval ended. kind, action_id: of its record."""
        line: Line = {
            "t": "answer", "id": pending.id, "time": time_text(time.time_ns()), "agent": pending.agent,
            "workload": pending.question.workload, "action": pending.question.action,
            "tool": pending.detail.names.tool, "operation": pending.detail.names.operation,
            "summary": summary_of(pending.detail.event), "answer": answer.value, "by": by, "reason": reason,
            "scope": scope.value, "kind": kind, "action_id": action_id,
        }  # fmt: skip
        self._remember(line)
        self._unlogged = True
        self.journal.write(line, {"t": "end", "id": pending.id})

    def forgotten(self, number: str) -> None:
        """An approval ended without an answer of its own."""
        self.journal.write({"t": "end", "id": number})

    def logged(self) -> None:
        """All answers so far are in the audit log, on disk."""
        if self._unlogged and self.journal.write({"t": "logged"}):
            self._unlogged = False

    def stand(
        self,
        pending: Pending[HeldAction],
        allow: bool,
        by: str,
        reason: str,
        scope: Scope,
        now: int,
        seconds: int,
    ) -> list[Standing]:
        """Makes an answer stand. Raises AgentdError `service-refused`, `usage`; nothing stands then."""
        question = pending.question
        if not question.action:
            raise AgentdError(
                "usage", f"approval {pending.id}", "the operation is not known completely", "answer it once"
            )
        processes = {(hold.pid, hold.start) for hold in pending.holds.values()} if scope is Scope.PROCESS else {(0, 0)}
        made = [
            Standing(
                id=self.standing.new_id(),
                agent=question.agent,
                action=question.action,
                scope=scope,
                allow=allow,
                by=by,
                reason=reason,
                summary=summary_of(pending.detail.event),
                since=now,
                expires=now + seconds * 1_000_000_000 if seconds else 0,
                workload=question.workload,
                pid=pid,
                start=start,
            )
            for pid, start in sorted(processes)
        ]
        for one in made:
            self.standing.add(one)
        self.journal.write(*({"t": "stand", "standing": one.to_json()} for one in made))
        return made

    def revoke(self, name: str) -> tuple[Standing, bool]:
        """Ends a standing answer; (it, whether a restart will know). Raises AgentdError `no-such-approval`."""
        gone = self.standing.remove(name)
        return gone, self.journal.write({"t": "drop", "id": name})

    def follow_up(self, now: int, live: set[tuple[int, int]], workloads: set[int]) -> None:
        """Once a second: answers whose time, process or workload is over; lines that waited for the disk."""
        over = self.standing.over(now, live, workloads)
        for one in over:
            self.standing.remove(one.id)
        if over:
            self.journal.write(*({"t": "drop", "id": one.id} for one in over))
        self.journal.retry()

    # -- for people

    def before(self, question: Question) -> dict[str, Any]:
        """What was answered before for the same agent, newest first, and how often this very action was."""
        past = self._past.get(question.agent, ())
        same = [line for line in past if question.action and line["action"] == question.action]
        words = ("id", "time", "tool", "operation", "summary", "answer", "by", "reason", "scope")
        return {
            "history": [{word: line.get(word, "") for word in words} for line in list(past)[: -SHOWN - 1 : -1]],
            "same_before": {
                answer.value: sum(1 for line in same if line["answer"] == answer.value) for answer in Answer
            },
        }

    def listing(self, now: int) -> list[dict[str, Any]]:
        """The standing answers as JSON."""
        found = []
        for one in self.standing:
            row = one.to_json()
            del row["action"], row["since"], row["expires"], row["start"]
            row["seconds_standing"] = round((now - one.since) / 1e9, 1)
            row["seconds_left"] = round((one.expires - now) / 1e9, 1) if one.expires else None
            found.append(row)
        return found

    def _remember(self, line: Line) -> None:
        self._past.setdefault(str(line["agent"]), deque(maxlen=PAST)).append(line)


def _ask(number: str, question: Question, since: int, expires: int) -> Line:
    return {
        "t": "ask", "id": number, "agent": question.agent, "workload": question.workload, "action": question.action,
        "since": since, "expires": expires,
    }  # fmt: skip


def _vote(number: str, person: str, by: str) -> Line:
    return {"t": "vote", "id": number, "person": person, "by": by}


def _hold(number: str, hold_id: int) -> Line:
    return {"t": "hold", "id": number, "hold": hold_id}
