"""Exact counts of allowed operations: flipped, drained and written as summary records.

Two maps take turns. The programs are turned to the other map, those still using this one are waited for, and then it
stands still and is emptied: nothing is counted twice and nothing is missed.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentd.kernel import abi
from agentd.kernel.libbpf import wait_for_programs
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import EventRing, KernelEvent, parse

NameKey = tuple[int, int, int, int, int, int]


class Accounts:
    """The count maps of one loaded object, and the names behind their keys."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        self._ring = EventRing(loaded, "seen")
        self._names: dict[NameKey, bytes] = {}

    def fileno(self) -> int:
        """Readable when names have arrived."""
        return self._ring.fileno()

    def learn(self) -> None:
        """Takes the names that have arrived."""
        for raw in self._ring.take():
            event = parse(raw)
            self._names[_name_key(event)] = event.object

    def flush(self) -> Iterator[tuple[abi.CountKey, abi.Count, bytes | None]]:
        """Every count since the last flush, with the object's bytes (None: its name was lost)."""
        self.learn()
        control = self._loaded.control
        full = control.counts & 1
        control.counts = 1 - full
        wait_for_programs()
        settled = dict(self._names)
        self._names = {}
        for raw in self._ring.take():  # names of the map that stands still, and of the one now in use
            event = parse(raw)
            settled[_name_key(event)] = self._names[_name_key(event)] = event.object
        counts = self._loaded.counts[full]
        for key in list(counts.keys()):
            count = counts.get(key)
            if count is None:
                continue
            counts.delete(key)
            if count.count:
                yield key, count, settled.get(_count_name(key))

    def entries(self) -> int:
        """Names held, which is about the number of live keys."""
        return len(self._names)

    def close(self) -> None:
        """Frees the ring."""
        self._ring.close()


def _name_key(event: KernelEvent) -> NameKey:
    return (event.agent, event.generation, event.outcome, event.op, event.key[0], event.key[1])


def _count_name(key: abi.CountKey) -> NameKey:
    return (key.agent, key.generation, key.outcome, key.op, key.object[0], key.object[1])
