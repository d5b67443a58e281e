"""What each enforcement point gives for each kernel operation: the one source of every claim about guarantees.

`agentd status`, `agentd doctor`, README's table, minimum_guarantee and the containment suite all read KINDS. A kind is
a kernel operation, or (with words behind a comma) a part of one whose guarantee differs. A new operation, or a hook
that closes a kind, is one line here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.model import Guarantee, Op, Point
from agentd.policy.resolved import ResolvedAgent

INLINE: Final = frozenset({Point.LSM, Point.FMOD_RET})  # they run before the effect
DETECTED, CONTAINED, PREVENTED = Guarantee.DETECTED, Guarantee.CONTAINED, Guarantee.PREVENTED


@dataclass(frozen=True, slots=True)
class Kind:
    """point, guarantee: without LSM hooks. hooks: LSM hooks judge it before its effect, where they judge the operation
    at all. filtered: where there are no hooks, the seccomp filter of `agentd run` has it refused, or judged by the
    supervisor, before its effect.
    """

    op: Op
    part: str
    point: Point
    guarantee: Guarantee
    hooks: bool = True
    filtered: bool = False

    @property
    def name(self) -> str:
        """The operation, with the part behind a comma."""
        return f"{self.op.word}, {self.part}" if self.part else self.op.word

    @property
    def promises(self) -> dict[Point, Guarantee]:
        """What each point gives that may judge it."""
        before = [*(INLINE if self.hooks else ()), *((Point.SECCOMP,) if self.filtered else ())]
        return {self.point: self.guarantee, **dict.fromkeys(before, PREVENTED)}


# The first kind of an operation is the operation as such; the others are parts of it.
KINDS: Final = (
    Kind(Op.EXEC, "", Point.EXEC, CONTAINED),
    Kind(Op.READ, "", Point.TRACE, CONTAINED),
    Kind(Op.READ, "shared descriptors", Point.TRACE, DETECTED),  # another thread may have used the descriptor
    Kind(Op.WRITE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.WRITE, "nothing truncated", Point.TRACE, CONTAINED, filtered=True),
    Kind(Op.CREATE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.CREATE, "unix sockets", Point.TRACE, DETECTED),
    Kind(Op.CREATE, "core dumps", Point.TRACE, PREVENTED),  # the process ends before its dump begins
    Kind(Op.DELETE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.RENAME, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.LINK, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.SETATTR, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.MOUNT, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.MOUNT, "swapped names", Point.TRACE, DETECTED),  # where some mounts are allowed, a thread may swap the name
    Kind(Op.CHROOT, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.CHROOT, "swapped names", Point.TRACE, DETECTED),
    Kind(Op.UNIX_CONNECT, "", Point.TRACE, CONTAINED),
    Kind(Op.UNIX_CONNECT, "datagram", Point.TRACE, DETECTED),
    Kind(Op.PTRACE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.PTRACE, "descriptor", Point.TRACE, CONTAINED, filtered=True),
    Kind(Op.NAMESPACE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.NAMESPACE, "of a child", Point.TRACE, CONTAINED, filtered=True),
    Kind(Op.BPF, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.MODULE, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.KEXEC, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.IO_URING, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.IO_URING, "setup", Point.TRACE, CONTAINED, filtered=True),
    Kind(Op.SOCKET, "", Point.CGROUP, PREVENTED),
    Kind(Op.SOCKET, "not inet", Point.TRACE, CONTAINED),
    Kind(Op.SOCKET, "source routes", Point.TRACE, DETECTED),
    Kind(Op.PERF, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.PERF, "fanotify and userfaultfd", Point.TRACE, CONTAINED, filtered=True),
    Kind(Op.COMPAT, "", Point.TRACE, DETECTED, filtered=True),
    Kind(Op.EXECMEM, "", Point.NONE, Guarantee.NONE),  # without LSM hooks nothing judges it
    Kind(Op.SIGNAL, "", Point.TRACE, DETECTED),
    Kind(Op.CALL, "", Point.UPROBE, CONTAINED, hooks=False),
    Kind(Op.CONNECT, "", Point.CGROUP, PREVENTED),
    Kind(Op.BIND, "", Point.CGROUP, PREVENTED),
    Kind(Op.LISTEN, "", Point.TRACE, CONTAINED),
    Kind(Op.SEND, "", Point.CGROUP, PREVENTED),
    Kind(Op.ACCEPT, "", Point.TRACE, CONTAINED),
    Kind(Op.ACCEPT, "shared descriptors", Point.TRACE, DETECTED),
)


@dataclass(frozen=True, slots=True)
class Cover:
    """Which point judges a kind on a host, and what that gives."""

    kind: Kind
    point: Point
    guarantee: Guarantee


def of_host(hooks: Point, prevented: Collection[Op], *, started: bool = False) -> list[Cover]:
    """Every kind on a host. hooks: what the LSM hooks are there; prevented: the operations they judge; started: for a
    workload that `agentd run` has started, not one that was tagged later.
    """
    found = []
    for kind in KINDS:
        if kind.hooks and kind.op in prevented:
            found.append(Cover(kind, hooks, PREVENTED))
        elif started and kind.filtered:
            found.append(Cover(kind, Point.SECCOMP, PREVENTED))
        else:
            found.append(Cover(kind, kind.point, kind.guarantee))
    return found


def enforcement(hooks: Point, prevented: Collection[Op]) -> list[dict[str, str]]:
    """One row an operation, as `agentd status` shows it, for tagged processes."""
    covers = of_host(hooks, prevented)
    return [
        {"operation": op.word, "point": main(covers, op).point.word, "guarantee": in_words(covers, op)} for op in Op
    ]


def main(covers: Collection[Cover], op: Op) -> Cover:
    """What holds for an operation as such."""
    return next(cover for cover in covers if cover.kind.op is op)


def below(agent: ResolvedAgent, covers: Collection[Cover]) -> str:
    """The kinds for which a host gives an agent less than its policy's minimum_guarantee, in words; empty: none."""
    weak = [
        cover
        for cover in covers
        if cover.guarantee < agent.minimum_guarantee and (cover.kind.op is not Op.CALL or agent.calls)
    ]
    return ", ".join(cover.kind.name for cover in weak[:3]) + (f" and {len(weak) - 3} more" if weak[3:] else "")


