"""Calls that name what they change: carried out by the supervisor on the directory or the object that was judged."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat

from agentd.kernel.notify import raw
from agentd.kernel.notify.lookup import Place, failed
from agentd.kernel.notify.raw import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW
from agentd.kernel.notify.request import Names, Request, Result, self_fd
from agentd.model import Op

AT_REMOVEDIR = 0x200


# -- names that go


def unlink(r: Request) -> Result:
    """unlink(2)."""
    return _remove(r, r.at(None, 0), 0)


def rmdir(r: Request) -> Result:
    """rmdir(2)."""
    return _remove(r, r.at(None, 0), AT_REMOVEDIR)


def unlinkat(r: Request) -> Result:
    """unlinkat(2)."""
    return _remove(r, r.at(0, 1), r.flags(2))


def _remove(r: Request, at: Names, flags: int) -> Result:
    with r.as_caller():
        place = r.lookup.place(*at)
        r.judge(Op.DELETE, place, check=lambda: _there(place))
        return raw.call(263, place.directory, place.name, flags)


# -- names that change


def rename(r: Request) -> Result:
    """rename(2)."""
    return _rename(r, r.at(None, 0), r.at(None, 1), 0)


def renameat(r: Request) -> Result:
    """renameat(2)."""
    return _rename(r, r.at(0, 1), r.at(2, 3), 0)


def renameat2(r: Request) -> Result:
    """renameat2(2)."""
    return _rename(r, r.at(0, 1), r.at(2, 3), r.flags(4))


def _rename(r: Request, old: Names, new: Names, flags: int) -> Result:
    with r.as_caller():
        one, two = r.lookup.place(*old), r.lookup.place(*new)
        r.judge(Op.RENAME, one, two, check=lambda: _there(one))
        return raw.call(316, one.directory, one.name, two.directory, two.name, flags)


# -- names that come


def link(r: Request) -> Result:
    """link(2)."""
    return _link(r, r.at(None, 0), r.at(None, 1), 0)


def linkat(r: Request) -> Result:
    """linkat(2)."""
    flags = r.flags(4)
    return _link(r, r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH)), r.at(2, 3), flags)


def _link(r: Request, old: Names, new: Names, flags: int) -> Result:
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        raise failed(errno.EINVAL)
    with r.as_caller():
        found = r.named(old, follow=bool(flags & AT_SYMLINK_FOLLOW))
        place = r.lookup.place(*new)
        r.judge(Op.LINK, found, place)
        return raw.call(265, AT_FDCWD, self_fd(found.fd), place.directory, place.name, AT_SYMLINK_FOLLOW)


def symlink(r: Request) -> Result:
    """symlink(2)."""
    return _symlink(r, r.text(0), r.at(None, 1))


def symlinkat(r: Request) -> Result:
    """symlinkat(2)."""
    return _symlink(r, r.text(0), r.at(1, 2))


def _symlink(r: Request, text: bytes, new: Names) -> Result:
    """What it points to is text; the new name is the effect."""
    with r.as_caller():
        place = r.lookup.place(*new)
        r.judge(Op.LINK, place)
        return raw.call(266, text, place.directory, place.name)


def mkdir(r: Request) -> Result:
    """mkdir(2)."""
    return _mkdir(r, r.at(None, 0), r.flags(1))


def mkdirat(r: Request) -> Result:
    """mkdirat(2)."""
    return _mkdir(r, r.at(0, 1), r.flags(2))


def _mkdir(r: Request, at: Names, mode: int) -> Result:
    with r.as_caller():
        place = r.lookup.place(*at)
        r.judge(Op.CREATE, place, check=lambda: _not_there(place))
        return raw.call(258, place.directory, place.name, mode & 0xFFFF)


def mknod(r: Request) -> Result:
    """mknod(2)."""
    return _mknod(r, r.at(None, 0), r.flags(1), r.flags(2))


def mknodat(r: Request) -> Result:
    """mknodat(2)."""
    return _mknod(r, r.at(0, 1), r.flags(2), r.flags(3))


def _mknod(r: Request, at: Names, mode: int, device: int) -> Result:
    with r.as_caller():
        place = r.lookup.place(*at)
        r.judge(Op.CREATE, place, check=lambda: _not_there(place))
        return raw.call(259, place.directory, place.name, mode & 0xFFFF, device)


def _there(place: Place) -> None:
    """ENOENT before anybody is asked."""
    os.stat(place.name.rstrip(b"/") or b".", dir_fd=place.directory, follow_symlinks=False)


def _not_there(place: Place) -> None:
    """EEXIST before anybody is asked: `mkdir -p` tries what is there already."""
    try:
        _there(place)
    except FileNotFoundError:
        return
    raise failed(errno.EEXIST)


# -- contents


def truncate(r: Request) -> Result:
    """truncate(2)."""
    size = r.number(1) if r.compat else r.args[1] - (1 << 64 if r.args[1] >> 63 else 0)
    return _truncate(r, r.at(None, 0), size)


def truncate64(r: Request) -> Result:
    """i386: the length in two registers."""
    return _truncate(r, r.at(None, 0), r.flags(1) | r.number(2) << 32)


def _truncate(r: Request, at: Names, size: int) -> Result:
    limit = resource.prlimit(r.caller.tgid, resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and size > limit:
        raw.call(234, r.caller.tgid, r.caller.tid, signal.SIGXFSZ)  # tgkill
        raise failed(errno.EFBIG)
    with r.as_caller():
        found = r.lookup.found(*at, follow=True)
        if stat.S_ISDIR(found.status.st_mode):
            raise failed(errno.EISDIR)
        r.judge(Op.WRITE, found)
        return raw.call(76, self_fd(found.fd), size)
