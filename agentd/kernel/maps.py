"""Python views of BPF maps: mapped arrays, hashes, per-CPU counters.

Each view owns nothing but the file descriptor it was given and, for a mapped array, the mapping.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from agentd.kernel.libbpf import BPF_ANY, KernelError, check, library

Key = TypeVar("Key", bound=ctypes.Structure | ctypes._SimpleCData)  # type: ignore[type-arg]
Value = TypeVar("Value", bound=ctypes.Structure | ctypes._SimpleCData)  # type: ignore[type-arg]


BATCH: Final = 1024  # entries that one call takes out of a map


class MappedArray:
    """An ARRAY map with BPF_F_MMAPABLE: its memory is the kernel's own."""

    def __init__(self, fd: int, length: int) -> None:
        """length: bytes of all values; the kernel rounds the mapping up to whole pages."""
        self.fd = fd
        self._map = mmap.mmap(fd, -(-length // mmap.PAGESIZE) * mmap.PAGESIZE)

    def view(self, kind: type[Value], offset: int = 0) -> Value:
        """The value at `offset` bytes, shared with the kernel."""
        view: Value = kind.from_buffer(self._map, offset)  # type: ignore[assignment]
        return view

    def words(self, length: int) -> memoryview:
        """The first `length` bytes as 64-bit numbers, shared with the kernel."""
        return memoryview(self._map)[:length].cast("Q")


def write_mapped(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Writes into a mappable ARRAY map without keeping it mapped: every mapped page counts as resident, and the
    kernel maps them all at once.
    """
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(fd, offset - start + len(data), offset=start) as window:
        window[offset - start :] = bytes(data)


class HashMap(Generic[Key, Value]):
    """A HASH map with ctypes keys and values."""

    def __init__(self, fd: int, key: type[Key], value: type[Value], capacity: int, name: str) -> None:
        self.fd = fd
        self.key = key
        self.value = value
        self.capacity = capacity
        self.name = name

    def get(self, key: Key) -> Value | None:
        """A copy of the value, None if there is none."""
        value = self.value()
        if library().bpf_map_lookup_elem(self.fd, ctypes.byref(key), ctypes.byref(value)) < 0:
            self._expect(errno.ENOENT)
            return None
        return value

    def put(self, key: Key, value: Value, flags: int = BPF_ANY) -> None:
        """Raises KernelError; errno E2BIG: the map is full."""
        check(library().bpf_map_update_elem(self.fd, ctypes.byref(key), ctypes.byref(value), flags), f"map {self.name}")

    def delete(self, key: Key) -> bool:
        """False: there was none."""
        if library().bpf_map_delete_elem(self.fd, ctypes.byref(key)) < 0:
            self._expect(errno.ENOENT)
            return False
        return True

    def keys(self) -> Iterator[Key]:
        """Every key, in the map's order. A key deleted by somebody else meanwhile starts the walk again
        (kernel/bpf/hashtab.c), so a key may come twice; none that stays is missed.
        """
        current: Key | None = None
        while True:
            following = self.key()
            argument = ctypes.byref(current) if current is not None else None
            if library().bpf_map_get_next_key(self.fd, argument, ctypes.byref(following)) < 0:
                self._expect(errno.ENOENT)
                return
            yield following
            current = following

    def entries(self) -> int:
        """How many keys there are, about: others change the map meanwhile."""
        return sum(1 for _ in itertools.islice(self.keys(), self.capacity))

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Every key with a copy of its value."""
        for key in self.keys():
            value = self.get(key)
            if value is not None:
                yield key, value

    def drain(self) -> Iterator[tuple[bytes, bytes]]:
        """Takes everything out, many at a time: (keys, values), as they stand in memory. For a map that nobody changes
        meanwhile: what is added may stay.

        Raises KernelError. (bpf(2), BPF_MAP_LOOKUP_AND_DELETE_BATCH: ENOENT comes with the last of them, ENOSPC says
        that one of the table's buckets holds more than there is room for.)
        """
        room, at, begin = BATCH, ctypes.c_uint32(), None
        keys, values = (self.key * room)(), (self.value * room)()
        while True:
            found = ctypes.c_uint32(room)
            result = library().bpf_map_lookup_and_delete_batch(
                self.fd, begin, ctypes.byref(at), keys, values, ctypes.byref(found), None
            )
            if result < 0 and ctypes.get_errno() == errno.ENOSPC:
                room *= 2
                keys, values = (self.key * room)(), (self.value * room)()
                continue
            if result < 0:
                self._expect(errno.ENOENT)
            count = found.value
            yield (
                ctypes.string_at(keys, count * ctypes.sizeof(self.key)),
                ctypes.string_at(values, count * ctypes.sizeof(self.value)),
            )
            if result < 0:
                return
            begin = ctypes.byref(at)

    def _expect(self, number: int) -> None:
        if ctypes.get_errno() != number:
            raise KernelError("kernel-map", f"map {self.name}", ctypes.get_errno())


class PerCpuCounters:
    """A PERCPU_ARRAY of 64-bit counters, read as sums."""

    def __init__(self, fd: int, entries: int) -> None:
        self.fd = fd
        self.entries = entries
        self._cpus = check(library().libbpf_num_possible_cpus(), "number of CPUs")

    def read(self) -> list[int]:
        """The sum over all CPUs of each counter."""
        values = (ctypes.c_uint64 * self._cpus)()
        sums = []
        for index in range(self.entries):
            key = ctypes.c_uint32(index)
            check(library().bpf_map_lookup_elem(self.fd, ctypes.byref(key), values), "map stats")
            sums.append(sum(values))
        return sums


def close_quietly(fd: int) -> None:
    """close(2) of a descriptor that may have been closed by libbpf already."""
    try:
        os.close(fd)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
