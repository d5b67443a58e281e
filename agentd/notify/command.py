"""A command for each notice: JSON on its standard input, the event and the agent in its environment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Sequence

from agentd.notify.dispatch import Notice, SinkFailed, text_of


class CommandSink:
    """Runs `argv` as agentd's own user, in a session of its own, and kills all of it when it takes too long."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)

    @property
    def name(self) -> str:
        """Its program."""
        return f"command {self._argv[0]}"

    async def deliver(self, notice: Notice) -> None:
        """Raises SinkFailed when it ends with anything but 0."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "AGENTD_EVENT": str(notice["event"]),
            "AGENTD_AGENT": str(notice.get("agent", "")),
            "AGENTD_APPROVAL": str(notice.get("id", "")),
        }
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL, start_new_session=True, env=environment,
            )
        )  # fmt: skip
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # in the middle of the start: it may have children already
            await _end(await starting)
            raise
        try:
            await process.communicate(json.dumps({**notice, "text": text_of(notice)}).encode() + b"\n")
        finally:
            await _end(process)
        if process.returncode:
            raise SinkFailed(f"it ended with {process.returncode}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills a command that still runs, with everything of its session's first group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
