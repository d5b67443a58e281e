"""A thread that acts as somebody else: user, groups, capabilities and umask of a caller, for this thread alone.

The C library would change every thread of the process; the system calls change one (credentials(7), "per-thread").
The real and the saved user stay root's: so nobody else may signal or trace the thread meanwhile, and it can come back.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from agentd.kernel.notify import raw
from agentd.kernel.notify.caller import Credentials, Facts, facts_of

PR_SET_SECUREBITS: Final = 28
NO_SETUID_FIXUP: Final = 4  # capabilities don't follow the user: they are set here
_HEADER: Final = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
KEEP: Final = -1
Result = TypeVar("Result")
_UNKNOWN: Final = Credentials(-1, -1, (-1,), -1)


class Actor:
    """One thread's changes of identity. To be made in that thread, as root."""

    def __init__(self) -> None:
        raw.call(157, PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0)
        facts = facts_of("thread-self")
        self.own: Credentials = facts.credentials
        self._umask = facts.umask
        self._as: Credentials = self.own

    @contextmanager
    def acting(self, facts: Facts) -> Iterator[None]:
        """As the caller, until the end of the block. Raises OSError; if the way back fails, the next tries again."""
        if facts.umask != self._umask:
            os.umask(facts.umask)
            self._umask = facts.umask
        try:
            self._become(facts.credentials)
            yield
        finally:
            self._become(self.own)

    def rested(self, do: Callable[[], Result]) -> Result:
        """What `do` returns, done as agentd within acting()."""
        before = self._as
        if before == self.own:
            return do()
        try:
            self._become(self.own)
            return do()
        finally:
            self._become(before)

    def _become(self, wanted: Credentials) -> None:
        """Root's capabilities come first and go last, because the other changes need them."""
        now = self._as
        if wanted == now:
            return
        self._as = _UNKNOWN  # until all of it has worked
        _set_capabilities(self.own.capabilities, self.own.capabilities)
        if wanted.groups != now.groups:
            _set_groups(wanted.groups)
        raw.call(119, KEEP, wanted.gid, KEEP)  # setresgid
        raw.call(117, KEEP, wanted.uid, KEEP)  # setresuid
        _set_capabilities(wanted.capabilities & self.own.capabilities, self.own.capabilities)
        self._as = wanted


def _set_groups(groups: tuple[int, ...]) -> None:
    raw.call(116, len(groups), struct.pack(f"{len(groups)}I", *groups))


def _set_capabilities(effective: int, permitted: int) -> None:
    low = 0xFFFFFFFF
    data = struct.pack("6I", effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
    raw.call(126, _HEADER, data)
