"""Answers put into effect: what a yes, a no and a timeout do to the threads that wait.

Three kinds of hold. One is *retried*: the system call returned -ERESTARTNOINTR and comes again on SIGCONT; a grant in
the kernel, found by the action's hash and consumed there, is the answer. The other stands *after* its effect (an exec
whose program has not run, an open whose descriptor was not returned): yes is an entry in the map of answers and
SIGCONT, no is SIGKILL. The third waits in the kernel for the supervisor of the seccomp point, which is told.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Collection

from agentd.actions import signals
from agentd.approvals.book import ApprovalBook, Hold
from agentd.engine.pending import HeldAction
from agentd.kernel import abi
from agentd.kernel.answers import AnswerMaps
from agentd.kernel.loader import LoadedObject
from agentd.workloads.processes import start_ticks, ticks


class HoldAnswers:
    """The answers of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._maps = AnswerMaps(loaded)
        self._answered: set[int] = set(self._maps.let_go_of())  # an agentd before this one's too
        self.supervised: dict[int, Callable[[bool | None], None]] = {}  # told yes, no, or (None) judge anew

    def settle(self, holds: Collection[Hold], allow: bool, book: ApprovalBook[HeldAction]) -> None:
        """Answers all holds of one approval. The approval must be off the book already.

        Raises KernelError if the kernel's map is full: the threads stay held then.
        """
        told = {hold.hold_id for hold in holds if self._tell(hold.hold_id, allow)}
        holds = [hold for hold in holds if hold.hold_id not in told]
        keys = Counter(hold.key for hold in holds if hold.retried)
        first = {hold.key: hold.hold_id for hold in reversed([*holds]) if hold.retried}
        for key, uses in keys.items():
            self._maps.grant(key, first[key], allow=allow, uses=uses)
        for hold in holds:
            if hold.retried:
                self.ask_anew(hold.hold_id)
            elif allow:
                self._maps.let_go(hold.hold_id)
                self._answered.add(hold.hold_id)
            else:
                signals.send(hold.pid, hold.start, signal.SIGKILL, start_ticks)
        for hold in holds:
            if hold.retried or allow:
                self.wake(hold.pid, hold.start, book)

    def judge_anew(self, holds: Collection[Hold]) -> None:
        """After a change of policy: what waits for the supervisor. The others are woken, and judged by the kernel."""
        for hold in holds:
            self._tell(hold.hold_id, None)

    def drop(self, hold_id: int) -> None:
        """Nobody waits for this answer any more."""
        if hold_id in self.supervised:
            del self.supervised[hold_id]

    def _tell(self, hold_id: int, allow: bool | None) -> bool:
        tell = self.supervised.pop(hold_id, None)
        if tell is not None:
            tell(allow)
        return tell is not None

    def wake(self, pid: int, start: int, book: ApprovalBook[HeldAction]) -> None:
        """Lets a process go on, unless a question of another thread is open: SIGCONT wakes all. start: in ticks."""
        if not book.waiting(pid, start):
            signals.send(pid, start, signal.SIGCONT, start_ticks)

    def wake_again(self, lines: Collection[abi.TaskLine], book: ApprovalBook[HeldAction]) -> None:
        """Whoever carries an answered hold still: the SIGSTOP may have come after the SIGCONT of a very fast answer."""
        for line in lines:
            if line.hold_id in self._answered:
                self.wake(line.pid, ticks(line.start_time), book)

    def ask_anew(self, hold_id: int) -> None:
        """This question is closed: if the call comes again and finds no grant (another thread took it, or it is too
        old), it is a new question and not the old one, which nobody would answer.
        """
        self._maps.let_go(hold_id)
        self._answered.add(hold_id)

    def approved(self, hold_id: int) -> bool:
        """Was an effect approved whose thread has not gone on yet?"""
        return self._maps.may_go(hold_id)

    def forget_used(self, live_holds: Collection[int]) -> None:
        """Drops answers whose thread has gone on; live_holds: the hold ids that marked threads still carry."""
        for hold_id in self._answered - set(live_holds):
            self._maps.forget(hold_id)
            self._answered.discard(hold_id)
        self._maps.drop_expired()
