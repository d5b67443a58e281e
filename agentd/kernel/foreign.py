"""The files that a workload has open from before its mark: listing them, and having the kernel judge their use.

What bpf/lib/foreign.bpf.h describes, from user space's side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable
from ctypes import c_uint32, c_uint64
from typing import Final

from agentd.kernel.hooks import Need
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap


class ForeignKey(ctypes.Structure):
    """struct agentd_foreign_key."""

    _fields_ = [("workload", c_uint32), ("device", c_uint32), ("inode", c_uint64)]


class FileLine(ctypes.Structure):
    """struct agentd_file_line."""

    _fields_ = [
        ("pid", c_uint32),
        ("tid", c_uint32),
        ("fd", c_uint32),
        ("mode", c_uint32),
        ("agent", c_uint32),
        ("workload", c_uint32),
        ("device", c_uint32),
        ("reserved", c_uint32),
        ("inode", c_uint64),
    ]


STRUCTURES: Final = {"agentd_foreign_key": ForeignKey, "agentd_file_line": FileLine}
READS, WRITES = 1, 2  # bits of a line's mode: FMODE_READ, FMODE_WRITE of include/linux/fs.h


class ForeignFiles:
    """Of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        capacity = loaded.capacity("foreign")
        self.table = HashMap(loaded.fds["foreign"], ForeignKey, c_uint32, capacity, "foreign")
        self._workloads = {key.workload for key, _ in self.table.items()}  # of an agentd before this one, too
        self._settle()

    def open_in(self, workload: int) -> list[FileLine]:
        """The descriptors of a workload's processes (0: of all) on files, folders and devices that can be read or
        written.
        """
        self._loaded.request.workload = workload
        data, size = self._loaded.iterate("list_files"), ctypes.sizeof(FileLine)
        return [FileLine.from_buffer_copy(data, at) for at in range(0, len(data) - size + 1, size)]

    def judge(self, workload: int, files: Iterable[FileLine]) -> None:
        """From here on every use of these is judged, and of no others of the workload; nothing where it can't be.

        Raises KernelError if the map is full.
        """
        if not self.judged:
            return
        one = c_uint32(1)
        wanted = {(line.device, line.inode) for line in files}
        stale = [key for key, _ in self.table.items() if key.workload == workload]
        if wanted:
            self._workloads.add(workload)
            self._loaded.watch_for(Need.FOREIGN, True)
        for device, inode in wanted:
            self.table.put(ForeignKey(workload, device, inode), one)
        for key in stale:
            if (key.device, key.inode) not in wanted:
                self.table.delete(key)
        if not wanted:
            self._workloads.discard(workload)
        self._settle()

    def forget(self, live: Collection[int]) -> None:
        """Takes out what belonged to workloads that are no more. live: those that are."""
        if self._workloads <= set(live):
            return
        for key in [key for key, _ in self.table.items() if key.workload not in live]:
            self.table.delete(key)
        self._workloads &= set(live)
        self._settle()

    @property
    def judged(self) -> bool:
        """Has this host the hook?"""
        return Need.FOREIGN.witness in self._loaded.programs

    def _settle(self) -> None:
        self._loaded.control.foreign = len(self._workloads)
        self._loaded.watch_for(Need.FOREIGN, bool(self._workloads))
