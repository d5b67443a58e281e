"""What is new, for whoever looks on: each record of the engine, to a bounded queue for each page that is open."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from agentd.audit.record import Record, body

KEPT: Final = 200  # records that a page is shown when it opens
QUEUE: Final = 500  # records that a slow page may be behind; more are counted and left out
MAX_PAGES: Final = 16
MEMBERS: Final = (
    *("timestamp", "event", "agent_id", "tool_name", "operation", "input_summary", "reason", "decision", "rule"),
    *("action", "guarantee", "count"),
)


class Feed:
    """Given every record as it is made; never waits for anybody."""

    def __init__(self) -> None:
        self._recent: deque[Record] = deque(maxlen=KEPT)
        self._pages: dict[asyncio.Queue[Record], int] = {}

    def offer(self, record: Record) -> None:
        """One more record."""
        self._recent.append(record)
        for queue in self._pages:
            try:
                queue.put_nowait(record)
            except asyncio.QueueFull:
                self._pages[queue] += 1

    def open(self) -> asyncio.Queue[Record] | None:
        """A queue that begins with the recent records; None: too many pages are open."""
        if len(self._pages) >= MAX_PAGES:
            return None
        queue: asyncio.Queue[Record] = asyncio.Queue(QUEUE)
        for record in self._recent:
            queue.put_nowait(record)
        self._pages[queue] = 0
        return queue

    def close(self, queue: asyncio.Queue[Record]) -> None:
        """The page is gone."""
        self._pages.pop(queue, None)

    def missed(self, queue: asyncio.Queue[Record]) -> int:
        """How many records this page was not given since it was asked last."""
        count = self._pages.get(queue, 0)
        if count:
            self._pages[queue] = 0
        return count


def shown(record: Record) -> dict[str, Any]:
    """A record as a page shows it: without its number, which it gets on its way to the disk."""
    made = body(record, "", "")
    return {name: made[name] for name in MEMBERS if name in made}
