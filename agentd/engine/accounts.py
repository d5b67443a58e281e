"""Exact counts of allowed operations: flipped, drained and written as summary records.

What the kernel allows from memory it counts in numbers of its own (kernel/hits.py); both are told together.

Two maps take turns. The programs are turned to the other map, those still using this one are waited for, and then it
stands still and is emptied: nothing is counted twice and nothing is missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from agentd.kernel.counts import Count, drain
from agentd.kernel.hits import Hits
from agentd.kernel.libbpf import wait_for_programs
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import TAKE_MAX, EventRing, NameKey, parse_name

SEEN_MAX: Final = 1 << 15  # names that the ring can hold, the shortest ones


class Counted(NamedTuple):
    """Operations of one kind on one object. Times are ns of CLOCK_BOOTTIME; name: the object's bytes, None if lost."""

    key: NameKey
    times: int
    first: int
    last: int
    point: int
    name: bytes | None


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
        for taken in self._arrived():
            self._names.update(map(parse_name, taken))

    def _arrived(self) -> Iterator[list[bytes]]:
        """What stands in the ring, and a bounded part of what comes meanwhile."""
        for _ in range(SEEN_MAX // TAKE_MAX + 1):
            taken = self._ring.take()
            yield taken
            if len(taken) < TAKE_MAX:
                return

    def flush(self) -> Iterator[Counted]:
        """Every count since the last flush."""
        self.learn()
        control = self._loaded.control
        full = control.counts & 1
        control.counts = 1 - full
        wait_for_programs()
        settled, self._names = self._names, {}
        late: dict[NameKey, bytes] = {}  # names of the map that stands still, and of the one now in use
        for taken in self._arrived():
            late.update(map(parse_name, taken))
        settled.update(late)
        self._names.update(late)
        found: dict[NameKey, Count] = {}
        for some in drain(self._loaded.counts[full]):
            found.update((key, count) for key, count in some if count.times)
            self.learn()  # a workload goes on meanwhile, and the ring is small
        self._add_hits(found, settled)
        while found:  # each is forgotten as it is told: there may be many
            key, count = found.popitem()
            yield Counted(key, count.times, count.first, count.last, count.point, settled.pop(key, None))

    def _add_hits(self, found: dict[NameKey, Count], names: dict[NameKey, bytes]) -> None:
        """What was allowed from memory: counted to what it stands for, whose name was told when it was first seen. When
        it happened is known to the interval between two flushes.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        anew = self._hits.nearly_full
        if anew:
            self._hits.stop()
        for key, more in self._hits.take():
            if key in names:
                self._hit_names[key] = names[key]
            elif key in self._hit_names:
                names[key] = self._hit_names[key]
            known = found.get(key)
            if known is None:
                found[key] = Count(more, self._since, now, int(self._loaded.control.point))
            else:
                found[key] = known._replace(times=known.times + more, last=now)
        if anew:
            self._hits.begin()
            self._hit_names = {}
        else:
            self._hit_names.update(
                {key: names[key] for key, count in found.items() if count.hit and key in names and self._stands(count)}
            )
        self._since = now

    def _stands(self, count: Count) -> bool:
        """Was this one given a number under which it may be counted later?"""
        return count.hit_epoch == int(self._loaded.control.memory_epoch)

    @property
    def crowded(self) -> bool:
        """Is a quarter of the map in use used? Then a flush is due: what doesn't fit is an event of its own each."""
        return len(self._names) > self._loaded.counts[0].capacity // 4

    def entries(self) -> int:
        """Names held, which is about the number of live keys."""
        return len(self._names)

    def close(self) -> None:
        """Frees the ring."""
        self._ring.close()
