"""Held operations and their answers: which wait, who may be answered together, what is late.

Pure bookkeeping: time comes in as an argument (ns, CLOCK_BOOTTIME), effects are the engine's. Holds of the same action
(same key) are one approval, so that nobody is asked twice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from agentd.errors import AgentdError

Detail = TypeVar("Detail")
MAX_THREADS: Final = 100_000


class Answer(enum.Enum):
    """How a hold ended."""

    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass(slots=True)
class Hold:
    """One stopped thread. `retried`: its system call is issued again (a grant answers it), else it stands after
    its effect.
    """

    hold_id: int
    pid: int
    tid: int
    start: int  # of the process, clock ticks since boot
    retried: bool


@dataclass(slots=True)
class Pending(Generic[Detail]):
    """One question: an action, and everybody who waits for its answer.

    id: the number of its first hold. The kernel gives them and never twice, so that a number that somebody has noted
    can't come to mean something else when agentd starts again.
    """

    id: str
    key: tuple[int, int]
    agent: str
    since: int
    expires: int
    detail: Detail
    holds: dict[int, Hold] = field(default_factory=dict)


class ApprovalBook(Generic[Detail]):
    """All pending approvals. `limit`: per agent; more are refused, which the engine turns into a denial."""

    def __init__(self, limit: int = 1000) -> None:
        self._pending: dict[str, Pending[Detail]] = {}
        self._by_key: dict[tuple[str, tuple[int, int]], str] = {}
        self._by_hold: dict[int, str] = {}
        self._answered: dict[str, Answer] = {}
        self._by_thread: dict[tuple[int, int, int], int] = {}
        self._limit = limit

    def add(
        self, agent: str, key: tuple[int, int], hold: Hold, now: int, timeout: int, detail: Detail
    ) -> tuple[Pending[Detail] | None, bool]:
        """Files a hold; (its approval, whether that is new). (None, False): too many wait for this agent already.

        key (0, 0) is never shared: a hold after the effect is about one process. timeout: ns.
        """
        self._drop_earlier(hold)
        known = self._by_key.get((agent, key)) if key != (0, 0) else None
        if known is not None:
            pending = self._pending[known]
            pending.holds[hold.hold_id] = hold
            self._by_hold[hold.hold_id] = pending.id
            return pending, False
        if sum(1 for other in self._pending.values() if other.agent == agent) >= self._limit:
            return None, False
        pending = Pending(str(hold.hold_id), key, agent, now, now + timeout, detail)
        pending.holds[hold.hold_id] = hold
        self._pending[pending.id] = pending
        if key != (0, 0):
            self._by_key[agent, key] = pending.id
        self._by_hold[hold.hold_id] = pending.id
        return pending, True

    def _drop_earlier(self, hold: Hold) -> None:
        """A thread waits for one thing. What it waited for before it has given up: one approval, one execution."""
        thread = (hold.pid, hold.tid, hold.start)
        earlier = self._by_thread.get(thread)
        if earlier is not None and earlier != hold.hold_id:
            self.take(earlier)
        self._by_thread[thread] = hold.hold_id
        while len(self._by_thread) > MAX_THREADS:  # of threads long gone; an open hold is found by its number anyway
            self._by_thread.pop(next(iter(self._by_thread)))

    def knows(self, hold_id: int) -> bool:
        """Does an approval speak of this hold?"""
        return hold_id in self._by_hold

    def answered(self, hold_id: int) -> bool:
        """Did an approval that spoke of this hold end, lately?"""
        return str(hold_id) in self._answered

    def take(self, hold_id: int) -> Pending[Detail] | None:
        """Takes one hold out of its approval, which is off the list if it was the last; None: none speaks of it."""
        number = self._by_hold.pop(hold_id, None)
        if number is None:
            return None
        pending = self._pending[number]
        pending.holds.pop(hold_id)
        self._answered[str(hold_id)] = Answer.EXPIRED
        if not pending.holds:
            self.close(pending, Answer.EXPIRED)
        return pending

    def get(self, number: str) -> Pending[Detail]:
        """Raises AgentdError `no-such-approval`, or `approval-answered` with how."""
        pending = self._pending.get(number)
        if pending is not None:
            return pending
        answer = self._answered.get(number)
        if answer is not None:
            raise AgentdError("approval-answered", f"approval {number}", f"it was {answer.value} already")
        raise AgentdError("no-such-approval", f"approval {number}", "there is none", "see agentd approvals list")

    def close(self, pending: Pending[Detail], answer: Answer) -> None:
        """Takes an approval off the list."""
        del self._pending[pending.id]
        self._by_key.pop((pending.agent, pending.key), None)
        for hold_id in pending.holds:
            self._by_hold.pop(hold_id, None)
            self._answered[str(hold_id)] = answer
        self._answered[pending.id] = answer
        while len(self._answered) > 10_000:
            self._answered.pop(next(iter(self._answered)))

    def gone(self, hold_id: int) -> Pending[Detail] | None:
        """A held thread ended. The approval it was the last to wait for, now closed; None if there is none."""
        pending = self.take(hold_id)
        return None if pending is None or pending.holds else pending

    def late(self, now: int) -> list[Pending[Detail]]:
        """Those whose time is up."""
        return [pending for pending in self._pending.values() if pending.expires <= now]

    def waiting(self, pid: int, start: int) -> bool:
        """Does another hold of this process still wait?"""
        return any(hold.pid == pid and hold.start == start for pending in self for hold in pending.holds.values())

    def counts(self) -> dict[str, int]:
        """Pending approvals by agent."""
        found: dict[str, int] = {}
        for pending in self._pending.values():
            found[pending.agent] = found.get(pending.agent, 0) + 1
        return found

    def __iter__(self) -> Iterator[Pending[Detail]]:
        return iter(list(self._pending.values()))

    def __len__(self) -> int:
        return len(self._pending)
