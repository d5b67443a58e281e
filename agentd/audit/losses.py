"""What did not fit the writer's queue, counted until there is room for the record that says so."""

from __future__ import annotations

from collections import Counter

from agentd.audit import record
from agentd.audit.record import Record


class Losses:
    """Falsy while nothing is waiting to be told. ever: records lost since the log was opened."""

    def __init__(self) -> None:
        self.ever = 0
        self._kinds: Counter[str] = Counter()
        self._operations = 0
        self._first = self._last = 0

    def __bool__(self) -> bool:
        return bool(self._kinds)

    @property
    def untold(self) -> int:
        """How many of them no record speaks of yet."""
        return self._kinds.total()

    def add(self, item: Record) -> None:
        """One more."""
        self._first = self._first if self._kinds else item.timestamp
        self._last = item.timestamp
        self._kinds[item.event] += 1
        self._operations += item.count if item.event == "allowed" and item.count is not None else 1
        self.ever += 1

    def told(self, now: int, action_id: str) -> Record:
        """The record of them; from here on nothing waits."""
        made = record.gap(
            now, action_id, self._kinds, "audit-queue-full", first=self._first, last=self._last,
            operations=self._operations,
        )  # fmt: skip
        self._kinds = Counter()
        self._operations = 0
        return made
