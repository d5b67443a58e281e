"""The servers of the story, on free ports of 127.0.0.1: a web search, a sink for mail, and a port nobody may reach.

They stand outside the policy, and what they saw is the proof of each step. SMTP: RFC 5321, as much of it as a client
needs to hand over a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Mail:
    """One message that was taken. received: seconds, CLOCK_MONOTONIC."""

    to: str
    text: str
    received: float


class Servers:
    """All of them, on a thread of their own. Only the lists are shared; they only grow."""

    def __init__(self) -> None:
        self.searches: list[str] = []  # request lines
        self.mail_connections = 0
        self.mails: list[Mail] = []
        self.other_connections = 0
        self.search_port = self.smtp_port = self.other_port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="demo-servers")

    def __enter__(self) -> Servers:
        """Raises OSError when loopback can't be listened on."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self._main())
            except OSError as exc:
                self._failure = exc
            finally:
                self._ready.set()

    async def _main(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for name, handler in (("search", self._search), ("smtp", self._mail), ("other", self._other)):
                server = await asyncio.start_server(_closing(handler), "127.0.0.1", 0)
                await stack.enter_async_context(server)
                setattr(self, f"{name}_port", server.sockets[0].getsockname()[1])
            self._ready.set()
            await self._stop.wait()

    async def _search(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readline()).decode("latin-1").strip()
        while (await reader.readline()).strip():
            pass
        self.searches.append(request)
        body = b"3 pages about agents, policies and kernels"
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    async def _mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.mail_connections += 1
        to = ""
        writer.write(b"220 localhost ready\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                to = line.decode("latin-1").partition("<")[2].partition(">")[0]
            if verb == b"DATA":
                writer.write(b"354 go on\r\n")
                lines = []
                while (text := await reader.readline()) not in (b".\r\n", b""):
                    lines.append(text.decode("latin-1"))
                self.mails.append(Mail(to, "".join(lines), time.monotonic()))
            writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            await writer.drain()
            if verb == b"QUIT":
                return

    async def _other(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.other_connections += 1


def _closing(handler: Handler) -> Handler:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return serve
