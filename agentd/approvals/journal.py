"""What must outlive agentd: who asks, who has said yes so far, which answers stand, and answers on their way to the log

One file of JSON lines, append only, rewritten when it is opened and when it has grown. A line is written before its
effect and not synced: held processes and standing answers don't survive the machine, and what is written survives a
killed agentd. Answers are also records of the audit log, which is synced while the process goes on already; an answer
that had not reached the log when agentd was killed is recorded by the next one (`unlogged`).

A line that can't be written (a full disk) is kept and tried again; until then a restart would not know of it: it asks
again, or, for a revocation, the caller is told.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.approvals.book import Carried, Question
from agentd.approvals.standing import Standing

FILE_NAME: Final = "approvals.jsonl"
GROWN: Final = 8 << 20  # bytes after which the file is rewritten
QUEUE: Final = 10_000  # lines that wait for room on the disk; the oldest are given up
PAST: Final = 50  # answers of each agent that are remembered, to be shown with its next question

Line = dict[str, Any]


@dataclass(slots=True)
class Left:
    """What an agentd before this one left. unlogged: answers that may not stand in the audit log."""

    questions: dict[Question, Carried] = field(default_factory=dict)
    holds: dict[int, str] = field(default_factory=dict)  # number of a hold -> its question
    standing: list[Standing] = field(default_factory=list)
    unlogged: list[Line] = field(default_factory=list)
    past: list[Line] = field(default_factory=list)
    next_standing: int = 1


class Journal:
    """The journal in a folder. identity: of the set of pins; what an earlier set held is gone with it."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder / FILE_NAME
        self.failed = ""
        self._identity = identity
        self._fd = -1
        self._size = 0
        self._waiting: deque[bytes] = deque(maxlen=QUEUE)

    def load(self, until: int) -> Left:
        """Reads what is there. until: ns, CLOCK_BOOTTIME, up to which its questions may be asked again.

        Lines that are no lines (a torn last one) are passed over.
        """
        left = Left()
        try:
            data = self.path.read_bytes()
        except OSError:
            return left
        ours = False
        asked: dict[str, tuple[Question, Line]] = {}
        votes: dict[str, dict[str, str]] = {}
        standing: dict[str, Standing] = {}
        for raw in data.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                line = json.loads(raw)
                kind = line["t"]
                if kind == "set":
                    ours = line["set"] == self._identity
                    left.next_standing = int(line["next"]) if ours else 1
                    if not ours:
                        asked, votes, standing, left.holds = {}, {}, {}, {}
                elif kind == "answer":
                    left.unlogged.append(line)
                    left.past.append(line)
                elif kind == "logged":
                    left.unlogged.clear()
                elif kind == "past":
                    left.past.append(line["answer"])
                elif not ours:
                    continue
                elif kind == "ask":
                    asked[line["id"]] = (Question(line["agent"], line["workload"], line["action"]), line)
                elif kind == "hold":
                    left.holds[int(line["hold"])] = str(line["id"])
                elif kind == "vote":
                    votes.setdefault(line["id"], {})[line["person"]] = line["by"]
                elif kind == "end":
                    asked.pop(line["id"], None)
                elif kind == "stand":
                    made = Standing.from_json(line["standing"])
                    standing[made.id] = made
                    left.next_standing = max(left.next_standing, int(made.id.removeprefix("s")) + 1)
                elif kind == "drop":
                    standing.pop(line["id"], None)
        for number, (question, line) in asked.items():
            left.questions[question] = Carried(
                number, int(line["since"]), int(line["expires"]), votes.get(number, {}), until
            )
        left.standing = list(standing.values())
        left.past = _latest(left.past)
        return left

    def open(self, lines: Iterable[Line], next_standing: int) -> None:
        """Writes the file anew with these lines and goes on behind them. Raises nothing: see `failed`."""
        head = {"t": "set", "set": self._identity, "next": next_standing}
        data = b"".join(map(_encode, (head, *lines)))
        fresh = self.path.with_suffix(".new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(fresh, flags, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
                os.rename(fresh, self.path)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            self.failed = os.strerror(error.errno or 0).lower()
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            if self._fd < 0:  # better behind what an agentd before this one wrote than nowhere
                with contextlib.suppress(OSError):
                    self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                    self._waiting.append(_encode(head))
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = len(data)
        self._waiting.clear()
        self.failed = ""

    @property
    def grown(self) -> bool:
        """Is it time to write it anew?"""
        return self._size > GROWN

    def write(self, *lines: Line) -> bool:
        """Adds lines; False: they wait for room on the disk."""
        self._waiting.extend(map(_encode, lines))
        return self.retry()

    def retry(self) -> bool:
        """Writes what waits; False: it still does."""
        if not self._waiting:
            return True
        data = b"".join(self._waiting)
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                os.ftruncate(self._fd, self._size)  # no half line
                self.failed = "no space left on device"
                return False
        except OSError as error:
            self.failed = os.strerror(error.errno or 0).lower()
            return False
        self._size += written
        self._waiting.clear()
        self.failed = ""
        return True

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _encode(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _latest(past: list[Line]) -> list[Line]:
    """The newest PAST answers of each agent, in order."""
    count: dict[str, int] = {}
    kept = []
    for line in reversed(past):
        agent = str(line.get("agent"))
        count[agent] = count.get(agent, 0) + 1
        if count[agent] <= PAST:
            kept.append(line)
    return kept[::-1]
