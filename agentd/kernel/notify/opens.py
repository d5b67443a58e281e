"""Opens that change or create, and every openat2: opened by the supervisor, and given to the caller.

An object that is there is opened again by the descriptor that was judged; one that isn't is created with O_EXCL in the
directory that was judged, so that nobody can put something else there in between.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import stat
import time
from typing import Final

from agentd.kernel.notify import raw
from agentd.kernel.notify.lookup import Found, Place, failed
from agentd.kernel.notify.request import Descriptor, Gone, Request, Result, self_fd
from agentd.model import Op

ATTEMPTS: Final = 64  # of a name that comes and goes while it is looked at
TMPFILE: Final = 0o20000000
CONTROLLING_TERMINAL: Final = os.makedev(5, 0)
HANDLE_MAX: Final = 128
FIFO_PAUSE: Final = 0.01


def open_(r: Request) -> Result:
    """open(2)."""
    return _open(r, r.at(None, 0), r.flags(1), r.flags(2))


def openat(r: Request) -> Result:
    """openat(2)."""
    return _open(r, r.at(0, 1), r.flags(2), r.flags(3))


def creat(r: Request) -> Result:
    """creat(2)."""
    return _open(r, r.at(None, 0), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, r.flags(1))


def openat2(r: Request) -> Result:
    """openat2(2): what its structure says when it is read, here and once."""
    size = r.args[3]
    if size < 24:
        raise failed(errno.EINVAL)
    if size > 4096 or any((how := r.caller.read(r.args[2], size))[24:]):
        raise failed(errno.E2BIG)
    flags, mode, resolve = (int.from_bytes(how[at : at + 8], "little") for at in (0, 8, 16))
    makes = flags & os.O_CREAT or flags & TMPFILE
    if flags >> 32 or mode & ~0o7777 or (mode and not makes) or resolve >> 6:
        raise failed(errno.EINVAL)
    return _open(r, r.at(0, 1), flags, mode, resolve)


def open_by_handle_at(r: Request) -> Result:
    """open_by_handle_at(2)."""
    size, kind = (int.from_bytes(part, "little") for part in _halves(r.caller.read(r.args[1], 8)))
    if size > HANDLE_MAX:
        raise failed(errno.EINVAL)
    handle = r.caller.read(r.args[1], 8 + size)[8:]
    where, flags = r.caller.object(r.args[0]), r.flags(2)
    with r.as_caller():
        head = size.to_bytes(4, "little") + kind.to_bytes(4, "little")
        fd = raw.call(304, where, head + handle, os.O_PATH | os.O_CLOEXEC)
        return _again(r, r.lookup.of(r.caller.keep(fd)), flags)


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[:4], data[4:]


def _open(r: Request, at: tuple[int, bytes], flags: int, mode: int, resolve: int = 0) -> Result:
    exclusive = flags & os.O_CREAT and flags & os.O_EXCL
    follow = not (flags & os.O_NOFOLLOW or exclusive)
    with r.as_caller():
        if flags & os.O_PATH:
            return _path_only(r, at, flags, resolve)
        for _ in range(ATTEMPTS):
            try:
                found = r.lookup.found(*at, follow=follow, resolve=resolve)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
                if resolve:
                    raise failed(errno.ENOSYS) from None
                made = _create(r, r.lookup.missing(*at), flags, mode)
                if made is not None:
                    return made
                continue
            if exclusive:
                raise failed(errno.EEXIST)
            if flags & TMPFILE and stat.S_ISDIR(found.status.st_mode):
                return _nameless(r, found, flags, mode)
            return _again(r, found, flags)
    raise failed(errno.EAGAIN)


def _path_only(r: Request, at: tuple[int, bytes], flags: int, resolve: int) -> Result:
    """Gives no access: opening it again is judged then."""
    found = r.lookup.found(*at, follow=not flags & os.O_NOFOLLOW, resolve=resolve)
    if flags & os.O_DIRECTORY and not stat.S_ISDIR(found.status.st_mode):
        raise failed(errno.ENOTDIR)
    return Descriptor(os.dup(found.fd), flags & os.O_CLOEXEC)


def _judge_access(r: Request, thing: Found | Place, flags: int) -> None:
    """Writing first: it is the one that is denied when only reading is allowed."""
    access = flags & os.O_ACCMODE
    if access or flags & os.O_TRUNC:
        r.judge(Op.WRITE, thing)
    if access != os.O_WRONLY:
        r.judge(Op.READ, thing)


def _create(r: Request, place: Place, flags: int, mode: int) -> Result | None:
    """None: it is there by now."""
    r.judge(Op.CREATE, place)
    _judge_access(r, place, flags)
    how = flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(place.name, how, mode & 0o7777, dir_fd=place.directory)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return None
    return Descriptor(fd, flags & os.O_CLOEXEC)


def _nameless(r: Request, found: Found, flags: int, mode: int) -> Result:
    """O_TMPFILE: nobody sees the file before it was judged by the name that the kernel gives it."""
    fd = os.open(self_fd(found.fd), flags | os.O_CLOEXEC, mode & 0o7777)
    try:
        _judge_access(r, dataclasses.replace(found, path=r.lookup.path(fd)), flags)
    except BaseException:
        os.close(fd)
        raise
    return Descriptor(fd, flags & os.O_CLOEXEC)


def _again(r: Request, found: Found, flags: int) -> Result:
    kind = found.status.st_mode
    writes = flags & os.O_ACCMODE or flags & os.O_TRUNC
    if stat.S_ISLNK(kind):
        raise failed(errno.ELOOP)
    if stat.S_ISDIR(kind) and (writes or flags & os.O_CREAT):
        raise failed(errno.EISDIR)
    if flags & os.O_DIRECTORY and not stat.S_ISDIR(kind):
        raise failed(errno.ENOTDIR)
    if (stat.S_ISCHR(kind) or stat.S_ISBLK(kind)) and not (found.path or b"").startswith(b"/dev/"):
        found = dataclasses.replace(found, path=None)  # its name says nothing about what it opens
    _judge_access(r, found, flags)
    how = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_NOCTTY | os.O_CLOEXEC
    name = self_fd(found.fd)
    if stat.S_ISCHR(kind) and found.status.st_rdev == CONTROLLING_TERMINAL:
        name = _terminal_of(r)
    if stat.S_ISFIFO(kind) and not flags & os.O_NONBLOCK:
        return Descriptor(_fifo(r, name, how), flags & os.O_CLOEXEC)
    return Descriptor(os.open(name, how), flags & os.O_CLOEXEC)


def _fifo(r: Request, name: bytes, how: int) -> int:
    """Waits for a reader without being stuck if the caller ends meanwhile."""
    while True:
        try:
            fd = os.open(name, how | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(FIFO_PAUSE)
            if not r.waits():
                raise Gone from None
            continue
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        return fd


def _terminal_of(r: Request) -> bytes:
    """/dev/tty is the terminal of whoever opens it: the caller's, not agentd's. Raises OSError ENXIO: it has none."""
    with open(f"/proc/{r.caller.tgid}/stat", "rb") as file:
        number = int(file.read().rpartition(b")")[2].split()[4])
    wanted = os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
    major, minor = os.major(wanted), os.minor(wanted)
    names = [b"/dev/pts/%d" % minor] if 136 <= major <= 143 else [b"/dev/tty%d" % minor, b"/dev/ttyS%d" % (minor - 64)]
    for name in names if number else []:
        try:
            found = r.lookup.found(r.caller.root(), name, follow=False)
        except OSError:
            continue
        if stat.S_ISCHR(found.status.st_mode) and found.status.st_rdev == wanted:
            return self_fd(found.fd)
    raise failed(errno.ENXIO)
