"""Events from the kernel: bytes of the ring buffers turned into `KernelEvent`.

libbpf calls back into Python for each event; the callback copies and queues and can't raise (an exception must not
cross a C frame). Parsing happens afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.kernel import abi
from agentd.kernel.libbpf import RING_CALLBACK, check, library, pointer
from agentd.kernel.loader import LoadedObject
from agentd.model import Action, Decision, Guarantee, Op, Point

_HEADER = ctypes.sizeof(abi.Event)
_NAME_KEY = struct.Struct("=4I2Q")  # struct agentd_count_key
TAKE_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """struct agentd_event with its three strings. Times are ns of CLOCK_BOOTTIME."""

    type: int
    flags: int
    time: int
    hold_id: int
    key: tuple[int, int]
    start_time: int
    parent_start_time: int
    cgroup: int
    agent: int
    generation: int
    outcome: int
    workload: int
    pid: int
    tid: int
    ppid: int
    uid: int
    op: Op
    decision: Decision
    action: Action
    point: Point
    guarantee: Guarantee
    syscall: int
    rule: int
    toolop: int
    timeout: int
    reason: int
    comm: bytes
    object: bytes
    exe: bytes
    argv: tuple[bytes, ...]
    text: bytes = b""  # of a library call, as far as it is kept


NameKey = tuple[int, int, int, int, int, int]  # agent, generation, outcome, operation, hash of the object


def parse(data: bytes) -> KernelEvent:
    """One message of a ring."""
    e = abi.Event.from_buffer_copy(data)
    exe_at = _HEADER + e.object_len
    argv_at = exe_at + e.exe_len
    argv = data[argv_at : argv_at + e.argv_len]
    text = argv if e.flags & abi.FLAG_TEXT else b""
    argv = b"" if text else argv
    return KernelEvent(
        type=e.type,
        flags=e.flags,
        time=e.time,
        hold_id=e.hold_id,
        key=(e.key[0], e.key[1]),
        start_time=e.start_time,
        parent_start_time=e.parent_start_time,
        cgroup=e.cgroup,
        agent=e.agent,
        generation=e.generation,
        outcome=e.outcome,
        workload=e.workload,
        pid=e.pid,
        tid=e.tid,
        ppid=e.ppid,
        uid=e.uid,
        op=Op(e.op),
        decision=Decision(e.decision),
        action=Action(e.action),
        point=Point(e.point),
        guarantee=Guarantee(e.guarantee),
        syscall=e.syscall,
        rule=e.rule,
        toolop=e.toolop,
        timeout=e.timeout,
        reason=e.reason,
        comm=e.comm,
        object=data[_HEADER:exe_at],
        exe=data[exe_at:argv_at],
        argv=tuple(argv.removesuffix(b"\0").split(b"\0")) if argv else (),
        text=text,
    )


def parse_name(data: bytes) -> tuple[NameKey, bytes]:
    """A message that says what stands behind the key of a count: the key, the object."""
    agent, generation, outcome, op, high, low = _NAME_KEY.unpack_from(data)
    return (agent, generation, outcome, op, high, low), data[_NAME_KEY.size :]


class EventRing:
    """One ring buffer. `fileno()` becomes readable when there are events."""

    def __init__(self, loaded: LoadedObject, name: str) -> None:
        self._queue: list[bytes] = []
        queue, string_at = self._queue, ctypes.string_at

        def take(context: int | None, data: int, size: int) -> int:
            queue.append(string_at(data, size))
            return 0 if len(queue) < TAKE_MAX else -errno.EAGAIN

        self._callback: Callable[..., int] = RING_CALLBACK(take)  # must live as long as the ring
        self._ring = pointer(library().ring_buffer__new(loaded.fds[name], self._callback, None, None), f"ring {name}")
        self.name = name

    def fileno(self) -> int:
        """For select and asyncio."""
        return int(library().ring_buffer__epoll_fd(self._ring))

    def take(self) -> list[bytes]:
        """What is there, raw, in order, at most TAKE_MAX; parse() makes events of it.

        Bounded, because a workload that makes events as fast as they are read would keep it here for ever.
        """
        result = library().ring_buffer__consume(self._ring)
        if result != -errno.EAGAIN:
            check(result, f"ring {self.name}")
        taken, self._queue[:] = list(self._queue), []
        return taken

    def close(self) -> None:
        """Frees the ring's mapping."""
        library().ring_buffer__free(self._ring)
