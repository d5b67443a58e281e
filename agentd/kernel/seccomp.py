"""The seccomp filter of commands that agentd starts.

A classic BPF filter, installed in the child before its exec and inherited for ever. Its static part answers EPERM to
calls that every agent tolerates failing and that would get round the other points if they worked: io_uring (whose
requests pass no system call exit), bpf(), kernel modules, kexec, userfaultfd, perf, fanotify, input typed on the
terminal, and a few that only an administrator needs. Where the kernel has no LSM hooks for agentd, the calls of
notify/table.py, and all of the 32-bit table, are handed to a supervisor besides; with the supervisor gone a keeper
answers them (notify/keeper.py).
Sources: seccomp(2), seccomp_unotify(2), linux/seccomp.h, linux/audit.h, ioctl_tty(2).

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
from agentd.kernel.notify.table import CLONE3, NOTIFIED, O_CHANGES, O_PATH, Notified, When

AUDIT_ARCH_X86_64: Final = 0xC000003E
AUDIT_ARCH_I386: Final = 0x40000003
X32_BIT: Final = 0x40000000
RET_ALLOW: Final = 0x7FFF0000
RET_ERRNO: Final = 0x00050000
RET_USER_NOTIF: Final = 0x7FC00000
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
FLAG_NEW_LISTENER: Final = 1 << 3
FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5  # Linux 5.19: a call that is being judged is not cut short by a signal
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
# ioctl(2) requests that no policy allows. These type on the terminal: the shell agentd was started from would run it,
# outside the workload.
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C
# And those that stop a whole file system: FIFREEZE, FITHAW, FS_IOC_SHUTDOWN.
STATIC_IOCTLS: Final = (TIOCSTI, TIOCLINUX, 0xC0045877, 0xC0045878, 0x8004587D)
# What changes files, or reads others, through a descriptor that was opened to read, where no LSM hook is told:
# bpf/lib/ioctls.bpf.h.
FILE_IOCTLS: Final = {
    "FS_IOC_ENABLE_VERITY": 0x40806685,
    "FS_IOC_SETVERSION": 0x40087602,
    "FS_IOC32_SETVERSION": 0x40047602,
    "EXT4_IOC_SETVERSION": 0x40086604,
    "EXT4_IOC32_SETVERSION": 0x40046604,
    "FS_IOC_SET_ENCRYPTION_POLICY": 0x800C6613,
    "FAT_IOCTL_SET_ATTRIBUTES": 0x40047211,
    "XFS_IOC_OPEN_BY_HANDLE": 0xC038586B,
    "XFS_IOC_OPEN_BY_HANDLE_32": 0xC01C586B,
    "XFS_IOC_ATTRMULTI_BY_HANDLE": 0x4048587B,
    "BTRFS_IOC_SNAP_CREATE": 0x50009401,
    "BTRFS_IOC_SUBVOL_CREATE": 0x5000940E,
    "BTRFS_IOC_SNAP_DESTROY": 0x5000940F,
    "BTRFS_IOC_SNAP_CREATE_V2": 0x50009417,
    "BTRFS_IOC_SUBVOL_CREATE_V2": 0x50009418,
    "BTRFS_IOC_SNAP_DESTROY_V2": 0x5000943F,
    "BTRFS_IOC_TREE_SEARCH": 0xD0009411,
    "BTRFS_IOC_TREE_SEARCH_V2": 0xC0709411,
    "BTRFS_IOC_SEND": 0x40489426,
    "BTRFS_IOC_SEND_32": 0x40449426,
}

_LD_ABS, _JA, _JEQ, _JGE, _JSET, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k. Jumps count from the next instruction


def program(*, supervised: bool = False) -> bytes:
    """The filter as struct sock_filter[]. supervised: with the calls that a supervisor judges.

    Order: the architecture chooses a block; a block loads the number and compares. An unknown architecture is refused.
    """
    wide, narrow = (_block(column, supervised=supervised) for column in (0, 1))
    code = [
        (_LD_ABS, 0, 0, _ARCH),
        (_JEQ, 0, 1, AUDIT_ARCH_X86_64),
        (_JA, 0, 0, 3),
        (_JEQ, 0, 1, AUDIT_ARCH_I386),
        (_JA, 0, 0, 1 + len(wide)),
        (_RET, 0, 0, RET_ERRNO | errno.EPERM),
        *wide,
        *narrow,
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _block(column: int, *, supervised: bool) -> list[Instruction]:
    """The checks of one architecture: 0 x86-64, 1 i386. x32 calls share the first and are refused as a whole."""
    code: list[Instruction] = [(_LD_ABS, 0, 0, _NUMBER)]
    if column == 0:
        code += [(_JGE, 0, 1, X32_BIT), (_RET, 0, 0, RET_ERRNO | errno.EPERM)]
    everything = supervised and column == 1  # each is the operation `compat`; what else it is, the supervisor looks
    supervised = supervised and not everything
    opens = NOTIFIED[:2]  # by far the most frequent, whose number alone does not decide
    code += _handed_over(opens, column) if supervised else []
    requests = (*STATIC_IOCTLS, *(FILE_IOCTLS.values() if supervised or everything else ()))
    code += _of(IOCTL[column], _is(1, requests, RET_ERRNO | errno.EPERM))
    code += _handed_over(NOTIFIED[2:], column) if supervised else []
    if supervised or everything:
        code += [(_JEQ, 0, 1, CLONE3), (_RET, 0, 0, RET_ERRNO | errno.ENOSYS)]
    numbers = [numbers[column] for numbers in REFUSED.values()]
    for position, number in enumerate(known := [number for number in numbers if number is not None]):
        code.append((_JEQ, len(known) - position, 0, number))
    return [*code, (_RET, 0, 0, RET_USER_NOTIF if everything else RET_ALLOW), (_RET, 0, 0, RET_ERRNO | errno.EPERM)]


def _handed_over(calls: tuple[Notified, ...], column: int) -> list[Instruction]:
    code: list[Instruction] = []
    for call in calls:
        number = call.narrow if column else call.wide
        if number is not None:
            code += _of(number, _condition(call))
    return code


def _of(number: int, then: list[Instruction]) -> list[Instruction]:
    """`then` for this number, which goes on with the number loaded again unless it returns."""
    return [(_JEQ, 0, len(then) + 1, number), *then, (_LD_ABS, 0, 0, _NUMBER)]


def _condition(call: Notified) -> list[Instruction]:
    if call.when is When.ALWAYS:
        return [(_RET, 0, 0, RET_USER_NOTIF)]
    load = (_LD_ABS, 0, 0, _ARGUMENTS + 8 * call.argument)  # its low half
    if call.when is When.OPENS:
        return [load, (_JSET, 2, 0, O_PATH), (_JSET, 0, 1, O_CHANGES), (_RET, 0, 0, RET_USER_NOTIF)]
    if call.when is When.SET:
        return [load, (_JSET, 0, 1, call.values[0]), (_RET, 0, 0, RET_USER_NOTIF)]
    return _is(call.argument, call.values, RET_USER_NOTIF)


def _is(argument: int, values: tuple[int, ...], result: int) -> list[Instruction]:
    """Returns `result` if the argument is one of `values`."""
    code: list[Instruction] = [(_LD_ABS, 0, 0, _ARGUMENTS + 8 * argument)]
    for position, value in enumerate(values):
        last = position == len(values) - 1
        code.append((_JEQ, len(values) - 1 - position, int(last), value))
    return [*code, (_RET, 0, 0, result)]


def refuse_early() -> None:
    """Installs the static part for the current process and all it becomes. Raises KernelError."""
    _install(program(), 0)


def restrict(supervised: bool) -> int | None:
    """Installs the filter for the current process and all it becomes. supervised: the descriptor (close-on-exec) on
    which the supervisor receives the calls that wait for it. Raises KernelError.
    """
    if not supervised:
        refuse_early()
        return None
    return _install(program(supervised=True), FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV)


def _install(instructions: bytes, flags: int) -> int:
    """Without privilege it needs no_new_privs, which disarms setuid programs; agentd's child has not dropped anything
    yet, also where --user was given.
    """
    if platform.machine() != "x86_64":
        raise KernelError("kernel-unsupported", "seccomp filter", errno.ENOSYS, "agentd supports x86-64")
    buffer = ctypes.create_string_buffer(instructions, len(instructions))

    class SockFprog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    fprog = SockFprog(len(instructions) // 8, ctypes.addressof(buffer))
    if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise KernelError("kernel-unsupported", "no_new_privs", ctypes.get_errno())
    made: int = libc.syscall(SYS_SECCOMP_X86_64, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))
    if made < 0:
        raise KernelError("kernel-unsupported", "seccomp filter", ctypes.get_errno())
    return made
