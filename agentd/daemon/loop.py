"""Runs an engine on an asyncio loop: events when the kernel has some, the books once a second.

However many events arrive at once (ten thousand processes that are held, say), whoever asks over the socket has a turn
after each slice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentd.engine.core import Engine

TICK_SECONDS = 1.0
SLICE_SECONDS = 0.1  # of events, before the loop looks at anything else


class EngineLoop:
    """Feeds one engine. `on_progress` is called after every round of the books: what a watchdog is fed by."""

    def __init__(self, engine: Engine, on_progress: Callable[[], None] | None = None) -> None:
        self._engine = engine
        self._on_progress = on_progress
        self._going_on = False
        self._ticker: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()

    def start(self) -> None:
        """Watches the rings of the engine on the running loop."""
        loop = asyncio.get_running_loop()
        for fileno in self._engine.filenos():
            loop.add_reader(fileno, self._pump)
        self._ticker = loop.create_task(self._tick())

    async def stop(self) -> None:
        """Lets go of the rings."""
        loop = asyncio.get_running_loop()
        for fileno in self._engine.filenos():
            loop.remove_reader(fileno)
        if self._ticker is not None:
            ticker, self._ticker = self._ticker, None
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)

    def _go_on(self) -> None:
        self._going_on = False
        if self._ticker is not None:
            self._pump()

    def _pump(self) -> None:
        try:
            self._engine.pump(SLICE_SECONDS)
            if self._engine.behind and not self._going_on:
                self._going_on = True
                asyncio.get_running_loop().call_soon(self._go_on)
        except Exception as exc:  # noqa: BLE001  # the loop would only log it; the owner must end, the pins enforce on
            self.failure = exc
            self.failed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._engine.pump(SLICE_SECONDS)
                self._engine.tick()
                if self._on_progress:
                    self._on_progress()
            except Exception as exc:  # noqa: BLE001  # as above
                self.failure = exc
                self.failed.set()
                return
