"""Held operations and their answers: which wait, who may be answered together, what is late.

Pure bookkeeping: time comes in as an argument (ns, CLOCK_BOOTTIME), effects are the engine's. Holds of the same action
(same `question`) are one approval, so that nobody is asked twice. Nothing here looks at every approval to deal with
one: ten thousand may wait.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from agentd.errors import AgentdError

Detail = TypeVar("Detail")
MAX_THREADS: Final = 100_000
MAX_HOLDS: Final = 12_000  # of one agent; the kernel's maps of grants and answers hold 16,384
MAX_ANSWERED: Final = 20_000  # how many ends are remembered, to tell the one who comes too late


class Answer(enum.Enum):
    """How a hold ended."""

    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Approver:
    """Who answers, as the kernel says it of the other end of the socket.

    login_uid: the user that logged in (/proc/PID/loginuid), which su and sudo don't change; None: none did.
    """

    name: str
    uid: int
    pid: int
    login_uid: int | None = None
    login_name: str = ""  # of login_uid, or of uid where nobody logged in
    via: str = ""  # where the answer was given, if not through the socket

    @property
    def person(self) -> str:
        """Two answers with the same `person` are one person's."""
        return f"uid {self.uid if self.login_uid is None else self.login_uid}"

    def __str__(self) -> str:
        return f"{self.name} (uid {self.uid}, {self.via or f'pid {self.pid}'})"


@dataclass(slots=True)
class Hold:
    """One stopped thread. `retried`: its system call is issued again (a grant for `key` answers it), else it stands
    after its effect.
    """

    hold_id: int
    pid: int
    tid: int
    start: int  # of the process, clock ticks since boot
    retried: bool
    key: tuple[int, int] = (0, 0)  # the kernel's hash of the action, which has the process in it


@dataclass(frozen=True, slots=True)
class Question:
    """What makes two holds the same question. `action` "": never shared, a hold that stands alone."""

    agent: str
    workload: int
    action: str


@dataclass(slots=True)
class Pending(Generic[Detail]):
    """One question: an action, and everybody who waits for its answer.

    id: the number of its first hold. The kernel gives them and never twice, so that a number that somebody has noted
    can't come to mean something else when agentd starts again. votes: who has said yes so far, by person.
    """

    id: str
    question: Question
    since: int
    expires: int
    detail: Detail
    approvers: int = 1
    votes: dict[str, str] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    seen: int | None = None  # the latest hold that everybody who has voted was shown

    @property
    def agent(self) -> str:
        """Whose operation it is."""
        return self.question.agent


@dataclass(slots=True)
class Flood:
    """Operations of one agent that were denied without a question, because too many waited."""

    denied: int = 0
    first: int = 0  # ns, CLOCK_BOOTTIME
    last: int = 0


@dataclass(frozen=True, slots=True)
class Carried:
    """A question whose holds are judged anew: what it keeps if the same is asked again before `until`."""

    id: str
    since: int
    expires: int
    votes: dict[str, str]
    until: int


