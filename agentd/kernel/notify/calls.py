"""Every notified call and its handler. A handler reads the caller's memory once, asks, and does what was asked for, or
lets the kernel do it where everything that matters lies in registers, or the trace point looks at the effect again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentd.kernel.notify import attributes, names, opens
from agentd.kernel.notify.request import GO_ON, Request, Result
from agentd.kernel.notify.table import CLONE_NEWNS, NARROW, UNSHARE_EMPTY_MNTNS, WIDE
from agentd.model import Op

Handler = Callable[[Request], Result]
# linux/sched.h: the gravest of them names the operation, as in bpf/lib/namespaces.bpf.h.
_NAMESPACES: Final = ((0x10000000, b"user"), (CLONE_NEWNS, b"mnt"), (0x20000000, b"pid"), (0x40000000, b"net"))


def handler(number: int) -> Handler | None:
    """Of a call of the 64-bit table; None: the filter hands over no such call."""
    name = WIDE.get(number)
    return HANDLERS[name] if name else None


def narrow(number: int, args: tuple[int, ...]) -> Handler:
    """Of a call of the 32-bit table, all of which are handed over: each is an operation by itself, and most are nothing
    else.
    """
    call = NARROW.get(number)
    handle = HANDLERS[call.name] if call and call.wanted(args) else None

    def judged(r: Request) -> Result:
        r.judge(Op.COMPAT, b"i386")
        return handle(r) if handle else GO_ON

    return judged


def moves(number: int, *, compat: bool) -> bool:
    """See MOVES."""
    if compat:
        return number in NARROW and NARROW[number].name in MOVES
    return WIDE.get(number) in MOVES


def _clone(r: Request) -> Result:
    """Flags, in a register."""
    return _namespaces(r, r.args[0])


def _unshare(r: Request) -> Result:
    """The same; one of its flags is another one of clone's."""
    return _namespaces(r, r.args[0] | (CLONE_NEWNS if r.args[0] & UNSHARE_EMPTY_MNTNS else 0))


def _namespaces(r: Request, flags: int) -> Result:
    word = next((word for bit, word in _NAMESPACES if flags & bit), b"other")
    r.judge(Op.NAMESPACE, b"unshare:" + word)
    return GO_ON


def _word(op: Op, word: bytes) -> Handler:
    def handle(r: Request) -> Result:
        r.judge(op, word)
        return GO_ON

    return handle


def _ptrace(r: Request) -> Result:
    r.judge(Op.PTRACE, b"ptrace:attach" if r.args[0] else b"ptrace:traceme")
    return GO_ON


def _mount_word(r: Request) -> Result:
    """What acts on descriptors of mounts, whose places are not known yet."""
    r.judge(Op.MOUNT, b"mount", passing=True)
    return GO_ON


def _mount_on(dirfd: int | None, name: int, op: Op = Op.MOUNT, *, follow: bool = True) -> Handler:
    """By the place that is named. The kernel reads the name again, and the trace point judges that."""

    def handle(r: Request) -> Result:
        at = r.at(None, name) if dirfd is None else r.name_or_object(dirfd, name, empty=True)
        with r.as_caller():
            found = r.named(at, follow=follow)
            r.judge(op, found, passing=True)
        return GO_ON

    return handle


# After one of these a process may see other files, or own them otherwise, than the one that the filter was made for.
MOVES: Final = frozenset({"unshare", "clone", "setns", "chroot", "pivot_root"})

HANDLERS: Final[dict[str, Handler]] = {
    "open": opens.open_,
    "openat": opens.openat,
    "creat": opens.creat,
    "openat2": opens.openat2,
    "open_by_handle_at": opens.open_by_handle_at,
    "unlink": names.unlink,
    "unlinkat": names.unlinkat,
    "rmdir": names.rmdir,
    "rename": names.rename,
    "renameat": names.renameat,
    "renameat2": names.renameat2,
    "link": names.link,
    "linkat": names.linkat,
    "symlink": names.symlink,
    "symlinkat": names.symlinkat,
    "mkdir": names.mkdir,
    "mkdirat": names.mkdirat,
    "mknod": names.mknod,
    "mknodat": names.mknodat,
    "truncate": names.truncate,
    "truncate64": names.truncate64,
    "chmod": attributes.chmod,
    "fchmod": attributes.fchmod,
    "fchmodat": attributes.fchmodat,
    "fchmodat2": attributes.fchmodat2,
    "chown": attributes.chown,
    "chown16": attributes.chown16,
    "lchown": attributes.lchown,
    "lchown16": attributes.lchown16,
    "fchown": attributes.fchown,
    "fchown16": attributes.fchown16,
    "fchownat": attributes.fchownat,
    "utime": attributes.utime,
    "utimes": attributes.utimes,
    "futimesat": attributes.futimesat,
    "utimensat": attributes.utimensat,
    "utimensat32": attributes.utimensat32,
    "setxattr": attributes.setxattr,
    "lsetxattr": attributes.lsetxattr,
    "fsetxattr": attributes.fsetxattr,
    "setxattrat": attributes.setxattrat,
    "removexattr": attributes.removexattr,
    "lremovexattr": attributes.lremovexattr,
    "fremovexattr": attributes.fremovexattr,
    "removexattrat": attributes.removexattrat,
    "file_setattr": attributes.file_setattr,
    "ioctl": attributes.ioctl,
    "mount": _mount_on(None, 1),
    "umount": _mount_on(None, 0),
    "umount2": _mount_on(None, 0),
    "move_mount": _mount_on(2, 3),
    "open_tree": _mount_on(0, 1),
    "open_tree_attr": _mount_on(0, 1),
    "chroot": _mount_on(None, 0, Op.CHROOT),
    "pivot_root": _mount_word,
    "fsopen": _mount_word,
    "fsconfig": _mount_word,
    "fsmount": _mount_word,
    "fspick": _mount_word,
    "mount_setattr": _mount_word,
    "unshare": _unshare,
    "clone": _clone,
    "setns": _word(Op.NAMESPACE, b"setns"),
    "ptrace": _ptrace,
    "process_vm_readv": _word(Op.PTRACE, b"ptrace:process_vm_readv"),
    "process_vm_writev": _word(Op.PTRACE, b"ptrace:process_vm_writev"),
    "pidfd_getfd": _word(Op.PTRACE, b"ptrace:pidfd_getfd"),
}
