"""What the kernel has counted, as plain tuples: thousands are read at once, and a ctypes object for each would cost
more than everything else that is done with it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from agentd.kernel import abi
from agentd.kernel.maps import HashMap
from agentd.kernel.ring import NameKey

KEY: Final = struct.Struct("=4I2Q")  # struct agentd_count_key
COUNT: Final = struct.Struct("=3Q4I")  # struct agentd_count
assert KEY.size == ctypes.sizeof(abi.CountKey) and COUNT.size == ctypes.sizeof(abi.Count)


class Count(NamedTuple):
    """struct agentd_count. Times are ns of CLOCK_BOOTTIME."""

    times: int
    first: int
    last: int
    point: int
    hit: int = 0
    hit_epoch: int = 0
    reserved: int = 0


def drain(counts: HashMap[abi.CountKey, abi.Count]) -> Iterator[Iterator[tuple[NameKey, Count]]]:
    """Takes everything out of a map of counts that stands still, some at a time. Raises KernelError."""
    for keys, values in counts.drain():
        yield zip(KEY.iter_unpack(keys), map(Count._make, COUNT.iter_unpack(values)), strict=True)
