"""Telling people that something waits: each sink with a queue, a task and counters of its own.

offer() puts a notice into the queues and returns; it never waits and never raises, whatever a sink does. A sink that
fails is tried again with growing pauses, and given up for this notice after TRIES; one that hangs is cut off by
DEADLINE_SECONDS. Full queue: the notice is lost to this sink, and counted. None of it touches enforcement or the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

QUEUE: Final = 1000  # notices
TRIES: Final = 6
PAUSES: Final = (1.0, 60.0)  # seconds: the first, and at most; each is twice the one before, give or take a third
DEADLINE_SECONDS: Final = 10.0
EVENTS: Final = ("asked", "vote", "answered", "flood", "revoked")

Notice = Mapping[str, Any]


class SinkFailed(Exception):
    """A notice could not be delivered. again: trying once more may help."""

    def __init__(self, why: str, *, again: bool = True) -> None:
        super().__init__(why)
        self.again = again


class Sink(Protocol):
    """One way to tell people. A new one is a class with these two, and a line in daemon/sinks.py."""

    @property
    def name(self) -> str:
        """For status and messages, without secrets; its first word is the kind of sink."""

    async def deliver(self, notice: Notice) -> None:
        """Raises SinkFailed or OSError. Cancelled when it takes too long: must leave nothing behind."""


@dataclass(slots=True)
class _Channel:
    sink: Sink
    events: Collection[str]
    queue: asyncio.Queue[Notice] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    delivered: int = 0
    failed: int = 0  # tries
    lost: int = 0  # notices
    error: str = ""


class Dispatcher:
    """All sinks of one service."""

    def __init__(self, sinks: Sequence[tuple[Sink, Collection[str]]], pauses: tuple[float, float] = PAUSES) -> None:
        """sinks: each with the events that it is told."""
        self._channels = [_Channel(sink, frozenset(events)) for sink, events in sinks]
        self._tasks: list[asyncio.Task[None]] = []
        self._pauses = pauses

    def start(self) -> None:
        """Begins to deliver, on the running loop."""
        self._tasks = [asyncio.create_task(self._deliver(channel)) for channel in self._channels]

    async def stop(self) -> None:
        """Ends at once: what is still in a queue is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def offer(self, notice: Notice) -> None:
        """Takes a notice for every sink that wants it."""
        for channel in self._channels:
            if notice.get("event") not in channel.events:
                continue
            try:
                channel.queue.put_nowait(notice)
            except asyncio.QueueFull:
                channel.lost += 1

    def status(self) -> list[dict[str, Any]]:
        """What became of the notices so far, by sink."""
        return [
            {
                "sink": channel.sink.name,
                "kind": channel.sink.name.partition(" ")[0],
                "waiting": channel.queue.qsize(),
                "delivered": channel.delivered,
                "failed_tries": channel.failed,
                "lost": channel.lost,
                "error": channel.error,
            }
            for channel in self._channels
        ]

    async def _deliver(self, channel: _Channel) -> None:
        while True:
            notice = await channel.queue.get()
            pause = self._pauses[0]
            for left in reversed(range(TRIES)):
                try:
                    await asyncio.wait_for(channel.sink.deliver(notice), DEADLINE_SECONDS)
                    channel.delivered += 1
                    channel.error = ""
                    break
                except (SinkFailed, OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                    channel.failed += 1
                    channel.error = str(error) or f"no answer in {DEADLINE_SECONDS:.0f} s"
                    if not left or (isinstance(error, SinkFailed) and not error.again):
                        channel.lost += 1
                        break
                await asyncio.sleep(pause * random.uniform(0.67, 1.33))
                pause = min(2 * pause, self._pauses[1])


def text_of(notice: Notice) -> str:
    """A notice as one line for people."""
    event, agent = notice["event"], notice.get("agent", "")
    if event == "asked":
        left = f"{notice['seconds_left']:.0f} s"
        what = f"{agent} wants to {notice['words']} ({notice['tool']}/{notice['operation']})"
        return f"approval {notice['id']}: {what}; denied in {left}: agentd approvals show {notice['id']}"
    if event == "vote":
        return f"approval {notice['id']}: {notice['by']} said yes, {notice['missing']} more must: {notice['summary']}"
    if event == "answered":
        by = f" by {notice['by']}" if notice.get("by") else ""
        return f"approval {notice['id']}: {notice['answer']}{by}: {agent}, {notice['summary']}"
    if event == "flood":
        return f"{agent} floods: {notice['reason']}"
    return f"standing answer {notice.get('standing', '')} of {agent} was revoked by {notice.get('by', '')}"
