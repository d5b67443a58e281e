"""Calls that change attributes: modes, owners, times, extended attributes, flags. Carried out by the supervisor on the
object that was judged, also where the caller named a descriptor: another thread could put another file there.
"""

from __future__ import annotations

import errno

from agentd.kernel.notify import raw
from agentd.kernel.notify.lookup import failed
from agentd.kernel.notify.raw import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from agentd.kernel.notify.request import Names, Request, Result, self_fd
from agentd.model import Op

XATTR_MAX = 1 << 16
SETFLAGS, FSSETXATTR, COMPAT_SETFLAGS = 0x40086602, 0x401C5820, 0x40046602


def chmod(r: Request) -> Result:
    """chmod(2)."""
    return _chmod(r, r.at(None, 0), r.flags(1), 0)


def fchmod(r: Request) -> Result:
    """fchmod(2)."""
    return _chmod(r, (r.caller.object(r.args[0]), b""), r.flags(1), 0)


def fchmodat(r: Request) -> Result:
    """The system call, which has no flags."""
    return _chmod(r, r.at(0, 1), r.flags(2), 0)


def fchmodat2(r: Request) -> Result:
    """fchmodat(2) with flags."""
    flags = r.flags(3)
    return _chmod(r, r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH)), r.flags(2), flags)


def _chmod(r: Request, at: Names, mode: int, flags: int) -> Result:
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(90, self_fd(found.fd), mode & 0xFFFF)


def chown(r: Request) -> Result:
    """chown(2)."""
    return _chown(r, r.at(None, 0), r.number(1), r.number(2), 0)


def lchown(r: Request) -> Result:
    """lchown(2)."""
    return _chown(r, r.at(None, 0), r.number(1), r.number(2), AT_SYMLINK_NOFOLLOW)


def fchown(r: Request) -> Result:
    """fchown(2)."""
    return _chown(r, (r.caller.object(r.args[0]), b""), r.number(1), r.number(2), 0)


def fchownat(r: Request) -> Result:
    """fchownat(2)."""
    flags = r.flags(4)
    at = r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH))
    return _chown(r, at, r.number(2), r.number(3), flags)


def chown16(r: Request) -> Result:
    """i386, with ids of 16 bits."""
    return _chown(r, r.at(None, 0), _id16(r.args[1]), _id16(r.args[2]), 0)


def lchown16(r: Request) -> Result:
    """i386, with ids of 16 bits."""
    return _chown(r, r.at(None, 0), _id16(r.args[1]), _id16(r.args[2]), AT_SYMLINK_NOFOLLOW)


def fchown16(r: Request) -> Result:
    """i386, with ids of 16 bits."""
    return _chown(r, (r.caller.object(r.args[0]), b""), _id16(r.args[1]), _id16(r.args[2]), 0)


def _id16(value: int) -> int:
    return -1 if value & 0xFFFF == 0xFFFF else value & 0xFFFF


def _chown(r: Request, at: Names, uid: int, gid: int, flags: int) -> Result:
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(260, found.fd, b"", uid, gid, AT_EMPTY_PATH)


def _times(r: Request, at: Names, times: bytes | None, flags: int) -> Result:
    """times: two struct timespec; None: now."""
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(280, AT_FDCWD, self_fd(found.fd), times, 0)


def _numbers(r: Request, index: int, count: int) -> list[int] | None:
    """Numbers of the caller's type long that an argument points to."""
    size = 4 if r.compat else 8
    if not r.args[index]:
        return None
    data = r.caller.read(r.args[index], size * count)
    return [int.from_bytes(data[at : at + size], "little", signed=True) for at in range(0, len(data), size)]


def _spec(*pairs: int) -> bytes:
    return b"".join(number.to_bytes(8, "little", signed=True) for number in pairs)


def _micro(numbers: list[int] | None) -> bytes | None:
    if numbers is None:
        return None
    first, first_us, second, second_us = numbers
    if not (0 <= first_us < 1_000_000 and 0 <= second_us < 1_000_000):
        raise failed(errno.EINVAL)
    return _spec(first, first_us * 1000, second, second_us * 1000)


def utime(r: Request) -> Result:
    """utime(2)."""
    numbers = _numbers(r, 1, 2)
    return _times(r, r.at(None, 0), None if numbers is None else _spec(numbers[0], 0, numbers[1], 0), 0)


