"""The queue between the log and one sink: bounded, emptied by a thread of its own, and honest about what it lost.

The writer offers lines that are on disk; that costs a lock and an append, whatever the sink does. When the queue is
full, newer records don't get in and are counted, and the first thing that the sink gets afterwards is a record with the
event `gap` that says how many (it is not in the log and has no number: in the log nothing is missing). A sink that
fails is tried again after half a second, then twice that, up to a minute, with the same records.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from agentd.audit import rawbytes
from agentd.audit.canonical import Json

QUEUE_BYTES: Final = 8 << 20
BATCH_RECORDS: Final = 256
BATCH_BYTES: Final = 1 << 20
BACK_OFF: Final = (0.5, 60.0)  # seconds: the first wait, and the longest
LINGER: Final = 2.0  # seconds that the end of agentd waits for a sink

# RFC 5424, section 6.2.1; journald has the same numbers.
ERROR, WARNING, NOTICE, INFORMATIONAL = 3, 4, 5, 6
_SEVERITIES: Final = {
    "denied": WARNING, "ended": WARNING, "approval_required": NOTICE, "approval_denied": NOTICE,
    "approval_expired": NOTICE, "approved": NOTICE, "approval_vote": NOTICE, "approval_revoked": NOTICE,
    "policy_rejected": ERROR, "gap": ERROR, "enforcement_failed": ERROR, "below_minimum": ERROR,
    "log_repaired": WARNING, "calls_unseen": WARNING, "pruned": NOTICE,
    "workload_resumed": NOTICE, "key_rotated": NOTICE, "policy_loaded": NOTICE,
}  # fmt: skip


class Item(NamedTuple):
    """One record: parsed, and as it stands in the log."""

    record: dict[str, Any]
    line: bytes


class Sink(Protocol):
    """One receiver. Its methods are called in the feed's thread only, and may block for seconds, not for ever."""

    def send(self, items: Sequence[Item]) -> None:
        """Deliver all of them, or raise anything that is an Exception: they come again then."""

    def close(self) -> None:
        """Let go of the connection; send() makes a new one."""


def severity(event: str) -> int:
    """How urgent a record is, by RFC 5424."""
    return _SEVERITIES.get(event, INFORMATIONAL)


def message(record: Mapping[str, Any]) -> str:
    """A record in one line for people: `denied shell/rm: exec '/bin/rm' ['rm', '-rf', '/'] (bot, bot/deny/0)`."""
    tool, operation = record.get("tool_name"), record.get("operation")
    what = record.get("input_summary") or rawbytes.printable(str(record.get("reason") or ""))
    text = f"{record['event']} {tool}/{operation}: {what}" if tool else f"{record['event']}: {what}"
    told = [str(value) for value in (record.get("agent_id"), record.get("rule")) if value]
    return text + (f" ({', '.join(map(rawbytes.printable, told))})" if told else "")


def plain(value: object) -> str:
    """Any value of a record as text."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return rawbytes.printable(rawbytes.decode(value))
        except ValueError:
            pass
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


class Feed:
    """One sink with its queue and thread. make: makes the sink, in the thread."""

    def __init__(
        self, name: str, make: Callable[[], Sink], *, queue_bytes: int = QUEUE_BYTES,
        back_off: tuple[float, float] = BACK_OFF,
    ) -> None:  # fmt: skip
        self.name = name
        self.sent = self.lost = 0
        self.failed = ""
        self._make = make
        self._room = queue_bytes
        self._back_off = back_off
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._untold = 0
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def offer(self, lines: Sequence[bytes]) -> None:
        """Records for the sink; never waits for it."""
        with self._changed:
            for line in lines:
                if self._queued + len(line) > self._room:
                    self.lost += 1
                    self._untold += 1
                else:
                    self._queue.append(line)
                    self._queued += len(line)
            self._changed.notify()

    def end(self) -> None:
        """What is queued is tried once more, and nothing waits any longer."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def close(self, linger: float = LINGER) -> None:
        """Ends the thread. What is not sent within `linger` seconds is lost to this sink, and counted."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(linger)
        with self._changed:
            self.lost += len(self._queue)
            self._queue.clear()
            self._queued = 0

    def status(self) -> dict[str, Json]:
        """For `agentd status` and the metrics."""
        return {"sent": self.sent, "lost": self.lost, "queued": len(self._queue), "failed": self.failed}

    def _run(self) -> None:
        sink: Sink | None = None
        wait = self._back_off[0]
        while batch := self._next():
            try:
                sink = sink or self._make()
                told = self._untold
                sink.send([*self._gap(told), *(Item(json.loads(line), line) for line in batch)])
            except Exception as error:  # noqa: BLE001  # whatever a sink does, the others and the log go on
                self.failed = str(error) or type(error).__name__
                _quietly_close(sink)
                with self._changed:
                    if self._ending:
                        return
                    self._changed.wait_for(lambda: self._ending, wait)
                wait = min(wait * 2, self._back_off[1])
                continue
            self.failed = ""
            wait = self._back_off[0]
            with self._changed:
                for line in batch:
                    if self._queue:
                        self._queue.popleft()
                        self._queued -= len(line)
                        self.sent += 1
                self._untold -= told
        _quietly_close(sink)

    def _next(self) -> list[bytes]:
        """The next records, which stay in the queue; empty when there are none and none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending)
            batch: list[bytes] = []
            size = 0
            for line in self._queue:
                batch.append(line)
                size += len(line)
                if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                    break
            return batch

    def _gap(self, count: int) -> list[Item]:
        if not count:
            return []
        record = {
            "event": "gap", "timestamp": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.000000Z", "count": count,
            "host": socket.gethostname(), "metadata": {"lost": {"records": count}, "why": "sink-queue-full"},
            "reason": f"{count} records were not sent here because the queue was full; the log has them",
        }  # fmt: skip
        return [Item(record, json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")]


def _quietly_close(sink: Sink | None) -> None:
    try:
        if sink is not None:
            sink.close()
    except Exception:  # noqa: BLE001, S110  # it is broken already, and that has been told
        pass
