"""System calls that Python doesn't offer, for the supervisor: each raises OSError, none retries. Per thread where the C
library's function would change every thread of the process.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
STATX_MNT_ID: Final = 0x1000
STATX_MNT_ID_UNIQUE: Final = 0x4000
PROC_SUPER_MAGIC: Final = 0x9FA0
CLONE_FS: Final = 0x200

libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_HOW: Final = struct.Struct("QQQ")
_Long = ctypes.c_long


def call(number: int, *words: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by its number for x86-64."""
    result: int = _syscall(_Long(number), *[_Long(word) if isinstance(word, int) else word for word in words])
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def not_dumpable() -> None:
    """No process of this one's user may trace it or take its descriptors any more, without CAP_SYS_PTRACE: prctl(2)."""
    if libc.prctl(4, 0, 0, 0, 0):  # PR_SET_DUMPABLE
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_openat2 = ctypes.CFUNCTYPE(_Long, _Long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, _Long, use_errno=True)(
    ("syscall", libc)
)
_fstatfs = ctypes.CFUNCTYPE(_Long, _Long, ctypes.c_int, ctypes.c_void_p, use_errno=True)(("syscall", libc))


def openat2(dirfd: int, path: bytes, flags: int, resolve: int = 0) -> int:
    """A descriptor; close-on-exec."""
    fd: int = _openat2(437, dirfd, path, _HOW.pack(flags | os.O_CLOEXEC, 0, resolve), 24)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def identity_of(fd: int) -> tuple[int, int, int]:
    """(Mount, device, inode): the same for two descriptors of one object reached through one mount."""
    buffer = ctypes.create_string_buffer(256)
    call(332, fd, b"", AT_EMPTY_PATH, 0x100 | STATX_MNT_ID | STATX_MNT_ID_UNIQUE, buffer)  # STATX_INO
    raw = buffer.raw
    return (
        int.from_bytes(raw[144:152], "little"),
        int.from_bytes(raw[136:144], "little"),
        int.from_bytes(raw[32:40], "little"),
    )


def on_procfs(fd: int) -> bool:
    """Does it lie in a proc file system? An error counts as yes: then the walk is made by hand."""
    buffer = ctypes.create_string_buffer(128)
    return _fstatfs(138, fd, buffer) < 0 or int.from_bytes(buffer.raw[:8], "little") == PROC_SUPER_MAGIC


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


def read_memory(pid: int, address: int, size: int) -> bytes:
    """At most `size` bytes; fewer where the memory ends."""
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = _Iovec(address, size)
    got: int = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw[:got]


libc.process_vm_readv.restype = ctypes.c_ssize_t
libc.process_vm_readv.argtypes = [
    ctypes.c_int, ctypes.POINTER(_Iovec), ctypes.c_ulong, ctypes.POINTER(_Iovec), ctypes.c_ulong, ctypes.c_ulong,
]  # fmt: skip
