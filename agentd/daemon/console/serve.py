"""Starts the console, if there is to be one. Everything else of it is imported here, and not before."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.daemon.console.settings import ConsoleSettings
from agentd.daemon.server import bind_socket
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.engine.core import Engine


@contextlib.contextmanager
def console_socket(settings: ConsoleSettings | None) -> Iterator[socket.socket | None]:
    """Where the console will listen, taken before anything else is done; None without settings.

    Raises AgentdError `config-invalid`, also when aiohttp is missing.
    """
    if settings is None:
        yield None
        return
    if importlib.util.find_spec("aiohttp") is None:
        hint = "pip install 'agentd-host[console]', or remove console: from agentd.yaml"
        raise AgentdError("config-invalid", "console", "aiohttp is not installed", hint)
    bound = _bind(settings)
    try:
        yield bound
    finally:
        bound.close()
        if isinstance(settings.endpoint, Path):
            settings.endpoint.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def serving(engine: Engine, settings: ConsoleSettings | None, bound: socket.socket | None) -> AsyncIterator[None]:
    """The console on its socket for as long as it is entered; nothing without settings."""
    if settings is None or bound is None:
        yield
        return
    from agentd.daemon.console.app import Console

    console = Console(engine, settings)
    try:
        await console.start(bound)
        yield
    finally:
        await console.stop()


def _bind(settings: ConsoleSettings) -> socket.socket:
    if isinstance(settings.endpoint, Path):
        return bind_socket(settings.endpoint)
    family = socket.AF_INET6 if ":" in settings.endpoint[0] else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(settings.endpoint)
    except OSError as error:
        bound.close()
        why = (error.strerror or str(error)).lower()
        raise AgentdError("config-invalid", f"console {settings.listen}", why, "choose another port") from None
    return bound
