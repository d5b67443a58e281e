"""The endpoint that Prometheus scrapes, on a loopback address."""

from __future__ import annotations

import ipaddress
import threading
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry

from agentd.errors import AgentdError

MAX_CONNECTIONS: Final = 16  # at once; any local process may connect, so their number and their patience are bounded
CONNECTION_SECONDS: Final = 5


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes aren't news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow isn't news either."""


class MetricsServer:
    """The HTTP endpoint. `port`: the one it listens on. Close it, or use it as a context manager."""

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        where = f"metrics endpoint {address}:{port}"
        try:
            loopback = ipaddress.IPv4Address(address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            hint = "use 127.0.0.1, and a proxy of your own if others are to see it"
            raise AgentdError("config-invalid", where, "not an IPv4 loopback address", hint)
        try:
            self._server = _Server((address, port))
        except (OSError, OverflowError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise AgentdError("config-invalid", where, why, "choose another port") from None
        self._server.set_app(prometheus_client.make_wsgi_app(registry))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Returns when the socket is closed."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
