"""Who made a call that waits: its memory, descriptors, places and credentials, each read through /proc or by its pid.

All of it is of the right process only if the call still waits afterwards (Listener.valid): a pid may be used again. Its
own memory may change at any moment, so whatever is read is read once, and never by the kernel again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
from typing import Final, NamedTuple

from agentd.kernel.notify import raw

PATH_MAX: Final = 4096
CHUNK: Final = 512  # of a string that is read; most are shorter
MINUS_1: Final = 0xFFFFFFFF


class Credentials(NamedTuple):
    """What the kernel would check a change of a file against."""

    uid: int  # fsuid
    gid: int  # fsgid
    groups: tuple[int, ...]
    capabilities: int  # effective; none where the caller lives in a user namespace that is not agentd's


class Facts(NamedTuple):
    """From proc_pid_status(5)."""

    tgid: int
    inner_tgid: int  # as the caller's own pid namespace numbers it
    inner_tid: int
    umask: int
    real_uid: int
    comm: bytes
    credentials: Credentials


_STATUS: Final = re.compile(
    rb"Name:\t(.*)\nUmask:\t(\d+)\n.*\nTgid:\t(\d+)\n.*\nUid:\t(\d+)\t\d+\t\d+\t(\d+)\nGid:\t\d+\t\d+\t\d+\t(\d+)\n.*"
    rb"\nGroups:\t([\d ]*)\nNStgid:\t([\d\t]+)\nNSpid:\t([\d\t]+)\n.*\nCapEff:\t([0-9a-f]+)\n",
    re.DOTALL,
)


def facts_of(pid: str, *, outside: bool = False) -> Facts:
    """Of a thread. outside: it lives in another user namespace. Raises OSError if it is gone, ValueError."""
    found = _STATUS.match(_read(f"/proc/{pid}/status"))
    if found is None:
        raise ValueError("its status can't be read")
    name, umask, tgid, real, uid, gid, groups, inner_tgid, inner_tid, capabilities = found.groups()
    return Facts(
        int(tgid),
        int(inner_tgid.split()[-1]),
        int(inner_tid.split()[-1]),
        int(umask, 8),
        int(real),
        name,
        Credentials(int(uid), int(gid), tuple(map(int, groups.split())), 0 if outside else int(capabilities, 16)),
    )


class Where:
    """Where the processes of one filter live. They can move only by calls that are handed over themselves, so until one
    of those was made, what was seen of the first caller holds for all.
    """

    def __init__(self) -> None:
        self.moved = False
        self._first: tuple[bool, bool] | None = None

    def of(self, tid: int, own: Own) -> tuple[bool, bool]:
        """(Does the thread see the files that agentd sees, by the same names? Is its user namespace another?)."""
        if self._first is not None and not self.moved:
            return self._first
        proc = f"/proc/{tid}"
        plain = os.readlink(f"{proc}/root") == "/" and os.readlink(f"{proc}/ns/mnt") == own.mount_ns
        found = plain, os.readlink(f"{proc}/ns/user") != own.user_ns
        if not self.moved:
            self._first = found
        return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


class Caller:
    """One thread, for as long as its call is looked at. Close it."""

    def __init__(self, tid: int, own: Own, where: Where) -> None:
        self.tid = tid
        self.proc = f"/proc/{tid}"
        self.plain, outside = where.of(tid, own)
        self.facts = facts_of(str(tid), outside=outside)
        self.tgid = self.facts.tgid
        self._own = own
        self._fds: list[int] = []

    def keep(self, fd: int) -> int:
        """Closes `fd` with everything else."""
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Lets go."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    # -- memory

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises OSError EFAULT."""
        if not size:
            return b""
        data = raw.read_memory(self.tid, address, size)
        if len(data) != size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def text(self, address: int, limit: int = PATH_MAX) -> bytes:
        """A string, without its NUL. Raises OSError EFAULT, ENAMETOOLONG where none ends within `limit` bytes."""
        found = bytearray()
        while len(found) < limit:
            size = min(limit - len(found), mmap.PAGESIZE - (address + len(found)) % mmap.PAGESIZE, CHUNK)
            part = self.read(address + len(found), size)
            end = part.find(b"\0")
            if end >= 0:
                found += part[:end]
                return bytes(found)
            found += part
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    # -- places

    def directory(self, dirfd: int) -> int:
        """Where a relative name begins, as an O_PATH descriptor. Raises OSError EBADF, ENOTDIR.

        dirfd: as it stands in the register.
        """
        place = "cwd" if signed(dirfd) == raw.AT_FDCWD else f"fd/{self._number(dirfd)}"
        with bad_descriptor():
            return self.keep(os.open(f"{self.proc}/{place}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def object(self, fd: int) -> int:
        """What a descriptor of the caller's stands for, as an O_PATH descriptor of ours. Raises OSError EBADF."""
        place = "cwd" if signed(fd) == raw.AT_FDCWD else f"fd/{self._number(fd)}"
        with bad_descriptor():
            return self.keep(os.open(f"{self.proc}/{place}", os.O_PATH | os.O_CLOEXEC))

    def _number(self, fd: int) -> int:
        number = signed(fd)
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return number

    def copy(self, fd: int) -> int:
        """A duplicate of a descriptor of the caller's. Raises OSError EBADF."""
        pidfd = os.pidfd_open(self.tgid)
        try:
            return self.keep(raw.call(438, pidfd, self._number(fd), 0))
        finally:
            os.close(pidfd)

    def root(self) -> int:
        """The directory that `/` is for the caller."""
        return self.keep(os.open(f"{self.proc}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def namespace_root(self) -> int:
        """The directory at the top of the caller's mount namespace. Leaves the thread where it was."""
        if self.plain:
            return self._own.root
        fd = os.open(f"{self.proc}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw.call(308, fd, 0x20000)  # setns, CLONE_NEWNS: also moves root and working directory there
            try:
                return self.keep(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            finally:
                self._own.return_home()
        finally:
            os.close(fd)


def signed(value: int) -> int:
    """The low half of a register as an int."""
    return (value & MINUS_1) - (1 << 32) if value & 0x80000000 else value & MINUS_1


class bad_descriptor(contextlib.AbstractContextManager[None]):
    """ENOENT of /proc/PID/fd/N is EBADF to the caller."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error


class Own:
    """What is agentd's own, against which a caller is compared. For one thread, which gets a working directory of its
    own: /proc, so that `self/fd/N` reaches every object that agentd has a descriptor of, in whatever namespace it is.
    """

    def __init__(self) -> None:
        raw.call(272, raw.CLONE_FS)  # unshare: root, working directory and umask of this thread alone
        self.user_ns = os.readlink("/proc/thread-self/ns/user")
        self.mount_ns = os.readlink("/proc/thread-self/ns/mnt")
        self.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mount = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        os.fchdir(self._proc)

    def return_home(self) -> None:
        """Back from another mount namespace."""
        raw.call(308, self._mount, 0x20000)
        os.fchdir(self._proc)

    def close(self) -> None:
        """Lets go."""
        for fd in (self.root, self._proc, self._mount):
            os.close(fd)
