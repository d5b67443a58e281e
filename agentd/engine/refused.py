"""What each agent was refused most often: held or denied, by operation and object.

Objects are the workload's choice, so none is a label of a metric. Here they are counted in a bounded table; the metrics
show how often by rank, and the names are for whoever may ask the service.
"""

from __future__ import annotations

from typing import Final

KEPT: Final = 1000  # objects of one agent
MAX_AGENTS: Final = 256

Key = tuple[str, str, str]
"""(kernel operation, object as text, rule)"""


class Refused:
    """Exact up to KEPT different objects of an agent. With more, the rarest makes room and leaves its count to the one
    that comes, so that no count is too low (Metwally, Agrawal and El Abbadi, Space-Saving, 2005).
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[Key, int]] = {}
        self._changed: set[str] = set()

    def note(self, agent: str, key: Key, count: int = 1) -> None:
        """Counts one."""
        counts = self._counts.get(agent)
        if counts is None:
            if len(self._counts) >= MAX_AGENTS:
                return
            counts = self._counts[agent] = {}
        self._changed.add(agent)
        if key not in counts and len(counts) >= KEPT:
            rarest = min(counts, key=counts.__getitem__)
            counts[key] = counts.pop(rarest)
        counts[key] = counts.get(key, 0) + count

    def top(self, agent: str, number: int) -> list[tuple[Key, int]]:
        """The most often refused ones, most often first."""
        counts = self._counts.get(agent, {})
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def agents(self) -> list[str]:
        """Who was refused anything."""
        return sorted(self._counts)

    def changed(self) -> set[str]:
        """The agents whose counts have changed since this was asked last."""
        found, self._changed = self._changed, set()
        return found
