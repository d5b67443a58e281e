"""How workloads came to be, kept over a restart of the daemon: `agentd status` still says which rule marked what.

A note in a file, of one set of pins; losing it costs words, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from agentd.engine.census import Workload


class Origins:
    """The notes in `path`. identity: of the pins; notes of others are not believed."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._written = ""

    def load(self) -> dict[int, tuple[str, str, float]]:
        """(Agent, origin, since when) by workload."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["pins"] == self._identity:
                return {int(n): (str(a), str(o), float(s)) for n, (a, o, s) in found["workloads"].items()}
        return {}

    def save(self, workloads: Mapping[int, Workload]) -> None:
        """Writes them if they have changed."""
        kept = {str(w.number): (w.agent, w.origin, w.started) for w in workloads.values()}
        text = json.dumps({"pins": self._identity, "workloads": kept})
        if text == self._written:
            return
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(fresh, self._path)
            self._written = text
