"""The console over HTTP: one page, its parts, and what it asks for. aiohttp does the protocol.

GET  /, /log, /top, /workloads, /record/N    the page; it has nothing in it until somebody logs in
GET  /static/NAME                            its style and script
POST /api/login, /api/logout
GET  /api/state, /api/approvals, /api/log, /api/top, /api/record/N
GET  /api/live                               server-sent events
POST /api/approvals/N                        {"answer": "approve" | "deny", "reason": "", "upto": N}

A request of a workload's process is refused before it is looked at; so is a connection too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pwd
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from agentd.approvals.book import Approver
from agentd.audit import reader
from agentd.daemon.console.access import COOKIE, KEY_HEADER, SESSION_SECONDS, Access, Session
from agentd.daemon.console.feed import Feed, shown
from agentd.daemon.console.search import Wanted, search
from agentd.daemon.console.settings import ConsoleSettings, read_tokens
from agentd.daemon.loop import SLICE_SECONDS
from agentd.daemon.peers import admit
from agentd.engine.pending import brief
from agentd.engine.questions import boot_now
from agentd.errors import AgentdError
from agentd.workloads.loopback import holds_socket, owner_of_peer

if TYPE_CHECKING:
    from agentd.engine.core import Engine

STATIC: Final = Path(__file__).parent / "static"
FILES: Final = {"style.css": "text/css", "console.js": "text/javascript"}
MAX_BODY: Final = 8192
MAX_CONNECTIONS: Final = 64
LISTED: Final = 200  # approvals of a page
BEAT_SECONDS: Final = 15  # between two signs of life of a live view
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATUS: Final = {"not-permitted": 403, "usage": 400, "no-such-approval": 404, "approval-answered": 409}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Console:
    """Serves one engine to people."""

    def __init__(self, engine: Engine, settings: ConsoleSettings) -> None:
        """Raises AgentdError `config-invalid` when the file of tokens is not one."""
        read_tokens(settings.tokens)
        self._engine = engine
        self._settings = settings
        self._access = Access(settings)
        self._feed = Feed()
        self._searching = asyncio.Semaphore(1)  # it reads thousands of records: one at a time
        self._live: set[asyncio.Task[Any]] = set()
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/static/{name}", self._static),
                web.post("/api/login", self._login),
                web.post("/api/logout", self._logout),
                web.get("/api/state", self._state),
                web.get("/api/approvals", self._approvals),
                web.post("/api/approvals/{id}", self._answer),
                web.get("/api/log", self._log),
                web.get("/api/top", self._top),
                web.get("/api/record/{seq}", self._record),
                web.get("/api/live", self._stream),
                *(web.get(path, self._page) for path in ("/", "/log", "/top", "/workloads", "/record/{seq}")),
            ]
        )
        # What a request got wrong is its sender's business: whoever may connect could fill the journal with it.
        quiet = logging.Logger("agentd.console")
        quiet.addHandler(logging.NullHandler())
        self._runner = web.AppRunner(app, access_log=None, logger=quiet, handle_signals=False, shutdown_timeout=1)
        self._accepting: asyncio.Task[None] | None = None

    async def start(self, bound: socket.socket) -> None:
        """Answers on a socket that is bound."""
        await self._runner.setup()
        bound.listen(MAX_CONNECTIONS)
        bound.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(bound))
        self._engine.on_event = self._feed.offer

    async def stop(self) -> None:
        """Ends every connection."""
        self._engine.on_event = None
        tasks = [*self._live, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _accept(self, bound: socket.socket) -> None:
        """One connection after the other, so that each is counted before the next: no user of the host takes all of
        the service's descriptors.
        """
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None
        while True:
            try:
                connection, _ = await loop.sock_accept(bound)
            except OSError:  # no descriptor is free, or it is gone already
                await asyncio.sleep(0.1)
                continue
            if len(server.connections) >= MAX_CONNECTIONS:
                connection.close()
            else:
                with contextlib.suppress(OSError):
                    await loop.connect_accepted_socket(server, connection)

    # -- who

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        api = request.path.startswith("/api/")
        try:
            self._check_peer(request)
            if len(request.headers.getall("Host", [])) != 1:
                raise AgentdError("usage", "console", "expected one Host")
            self._access.check_request(request.headers, page=not api)
            if api and request.method == "POST" and request.content_type != "application/json":
                raise AgentdError("usage", "console", "expected application/json")
            response = await handler(request)
        except AgentdError as error:
            response = _json({"error": str(error), "code": error.code}, STATUS.get(error.code, 500))
        except web.HTTPException as error:
            response = _json({"error": error.reason, "code": "usage"}, error.status)
        except ConnectionError:  # whoever asked is gone
            raise
        except Exception as error:  # noqa: BLE001  # a bug of this page must not end the service, nor be unheard of
            print(f"agentd: console: {request.path!r}: {error!r}; please report this", file=sys.stderr, flush=True)
            response = _json({"error": "the service could not answer", "code": "service-refused"}, 500)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _check_peer(self, request: web.Request) -> int:
        """The user whose process is at the other end. Raises AgentdError `not-permitted` for a workload's."""
        connection = request.transport.get_extra_info("socket") if request.transport else None
        if connection is None:
            raise AgentdError("not-permitted", "console", "the connection is gone")
        marks = self._engine.marks
        if connection.family == socket.AF_UNIX:
            return admit(connection, marks).uid
        owner = owner_of_peer(connection)
        pids = {line.pid for line in marks.list()}
        if owner is None or holds_socket(pids, owner.inode):
            raise AgentdError("not-permitted", "console", "a process of a workload, or of nobody known, may not ask")
        return owner.uid

    def _session(self, request: web.Request) -> Session:
        return self._access.session(request.cookies.get(COOKIE, ""), request.headers.get(KEY_HEADER, ""))

    async def _login(self, request: web.Request) -> web.StreamResponse:
        given = (await _body(request)).get("token")
        if not isinstance(given, str):
            raise AgentdError("usage", "console", "expected a token")
        cookie, session = self._access.login(self._check_peer(request), given)
        response = _json({"key": session.key, "name": session.name, "read_only": session.token.read_only})
        response.set_cookie(COOKIE, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="Strict", path="/api")
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        self._access.logout(request.cookies[COOKIE])
        response = _json({})
        response.del_cookie(COOKIE, path="/api")
        return response

    # -- the page

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=(STATIC / "index.html").read_bytes(), content_type="text/html", charset="utf-8")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        kind = FILES.get(request.match_info["name"])
        if kind is None:
            raise web.HTTPNotFound()
        body = (STATIC / request.match_info["name"]).read_bytes()
        return web.Response(body=body, content_type=kind, charset="utf-8")

    # -- what it asks for

    async def _state(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        self._engine.pump(SLICE_SECONDS)
        return _json(
            {"name": session.name, "read_only": session.token.read_only, "host": socket.gethostname()}
            | {"status": self._engine.status()}
        )

    async def _approvals(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        self._engine.pump(SLICE_SECONDS)
        questions = self._engine.questions
        held = sorted(questions.book, key=lambda pending: int(pending.id))
        now = boot_now()
        return _json({"summary": questions.summary(), "held": [brief(pending, now) for pending in held[:LISTED]]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        if session.token.read_only:
            raise AgentdError("not-permitted", "console", f"{session.name} may look and not answer with this token")
        given = await _body(request)
        answer, reason, upto = given.get("answer"), given.get("reason", ""), given.get("upto")
        if answer not in ("approve", "deny") or not isinstance(reason, str) or "\0" in reason:
            raise AgentdError("usage", "console", 'expected {"answer": "approve" or "deny", "reason": "..."}')
        if not isinstance(upto, int) or isinstance(upto, bool) or not 0 < upto < 1 << 63:
            raise AgentdError("usage", "console", "expected upto: the latest hold that the page has shown")
        self._engine.pump(SLICE_SECONDS)
        by = _approver(session.name)
        result = self._engine.questions.answer(
            request.match_info["id"], answer == "approve", by, reason[:1000], upto=upto
        )
        return _json(result)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        self._engine.commit()
        async with self._searching:
            return _json(await asyncio.to_thread(search, self._engine.audit.path, Wanted.of(request.query)))

    async def _top(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        refused = self._engine.refused
        return _json(
            {
                agent: [
                    {"operation": operation, "object": target, "rule": rule, "count": count}
                    for (operation, target, rule), count in refused.top(agent, 20)
                ]
                for agent in refused.agents()
                if request.query.get("agent", agent) == agent
            }
        )

    async def _record(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        number = request.match_info["seq"]
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise AgentdError("usage", "console", "expected the number of a record")
        self._engine.commit()
        found = await asyncio.to_thread(reader.find, self._engine.audit.path, int(number))
        if found is None:
            raise web.HTTPNotFound(reason=f"there is no record {number}")
        return _json(found)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        queue = self._feed.open()
        if queue is None:
            raise web.HTTPTooManyRequests(reason="too many pages are open")
        task = asyncio.current_task()
        assert task is not None
        self._live.add(task)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            looked = time.monotonic()
            while True:
                if time.monotonic() - looked > BEAT_SECONDS:  # the session may have ended meanwhile, in a flood too
                    looked = time.monotonic()
                    self._check_peer(request)
                    self._session(request)
                try:
                    record = await asyncio.wait_for(queue.get(), BEAT_SECONDS)
                    event: dict[str, Any] = shown(record)
                    if missed := self._feed.missed(queue):
                        event["missed"] = missed
                    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                except TimeoutError:
                    await response.write(b": \n\n")
        except (ConnectionError, AgentdError):
            return response
        finally:
            self._live.discard(task)
            self._feed.close(queue)


def _approver(name: str) -> Approver:
    """The account that a token names, as one that has logged in: the same person as on the command line."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise AgentdError("not-permitted", "console", f"there is no account {name} any more") from None
    return Approver(name, uid, 0, uid, name, "by the console")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        made = json.loads(await request.text())
    except (ValueError, RecursionError):
        made = None
    if not isinstance(made, dict):
        raise AgentdError("usage", "console", "not a JSON object")
    return made


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json")
