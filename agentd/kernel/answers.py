"""Answers to held operations, as the kernel reads them: grants (consumed when a call is tried again) and answers (for
what stands after its effect). bpf/lib/hold.bpf.h and act.bpf.h are the other side.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

from agentd.kernel import abi
from agentd.kernel.loader import LoadedObject

GRANT_SECONDS: Final = 60  # a thread that is continued finds its grant within this


class AnswerMaps:
    """The two maps of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._grants = loaded.grants
        self._answers = loaded.answers

    def grant(self, key: tuple[int, int], hold_id: int, *, allow: bool, uses: int) -> None:
        """The next `uses` tries of the action go on, or fail with EPERM. Raises KernelError when the map is full."""
        expires = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + GRANT_SECONDS * 1_000_000_000
        grant = abi.Grant(expires=expires, hold_id=hold_id, allow=int(allow), uses=uses)
        self._grants.put(abi.GrantKey(key=(ctypes.c_uint64 * 2)(*key)), grant)

    def let_go(self, hold_id: int) -> None:
        """The thread with this hold may run. Raises KernelError when the map is full."""
        self._answers.put(ctypes.c_uint64(hold_id), ctypes.c_uint32(1))

    def may_go(self, hold_id: int) -> bool:
        """Was let_go() said, and the thread has not been seen to go on?"""
        return self._answers.get(ctypes.c_uint64(hold_id)) is not None

    def let_go_of(self) -> list[int]:
        """Every hold that let_go() was said of."""
        return [int(key.value) for key in self._answers.keys()]  # noqa: SIM118  # not a dict

    def forget(self, hold_id: int) -> None:
        """The thread has gone on: the answer is of no use any more."""
        self._answers.delete(ctypes.c_uint64(hold_id))

    def drop_expired(self) -> None:
        """Removes grants that nobody came for in time (the kernel refuses them by itself)."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for key, grant in list(self._grants.items()):
            if grant.expires < now:
                self._grants.delete(key)
