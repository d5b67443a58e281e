"""Questions over the end of an agentd, or of a policy: taken over, judged anew, or refused because nothing holds now.

What is held and will be tried again is woken, and the kernel judges it by the policy of now. If that asks again, under
the same rule, it is the same question: its number, its deadline and its votes are kept (book.py, carry).
"""

from __future__ import annotations

import signal
import time
from typing import Final

from agentd.actions import signals
from agentd.approvals.book import Answer, Carried
from agentd.audit.canonical import Json
from agentd.engine import orphans, records
from agentd.engine.questions import Questions, boot_now
from agentd.engine.records import Names
from agentd.kernel import abi
from agentd.workloads import processes

CARRY_SECONDS: Final = 60  # what is judged anew comes again within this, or its question is over


class Takeover:
    """For the questions of one engine."""

    def __init__(self, asks: Questions) -> None:
        self._asks = asks

    def resume(self) -> None:
        """Takes over what an agentd before this one left: its events, whatever it has left held, its answers."""
        asks = self._asks
        reason = "agentd was started again, and judges this anew"
        left = asks.ledger.load(boot_now() + CARRY_SECONDS * 1_000_000_000)
        for answer in left.unlogged:
            metadata: dict[str, Json] = {"recovered": True}
            metadata.update({word: str(answer.get(word, "")) for word in ("by", "scope", "summary", "time")})
            asks.around.record(records.recovered(answer, {"approval": str(answer.get("id")), **metadata}))
        for question, carried in left.questions.items():
            asks.book.carry(question, carried)
        asks.ledger.rewrite(asks.book.carried(), list(asks.book))
        asks.around.pump()
        agents = asks.around.agents()
        for line in asks.marks.list():
            known = asks.book.knows(line.hold_id) or line.hold_id in left.holds
            if line.hold_id and not line.flags & abi.TAG_HELD and not known:
                asks.lapsed(str(line.hold_id), agents.get(line.agent, f"agent-{line.agent}"), reason, line.pid)
        self.judge_again(reason)
        asks.memory.forget_others({line.hold_id for line in asks.marks.list()})
        asks.confirm()

    def judge_again(self, reason: str) -> None:
        """After a change of policy: calls that are held and will be tried again are answered by the policy of now.
        It may hold them again: the same question then, with its votes and its deadline, if the rule is the same.
        """
        asks = self._asks
        asks.around.pump()
        until = boot_now() + CARRY_SECONDS * 1_000_000_000
        for pending in asks.book:
            if not all(hold.retried for hold in pending.holds.values()):
                continue
            holds = asks.book.close(pending, Answer.EXPIRED)
            if pending.question.action:
                carried = Carried(pending.id, pending.since, pending.expires, pending.votes, until)
                asks.book.carry(pending.question, carried)
            else:
                asks.closed(pending, Answer.EXPIRED, reason, None)
            asks.answers.judge_anew(holds)
        asks.around.commit()
        self.adopt(asks.marks.list())

    def deny_all(self, reason: str) -> None:
        """Refuses whatever waits, because there will be nothing left that could hold it."""
        asks = self._asks
        asks.around.pump()
        for pending in asks.book:
            asks.settle(pending, Answer.EXPIRED, reason, None)
        asks.confirm()
        for _ in range(200):
            held = {(line.pid, processes.ticks(line.start_time)) for line in asks.marks.list() if line.hold_id}
            if not held:
                return
            time.sleep(0.01)
        for pid, start in held:
            signals.send(pid, start, signal.SIGKILL, processes.start_ticks)

    def adopt(self, lines: list[abi.TaskLine]) -> None:
        """Wakes or adopts what is held and that no question speaks of."""
        asks = self._asks
        if not any(line.hold_id for line in lines):
            return
        asks.around.pump()  # the question may just have come
        now = boot_now()
        agents = asks.around.agents()
        for line in orphans.claim(lines, asks.book, asks.answers):
            note = asks.memory.recall(line.hold_id)
            event = note.event if note else orphans.unknown_event(line)
            most = asks.around.most_approvers(agents.get(line.agent, ""))
            names = note.names if note else Names("unknown", "unknown", "unknown", None, None, "", most)
            origin = note.started_by if note else asks.around.origin(line.workload)
            agent = agents.get(line.agent, f"agent-{line.agent}")
            asks.ask(event, agent, names, origin, now, "still held: an agentd before this one asked")
