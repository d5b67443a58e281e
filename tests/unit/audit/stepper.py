"""A process that is killed at a chosen system call: by ptrace, so the call is the kernel's own and nothing is patched.

`run(job, at)` forks, lets the child do `job` and kills it with SIGKILL at the entry of its `at`-th call of those that
change files (FILES); the call is not made then. The state after a call is that before the next one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import Final

# asm/unistd.h: what changes a file, its name or what of it is on disk
_NUMBERS: Final = {
    "x86_64": {
        "write": 1, "close": 3, "pwrite64": 18, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82,
        "mkdir": 83, "link": 86, "unlink": 87, "chmod": 90, "fchmod": 91, "openat": 257, "mkdirat": 258,
        "unlinkat": 263, "renameat": 264, "linkat": 265, "fchmodat": 268, "renameat2": 316,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "linkat": 37, "renameat": 38, "ftruncate": 46, "fchmod": 52, "fchmodat": 53,
        "openat": 56, "close": 57, "write": 64, "pwrite64": 68, "fsync": 82, "fdatasync": 83, "renameat2": 276,
    },
}  # fmt: skip
FILES: Final = {number: name for name, number in _NUMBERS[platform.machine()].items()}

# linux/ptrace.h
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _EXITKILL = 0x1, 0x100000
_ENTRY: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class _Info(ctypes.Structure):
    """The start of struct ptrace_syscall_info, as it is at an entry."""

    _fields_ = (
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32), ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64), ("number", ctypes.c_uint64), ("arguments", ctypes.c_uint64 * 6),
    )  # fmt: skip


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> int:
    done = int(_libc.ptrace(request, pid, address, data))
    if done < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}: {os.strerror(ctypes.get_errno())}")
    return done


def run(job: Callable[[], object], at: int | None = None) -> list[str]:
    """The calls of FILES that the child has made, by name; at: killed at the entry of which one, from 0; None: never.

    Raises RuntimeError if the child ends otherwise than by that, or by the end of its job.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            job()
            status = 0
        except BaseException:  # noqa: BLE001  # nothing of this process may go on in the tests
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    made: list[str] = []
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, 0, _SYSGOOD | _EXITKILL)
    info, signalled = _Info(), 0
    while True:
        _ptrace(_SYSCALL, pid, 0, signalled)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
                return made
            raise RuntimeError(f"the child ended by itself, with status {status:#x}")
        signalled = 0
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            signalled = os.WSTOPSIG(status)
            continue
        _ptrace(_GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.byref(info))
        if info.op != _ENTRY or info.number not in FILES:
            continue
        if len(made) == at:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return made
        made.append(FILES[info.number])
