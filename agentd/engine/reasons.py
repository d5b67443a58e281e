"""The reason reaches the agent: for each workload a file that it can read and not write, with its last denials.

/run/agentd/denials/NAME.json, where NAME follows from a secret and can't be guessed: the folder can't be listed, so a
workload finds its own file by AGENTD_DENIALS in its environment and nobody else's. That it may read it is an entry of
the shipped catalogue (runtime/load), like everything of the baseline. The file is replaced as a whole, so nobody reads
half of it; nothing is synced, because it lives in memory as the workload does. Against a workload that runs as root
only its policy protects the file: writing it is an operation like any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.audit.record import object_json, time_text
from agentd.engine.records import Names, object_of, reason_of, summary_of
from agentd.kernel.ring import KernelEvent
from agentd.policy.instead import instead
from agentd.policy.resolved import ResolvedAgent

FOLDER: Final = Path("/run/agentd/denials")
VARIABLE: Final = "AGENTD_DENIALS"
KEPT: Final = 20  # denials of a workload
MAX_FILES: Final = 10_000  # workloads with a file; the denials of more are on record, and reach nobody


@dataclass(slots=True)
class _Told:
    agent: str
    total: int = 0
    denials: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))


class Reasons:
    """The files of one engine. secret: of its set of pins; agent_of: an agent of the policy in force, by name."""

    def __init__(self, secret: bytes, agent_of: Callable[[str], ResolvedAgent | None], folder: Path = FOLDER) -> None:
        self._secret = secret
        self._agent_of = agent_of
        self._folder = folder
        self._told: dict[int, _Told] = {}
        self._dirty: set[int] = set()
        self.failed = ""

    def path(self, workload: int) -> Path:
        """Where a workload's file is, or will be."""
        name = hashlib.sha256(self._secret + b"denials" + workload.to_bytes(8, "little")).hexdigest()[:32]
        return self._folder / f"{name}.json"

    def begin(self, workload: int, agent: str) -> Path:
        """Makes the file of a new workload."""
        self._told.setdefault(workload, _Told(agent))
        self._write(workload)
        return self.path(workload)

    def denied(self, event: KernelEvent, agent: str, names: Names, reason: str = "", *, at_once: bool = False) -> None:
        """One more denial. It is in the file after flush(), or at once."""
        told = self._told.get(event.workload)
        if told is None:
            if len(self._told) >= MAX_FILES:
                return
            told = self._told[event.workload] = self._before(event.workload, agent)
        told.total += 1
        resolved = self._agent_of(agent)
        told.denials.append(
            {
                "number": told.total,
                "time": time_text(time.time_ns()),
                "what": summary_of(event),
                "kernel_operation": event.op.word,
                "object": object_json(object_of(event.op, event.object, event.flags)),
                "tool": names.tool,
                "operation": names.operation,
                "rule": names.rule,
                "reason": reason or reason_of(event.decision, event.rule, names.tool, names.operation),
                "instead": instead(resolved, event.op, names.tool, names.operation) if resolved else "unknown",
                "pid": event.pid,
            }
        )
        self._dirty.add(event.workload)
        if at_once:
            self._dirty.discard(event.workload)
            self._write(event.workload)

    def flush(self) -> None:
        """Writes what has changed."""
        for workload in self._dirty:
            self._write(workload)
        self._dirty.clear()

    def forget(self, workloads: Collection[int]) -> None:
        """Removes the files of workloads that have ended."""
        for workload in workloads:
            self._told.pop(workload, None)
            self._dirty.discard(workload)
            with contextlib.suppress(OSError):
                self.path(workload).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Removes every file of this engine."""
        self.forget(list(self._told))

    def _before(self, workload: int, agent: str) -> _Told:
        """What an agentd before this one had told."""
        told = _Told(agent)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            made = json.loads(self.path(workload).read_bytes())
            told.total = int(made["total"])
            told.denials.extend(made["denials"])
        return told

    def _write(self, workload: int) -> None:
        told = self._told[workload]
        made = {
            "version": 1, "agent": told.agent, "workload": workload, "total": told.total,
            "denials": [*told.denials],
        }  # fmt: skip
        path = self.path(workload)
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444)
            try:
                os.fchmod(fd, 0o444)
                os.write(fd, json.dumps(made, indent=1).encode())
            finally:
                os.close(fd)
            os.rename(fresh, path)
            self.failed = ""
        except OSError as error:
            self.failed = (error.strerror or str(error)).lower()
