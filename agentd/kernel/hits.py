"""Operations that the kernel allowed from memory: counters that only grow, one for each kind of operation and object.

A number is given out by the kernel when it remembers something (agentd_control.next_hit) and stands until the numbers
are begun anew: what is remembered is forgotten then (memory_epoch), so nobody counts under an old number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from agentd.kernel import abi
from agentd.kernel.counts import KEY
from agentd.kernel.libbpf import wait_for_programs
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import NameKey

SIZE: Final = ctypes.sizeof(abi.Hit)
WORDS: Final = SIZE // 8  # of one, of 64 bits; all numbers are read at once
COUNTED: Final = abi.Hit.count.offset // 8
TOLD: Final = abi.Hit.told.offset // 8
NEARLY_FULL: Final = abi.HITS * 3 // 4


class Hits:
    """The counters of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    def used(self) -> int:
        """Numbers given out."""
        return min(int(self._loaded.control.next_hit), abi.HITS - 1)

    def take(self) -> Iterator[tuple[NameKey, int]]:
        """(what it stands for, how many there were since the last time), without those that stand still."""
        end = (self.used() + 1) * WORDS
        with self._loaded.hits_map.words(end * SIZE // WORDS) as words:
            counts, told = words[COUNTED:end:WORDS].tolist(), words[TOLD:end:WORDS].tolist()
            for number, (count, before) in enumerate(zip(counts, told, strict=True)):
                if count != before and number:
                    at = number * WORDS
                    yield KEY.unpack(words[at : at + COUNTED]), count - before
                    words[at + TOLD] = count

    @property
    def nearly_full(self) -> bool:
        """Is it time to begin anew?"""
        return bool(self._loaded.control.next_hit >= NEARLY_FULL)

    def stop(self) -> None:
        """Makes the kernel forget what it remembers; afterwards no counter moves. take() them, then begin()."""
        control = self._loaded.control
        control.next_hit = abi.HITS  # nobody gets a number any more
        control.memory_epoch += 1
        wait_for_programs()

    def begin(self) -> None:
        """Gives the numbers out again from the first one, after stop()."""
        used = abi.HITS
        ctypes.memset(ctypes.addressof(self._loaded.hits_map.view(abi.Hit)), 0, used * SIZE)
        self._loaded.control.next_hit = 0
