"""`agentd run`: a command under a policy, with the service's engine or with one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.actions import signals
from agentd.audit.record import Record, body
from agentd.daemon import host
from agentd.daemon.client import SERVICE_SOCKET, Client
from agentd.daemon.keeping import Keeper, spawn
from agentd.daemon.launch import Child, Marked, exit_code, launch
from agentd.daemon.loop import EngineLoop
from agentd.daemon.peers import Peer
from agentd.daemon.places import run_pins
from agentd.daemon.server import Server
from agentd.engine.core import Engine
from agentd.engine.reasons import VARIABLE
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import features, recursion
from agentd.kernel.notify.device import Received, take_listener
from agentd.kernel.notify.keeper import new_received
from agentd.kernel.prepare import Preparation
from agentd.kernel.seccomp import restrict
from agentd.model import Point
from agentd.workloads.processes import start_ticks, ticks, user_name

DOOM_AFTER = 20  # rounds of killing what is left behind
STATE_ROOT = Path("/var/lib/agentd")
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asked for. events: where each record goes as a JSON line, besides the log;
    socket: the service's.
    """

    agent: str
    command: Sequence[str]
    policy: Path | None
    state: Path | None
    user: str | None
    events: Path | None
    socket: Path | None = None


def run(request: RunRequest, say: Callable[[str], None], preparation: Preparation | None = None) -> int:
    """The exit code of the command. Raises AgentdError when it was not started.

    preparation: of this process's pins, begun to be verified earlier.
    """
    try:
        if request.policy is None:
            if request.events or request.state:
                what = "--json-events" if request.events else "--state"
                raise AgentdError("usage", what, "the service keeps the log", "give --policy FILE too, or leave it out")
            if request.socket is None and not SERVICE_SOCKET.exists():
                raise AgentdError(
                    "service-unreachable", "agentd run", "no service is running and no policy was given",
                    "give --policy FILE, or systemctl start agentd",
                )  # fmt: skip
            return _run_with_service(request)
        return asyncio.run(_run_alone(request, say, preparation))
    except AgentdError as error:
        if error.exit_code in (1, 2):
            error.exit_code = EXIT_CANNOT_ENFORCE
        raise


