"""Where records go besides the file. A sink is one module with a class of base.Sink, and one line in SINKS.

They are imported when the configuration names them, in their own threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentd.audit.canonical import Json
from agentd.audit.sinks.base import LINGER, Feed, Sink

SINKS: Final = (
    ("journald", "agentd.audit.sinks.journald", "Journald"),
    ("syslog", "agentd.audit.sinks.syslog", "Syslog"),
    ("otlp", "agentd.audit.sinks.otlp", "Otlp"),
)
NAMES: Final = tuple(name for name, _, _ in SINKS)


def maker(name: str, settings: Mapping[str, Any]) -> Callable[[], Sink]:
    """What makes the sink when it is called: it may import a lot, so that is done in the sink's thread."""
    module, kind = next((module, kind) for known, module, kind in SINKS if known == name)

    def make() -> Sink:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error.name} is not installed: pip install 'agentd-host[{name}]'") from None
        made: Sink = getattr(found, kind)(**settings)
        return made

    return make


class Feeds:
    """All sinks of one log. settings: (name, arguments of its class) for each."""

    def __init__(self, settings: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.feeds = tuple(Feed(name, maker(name, arguments)) for name, arguments in settings)

    def start(self) -> None:
        """Begins to send."""
        for feed in self.feeds:
            feed.start()

    def offer(self, lines: Sequence[bytes]) -> None:
        """Records for all of them; waits for none."""
        for feed in self.feeds:
            feed.offer(lines)

    def close(self, linger: float = LINGER) -> None:
        """Ends them; together they get `linger` seconds."""
        for feed in self.feeds:
            feed.end()
        for feed in self.feeds:
            feed.close(linger)

    def status(self) -> dict[str, Json]:
        """Of each, by name; a sink that isn't configured has nothing."""
        return {feed.name: feed.status() for feed in self.feeds}
