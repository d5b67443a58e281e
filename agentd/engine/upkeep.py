"""Once a second: losses become records, and programs that nobody needs are detached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from agentd.audit.record import Record, gap
from agentd.audit.writer import AuditWriter, new_action_id
from agentd.engine import records
from agentd.engine.status import KILLED, LOSSES
from agentd.engine.supervision import Supervision
from agentd.kernel.loader import LoadedObject
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import Metrics

IDLE_TICKS: Final = 3  # without a workload, before the programs are detached
IDLE_TICKS_HOOKS: Final = 60  # the same with LSM hooks: taking dozens off takes seconds, and they cost others little


class Upkeep:
    """Of one engine."""

    def __init__(
        self, loaded: LoadedObject, audit: AuditWriter, metrics: Metrics, record: Callable[[Record], None]
    ) -> None:
        self._loaded = loaded
        self._audit = audit
        self._metrics = metrics
        self._record = record
        self._audit_lost = 0
        self._stats = loaded.stats.read()
        self._idle_ticks = 0
        self._given = 0

    def tell_losses(self, supervision: Supervision) -> None:
        """A gap record for whatever was lost since the last time."""
        if self._audit.lost > self._audit_lost:
            self._metrics.lost("audit-queue-full", self._audit.lost - self._audit_lost)
            self._audit_lost = self._audit.lost
        now = self._loaded.stats.read()
        for stat, reason, what in LOSSES:
            self._lost(now[stat] - self._stats[stat], reason, what)
        self._lost(supervision.lost_since(), "counts-full", "allowed operations")
        for stat, text in KILLED:
            if killed := now[stat] - self._stats[stat]:
                self._record(records.note("denied", f"{killed} {text}"))
        self._stats = now

    def _lost(self, count: int, reason: str, what: str) -> None:
        if count:
            self._metrics.lost(reason, count)
            self._record(gap(time.time_ns(), new_action_id(), {what: count}, reason))

    def rest(self, busy: bool, marks: TaskMarks) -> None:
        """Detaches the programs after a while without a workload: they would cost every process of the host."""
        used, self._given = marks.given != self._given, marks.given  # a workload may come and go between two ticks
        self._idle_ticks = 0 if busy or used else self._idle_ticks + 1
        ticks = IDLE_TICKS_HOOKS if self._loaded.prevented else IDLE_TICKS
        if self._idle_ticks >= ticks and self._loaded.watching and marks.none_left():
            self._loaded.unwatch()