class ApprovalBook(Generic[Detail]):
    """All pending approvals. `limit`: per agent; more are refused, which the engine turns into a denial."""

    def __init__(self, limit: int = 1000) -> None:
        self.version = 0  # moves with every change of what is listed
        self.floods: dict[str, Flood] = {}
        self.limit = limit
        self._pending: dict[str, Pending[Detail]] = {}
        self._by_question: dict[Question, str] = {}
        self._by_hold: dict[int, str] = {}
        self._by_process: Counter[tuple[int, int]] = Counter()
        self._by_agent: Counter[str] = Counter()
        self._holds_of: Counter[str] = Counter()
        self._answered: dict[str, Answer] = {}
        self._by_thread: dict[tuple[int, int, int], int] = {}
        self._deadlines: list[tuple[int, str]] = []
        self._carried: dict[Question, Carried] = {}

    def add(
        self,
        question: Question,
        hold: Hold,
        now: int,
        timeout: int,
        detail: Detail,
        approvers: int = 1,
    ) -> tuple[Pending[Detail] | None, bool]:
        """Files a hold; (its approval, whether that is new). (None, False): too many wait for this agent already.

        timeout: ns. A question that was carried over keeps its number, its deadline and its votes.
        """
        self._drop_earlier(hold)
        agent = question.agent
        known = self._by_question.get(question) if question.action else None
        if self._holds_of[agent] >= MAX_HOLDS or (known is None and self._by_agent[agent] >= self.limit):
            flood = self.floods.setdefault(agent, Flood(first=now))
            flood.denied += 1
            flood.last = now
            self.version += 1
            self.unasked(hold.hold_id, Answer.DENIED)
            return None, False
        if known is not None:
            pending = self._pending[known]
            self._file(pending, hold)
            return pending, False
        before = self._carried.pop(question, None) if question.action else None
        if before is not None and before.id not in self._pending:
            pending = Pending(before.id, question, before.since, before.expires, detail, approvers, dict(before.votes))
        else:
            pending = Pending(str(hold.hold_id), question, now, now + timeout, detail, approvers)
        self._pending[pending.id] = pending
        self._by_agent[agent] += 1
        if question.action:
            self._by_question[question] = pending.id
        heapq.heappush(self._deadlines, (pending.expires, pending.id))
        self._file(pending, hold)
        return pending, True

    def _file(self, pending: Pending[Detail], hold: Hold) -> None:
        pending.holds[hold.hold_id] = hold
        self._by_hold[hold.hold_id] = pending.id
        self._by_process[hold.pid, hold.start] += 1
        self._holds_of[pending.agent] += 1
        self.version += 1

    def _unfile(self, pending: Pending[Detail], hold_id: int, answer: Answer) -> Hold:
        hold = pending.holds.pop(hold_id)
        del self._by_hold[hold_id]
        process = (hold.pid, hold.start)
        self._by_process[process] -= 1
        if not self._by_process[process]:
            del self._by_process[process]
        self._holds_of[pending.agent] -= 1
        self._answered[str(hold_id)] = answer
        self.version += 1
        return hold

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
        """Was this hold answered, lately: by an approval that ended, or unasked?"""
        return str(hold_id) in self._answered

    def take(self, hold_id: int) -> Pending[Detail] | None:
        """Takes one hold out of its approval, which is off the list if it was the last; None: none speaks of it."""
        number = self._by_hold.get(hold_id)
        if number is None:
            return None
        pending = self._pending[number]
        self._unfile(pending, hold_id, Answer.EXPIRED)
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

    def split(self, pending: Pending[Detail], upto: int) -> Pending[Detail] | None:
        """The holds that came after number `upto` become a question of their own; None: there are none."""
        later = [hold for number, hold in pending.holds.items() if number > upto]
        if not later or len(later) == len(pending.holds):
            return None
        first = min(hold.hold_id for hold in later)
        made: Pending[Detail] = Pending(
            str(first), pending.question, pending.since, pending.expires, pending.detail, pending.approvers
        )
        for hold in later:
            del pending.holds[hold.hold_id]
            made.holds[hold.hold_id] = hold
            self._by_hold[hold.hold_id] = made.id
        self._pending[made.id] = made
        self._by_agent[made.agent] += 1
        if made.question.action:
            self._by_question[made.question] = made.id
        heapq.heappush(self._deadlines, (made.expires, made.id))
        self.version += 1
        return made

    def close(self, pending: Pending[Detail], answer: Answer) -> list[Hold]:
        """Takes an approval off the list; the holds that waited for it."""
        del self._pending[pending.id]
        self._by_agent[pending.agent] -= 1
        if self._by_question.get(pending.question) == pending.id:
            del self._by_question[pending.question]
        left = list(pending.holds.values())
        for hold in left:
            self._unfile(pending, hold.hold_id, answer)
        self._answered[pending.id] = answer
        self.version += 1
        self._forget_answers()
        return left

    def unasked(self, hold_id: int, answer: Answer) -> None:
        """This hold was answered without a question: whoever still finds its thread held must not ask."""
        self._answered[str(hold_id)] = answer
        self._forget_answers()

    def _forget_answers(self) -> None:
        while len(self._answered) > MAX_ANSWERED:
            self._answered.pop(next(iter(self._answered)))

    def carry(self, question: Question, carried: Carried) -> None:
        """Should this be asked again, it is the same question."""
        if question.action:
            self._carried[question] = carried

    def lapsed(self, now: int) -> list[tuple[Question, Carried]]:
        """Questions that were carried over and that nobody has asked again in time; each is given once."""
        over = [(question, carried) for question, carried in self._carried.items() if carried.until <= now]
        for question, _ in over:
            del self._carried[question]
        return over

    def carried(self) -> list[tuple[Question, Carried]]:
        """Questions that wait to be asked again."""
        return list(self._carried.items())

    def gone(self, hold_id: int) -> Pending[Detail] | None:
        """A held thread ended. The approval it was the last to wait for, now closed; None if there is none."""
        pending = self.take(hold_id)
        return None if pending is None or pending.holds else pending

    def late(self, now: int) -> list[Pending[Detail]]:
        """Those whose time is up."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            pending = self._pending.get(number)
            if pending is not None and pending.expires <= now:
                found.append(pending)
        return found

    def waiting(self, pid: int, start: int) -> bool:
        """Does another hold of this process still wait?"""
        return (pid, start) in self._by_process

    def count(self, agent: str) -> int:
        """Pending approvals of an agent."""
        return self._by_agent[agent]

    def counts(self) -> dict[str, int]:
        """Pending approvals by agent."""
        return {agent: count for agent, count in self._by_agent.items() if count}

    def __iter__(self) -> Iterator[Pending[Detail]]:
        return iter(list(self._pending.values()))

    def __len__(self) -> int:
        return len(self._pending)
