"""Exact counts of allowed operations: flipped, drained and written as summary records.

What the kernel allows from memory it counts in numbers of its own (kernel/hits.py); both are told together.

Two maps take turns. The programs are turned to the other map, those still using this one are waited for, and then it
stands still and is emptied: nothing is counted twice and nothing is missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from agentd.kernel import abi
from agentd.kernel.hits import Hits
from agentd.kernel.libbpf import wait_for_programs
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import EventRing, NameKey, parse_name


class Accounts:
    """The count maps of one loaded object, and the names behind their keys."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        self._ring = EventRing(loaded, "seen")
        self._names: dict[NameKey, bytes] = {}
        self._hits = Hits(loaded)
        self._hit_names: dict[NameKey, bytes] = {}
        self._since = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def fileno(self) -> int:
        """Readable when names have arrived."""
        return self._ring.fileno()

    def learn(self) -> None:
        """Takes the names that have arrived."""
        self._names.update(map(parse_name, self._ring.take()))

    def flush(self) -> Iterator[tuple[abi.CountKey, abi.Count, bytes | None]]:
        """Every count since the last flush, with the object's bytes (None: its name was lost)."""
        self.learn()
        control = self._loaded.control
        full = control.counts & 1
        control.counts = 1 - full
        wait_for_programs()
        settled = dict(self._names)
        self._names = {}
        late = dict(map(parse_name, self._ring.take()))  # names of the map that stands still, and of the one now in use
        settled.update(late)
        self._names.update(late)
        counts = self._loaded.counts[full]
        found: dict[NameKey, tuple[abi.CountKey, abi.Count]] = {}
        for key, count in counts.drain():
            if count.count:
                found[_count_name(key)] = (key, count)
        self._add_hits(found, settled)
        for name, (key, count) in found.items():
            yield key, count, settled.get(name)

    def _add_hits(self, found: dict[NameKey, tuple[abi.CountKey, abi.Count]], names: dict[NameKey, bytes]) -> None:
        """What was allowed from memory: counted to what it stands for, whose name was told when it was first seen. When
        it happened is known to the interval between two flushes.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        anew = self._hits.nearly_full
        if anew:
            self._hits.stop()
        for _, key, more in self._hits.take():
            name = _count_name(key)
            if name in names:
                self._hit_names[name] = names[name]
            elif name in self._hit_names:
                names[name] = self._hit_names[name]
            known = found.get(name)
            if known is None:
                copy = abi.CountKey.from_buffer_copy(key)
                point = int(self._loaded.control.point)
                found[name] = (copy, abi.Count(count=more, first=self._since, last=now, point=point))
            else:
                known[1].count += more
                known[1].last = now
        if anew:
            self._hits.begin()
            self._hit_names = {}
        else:
            self._hit_names.update(
                {name: names[name] for name in found if name in names and self._remembered(found[name][1])}
            )
        self._since = now

    def _remembered(self, count: abi.Count) -> bool:
        """Was this one given a number, under which it may be counted later?"""
        return bool(count.hit and count.hit_epoch == self._loaded.control.memory_epoch)

    def entries(self) -> int:
        """Names held, which is about the number of live keys."""
        return len(self._names)

    def close(self) -> None:
        """Frees the ring."""
        self._ring.close()


def _count_name(key: abi.CountKey) -> NameKey:
    return (key.agent, key.generation, key.outcome, key.op, key.object[0], key.object[1])
