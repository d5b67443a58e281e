"""The vocabulary: kernel operations, decisions, actions, enforcement points, guarantees, risks.

Pure data that every layer shares. The numbers of `Op`, `Decision`, `Action`, `Point` and `Guarantee` are those of
`bpf/abi.h`; a test compares them with the BTF of the compiled object, so neither side can drift.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Family(enum.Enum):
    """What kind of object an operation has, and so which automaton judges it."""

    PATH = "path"  # an absolute path, `anon:...` for objects outside every mount namespace, or a word (`unshare:user`)
    HOST = "host"  # an address, a port and a transport protocol


class Named(enum.IntEnum):
    """Numbers of `bpf/abi.h`. word: the name used in policies, records and metrics."""

    word: str

    def __init__(self, number: int) -> None:
        self.word = self.name.lower()


class Op(Named):
    """A kernel operation: one attempted effect (`enum agentd_op`)."""

    EXEC = 0
    READ = 1
    WRITE = 2
    CREATE = 3
    DELETE = 4
    RENAME = 5
    LINK = 6
    SETATTR = 7
    MOUNT = 8
    CHROOT = 9
    UNIX_CONNECT = 10
    PTRACE = 11
    NAMESPACE = 12
    BPF = 13
    MODULE = 14
    KEXEC = 15
    IO_URING = 16
    SOCKET = 17
    PERF = 18
    COMPAT = 19
    EXECMEM = 20  # memory that is made executable
    SIGNAL = 21  # to a process outside the workload
    CALL = 22  # of a library's function: the object is a word, LIBRARY:FUNCTION
    CONNECT = 23
    BIND = 24
    LISTEN = 25
    SEND = 26
    ACCEPT = 27

    @property
    def family(self) -> Family:
        return Family.HOST if self >= Op.CONNECT else Family.PATH


PATH_OPS: Final = tuple(op for op in Op if op.family is Family.PATH)
HOST_OPS: Final = tuple(op for op in Op if op.family is Family.HOST)
# Judged for every workload; a library call only where a rule speaks of it, and so nothing can be tried about it before.
ALWAYS_OPS: Final = tuple(op for op in Op if op is not Op.CALL)
OP_BY_WORD: Final = {op.word: op for op in Op}


class Decision(Named):
    """`enum agentd_decision`. Ordered by severity: the worst of several is their max()."""

    ALLOW = 0
    REQUIRE_APPROVAL = 1
    DENY = 2


class Action(Named):
    """What is done about a decision that isn't allow (`enum agentd_action`)."""

    NONE = 0  # allowed, or monitor mode
    DENY = 1  # the syscall fails with EPERM
    KILL = 2  # SIGKILL to the whole process
    PAUSE = 3  # held until answered


Decided = tuple[str, str, str, Decision, Action, str]  # agent, tool, operation, decision, action, rule: what is counted


class Point(Named):
    """An enforcement point (`enum agentd_point`)."""

    NONE = 0
    LSM = 1
    FMOD_RET = 2
    CGROUP = 3
    EXEC = 4
    SECCOMP = 5
    TRACE = 6
    UPROBE = 7

    @property
    def repeats(self) -> bool:
        """Judges before the effect: what it holds is looked at anew when its task goes on (-ERESTARTNOINTR, or by the
        supervisor of the seccomp filter).
        """
        return self in (Point.LSM, Point.FMOD_RET, Point.CGROUP, Point.SECCOMP)


class Guarantee(Named):
    """What a point gives for one operation (`enum agentd_guarantee`)."""

    NONE = 0
    DETECTED = 1  # acted on after the effect
    CONTAINED = 2  # the process dies before it can use the effect
    PREVENTED = 3  # no effect


class Risk(Named):
    """Risk of a (tool, operation); what `risk_level_max` compares with."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3


RISK_BY_WORD: Final = {risk.word: risk for risk in Risk}


class Mode(enum.Enum):
    ENFORCE = "enforce"
    MONITOR = "monitor"  # decide, record, never act


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The object of a HOST operation: `address` is 4 or 16 raw bytes (v4-mapped v6 is always given as v4).

    names: what the agent has learned the address to be, in lower case; in a record, the one that was judged by.
    """

    address: bytes
    port: int
    protocol: str = "tcp"  # tcp | udp
    names: tuple[str, ...] = ()
