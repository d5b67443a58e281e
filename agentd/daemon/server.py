"""The unix socket: one JSON object a line in each direction.

    {"method": "approvals.approve", "params": {"id": "3"}}
    {"ok": true, "result": {...}}           or
    {"ok": false, "error": {"code": "...", "what": "...", "why": "...", "hint": "..."}}

A method is one function and one line in METHODS. Everything a peer sends is untrusted until its method has typed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from agentd.daemon import answers, similar
from agentd.daemon.peers import GROUP, Peer, admit
from agentd.daemon.probing import Probing
from agentd.engine import report
from agentd.engine.core import Engine
from agentd.engine.status import calls_of
from agentd.errors import AgentdError
from agentd.kernel.notify.device import take_listener, take_received
from agentd.model import ALWAYS_OPS, Point
from agentd.notify.dispatch import Dispatcher
from agentd.policy.resolve import Overlay

LINE_MAX: Final = 1 << 20
MAX_CLIENTS: Final = 64
BACKLOG: Final = 1024  # a client that finds it full is refused by the kernel, without a word


class Server:
    """Serves one engine on one socket. reload: what a reload does (the service's own; a run has none)."""

    def __init__(
        self,
        engine: Engine,
        path: Path,
        reload: Callable[[], dict[str, Any]] | None = None,
        notifications: Dispatcher | None = None,
        probing: Probing | None = None,
    ) -> None:
        self.engine = engine
        self.probing = probing or Probing(engine)
        self.notifications = notifications
        self.overlay: Path | None = None  # with try_overlay, where a service keeps what was approved for good
        self.try_overlay: Callable[[Overlay], object] | None = None
        self.path = path
        self.reload = reload
        self.terminals = answers.guard(self)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def refuse_shared_terminal(self, peer: Peer) -> None:
        """Raises AgentdError `not-permitted` where a workload holds the terminal of whoever asks."""
        answers.refuse_shared_terminal(self, peer)

    async def start(self, bound: socket.socket | None = None) -> None:
        """Answers on the socket. Raises what bind_socket() raises."""
        self._server = await asyncio.start_unix_server(
            self._client, sock=bound or bind_socket(self.path), limit=LINE_MAX, backlog=BACKLOG
        )

    async def stop(self) -> None:
        """Closes the socket and every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            connection: socket.socket = writer.get_extra_info("socket")
            try:
                if len(self._clients) > MAX_CLIENTS:
                    raise AgentdError("service-refused", "agentd", "too many clients", "try again later")
                admit(connection, self.engine.marks)
            except AgentdError as error:
                writer.write(_failure(error))
                await writer.drain()
                return
            while line := await reader.readline():
                writer.write(await self._respond(line, connection))
                await writer.drain()
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            pass  # the peer is gone, or sent a line without an end
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _respond(self, line: bytes, connection: socket.socket) -> bytes:
        try:
            peer = admit(connection, self.engine.marks)  # again: it may have been marked since it connected
            try:
                request = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise AgentdError("usage", "request", f"not JSON: {exc}") from exc
            if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
                raise AgentdError("usage", "request", "not a JSON object with method and params")
            method = METHODS.get(str(request.get("method")))
            if method is None:
                raise AgentdError(
                    "usage", "request", f"unknown method {request.get('method')!r}", "see CONTRIBUTING.md"
                )
            result = method(self, peer, Params(request.get("params", {})))
            if inspect.isawaitable(result):
                result = await result
            return _line({"ok": True, "result": result})
        except AgentdError as error:
            return _failure(error)
        except OSError as exc:  # a process or a cgroup that went away between two looks at it
            return _failure(AgentdError("service-refused", "request", (exc.strerror or str(exc)).lower()))


def bind_socket(path: Path) -> socket.socket:
    """A socket at `path`, 0660, group agentd where it exists; one that nobody serves is replaced.

    Raises AgentdError `service-running`, `config-invalid`.
    """
    bound = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.exists():
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(path))
                raise AgentdError("service-running", str(path), "another agentd serves it", "stop that one first")
            path.unlink(missing_ok=True)
        mask = os.umask(0o117)
        try:
            bound.bind(str(path))
        finally:
            os.umask(mask)
        with contextlib.suppress(LookupError):
            shutil.chown(path, group=GROUP)
        bound.listen(BACKLOG)  # whoever finds it there waits until it is served, instead of being refused
    except OSError as exc:
        bound.close()
        why = (exc.strerror or str(exc)).lower()
        raise AgentdError("config-invalid", f"socket {path}", why, "choose another place") from exc
    except BaseException:
        bound.close()
        raise
    return bound


class Params:
    """What a peer sent, typed on the way in."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw

    @property
    def raw(self) -> dict[str, Any]:
        """Which there are."""
        return self._raw

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._raw.get(name, default)
        if not isinstance(value, str) or "\0" in value:
            raise AgentdError("usage", f"parameter {name}", "expected a string")
        return value

    def number(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31) -> int:
        """A whole number from `least` to `most`."""
        value = self._raw.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise AgentdError("usage", f"parameter {name}", f"expected a whole number, {least} at least")
        return value


def _status(server: Server, peer: Peer, params: Params) -> Any:
    told = server.notifications.status() if server.notifications else []
    return {**server.engine.status(), "notifications": told}


def _top(server: Server, peer: Peer, params: Params) -> Any:
    return server.engine.top()


async def _doctor(server: Server, peer: Peer, params: Params) -> Any:
    await server.probing.round()
    engine = server.engine
    return report.of(engine.verification, Point(engine.loaded.control.point), calls_of(engine))


async def _mark(server: Server, peer: Peer, params: Params) -> Any:
    """A child of the peer that waits to exec: the root of a new workload."""
    await server.probing.proved(params.text("agent"))
    engine = server.engine
    with _child_of(peer, params.number("pid")) as pidfd:
        command = params.text("command", "")
        origin = f"agentd run by {peer.approver()}"
        workload = engine.tagging.started(pidfd, params.text("agent"), origin, [command], supervised=engine.supervises)
    engine.commit()
    return {
        "workload": workload.number,
        "denials": str(engine.reasons.path(workload.number)),
        "supervised": engine.supervises,
    }


def _supervise(server: Server, peer: Peer, params: Params) -> Any:
    """The filter of that child: its descriptor is taken from the child itself, or from the peer, who has kept it while
    there was no agentd (keeping.py).
    """
    pid, most = params.number("pid"), 1 << 20
    resume = "resume" in params.raw
    with _child_of(peer, pid) as pidfd, contextlib.ExitStack() as stack:
        try:
            asker = os.pidfd_open(peer.pid)
            stack.callback(os.close, asker)
            number = params.number("resume" if resume else "listener", least=0, most=most)
            listener = take_listener(asker if resume else pidfd, number)
            received = None
            if "received" in params.raw:
                try:
                    received = take_received(asker, params.number("received", least=0, most=most))
                except BaseException:
                    os.close(listener)
                    raise
        except OSError as exc:
            why = (exc.strerror or str(exc)).lower()
            raise AgentdError("usage", f"listener of process {pid}", why, "start it with agentd run") from exc
        refused = params.number("refused", 0, least=0, most=1 << 62)
        server.engine.supervision.supervise(pidfd, listener, received, refused)
    return {}


@contextlib.contextmanager
def _child_of(peer: Peer, pid: int) -> Iterator[int]:
    """A pidfd. Raises AgentdError `no-such-process`, `not-permitted`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as exc:
        raise AgentdError("no-such-process", f"process {pid}", "there is none") from exc
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        if parent != peer.pid:
            raise AgentdError(
                "not-permitted", f"process {pid}", "it is not a child of the asking process", "use agentd tag"
            )
        yield pidfd
    finally:
        os.close(pidfd)


async def _tag(server: Server, peer: Peer, params: Params) -> Any:
    agent = params.text("agent")
    await server.probing.proved(agent)
    engine = server.engine
    if "cgroup" in params.raw:
        path = Path(params.text("cgroup"))
        workload, threads = engine.tagging.cgroup(path, agent, f"agentd tag cgroup {path} by {peer.name}")
    else:
        pid = params.number("pid")
        if pid == os.getpid() or pid == 1:
            raise AgentdError(
                "usage", f"process {pid}", "would tag the whole system or agentd itself", "choose another"
            )
        workload, threads = engine.tagging.tree(pid, agent, f"agentd tag pid {pid} by {peer.name}")
    engine.commit()
    return {
        "workload": workload.number,
        "threads": threads,
        "io_uring": engine.marks.rings_found(),
        "enforcement": _held_when_tagged(engine),
    }


async def _try_tag(server: Server, peer: Peer, params: Params) -> Any:
    """What a tag would give, and whether it would be refused; nothing is tagged."""
    agent = params.text("agent")
    await server.probing.proved(agent)
    engine = server.engine
    engine.policies.slot(agent)
    refused = None
    try:
        if resolved := engine.policies.agent(agent):
            engine.minimum.require(resolved, started=False)
    except AgentdError as error:
        refused = str(error)
    return {"refused": refused, "enforcement": _held_when_tagged(engine)}


def _held_when_tagged(engine: Engine) -> list[dict[str, Any]]:
    proofs = engine.verification.proofs
    made = report.rows(engine.verification.claims(), engine.verification.claims(started=True))
    for row, op in zip(made, ALWAYS_OPS, strict=True):
        row["verified"] = proofs[op].verified if op in proofs and proofs[op].tried else None
    return made


def _reload(server: Server, peer: Peer, params: Params) -> Any:
    if server.reload is None:
        raise AgentdError("service-refused", "reload", "agentd run has one policy for its whole life", "start it again")
    return server.reload()


# A method may be a coroutine: then it is awaited, and other peers are answered meanwhile.
METHODS: Final[dict[str, Callable[[Server, Peer, Params], Any]]] = {
    "status": _status,
    "top": _top,
    "doctor": _doctor,
    "approvals.list": answers.listing,
    "approvals.summary": answers.summary,
    "approvals.wait": answers.wait,
    "approvals.show": answers.show,
    "approvals.approve": answers.answer(True),
    "approvals.deny": answers.answer(False),
    "approvals.similar": similar.similar,
    "approvals.confirm": similar.confirm,
    "approvals.standing": answers.standing,
    "approvals.revoke": answers.revoke,
    "run.mark": _mark,
    "run.supervise": _supervise,
    "tag": _tag,
    "tag.try": _try_tag,
    "reload": _reload,
}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode() + b"\n"


def _failure(error: AgentdError) -> bytes:
    return _line({"ok": False, "error": {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}})
