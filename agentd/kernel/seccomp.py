"""The static part of the seccomp point: calls that are refused before they do anything, for commands that agentd
starts.

A classic BPF filter, installed in the child before its exec and inherited for ever. It answers EPERM to calls that
every agent tolerates failing and that would get round the other points if they worked: io_uring (whose requests pass
no system call exit), bpf(), kernel modules, kexec, userfaultfd, perf, fanotify, input typed on the terminal, and a few
that only an administrator needs. Sources: seccomp(2), linux/seccomp.h, linux/audit.h, ioctl_tty(2).

Not for processes that agentd did not start: those are judged after the call (the trace point).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

from agentd.kernel.libbpf import KernelError

AUDIT_ARCH_X86_64: Final = 0xC000003E
AUDIT_ARCH_I386: Final = 0x40000003
X32_BIT: Final = 0x40000000
RET_ALLOW: Final = 0x7FFF0000
RET_ERRNO: Final = 0x00050000
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
SYS_SECCOMP_X86_64: Final = 317

# name -> (x86-64, i386) numbers; syscall_64.tbl and syscall_32.tbl.
REFUSED: Final = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 357),
    "init_module": (175, 128),
    "finit_module": (313, 350),
    "delete_module": (176, 129),
    "kexec_load": (246, 283),
    "kexec_file_load": (320, None),
    "userfaultfd": (323, 374),
    "perf_event_open": (298, 336),
    # effects on the machine that no other point sees, and fanotify, whose events bring descriptors that no open got
    "fanotify_init": (300, 338),
    "acct": (163, 51),
    "swapon": (167, 87),
    "swapoff": (168, 115),
    "reboot": (169, 88),
    "iopl": (172, 110),
    "ioperm": (173, 101),
}
IOCTL: Final = (16, 54)
# ioctl(2) requests that type on the terminal: the shell agentd was started from would run it, outside the workload.
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C

_LD_ABS, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06


def program() -> bytes:
    """The filter as struct sock_filter[].

    Order: the architecture chooses a block; a block loads the number and compares. An unknown architecture is refused.
    """
    wide = _block([numbers[0] for numbers in REFUSED.values()], IOCTL[0], x32=True)
    narrow = _block([numbers[1] for numbers in REFUSED.values() if numbers[1] is not None], IOCTL[1], x32=False)
    code = [
        (_LD_ABS, 0, 0, 4),  # seccomp_data.arch
        (_JEQ, 2, 0, AUDIT_ARCH_X86_64),
        (_JEQ, 1 + len(wide), 0, AUDIT_ARCH_I386),
        (_RET, 0, 0, RET_ERRNO | errno.EPERM),
        *wide,
        *narrow,
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _block(numbers: list[int], ioctl: int, *, x32: bool) -> list[tuple[int, int, int, int]]:
    """Refuses `numbers` and what types on a terminal, allows the rest. Jump offsets count from the instruction after
    the jump.
    """
    checks = [(_JEQ, number) for number in numbers]
    if x32:
        checks.insert(0, (_JGE, X32_BIT))  # x32 calls share the architecture; they are refused as a whole
    tail = [
        (_JEQ, 0, 3, ioctl),
        (_LD_ABS, 0, 0, 24),  # the low half of seccomp_data.args[1], which is all that the kernel looks at
        (_JEQ, 2, 0, TIOCSTI),
        (_JEQ, 1, 0, TIOCLINUX),
        (_RET, 0, 0, RET_ALLOW),
        (_RET, 0, 0, RET_ERRNO | errno.EPERM),
    ]
    code = [(_LD_ABS, 0, 0, 0)]  # seccomp_data.nr
    for position, (jump, value) in enumerate(checks):
        code.append((jump, len(checks) - 1 - position + len(tail) - 1, 0, value))
    return code + tail


def refuse_early() -> None:
    """Installs the filter for the current process and all it becomes. Raises KernelError.

    Without privilege it needs no_new_privs, which would disarm setuid programs; the child of agentd run as root has not
    dropped anything yet unless --user was given.
    """
    if platform.machine() != "x86_64":
        raise KernelError("kernel-unsupported", "seccomp filter", errno.ENOSYS, "agentd supports x86-64")
    instructions = program()
    buffer = ctypes.create_string_buffer(instructions, len(instructions))

    class SockFprog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    fprog = SockFprog(len(instructions) // 8, ctypes.addressof(buffer))
    if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise KernelError("kernel-unsupported", "no_new_privs", ctypes.get_errno())
    if libc.syscall(SYS_SECCOMP_X86_64, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(fprog)):
        raise KernelError("kernel-unsupported", "seccomp filter", ctypes.get_errno())
