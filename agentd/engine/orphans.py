"""Holds that nobody answers for: asked by an agentd that is gone, or answered and not woken.

The kernel keeps an operation held whatever happens to agentd. Each round of the books compares what is held with what
is asked:

- A call that will be tried again is woken. The kernel judges it anew, by the policy of now, and holds it again with an
  event that says everything (or finds the grant that it was woken too early for).
- An effect that was approved is woken again: its SIGCONT came before its SIGSTOP.
- An effect that nobody has asked about is adopted: what the agentd before wrote down makes a question of it again.

HoldMemory is that note: one small file a hold, in the folder of the log. It needs no fsync, because what is held
doesn't survive the machine either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.actions import signals
from agentd.approvals.book import ApprovalBook
from agentd.engine.holds import HoldAnswers
from agentd.engine.pending import HeldAction
from agentd.engine.records import Names
from agentd.kernel import abi
from agentd.kernel.ring import KernelEvent, parse
from agentd.model import Action, Decision, Guarantee, Op, Point, Risk
from agentd.workloads import processes

UNKNOWN_SECONDS: Final = 60  # the timeout of a hold that nothing is known about


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was written down about a hold."""

    event: KernelEvent
    names: Names
    started_by: str


class HoldMemory:
    """The notes of one set of pins. identity: of that set, so that the notes of an earlier one are never believed."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def keep(self, hold_id: int, raw: bytes, names: Names, started_by: str) -> None:
        """Writes a note. A disk that is full costs the note, not the hold."""
        note = {
            "set": self._identity,
            "event": raw.hex(),
            "tool": names.tool,
            "operation": names.operation,
            "rule": names.rule,
            "risk": None if names.risk is None else int(names.risk),
            "policy": names.policy_sha256,
            "terms": names.terms,
            "approvers": names.approvers,
            "started_by": started_by,
        }
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._path(hold_id).write_text(json.dumps(note), encoding="ascii")
        except OSError:
            self.forget(hold_id)

    def recall(self, hold_id: int) -> Remembered | None:
        """The note about a hold; None if there is none to be believed."""
        try:
            note = json.loads(self._path(hold_id).read_text(encoding="ascii"))
            if note["set"] != self._identity:
                return None
            event = parse(bytes.fromhex(note["event"]))
            risk = None if note["risk"] is None else Risk(note["risk"])
            names = Names(
                note["tool"],
                note["operation"],
                note["rule"],
                risk,
                note["policy"],
                note["terms"],
                int(note["approvers"]),
            )
            return Remembered(event, names, note["started_by"]) if event.hold_id == hold_id else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self, hold_id: int) -> None:
        """Removes a note."""
        with contextlib.suppress(OSError):
            self._path(hold_id).unlink(missing_ok=True)

    def forget_others(self, live: Collection[int]) -> None:
        """Removes the notes of holds that are no more."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if not path.stem.isdigit() or int(path.stem) not in live:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _path(self, hold_id: int) -> Path:
        return self._folder / f"{hold_id}.json"


def claim(
    lines: Collection[abi.TaskLine], book: ApprovalBook[HeldAction], answers: HoldAnswers
) -> Iterator[abi.TaskLine]:
    """Wakes what only has to be woken; yields what has to be asked. lines: every marked thread."""
    for line in lines:
        if not line.hold_id or book.knows(line.hold_id):
            continue
        retried = not line.flags & abi.TAG_HELD
        start = processes.ticks(line.start_time)
        if not retried and not answers.approved(line.hold_id):
            if not book.answered(line.hold_id):  # else it was refused, and the process is on its way out
                yield line
        elif processes.thread_stopped(line.pid, line.tid) and not book.waiting(line.pid, start):
            answers.ask_anew(line.hold_id)
            signals.send(line.pid, start, signal.SIGCONT, processes.start_ticks)


def unknown_event(line: abi.TaskLine) -> KernelEvent:
    """What can still be said about a held effect without a note: who, and what /proc shows of it."""
    exe = processes.exe_path(line.pid) or b""
    is_exec = line.hold_op == Op.EXEC
    return KernelEvent(
        type=abi.EVENT_HOLD,
        flags=0 if is_exec and exe else abi.FLAG_UNRESOLVED,
        time=0,
        hold_id=line.hold_id,
        key=(0, 0),
        start_time=line.start_time,
        parent_start_time=0,
        cgroup=0,
        agent=line.agent,
        generation=0,
        outcome=abi.NO_OUTCOME,
        workload=line.workload,
        pid=line.pid,
        tid=line.tid,
        ppid=line.ppid,
        uid=processes.uid_of(line.pid),
        op=Op(line.hold_op),
        decision=Decision.REQUIRE_APPROVAL,
        action=Action.PAUSE,
        point=Point.EXEC if is_exec else Point.TRACE,
        guarantee=Guarantee.CONTAINED,
        syscall=-1,
        rule=abi.RULE_UNRESOLVED,
        toolop=abi.NO_OUTCOME,
        timeout=UNKNOWN_SECONDS,
        reason=0,
        comm=b"",
        object=exe if is_exec else b"",
        exe=exe,
        argv=processes.arguments(line.pid),
    )


def identity(seed: Collection[int]) -> str:
    """A name for one set of pins that doesn't give its secret seed away."""
    return hashlib.sha256(b"".join(number.to_bytes(8, "little") for number in seed)).hexdigest()[:32]