def _run_with_service(request: RunRequest) -> int:
    place = request.socket or SERVICE_SOCKET
    kept: list[Keeper] = []
    service: int | None = None
    with Client(place) as client:

        def mark(pid: int, pidfd: int) -> Marked:
            made = client.call("run.mark", pid=pid, agent=request.agent, command=request.command[0])
            return Marked({VARIABLE: made["denials"]}, made["supervised"])

        def listen(pid: int, pidfd: int, listener: int) -> None:
            nonlocal service
            with contextlib.suppress(OSError):  # then nobody keeps it, and the kernel says ENOSYS without a service
                kept.append(Keeper(place, pid, pidfd, listener))
                service = client.pidfd()
            received = {"received": kept[0].received} if kept else {}
            client.call("run.supervise", pid=pid, listener=listener, **received)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # for good: _forward_all() takes them
        child = _launch(request, mark, listen, before)
    threading.Thread(target=_forward_all, args=(child,), name="signals", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for keeper in kept:
            keeper.wait(child.pidfd, service)
        return exit_code(os.waitpid(child.pid, 0)[1])
    finally:
        os.close(child.pidfd)


def _forward_all(child: Child) -> None:
    """Not by handlers: they run too late for a signal that comes after Python has looked for one and before the kernel
    waits.
    """
    while True:
        _forward(child, signal.sigwait(FORWARDED))


def _launch(
    request: RunRequest,
    mark: Callable[[int, int], Marked],
    listen: Callable[[int, int, int], None],
    mask: set[int],
) -> Child:
    """mask: the signals that the command has blocked."""
    return launch(
        request.command,
        mark,
        user=request.user,
        prepare=lambda: _unblock(mask),
        restrict=restrict,
        listen=listen,
    )


def _unblock(mask: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forward(child: Child, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        signal.pidfd_send_signal(child.pidfd, number)


async def _run_alone(request: RunRequest, say: Callable[[str], None], preparation: Preparation | None) -> int:
    assert request.policy is not None
    features.require_host()
    for folder in host.collect_stale_runs():
        say(f"{folder}: left by an agentd that is gone; its processes are still held to their policy")
    state = request.state or STATE_ROOT / f"run-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    compiled = host.read_policy(request.policy, os.getcwd(), own=[state])
    agent = compiled.policy.agents.get(request.agent)
    if agent is None:
        known = ", ".join(sorted(compiled.policy.agents))
        raise AgentdError("unknown-agent", f"agent {request.agent!r}", "the policy doesn't name it", f"choose: {known}")
    with contextlib.ExitStack() as stack:
        on_event = _event_writer(stack, request.events) if request.events else None
        engine = host.start(compiled, pins=run_pins(), audit_dir=state, preparation=preparation)
        engine.on_event = on_event
        engine.questions.on_notice.append(lambda notice: _tell(notice, say))
        keepers: list[subprocess.Popen[bytes]] = []
        loop = EngineLoop(engine)
        server = Server(engine, SERVICE_SOCKET.parent / f"run-{os.getpid()}.sock")
        try:
            engine.minimum.require(agent, started=True)
            if agent.minimum_guarantee:
                engine.verification.run()
            if recursion.open_to_all(Point(engine.loaded.control.point)):
                say("this kernel leaves programs out at times, and then nothing is judged: see agentd doctor")
            await server.start()
            loop.start()
            code = await _supervise(request, engine, loop, keepers)
        finally:
            await loop.stop()
            await server.stop()
            left, alone = _end_leftovers(engine)
            for keeper in keepers if alone else ():  # else what is left is refused from here on
                keeper.kill()
                keeper.wait()
            host.stop(engine, release=alone)
        if not alone:
            say("some of its processes could not be killed: the kernel goes on holding them to their policy")
        if left:
            say(f"{left} processes outlived {request.command[0]}: killed, because their policy ends with this run")
    return code


def _tell(notice: dict[str, Any], say: Callable[[str], None]) -> None:
    """On the terminal of the command: only where to look. Nobody can answer there (see peers.py)."""
    if notice["event"] == "asked":
        say(
            f"held: {notice['summary']} ({notice['tool']}/{notice['operation']}); "
            f"answer from another terminal: agentd approvals approve {notice['id']}"
        )
    elif notice["event"] == "flood":
        say(f"{notice['agent']}: {notice['reason']}")


async def _supervise(
    request: RunRequest, engine: Engine, loop: EngineLoop, keepers: list[subprocess.Popen[bytes]]
) -> int:
    by = Peer(os.getpid(), os.getuid(), os.getgid()).approver()
    login = f", login {user_name(by.login_uid)}" if by.login_uid is not None else ""
    origin = f"agentd run by {by}{login}"

    def mark(pid: int, pidfd: int) -> Marked:
        command = list(request.command)
        workload = engine.tagging.started(pidfd, request.agent, origin, command, supervised=engine.supervises)
        engine.commit()
        return Marked({VARIABLE: str(engine.reasons.path(workload.number))}, engine.supervises)

    def listen(pid: int, pidfd: int, listener: int) -> None:
        taken = take_listener(pidfd, listener)
        received = Received(new_received())
        keepers.append(spawn(taken, received.fd))
        engine.supervision.supervise(pidfd, taken, received)

    running = asyncio.get_running_loop()
    ended = asyncio.Event()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is somebody to forward them to
    try:
        child = _launch(request, mark, listen, before)
        running.add_reader(child.pidfd, ended.set)
        for number in FORWARDED:
            running.add_signal_handler(number, _forward, child, number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    running.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal sends it to the command too
    try:
        waiting = {asyncio.create_task(ended.wait()), asyncio.create_task(loop.failed.wait())}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if loop.failure is not None:
            _forward(child, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise loop.failure
        return exit_code(os.waitpid(child.pid, 0)[1])
    finally:
        running.remove_reader(child.pidfd)
        for number in (*FORWARDED, signal.SIGINT):
            running.remove_signal_handler(number)
        os.close(child.pidfd)


def _end_leftovers(engine: Engine) -> tuple[int, bool]:
    """Kills what the command left behind; (how many processes that was, whether it is proved that nobody is left).

    A workload that forks and ends faster than it can be listed is doomed in the kernel: its next fork is its last.
    """
    killed: set[tuple[int, int]] = set()
    for attempt in range(500):
        lines = engine.marks.list()
        if not lines and engine.marks.none_left():
            return len(killed), True
        for line in lines:
            process = (line.pid, start := ticks(line.start_time))
            if signals.send(line.pid, start, signal.SIGKILL, start_ticks):
                killed.add(process)
            if attempt == DOOM_AFTER:
                engine.marks.doom(line.workload)
        time.sleep(0.01)
    return len(killed), False


def _event_writer(stack: contextlib.ExitStack, path: Path) -> Callable[[Record], None]:
    try:
        out = stack.enter_context(path.open("a", encoding="utf-8"))
    except OSError as exc:
        why = f"can't be written: {(exc.strerror or str(exc)).lower()}"
        raise AgentdError("usage", str(path), why, "give --json-events a file") from exc

    def write(record: Record) -> None:
        made: dict[str, Any] = body(record, "", "")
        out.write(json.dumps(made) + "\n")
        out.flush()

    return write
