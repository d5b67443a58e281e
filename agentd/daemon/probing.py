"""Doctor's probes in the service: at its start and every few minutes, in between what else its loop has to do.

Nothing waits for them: the service is ready before the first round, and a round is a few dozen short steps. Only an
agent with a minimum_guarantee waits for the first round to end before its first workload begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Final

from agentd.engine.core import Engine
from agentd.engine.trial import Wait
from agentd.engine.verify import Proof

RETRY_SECONDS: Final = 30  # after a round in which a probe failed, if that is sooner


class Probing:
    """The probes of one engine. seconds: between two rounds; 0: only when somebody asks."""

    def __init__(self, engine: Engine, seconds: float = 0) -> None:
        self._engine = engine
        self._seconds = seconds
        self._lock = asyncio.Lock()  # the canary's events are those of one round

    async def always(self) -> None:
        """Round after round; does not return. Raises what is a bug."""
        self._engine.verification.on_change = _say
        while self._seconds:
            await self.round()
            failing = self._engine.verification.failing
            await asyncio.sleep(min(self._seconds, RETRY_SECONDS) if failing else self._seconds)
        await asyncio.Event().wait()

    async def round(self) -> None:
        """Tries everything; what is below its minimum then is handled before this returns."""
        async with self._lock:
            await self._round()

    async def proved(self, agent: str) -> None:
        """Returns at once, unless the agent's policy wants a guarantee that nobody has proved yet."""
        resolved = self._engine.policies.agent(agent)
        if resolved is None or not resolved.minimum_guarantee or self._engine.verification.checked:
            return
        async with self._lock:
            if not self._engine.verification.checked:
                await self._round()

    async def _round(self) -> None:
        steps = self._engine.verification.steps()
        try:
            for wait in steps:
                await _until(wait)
        finally:
            steps.close()
        self._engine.minimum.follow_up(self._engine.marks.list())
        self._engine.commit()


async def _until(wait: Wait) -> None:
    if wait.fd < 0:
        await asyncio.sleep(wait.seconds)
        return
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(wait.fd, readable.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(readable.wait(), wait.seconds)
    finally:
        loop.remove_reader(wait.fd)


def _say(proof: Proof) -> None:
    cover = proof.cover
    name = f"{cover.kind.op.word} ({cover.guarantee.word} by {cover.point.word})"
    if proof.failed:
        text = f"{name}: a probe failed: {proof.text}; see agentd doctor, and restart agentd"
    else:
        text = f"{name}: the probe passes again"
    print(f"agentd: {text}", file=sys.stderr, flush=True)