def require(agent: ResolvedAgent, covers: Collection[Cover]) -> None:
    """Raises AgentdError `kernel-unsupported` where a host gives an agent less than its policy's minimum_guarantee."""
    if names := below(agent, covers):
        raise AgentdError(
            "kernel-unsupported",
            f"agent {agent.name!r}",
            f"its policy wants everything {agent.minimum_guarantee.word}, and here these are not: {names}",
            "run it on a kernel with LSM hooks, or lower minimum_guarantee; agentd doctor shows what this host gives",
            exit_code=EXIT_CANNOT_ENFORCE,
        )


def worst(covers: Collection[Cover], op: Op) -> Cover:
    """The weakest of an operation's kinds."""
    return min((cover for cover in covers if cover.kind.op is op), key=lambda cover: cover.guarantee)


def guarantees(covers: Collection[Cover], op: Op) -> list[Guarantee]:
    """Of each of an operation's kinds, in the order of KINDS."""
    return [cover.guarantee for cover in covers if cover.kind.op is op]


def in_words(covers: Collection[Cover], op: Op) -> str:
    """The guarantee of an operation, with the parts for which it is another one."""
    first = main(covers, op)
    parts: dict[str, list[str]] = {}
    for cover in covers:
        if cover.kind.op is op and cover.guarantee is not first.guarantee:
            parts.setdefault(cover.guarantee.word, []).append(cover.kind.part)
    rest = "; ".join(f"{word}: {', '.join(names)}" for word, names in parts.items())
    return f"{first.guarantee.word} ({rest})" if rest else first.guarantee.word


def markdown() -> str:
    """The table of README: operations with the same guarantees share a row."""
    hosts = (
        of_host(Point.LSM, set(Op)),
        of_host(Point.NONE, (), started=True),
        of_host(Point.NONE, ()),
    )
    rows: dict[tuple[str, ...], list[str]] = {}
    for op in Op:
        cells = [_cell(covers, op) for covers in hosts]
        cells[0] = in_words(hosts[0], op) if op in _hooked() else "as without"
        rows.setdefault(tuple(cells), []).append(f"`{op.word}`")
    lines = [
        "| kernel operation | with `lsm` (`fmod_ret`: above) | without, started by `agentd run` | without, tagged |",
        "|---|---|---|---|",
    ]
    lines += [f"| {', '.join(ops)} | {' | '.join(cells)} |" for cells, ops in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(covers: Collection[Cover], op: Op) -> str:
    point = main(covers, op).point
    return f"{in_words(covers, op)} ({point.word})" if point is not Point.NONE else "not judged"


def _hooked() -> set[Op]:
    """The operations that LSM hooks can judge."""
    return {kind.op for kind in KINDS if kind.hooks}
