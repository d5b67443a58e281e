"""The descriptor of a seccomp filter on which calls arrive: seccomp_unotify(2), linux/seccomp.h."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import threading
from dataclasses import dataclass
from typing import Final

from agentd.kernel.notify import raw

NOTIF_RECV: Final = 0xC0502100
NOTIF_SEND: Final = 0xC0182101
NOTIF_ID_VALID: Final = 0x40082102
NOTIF_ADDFD: Final = 0x40182103
NOTIF_SET_FLAGS: Final = 0x40082104
SYNC_WAKE_UP: Final = 1
CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
ADDFD_SEND: Final = 2
LINK: Final = "anon_inode:seccomp notify"

_NOTIF: Final = struct.Struct("QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("QqiI")
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


class Listener:
    """Owns the descriptor. Threads may share it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
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
        return Call(ident, tid, number, arch, tuple(args))

    def valid(self, ident: int) -> bool:
        """Does the caller still wait for this answer? Then what was read of its process was read of that process."""
        try:
            fcntl.ioctl(self.fd, NOTIF_ID_VALID, _ID.pack(ident))
        except OSError:
            return False
        return True

    def answer(self, ident: int, value: int = 0, error: int = 0) -> None:
        """The call returns `value`, or fails with errno `error`."""
        self._send(_RESPONSE.pack(ident, value, -error, 0))

    def go_on(self, ident: int) -> None:
        """The kernel carries the call out, with whatever is in the caller's memory by then."""
        self._send(_RESPONSE.pack(ident, 0, 0, CONTINUE))

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.fd, NOTIF_SEND, response)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):  # it was killed meanwhile
                raise

    def give(self, ident: int, fd: int, flags: int) -> None:
        """The call returns a new descriptor of the caller's for the file of `fd`. flags: O_CLOEXEC or 0.

        Raises OSError: EMFILE by the caller's limit.
        """
        try:
            fcntl.ioctl(self.fd, NOTIF_ADDFD, _ADDFD.pack(ident, ADDFD_SEND, fd, 0, flags))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise

    def stop(self) -> None:
        """Makes every receive() return None."""
        with contextlib.suppress(OSError):
            os.write(self._stop_write, b"x")

    def close(self) -> None:
        """Lets go: whoever waits now, or comes later, gets ENOSYS from the kernel."""
        for fd in (self.fd, self._stop_read, self._stop_write):
            os.close(fd)


def take_listener(pidfd: int, number: int) -> int:
    """A duplicate of descriptor `number` of another process, if it is one on which calls arrive. Raises OSError: EBADF,
    EINVAL for another kind of descriptor.
    """
    fd = raw.call(438, pidfd, number, 0)  # pidfd_getfd
    if os.readlink(f"/proc/self/fd/{fd}") != LINK:
        os.close(fd)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return fd
