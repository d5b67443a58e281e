"""Marking tasks, and listing the marked ones.

A mark is the task's own storage. For a process that agentd starts it is set while the process waits to exec. For
processes that run already, an iterator in the kernel marks tree or cgroup, pass after pass until one finds nothing new;
meanwhile forks look at their ancestors (agentd_control.tagging), so that none slips between two passes.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from agentd.errors import AgentdError
from agentd.kernel import abi
from agentd.kernel.features import BPFFS
from agentd.kernel.libbpf import BPF_ANY, KernelError, check, library, obj_get
from agentd.kernel.loader import LoadedObject, read_tasks

MAX_PASSES: Final = 1000  # a fork bomb that outruns this many passes is reported, and stays marked as far as it was


class TaskMarks:
    """The marks of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        self.given = 0  # how often processes were marked so far

    def mark_process(
        self, pidfd: int, agent: int, workload: int, *, root_exec: bool = False, supervised: bool = False
    ) -> None:
        """Marks the main thread of a process. supervised: it gets the seccomp filter with a supervisor before its exec.
        Raises KernelError.
        """
        self._loaded.watch()
        self.given += 1
        flags = (abi.TAG_ROOT_EXEC if root_exec else 0) | (abi.TAG_NOTIFIED if supervised else 0)
        tag = abi.Tag(agent=agent, workload=workload, flags=flags)
        fd = ctypes.c_int(pidfd)
        update = library().bpf_map_update_elem
        check(update(self._loaded.fds["tags"], ctypes.byref(fd), ctypes.byref(tag), BPF_ANY), "tag process")

    def get(self, pidfd: int) -> abi.Tag | None:
        """The mark of a process's main thread."""
        tag = abi.Tag()
        fd = ctypes.c_int(pidfd)
        if library().bpf_map_lookup_elem(self._loaded.fds["tags"], ctypes.byref(fd), ctypes.byref(tag)) < 0:
            return None
        return tag

    def carries(self, pid: int) -> bool:
        """Does a process carry a mark? Not one that is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            return self.get(pidfd) is not None
        finally:
            os.close(pidfd)

    def mark_tree(self, pid: int, agent: int, workload: int) -> int:
        """Marks a process with all its threads and descendants; returns how many threads. Raises AgentdError."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError as exc:
            raise AgentdError("no-such-process", f"process {pid}", "there is none", "check the number with ps") from exc
        try:
            self._loaded.request.root_tgid = pid
            self._loaded.request.cgroup = 0
            return self._mark(agent, workload)
        finally:
            os.close(pidfd)

    def mark_cgroup(self, path: Path, agent: int, workload: int) -> int:
        """Marks every task in a v2 cgroup and below. Raises AgentdError."""
        self._loaded.request.root_tgid = 0
        self._loaded.request.cgroup = cgroup_id(path)
        return self._mark(agent, workload)

    def rings_found(self) -> int:
        """Threads that had an io_uring when they were marked last: what they ask of it passes no system call."""
        return int(self._loaded.request.io_uring)

    def _mark(self, agent: int, workload: int) -> int:
        self._loaded.watch()
        self.given += 1
        request = self._loaded.request
        request.agent, request.workload, request.remove = agent, workload, 0
        request.spare = os.getpid()
        request.io_uring = 0
        self._loaded.control.tagging = 1
        total = 0
        try:
            for _ in range(MAX_PASSES):
                found = self._pass()
                total += found
                if not found:
                    return total
        finally:
            self._loaded.control.tagging = 0
        raise AgentdError(
            "enforcement-lost",
            f"workload {workload}",
            "it forks faster than it can be marked",
            "stop it, then tag it again",
        )

    def doom(self, workload: int) -> None:
        """Makes the kernel end every task of a workload at its next system call, exec or fork."""
        key, one = ctypes.c_uint32(workload), ctypes.c_uint32(1)
        update = library().bpf_map_update_elem
        check(update(self._loaded.fds["doomed"], ctypes.byref(key), ctypes.byref(one), BPF_ANY), "map doomed")
        self._loaded.control.doomed += 1

    def forget_doom(self, workload: int) -> None:
        """A workload that the kernel ended as a whole is gone: its entry makes room."""
        key = ctypes.c_uint32(workload)
        library().bpf_map_delete_elem(self._loaded.fds["doomed"], ctypes.byref(key))
        # control.doomed stays: it only says that looking may pay, and taking one off could race with the kernel

    def remove(self, workload: int) -> int:
        """Takes the marks of a workload away; returns how many threads had one."""
        request = self._loaded.request
        request.workload, request.remove = workload, 1
        total = 0
        while found := self._pass():
            total += found
        return total

    def _pass(self) -> int:
        self._loaded.request.marked = 0
        fd = self._loaded.iterator("tag_task")
        try:
            while os.read(fd, 4096):
                pass
        finally:
            os.close(fd)
        return int(self._loaded.request.marked)

    def list(self) -> list[abi.TaskLine]:
        """Every marked thread that lives."""
        return list(read_tasks(self._loaded.iterate("list_tasks")))

    def none_left(self) -> bool:
        """Proves that no thread carries a mark; for the one thread that sets marks.

        An empty list alone is no proof: a child could be made behind the iterator's back by a parent that ends before
        the iterator comes to it. But the mark that the child gets is counted while the parent still lives, so either
        the counter moves between the two looks at it, or the parent or the child is in the list.
        """
        before = self._loaded.stats.read()[abi.STAT_FORKS]
        return not self.list() and self._loaded.stats.read()[abi.STAT_FORKS] == before


def marked_elsewhere(pidfd: int) -> bool:
    """Does the process carry a mark of any set of programs pinned on this host (the service's, another run's)?"""
    tag, fd = abi.Tag(), ctypes.c_int(pidfd)
    for pin in (*BPFFS.glob("agentd*/maps/tags"), *BPFFS.glob("agentd*/*/maps/tags")):
        try:
            tags = obj_get(pin)
        except KernelError:
            continue  # released meanwhile
        try:
            if library().bpf_map_lookup_elem(tags, ctypes.byref(fd), ctypes.byref(tag)) == 0:
                return True
        finally:
            os.close(tags)
    return False


def cgroup_id(path: Path) -> int:
    """The 64-bit id of a v2 cgroup: its kernfs node, which is the inode number. Raises AgentdError
    `no-such-process`.
    """
    try:
        return path.stat().st_ino
    except OSError as exc:
        raise AgentdError(
            "no-such-process", f"cgroup {path}", os.strerror(exc.errno or 0), "give a folder of cgroup2"
        ) from exc
