"""Views of maps, against the kernel's own."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from agentd.kernel.libbpf import check, library
from agentd.kernel.maps import BATCH, HashMap

pytestmark = pytest.mark.root
BPF_MAP_TYPE_HASH = 1


@pytest.mark.parametrize("count", [0, 1, BATCH, 5 * BATCH + 1])
@pytest.mark.parametrize("capacity", [1, 8 * BATCH])
def test_a_map_is_emptied_many_at_a_time(count: int, capacity: int) -> None:
    """Each entry comes once, and none stays; an empty map gives nothing."""
    count = min(count, capacity)
    fd = check(library().bpf_map_create(BPF_MAP_TYPE_HASH, b"agentd_drained", 4, 8, capacity, None), "create map")
    try:
        view = HashMap(fd, ctypes.c_uint32, ctypes.c_uint64, capacity, "drained")
        for number in range(count):
            view.put(ctypes.c_uint32(number), ctypes.c_uint64(number << 32 | 7))
        assert view.entries() == count
        taken = [
            (key, value)
            for keys, values in view.drain()
            for (key,), (value,) in zip(struct.iter_unpack("=I", keys), struct.iter_unpack("=Q", values), strict=True)
        ]
        assert sorted(taken) == [(number, number << 32 | 7) for number in range(count)]
        assert view.entries() == 0 and list(view.drain()) == [(b"", b"")]
    finally:
        os.close(fd)
