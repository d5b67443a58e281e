"""Runs an engine on an asyncio loop: events when the kernel has some, the books once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentd.engine.core import Engine

TICK_SECONDS = 1.0


class EngineLoop:
    """Feeds one engine. `on_progress` is called after every round of the books: what a watchdog is fed by."""

    def __init__(self, engine: Engine, on_progress: Callable[[], None] | None = None) -> None:
        self._engine = engine
        self._on_progress = on_progress
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
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    def _pump(self) -> None:
        try:
            self._engine.pump()
        except Exception as exc:  # noqa: BLE001  # the loop would only log it; the owner must end, the pins enforce on
            self.failure = exc
            self.failed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._engine.pump()
                self._engine.tick()
            except Exception as exc:  # noqa: BLE001  # as above
                self.failure = exc
                self.failed.set()
                return
            if self._on_progress:
                self._on_progress()
