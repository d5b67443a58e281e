"""The service in a process of its own, as `agentd daemon` composes it, but for a policy that the host has compiled.

Python compiles 10,000 rules in a minute under emulation; so the host does and the service takes what it made. A byte on
`asked` makes it write all its books, which it answers when it has: so what an operation costs later is counted with it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
from pathlib import Path
from typing import Final

from agentd.daemon import host
from agentd.daemon.client import SERVICE_SOCKET
from agentd.daemon.loop import EngineLoop
from agentd.daemon.places import run_pins
from agentd.daemon.server import Server, bind_socket
from agentd.engine.core import Engine

PATIENCE: Final = 120.0


class Service:
    """A running service. settle(): it has nothing left to do."""

    def __init__(self, compiled: Path, state: Path) -> None:
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._ask)
                os.close(self._told)
                asyncio.run(_serve(compiled, state, asked, tell))
                os._exit(0)
            except BaseException as error:  # noqa: BLE001  # a child of fork ends here, and says why
                print(f"the service ended: {error!r}", flush=True)
            finally:
                os._exit(1)
        os.close(asked)
        os.close(tell)
        self._answer()

    def settle(self) -> bool:
        """Returns when the service has handled every event and written every count: are its programs attached?"""
        os.write(self._ask, b"s")
        return self._answer() == b"w"

    def stop(self) -> None:
        """Ends enforcement."""
        os.kill(self.pid, signal.SIGTERM)
        if os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]):
            raise SystemExit("the service did not end as it should")

    def resident(self) -> float:
        """MB, without what only forking shared with it."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def _answer(self) -> bytes:
        answer = os.read(self._told, 1)
        if not answer:
            raise SystemExit("the service is gone")
        return answer


async def _serve(compiled: Path, state: Path, asked: int, tell: int) -> None:
    with open(compiled, "rb") as file:
        policy = pickle.load(file)
    engine = host.start(policy, pins=run_pins(), audit_dir=state)
    loop, server = EngineLoop(engine), Server(engine, SERVICE_SOCKET)
    running, stopping = asyncio.get_running_loop(), asyncio.Event()
    try:
        await server.start(bind_socket(SERVICE_SOCKET))
        loop.start()
        running.add_reader(asked, _settle, engine, asked, tell)
        running.add_signal_handler(signal.SIGTERM, stopping.set)
        gc.freeze()
        os.write(tell, b"r")
        waiting = {asyncio.create_task(stopping.wait()), asyncio.create_task(loop.failed.wait())}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if loop.failure is not None:
            raise loop.failure
    finally:
        await loop.stop()
        await server.stop()
        host.stop(engine, release=True)


def _settle(engine: Engine, asked: int, tell: int) -> None:
    os.read(asked, 1)
    while engine.pump():
        pass
    engine.tick()
    engine.flush()
    os.write(tell, b"w" if engine.loaded.watching else b"d")
