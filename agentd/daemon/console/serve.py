"""Starts the console, if there is to be one. Everything else of it is imported here, and not before."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.daemon.console.settings import ConsoleSettings
from agentd.daemon.server import bind_socket
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.engine.core import Engine


@contextlib.asynccontextmanager
async def serving(engine: Engine, settings: ConsoleSettings | None) -> AsyncIterator[None]:
    """The console for as long as it is entered; nothing without settings. Raises AgentdError `config-invalid`."""
    if settings is None:
        yield
        return
    try:
        from agentd.daemon.console.app import Console
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "aiohttp":
            raise
        hint = "pip install 'agentd-host[console]', or remove console: from agentd.yaml"
        raise AgentdError("config-invalid", "console", "aiohttp is not installed", hint) from None
    console = Console(engine, settings)
    bound = _bind(settings)
    try:
        await console.start(bound)
        yield
    finally:
        await console.stop()
        bound.close()
        if isinstance(settings.endpoint, Path):
            settings.endpoint.unlink(missing_ok=True)


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
