"""The descriptor of a seccomp filter on which calls arrive: seccomp_unotify(2), linux/seccomp.h."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import struct
import threading
from dataclasses import dataclass
from typing import Final

from agentd.kernel.notify import keeper, raw
from agentd.kernel.notify.keeper import NOTIF_RECV, NOTIF_SEND

NOTIF_ID_VALID: Final = 0x40082102
NOTIF_ADDFD: Final = 0x40182103
NOTIF_SET_FLAGS: Final = 0x40082104
SYNC_WAKE_UP: Final = 1
CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
ADDFD_SEND: Final = 2
LINK: Final = "anon_inode:seccomp notify"

_NOTIF: Final = keeper.NOTIF
_RESPONSE: Final = keeper.RESPONSE
_ADDFD: Final = struct.Struct("QIIII")
_ID: Final = struct.Struct("Q")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that waits. tid: the thread's, as agentd's pid namespace numbers it."""

    id: int
    tid: int
    number: int
    arch: int
    args: tuple[int, ...]


class Received:
    """The calls that were received and not answered yet, noted where a keeper finds them when this process is gone.

    fd: a memory file of keeper.py, which it owns. Full: a call more is refused.
    """

    def __init__(self, fd: int) -> None:
        """Raises OSError EINVAL for another kind of file."""
        if not keeper.is_received(fd):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.fd = fd
        self._memory = mmap.mmap(fd, keeper.SIZE)
        self._free = list(range(keeper.SIZE - 8, 0, -8))  # offsets
        self._at: dict[int, int] = {}
        self._lock = threading.Lock()

    def add(self, ident: int) -> bool:
        """False: there is no room."""
        with self._lock:
            keeper.WORD.pack_into(self._memory, 0, ident)
            if not self._free:
                return False
            self._at[ident] = place = self._free.pop()
            keeper.WORD.pack_into(self._memory, place, ident)
            return True

    def remove(self, ident: int) -> None:
        """It was answered, or waits no more."""
        with self._lock:
            place = self._at.pop(ident, None)
            if place is not None:
                keeper.WORD.pack_into(self._memory, place, 0)
                self._free.append(place)

    def left(self) -> list[int]:
        """What waits still."""
        with self._lock:
            return list(self._at)

    def close(self) -> None:
        """Lets go; the file stays with who else has it."""
        self._memory.close()
        os.close(self.fd)


class Listener:
    """Owns the descriptor, and `received`. Threads may share it."""

    def __init__(self, fd: int, received: Received | None = None) -> None:
        self.fd = fd
        self._received = received or Received(keeper.new_received())
        self._stop_read, self._stop_write = os.pipe()
        self._turn = threading.Lock()
        self.ended = False  # no process has the filter any more, or stop() was called
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._stop_read, select.POLLIN)
        with contextlib.suppress(OSError):  # Linux 6.6: the one who answers and the one who waits share a processor
            fcntl.ioctl(fd, NOTIF_SET_FLAGS, SYNC_WAKE_UP)

    def receive(self) -> Call | None:
        """The next call; None: there will be no more. One thread waits at a time, the others for their turn."""
        with self._turn:
            while not self.ended:
                for fd, event in self._poll.poll():
                    if fd == self._stop_read:
                        self.ended = True
                    elif event & select.POLLIN:
                        if (call := self._receive()) is not None:
                            return call
                    else:
                        self.ended = True
            return None

    def _receive(self) -> Call | None:
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self.fd, NOTIF_RECV, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                return None
            raise
        ident, tid, _, number, arch, _, *args = _NOTIF.unpack(buffer)
        if not self._received.add(ident):
            self.answer(ident, error=errno.EPERM)
            return None
        return Call(ident, tid, number, arch, tuple(args))

    def valid(self, ident: int) -> bool:
        """Does the caller still wait for this answer? Then what was read of its process was read of that process."""
        try:
            fcntl.ioctl(self.fd, NOTIF_ID_VALID, _ID.pack(ident))
        except OSError:
            self._received.remove(ident)
            return False
        return True

    def answer(self, ident: int, value: int = 0, error: int = 0) -> None:
        """The call returns `value`, or fails with errno `error`."""
        self._send(ident, _RESPONSE.pack(ident, value, -error, 0))

    def go_on(self, ident: int) -> None:
        """The kernel carries the call out, with whatever is in the caller's memory by then."""
        self._send(ident, _RESPONSE.pack(ident, 0, 0, CONTINUE))

    def _send(self, ident: int, response: bytes) -> None:
        try:
            fcntl.ioctl(self.fd, NOTIF_SEND, response)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):  # it was killed meanwhile
                raise
        self._received.remove(ident)

    def give(self, ident: int, fd: int, flags: int) -> None:
        """The call returns a new descriptor of the caller's for the file of `fd`. flags: O_CLOEXEC or 0.

        Raises OSError: EMFILE by the caller's limit.
        """
        try:
            fcntl.ioctl(self.fd, NOTIF_ADDFD, _ADDFD.pack(ident, ADDFD_SEND, fd, 0, flags))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise
        self._received.remove(ident)

    def stop(self) -> None:
        """Makes every receive() return None."""
        with contextlib.suppress(OSError):
            os.write(self._stop_write, b"x")

    def close(self) -> None:
        """Lets go: whoever waits gets EPERM; who comes later gets what a keeper says, ENOSYS where there is none."""
        for ident in self._received.left():
            keeper.refuse(self.fd, ident)
        self._received.close()
        for fd in (self.fd, self._stop_read, self._stop_write):
            os.close(fd)


def take_received(pidfd: int, number: int) -> Received:
    """The same for a keeper's memory file."""
    fd = take(pidfd, number)
    try:
        return Received(fd)
    except BaseException:
        os.close(fd)
        raise


def take(pidfd: int, number: int) -> int:
    """A duplicate of descriptor `number` of another process; close-on-exec. Raises OSError."""
    return raw.call(438, pidfd, number, 0)  # pidfd_getfd


def take_listener(pidfd: int, number: int) -> int:
    """A duplicate of descriptor `number` of another process, if it is one on which calls arrive. Raises OSError: EBADF,
    EINVAL for another kind of descriptor.
    """
    fd = take(pidfd, number)
    if os.readlink(f"/proc/self/fd/{fd}") != LINK:
        os.close(fd)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return fd
