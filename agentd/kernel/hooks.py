"""Every program, and the enforcement point it makes. A new hook is one line here and its program in bpf/."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from agentd.model import Op, Point


class Need(Enum):
    """What some programs are attached for, and only while there is such a thing."""

    NAMES = "dns_answers"  # a policy with host names is in force
    FOREIGN = "lsm_file_permission"  # a workload has files open from before its mark that it may not use
    CODE = "lsm_file_mprotect"  # a policy is in force that doesn't allow everybody all executable memory
    ROUTES = "lsm_socket_setsockopt"  # a policy is in force that doesn't allow everybody every socket
    CODE_PROBE = ""  # whether it would be prevented is being tried

    @property
    def witness(self) -> str:
        """A program that is attached when there is this need; an agentd that takes over goes by that. Empty: none."""
        return self.value


@dataclass(frozen=True, slots=True)
class Hook:
    """One program that is no LSM hook."""

    program: str
    point: Point
    cgroup: bool = False
    needs: tuple[Need, ...] = ()  # attached only while there is one of these
    ops: tuple[Op, ...] = ()  # those that it judges, and that no other program does
    after: bool = False  # sees to what is judged after its effect: not attached where LSM hooks judge everything
    newer: str = ""  # the trace point, where some kernels lack it: they do without


HOOKS: Final = (
    Hook("task_forked", Point.NONE, after=True),
    Hook("task_exited", Point.NONE),
    Hook("signal_generated", Point.NONE, after=True),
    Hook("task_resumed", Point.NONE, after=True, newer="sched_exit_tp"),
    Hook("exec_loaded", Point.EXEC, ops=(Op.EXEC,)),
    Hook("syscall_returned", Point.TRACE, after=True),
    Hook("signal_delivered", Point.TRACE, after=True),
    Hook("net_connect4", Point.CGROUP, cgroup=True, ops=(Op.CONNECT,)),
    Hook("net_connect6", Point.CGROUP, cgroup=True, ops=(Op.CONNECT,)),
    Hook("net_sendmsg4", Point.CGROUP, cgroup=True, ops=(Op.SEND,)),
    Hook("net_sendmsg6", Point.CGROUP, cgroup=True, ops=(Op.SEND,)),
    Hook("net_bind4", Point.CGROUP, cgroup=True, ops=(Op.BIND,)),
    Hook("net_bind6", Point.CGROUP, cgroup=True, ops=(Op.BIND,)),
    Hook("net_sock_create", Point.CGROUP, cgroup=True, ops=(Op.SOCKET,)),
    Hook("dns_asks", Point.NONE, cgroup=True, needs=(Need.NAMES,)),
    Hook("dns_answers", Point.NONE, cgroup=True, needs=(Need.NAMES,)),
)


@dataclass(frozen=True, slots=True)
class LsmHook:
    """One LSM hook, whose program is called lsm_NAME. ops: those that it judges; each is prevented when all hooks that
    name it are attached. function: what the kernel calls, where that isn't security_NAME. newer: than the oldest
    kernel; where it isn't, what it judges can't be done, or comes through another hook.
    """

    name: str
    ops: tuple[Op, ...] = ()
    function: str = ""
    newer: bool = False
    needs: tuple[Need, ...] = ()
    shares: bool = True  # it calls what the hooks share (shared.py)

    @property
    def program(self) -> str:
        return f"lsm_{self.name}"


LSM_HOOKS: Final = (
    LsmHook("file_open", (Op.READ, Op.WRITE, Op.COMPAT)),  # every hook judges `compat`
    LsmHook("file_receive"),
    LsmHook("file_permission", needs=(Need.FOREIGN,)),
    LsmHook("file_truncate", needs=(Need.FOREIGN,), newer=True),
    LsmHook("path_mknod", (Op.CREATE,)),
    LsmHook("path_mkdir", (Op.CREATE,)),
    LsmHook("path_symlink", (Op.LINK,)),
    LsmHook("path_unlink", (Op.DELETE,)),
    LsmHook("path_rmdir", (Op.DELETE,)),
    LsmHook("path_rename", (Op.RENAME,)),
    LsmHook("path_link", (Op.LINK,)),
    LsmHook("path_truncate", (Op.WRITE,)),
    LsmHook("path_chmod", (Op.SETATTR,)),
    LsmHook("path_chown", (Op.SETATTR,)),
    LsmHook("inode_setattr", (Op.SETATTR,)),
    LsmHook("inode_setxattr", (Op.SETATTR,)),
    LsmHook("inode_removexattr", (Op.SETATTR,)),
    LsmHook("inode_set_acl", (Op.SETATTR,), newer=True),
    LsmHook("inode_remove_acl", (Op.SETATTR,), newer=True),
    LsmHook("inode_file_setattr", (Op.SETATTR,), newer=True),
    LsmHook("file_ioctl", (Op.SETATTR, Op.SIGNAL)),
    LsmHook("file_ioctl_compat", (Op.SETATTR, Op.SIGNAL), newer=True),
    LsmHook("mmap_file", (Op.EXECMEM,), needs=(Need.CODE, Need.CODE_PROBE, Need.FOREIGN)),
    LsmHook("file_mprotect", (Op.EXECMEM,), needs=(Need.CODE, Need.CODE_PROBE)),
    LsmHook("path_chroot", (Op.CHROOT,)),
    LsmHook("sb_mount", (Op.MOUNT,)),
    LsmHook("sb_umount", (Op.MOUNT,)),
    LsmHook("sb_pivotroot", (Op.MOUNT,)),
    LsmHook("move_mount", (Op.MOUNT,)),
    LsmHook("bprm_check_security", (Op.EXEC,), "security_bprm_check"),
    LsmHook("socket_create", (Op.SOCKET,)),
    LsmHook("socket_post_create", (Op.SOCKET,), needs=(Need.NAMES,)),
    LsmHook("socket_setsockopt", (Op.SOCKET,), needs=(Need.ROUTES,)),
    LsmHook("socket_connect", (Op.CONNECT,)),
    LsmHook("socket_bind", (Op.BIND,)),
    LsmHook("sctp_bind_connect", (Op.BIND, Op.CONNECT)),
    LsmHook("socket_sendmsg", (Op.SEND, Op.MODULE)),
    LsmHook("socket_listen", (Op.LISTEN,)),
    LsmHook("socket_accept", (Op.ACCEPT,)),
    LsmHook("unix_stream_connect", (Op.UNIX_CONNECT,)),
    LsmHook("unix_may_send", (Op.UNIX_CONNECT,)),
    LsmHook("ptrace_access_check", (Op.PTRACE, Op.SIGNAL)),
    LsmHook("ptrace_traceme", (Op.PTRACE,)),
    LsmHook("userns_create", (Op.NAMESPACE,), "security_create_user_ns"),
    LsmHook("bpf", (Op.BPF,)),
    LsmHook("perf_event_open", (Op.PERF,)),
    LsmHook("kernel_read_file", (Op.MODULE, Op.KEXEC)),
    LsmHook("kernel_load_data", (Op.MODULE, Op.KEXEC)),
    LsmHook("kernel_module_request", (Op.MODULE,)),
    LsmHook("key_alloc", (Op.MODULE,)),
    LsmHook("task_alloc", (Op.NAMESPACE,)),
    LsmHook("capable", (Op.NAMESPACE, Op.MOUNT, Op.MODULE, Op.WRITE, Op.SIGNAL)),
    LsmHook("inode_init_security_anon", (Op.IO_URING, Op.PERF)),
    LsmHook("path_notify", (Op.PERF, Op.READ)),
    LsmHook("task_prctl", (Op.PTRACE,)),
    LsmHook("task_kill", (Op.SIGNAL,)),  # these, too, with ptrace_access_check, are the guard
    LsmHook("task_setrlimit", (Op.SIGNAL,)),
    LsmHook("task_setscheduler", (Op.SIGNAL,)),
    LsmHook("task_setnice", (Op.SIGNAL,)),
    LsmHook("task_setioprio", (Op.SIGNAL,)),
    LsmHook("task_movememory", (Op.SIGNAL,)),
    LsmHook("file_fcntl", (Op.SIGNAL,)),
    LsmHook("file_send_sigiotask", shares=False),
)

# Beside `fmod_ret` programs, for what those can't have: socket storage (bpf/notes.bpf.c).
NOTES: Final = (
    Hook("note_created", Point.NONE),
    Hook("note_bound", Point.NONE),
    Hook("note_connected", Point.NONE, needs=(Need.NAMES,)),
    Hook("note_sent", Point.NONE, needs=(Need.NAMES,)),
)


def prevented(attached: set[str]) -> frozenset[Op]:
    """The operations that the attached programs judge before their effect."""
    missing = {op for hook in LSM_HOOKS if hook.program not in attached and not hook.newer for op in hook.ops}
    return frozenset({op for hook in LSM_HOOKS for op in hook.ops} - missing)


def wanted(hooks: Iterable[Hook | LsmHook], needs: Collection[Need]) -> list[Hook | LsmHook]:
    """Those that are attached while there are these needs."""
    return [hook for hook in hooks if not hook.needs or not set(hook.needs).isdisjoint(needs)]


def judging(op: Op) -> frozenset[str]:
    """The programs that an operation needs, on hosts that have them."""
    return frozenset(hook.program for hook in (*HOOKS, *LSM_HOOKS) if op in hook.ops)
