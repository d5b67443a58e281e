"""Which system calls are handed to the supervisor, and when: by their numbers and what stands in their registers.

Sources: arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl; the man page of each call.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

O_CHANGES: Final = 3 | 0o100 | 0o1000  # O_ACCMODE, O_CREAT, O_TRUNC
O_PATH: Final = 0o10000000
CLONE_NEWNS: Final = 0x20000
UNSHARE_EMPTY_MNTNS: Final = 0x100000  # Linux 7.1
NEW_NAMESPACES: Final = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
CLONE_NEWTIME: Final = 0x80  # of unshare only: to clone it is part of the signal
PTRACE_BEGINS: Final = (0, 16, 0x4206)  # PTRACE_TRACEME, ATTACH, SEIZE
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_NAMESPACE: Final = 2  # Linux 7.0
SET_FLAGS: Final = (0x40086602, 0x40046602, 0x401C5820)  # FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR


class When(enum.Enum):
    """When a call is handed over."""

    ALWAYS = enum.auto()
    OPENS = enum.auto()  # the argument, flags of open(2), opens to change or to create
    SET = enum.auto()  # the argument has one of the bits
    IS = enum.auto()  # the argument is one of the values


@dataclass(frozen=True, slots=True)
class Notified:
    """One call. wide, narrow: its number for x86-64 and for i386; None: it has none. argument, values: what `when`
    looks at; only the low 32 bits of an argument, which are all that the kernel looks at in flags and requests.
    """

    name: str
    wide: int | None
    narrow: int | None
    when: When = When.ALWAYS
    argument: int = 0
    values: tuple[int, ...] = ()

    def wanted(self, args: tuple[int, ...]) -> bool:
        """What the filter asks of a call of the 64-bit table, asked of one that arrived for another reason."""
        word = args[self.argument] & 0xFFFFFFFF
        if self.when is When.OPENS:
            return not word & O_PATH and bool(word & O_CHANGES)
        if self.when is When.SET:
            return bool(word & self.values[0])
        return self.when is When.ALWAYS or word in self.values


NOTIFIED: Final = (
    Notified("open", 2, 5, When.OPENS, 1),  # first, because most of them are let through
    Notified("openat", 257, 295, When.OPENS, 2),
    Notified("ioctl", 16, 54, When.IS, 1, SET_FLAGS),
    Notified("clone", 56, 120, When.SET, 0, (NEW_NAMESPACES,)),
    Notified("unlink", 87, 10),
    Notified("unlinkat", 263, 301),
    Notified("rename", 82, 38),
    Notified("renameat", 264, 302),
    Notified("renameat2", 316, 353),
    Notified("mkdir", 83, 39),
    Notified("mkdirat", 258, 296),
    Notified("creat", 85, 8),
    Notified("openat2", 437, 437),  # its flags are in memory
    Notified("open_by_handle_at", 304, 342, When.OPENS, 2),
    Notified("rmdir", 84, 40),
    Notified("link", 86, 9),
    Notified("linkat", 265, 303),
    Notified("symlink", 88, 83),
    Notified("symlinkat", 266, 304),
    Notified("mknod", 133, 14),
    Notified("mknodat", 259, 297),
    Notified("truncate", 76, 92),
    Notified("truncate64", None, 193),
    Notified("chmod", 90, 15),
    Notified("fchmod", 91, 94),
    Notified("fchmodat", 268, 306),
    Notified("fchmodat2", 452, 452),
    Notified("chown", 92, 212),
    Notified("chown16", None, 182),
    Notified("lchown", 94, 198),
    Notified("lchown16", None, 16),
    Notified("fchown", 93, 207),
    Notified("fchown16", None, 95),
    Notified("fchownat", 260, 298),
    Notified("utime", 132, 30),
    Notified("utimes", 235, 271),
    Notified("futimesat", 261, 299),
    Notified("utimensat", 280, 412),
    Notified("utimensat32", None, 320),
    Notified("setxattr", 188, 226),
    Notified("lsetxattr", 189, 227),
    Notified("fsetxattr", 190, 228),
    Notified("removexattr", 197, 235),
    Notified("lremovexattr", 198, 236),
    Notified("fremovexattr", 199, 237),
    Notified("setxattrat", 463, 463),
    Notified("removexattrat", 466, 466),
    Notified("file_setattr", 469, 469),
    Notified("mount", 165, 21),
    Notified("umount2", 166, 52),
    Notified("umount", None, 22),
    Notified("pivot_root", 155, 217),
    Notified("chroot", 161, 61),
    Notified("open_tree", 428, 428, When.SET, 2, (OPEN_TREE_CLONE | OPEN_TREE_NAMESPACE,)),
    Notified("open_tree_attr", 467, 467),
    Notified("move_mount", 429, 429),
    Notified("fsopen", 430, 430),
    Notified("fsconfig", 431, 431),
    Notified("fsmount", 432, 432),
    Notified("fspick", 433, 433),
    Notified("mount_setattr", 442, 442),
    Notified("unshare", 272, 310, When.SET, 0, (NEW_NAMESPACES | CLONE_NEWTIME | UNSHARE_EMPTY_MNTNS,)),
    Notified("setns", 308, 346),
    Notified("ptrace", 101, 26, When.IS, 0, PTRACE_BEGINS),
    Notified("process_vm_readv", 310, 347),
    Notified("process_vm_writev", 311, 348),
    Notified("pidfd_getfd", 438, 438),
)
# Its flags are in memory, and every thread is made by it: told that there is no such call, the C libraries and
# run-time systems make do with clone.
CLONE3: Final = 435

WIDE: Final = {call.wide: call.name for call in NOTIFIED if call.wide is not None}
NARROW: Final = {call.narrow: call for call in NOTIFIED if call.narrow is not None}
