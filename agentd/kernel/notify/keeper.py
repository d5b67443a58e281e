"""Keeps the descriptor of a filter for when agentd is gone: whoever waits, or comes later, gets EPERM, never success.

Without a second holder the kernel answers ENOSYS then, which some programs take for an older kernel. `agentd run` is
the keeper of a command that the service supervises, and hands the descriptor to the next service (runner.py). A
standalone `agentd run` has this file run as a program of its own beside it: standard library only,

    keeper.py LISTENER RECEIVED     descriptors; acts at the end of standard input, ends with the last process

RECEIVED is a memory file of what agentd has received and not answered yet: the kernel delivers a call once, so nobody
else could know its number. Sources: seccomp_unotify(2), kernel/seccomp.c, memfd_create(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import sys

NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
SLOTS = 16384  # calls that may wait for agentd at once; one more is refused
SIZE = 8 * (1 + SLOTS)  # the first word: the highest number that was received
AHEAD = 256  # numbers behind that: one call may have been received and not noted, others were given up unreceived
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
NOTIF = struct.Struct("QIIiIQ6Q")
RESPONSE = struct.Struct("QqiI")
WORD = struct.Struct("Q")


def new_received() -> int:
    """An empty memory file, whose size nobody can change any more. Raises OSError."""
    fd = os.memfd_create("agentd-received", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def is_received(fd: int) -> bool:
    """Is it such a file? Another one could be cut short under whoever has it mapped."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS and os.fstat(fd).st_size == SIZE
    except OSError:
        return False


def refuse(listener: int, ident: int) -> bool:
    """EPERM for a call that agentd has received. False: it waits no more, or was not received."""
    try:
        fcntl.ioctl(listener, NOTIF_SEND, RESPONSE.pack(ident, 0, -errno.EPERM, 0))
    except OSError:
        return False
    return True


def refuse_received(listener: int, received: int) -> int:
    """EPERM for whatever an agentd that is gone has left; how many that were."""
    with mmap.mmap(received, SIZE) as memory:
        left = {ident for (ident,) in WORD.iter_unpack(memory) if ident}
        (highest,) = WORD.unpack_from(memory)
        memory[:] = bytes(SIZE)
    if highest:
        left |= {highest + ahead & 0xFFFFFFFFFFFFFFFF for ahead in range(AHEAD)}
    return sum(refuse(listener, ident) for ident in left)


def refuse_next(listener: int) -> int:
    """EPERM for the call that has come; 0: it was given up."""
    buffer = bytearray(NOTIF.size)
    try:
        fcntl.ioctl(listener, NOTIF_RECV, buffer, True)
    except OSError:
        return 0
    return int(refuse(listener, NOTIF.unpack(buffer)[0]))


def refuse_all(listener: int) -> None:
    """EPERM for every call, until no process has the filter."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, event),) = poll.poll()
        if not event & select.POLLIN:
            return
        refuse_next(listener)


def main() -> None:
    """See above."""
    listener, received = map(int, sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(listener, 0)
    poll.poll()  # agentd's end, or that of the last process
    with contextlib.suppress(ValueError):
        refuse_received(listener, received)
    refuse_all(listener)


if __name__ == "__main__":
    main()
