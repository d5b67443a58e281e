"""`agentd daemon`: the service. Start, reload, stop; everything else is the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import agentd
from agentd.daemon import host
from agentd.daemon.config import LIVE, Config, check_policy_exists, read_config
from agentd.daemon.console.serve import console_socket, serving
from agentd.daemon.console.settings import Token, read_tokens
from agentd.daemon.labels import Labels
from agentd.daemon.loop import EngineLoop
from agentd.daemon.notify import notify, reloading
from agentd.daemon.peers import approvers
from agentd.daemon.probing import Probing
from agentd.daemon.server import Server, bind_socket
from agentd.daemon.similar import read_overlay
from agentd.daemon.sweep import tag_all_running, tag_running
from agentd.engine.core import Engine
from agentd.engine.policies import Compiled
from agentd.errors import AgentdError
from agentd.kernel import features
from agentd.kernel.prepare import Preparation
from agentd.metrics import Metrics
from agentd.notify.dispatch import Dispatcher
from agentd.policy.resolve import Overlay

SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
SWEEP_ROUNDS: Final = 5  # rounds of the books, a second apart


def serve(config: Config, preparation: Preparation | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Raises AgentdError when it can't start."""
    return asyncio.run(_serve(config, preparation))


def check(config: Config) -> tuple[Compiled, Sequence[Token]]:
    """What can be read of a configuration's files before the host is touched. Raises AgentdError as serve() does."""
    check_policy_exists(config)
    tokens = read_tokens(config.console.tokens) if config.console else ()
    return _read_policy(config), tokens


async def _serve(config: Config, preparation: Preparation | None) -> int:
    features.require_host()
    compiled, tokens = check(config)
    metrics = Metrics(agentd.__version__)
    metrics.declare_approvers([*approvers(), *(token.name for token in tokens)])
    with contextlib.ExitStack() as stack:
        # Whatever can be refused is refused before the kernel is touched.
        stack.enter_context(host.in_charge_of(config.bpffs_dir))
        bound = stack.enter_context(bind_socket(config.socket))
        stack.callback(config.socket.unlink, missing_ok=True)
        if config.metrics_port:
            stack.enter_context(metrics.serve(config.metrics_port, config.metrics_address))
        page = stack.enter_context(console_socket(config.console))
        if config.program_times:
            stack.enter_context(features.program_times())
        for folder in host.collect_stale_runs():
            _say(f"{folder}: left by an agentd that is gone; its processes are still held to their policy")
        engine = host.start(
            compiled,
            pins=config.bpffs_dir,
            audit_dir=config.audit_dir,
            arena_mib=config.arena_mib,
            metrics=metrics,
            preparation=preparation,
            resolvers=config.resolvers,
            evidence=config.audit,
            pending_per_agent=config.pending_per_agent,
            matching=True,
            slices=SYSTEMD.is_dir(),
        )
        try:
            return await _Service(config, engine).run(bound, page)
        finally:
            host.stop(engine, release=config.release_on_stop)


class _Service:
    def __init__(self, config: Config, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._stopping = asyncio.Event()
        self._server: Server | None = None
        self._rounds = 0
        self._labels = Labels(engine, config.container_engines, lambda: tag_running(engine, self._labels.of))
        engine.recognisers.on_asked = self._labels.asked

    async def run(self, bound: socket.socket, page: socket.socket | None) -> int:
        loop = EngineLoop(self._engine, self._progress)
        dispatcher = Dispatcher(self._config.notify)
        dispatcher.start()
        self._engine.questions.on_notice.append(dispatcher.offer)
        self._engine.metrics.read_notices(dispatcher.status)
        probing = Probing(self._engine, self._config.probe_seconds)
        server = self._server = Server(self._engine, self._config.socket, self.reload, dispatcher, probing)
        server.overlay = self._config.overlay_file
        server.try_overlay = lambda overlay: _read_policy(self._config, overlay)
        await server.start(bound)
        stack = contextlib.AsyncExitStack()
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._stopping.set)
        running.add_signal_handler(signal.SIGHUP, self._hangup)
        try:
            await stack.enter_async_context(serving(self._engine, self._config.console, page))
            loop.start()
            self._labels.find_waiting()
            await self._labels.prime()
            tag_all_running(self._engine, self._labels.of)
            self._engine.tick()
            notify("READY=1", f"STATUS=policy {self._config.policy}")
            gc.freeze()  # what a start made stays, and is not looked at again
            gc.enable()
            probes = asyncio.create_task(probing.always())
            waiting: set[asyncio.Task[Any]] = {
                probes, asyncio.create_task(self._stopping.wait()), asyncio.create_task(loop.failed.wait())
            }  # fmt: skip
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            failure = loop.failure or (probes.exception() if probes.done() else None)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            if failure is not None:
                raise failure
            return 0
        finally:
            notify("STOPPING=1")
            await stack.aclose()
            await loop.stop()
            await self._labels.stop(release=self._config.release_on_stop)
            await server.stop()
            await dispatcher.stop()

    def reload(self) -> dict[str, Any]:
        """Configuration and policy again, all of it or none: a bad one changes nothing. Raises AgentdError.

        Of the configuration what is about the policy; `restart` names the other keys that have changed.
        """
        reloading()
        try:
            config = read_config(self._config.file, service=True)
            compiled = _read_policy(config)
            self._engine.install(compiled)
            self._engine.questions.book.limit = config.pending_per_agent
            restart = config.changed(self._config)
            self._config = dataclasses.replace(self._config, **{name: getattr(config, name) for name in LIVE})
            if self._server is not None:
                self._server.overlay = self._config.overlay_file
            self._engine.takeover.judge_again("the policy was loaded again, and judges this anew")
            tag_all_running(self._engine, self._labels.of)
        except AgentdError as error:
            self._engine.policy_rejected(error)
            raise
        finally:
            self._engine.commit()
            notify("READY=1")
        return {"policy": str(self._config.policy), "sha256": compiled.policy.sha256, "restart": restart}

    def _hangup(self) -> None:
        try:
            self.reload()
        except AgentdError as error:
            _say(f"reload refused, the old policy stays: {error}")

    def _progress(self) -> None:
        """After each round of the books: the watchdog is fed, and now and then those are looked for who became agents
        without beginning a program.
        """
        notify("WATCHDOG=1")
        self._rounds += 1
        if self._rounds % SWEEP_ROUNDS == 0:
            self._labels.find_waiting()
            tag_running(self._engine, self._labels.of)


def _read_policy(config: Config, overlay: Overlay | None = None) -> Compiled:
    """overlay: instead of the one that is kept."""
    overlay = overlay or read_overlay(config.overlay_file)
    own = [
        config.audit_dir,
        config.audit.keys_dir,
        config.overlay_file,
        config.bpffs_dir,
        *([config.file] if config.file else []),
    ]
    return host.read_policy(config.policy, config.workspace, overlay, config.environment, own)


def _say(text: str) -> None:
    print(f"agentd: {text}", file=sys.stderr, flush=True)