def utimes(r: Request) -> Result:
    """utimes(2)."""
    return _times(r, r.at(None, 0), _micro(_numbers(r, 1, 4)), 0)


def futimesat(r: Request) -> Result:
    """futimesat(2)."""
    return _times(r, r.name_or_object(0, 1, empty=False), _micro(_numbers(r, 2, 4)), 0)


def utimensat(r: Request) -> Result:
    """utimensat(2), and i386's with times of 64 bits."""
    flags = r.flags(3)
    times = r.caller.read(r.args[2], 32) if r.args[2] else None
    return _times(r, r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH)), times, flags)


def utimensat32(r: Request) -> Result:
    """i386's with times of 32 bits."""
    flags = r.flags(3)
    numbers = _numbers(r, 2, 4)
    at = r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH))
    return _times(r, at, None if numbers is None else _spec(*numbers), flags)


# -- extended attributes and flags


def setxattr(r: Request) -> Result:
    """setxattr(2)."""
    return _set(r, r.at(None, 0), *_attribute(r), 0)


def lsetxattr(r: Request) -> Result:
    """lsetxattr(2)."""
    return _set(r, r.at(None, 0), *_attribute(r), AT_SYMLINK_NOFOLLOW)


def fsetxattr(r: Request) -> Result:
    """fsetxattr(2)."""
    return _set(r, (r.caller.object(r.args[0]), b""), *_attribute(r), 0)


def _attribute(r: Request) -> tuple[bytes, bytes, int]:
    """(Name, value, flags) of arguments 1 to 4."""
    return r.text(1, 256), _value(r, r.args[2], r.args[3]), r.flags(4)


def _value(r: Request, address: int, size: int) -> bytes:
    if size > XATTR_MAX:
        raise failed(errno.E2BIG)
    return r.caller.read(address, size)


def setxattrat(r: Request) -> Result:
    """setxattrat(2), Linux 6.13."""
    if r.args[5] < 16:
        raise failed(errno.EINVAL)
    args = r.caller.read(r.args[4], 16)
    value = _value(r, int.from_bytes(args[:8], "little"), int.from_bytes(args[8:12], "little"))
    flags = r.flags(2)
    at = r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH))
    return _set(r, at, r.text(3, 256), value, int.from_bytes(args[12:], "little"), flags)


def _set(r: Request, at: Names, name: bytes, value: bytes, how: int, flags: int) -> Result:
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(188, self_fd(found.fd), name, value, len(value), how)


def removexattr(r: Request) -> Result:
    """removexattr(2)."""
    return _drop(r, r.at(None, 0), r.text(1, 256), 0)


def lremovexattr(r: Request) -> Result:
    """lremovexattr(2)."""
    return _drop(r, r.at(None, 0), r.text(1, 256), AT_SYMLINK_NOFOLLOW)


def fremovexattr(r: Request) -> Result:
    """fremovexattr(2)."""
    return _drop(r, (r.caller.object(r.args[0]), b""), r.text(1, 256), 0)


def removexattrat(r: Request) -> Result:
    """removexattrat(2), Linux 6.13."""
    flags = r.flags(2)
    return _drop(r, r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH)), r.text(3, 256), flags)


def _drop(r: Request, at: Names, name: bytes, flags: int) -> Result:
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(197, self_fd(found.fd), name)


def file_setattr(r: Request) -> Result:
    """file_setattr(2), Linux 6.17."""
    if not 24 <= r.args[3] <= 4096:
        raise failed(errno.EINVAL if r.args[3] < 24 else errno.E2BIG)
    value = r.caller.read(r.args[2], r.args[3])
    flags = r.flags(4)
    at = r.name_or_object(0, 1, empty=bool(flags & AT_EMPTY_PATH))
    with r.as_caller():
        found = r.named(at, follow=not flags & AT_SYMLINK_NOFOLLOW)
        r.judge(Op.SETATTR, found)
        return raw.call(469, found.fd, b"", value, len(value), AT_EMPTY_PATH)


def ioctl(r: Request) -> Result:
    """FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR: what chattr does."""
    request = SETFLAGS if r.flags(1) == COMPAT_SETFLAGS else r.flags(1)
    value = r.caller.read(r.args[2], 28 if request == FSSETXATTR else 4)
    found = r.lookup.of(r.caller.object(r.args[0]))
    fd = r.caller.copy(r.args[0])
    with r.as_caller():
        r.judge(Op.SETATTR, found)
        return raw.call(16, fd, request, value)
