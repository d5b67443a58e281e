"""Answers that stand: for one process, for a workload until it ends, or until a time.

A standing answer is about one action, exactly: who may do what to which object, under which rule (`action` is a hash of
all that). The kernel holds the operation as ever; the engine finds the answer here and gives it at once. So a policy
that denies still denies, a revocation counts from the next operation on, and each use is a record.

Pure bookkeeping, like book.py: time comes in as an argument (ns, CLOCK_BOOTTIME).
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any, Final

from agentd.approvals.book import Approver, Pending, Question
from agentd.errors import AgentdError

MAX_STANDING: Final = 10_000  # more are refused: the operation is answered once, and asked about again
MAX_STANDING_SECONDS: Final = 30 * 86400


class Scope(enum.Enum):
    """What an answer is for."""

    ONCE = "once"  # those that wait now
    PROCESS = "process"
    WORKLOAD = "workload"
    TIME = "time"  # every workload of the agent


@dataclass(slots=True)
class Standing:
    """One answer. expires: ns, CLOCK_BOOTTIME; 0: with its process or workload. start: of the process, in ticks."""

    id: str
    agent: str
    action: str
    scope: Scope
    allow: bool
    by: str
    reason: str
    summary: str
    since: int
    expires: int = 0
    workload: int = 0
    pid: int = 0
    start: int = 0
    uses: int = 0

    def covers(self, question: Question, pid: int, start: int, now: int) -> bool:
        """Does it answer this hold?"""
        if self.action != question.action or self.agent != question.agent or (self.expires and self.expires <= now):
            return False
        if self.scope is Scope.PROCESS:
            return (self.workload, self.pid, self.start) == (question.workload, pid, start)
        return self.scope is Scope.TIME or self.workload == question.workload

    def to_json(self) -> dict[str, Any]:
        """For the journal and the socket."""
        return {**asdict(self), "scope": self.scope.value}

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Standing:
        """Raises KeyError, TypeError or ValueError for what to_json() did not make."""
        return cls(**{**made, "scope": Scope(made["scope"])})


class StandingAnswers:
    """All of them, found by action."""

    def __init__(self) -> None:
        self._all: dict[str, Standing] = {}
        self._by_action: dict[str, list[str]] = {}
        self._next = 1

    def add(self, standing: Standing) -> None:
        """Raises AgentdError `service-refused` when there are too many."""
        if len(self._all) >= MAX_STANDING:
            raise AgentdError(
                "service-refused", "approval", f"{MAX_STANDING} answers stand already", "revoke some, or answer once"
            )
        self._all[standing.id] = standing
        self._by_action.setdefault(standing.action, []).append(standing.id)
        number = standing.id.removeprefix("s")
        if number.isdigit():
            self._next = max(self._next, int(number) + 1)

    def new_id(self) -> str:
        """A name that none has had since the start."""
        self._next += 1
        return f"s{self._next - 1}"

    def skip_to(self, number: int) -> None:
        """Names below `number` were given before."""
        self._next = max(self._next, number)

    @property
    def next_number(self) -> int:
        """The number of the next name."""
        return self._next

    def find(self, question: Question, pid: int, start: int, now: int) -> Standing | None:
        """The answer that stands for a hold; a no goes before a yes."""
        if not question.action:
            return None
        names = self._by_action.get(question.action, ())
        fitting = [one for name in names if (one := self._all[name]).covers(question, pid, start, now)]
        return min(fitting, key=lambda one: one.allow, default=None)

    def remove(self, name: str) -> Standing:
        """Raises AgentdError `no-such-approval`."""
        standing = self._all.pop(name, None)
        if standing is None:
            raise AgentdError(
                "no-such-approval", f"standing answer {name}", "there is none", "see agentd approvals standing"
            )
        names = self._by_action[standing.action]
        names.remove(name)
        if not names:
            del self._by_action[standing.action]
        return standing

    def over(self, now: int, live: set[tuple[int, int]], workloads: set[int]) -> list[Standing]:
        """Those that end now: their time is up, or their process (pid, start) or workload is gone."""
        return [
            one
            for one in self._all.values()
            if (one.expires and one.expires <= now)
            or (one.scope is Scope.PROCESS and (one.pid, one.start) not in live)
            or (one.scope is Scope.WORKLOAD and one.workload not in workloads)
        ]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)


def may_answer(pending: Pending[Any], allow: bool, by: Approver, scope: Scope, seconds: int) -> None:
    """Raises AgentdError `usage` or `approval-answered` for an answer this question can't have, or not from `by`."""
    if (scope is Scope.TIME) != bool(seconds) or not 0 <= seconds <= MAX_STANDING_SECONDS:
        most = MAX_STANDING_SECONDS // 86400
        raise AgentdError("usage", "seconds", f"goes with the scope time, and is at most {most} days")
    if not allow or pending.approvers <= 1:
        return
    if scope is not Scope.ONCE:
        why = f"its rule wants {pending.approvers} approvers each time"
        raise AgentdError("usage", f"approval {pending.id}", why, "approve it once")
    if by.person in pending.votes:
        why = f"{by.name} has said yes already; {pending.approvers - len(pending.votes)} more must"
        raise AgentdError("approval-answered", f"approval {pending.id}", why, "another person must approve it")
