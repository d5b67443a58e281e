"""One call that is being looked at: what its handler reads, asks and does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agentd.kernel.notify.caller import Caller, signed
from agentd.kernel.notify.device import Call
from agentd.kernel.notify.identity import Actor
from agentd.kernel.notify.lookup import Found, Lookup, Place, failed
from agentd.model import Op

ARCH_I386: Final = 0x40000003


@dataclass(frozen=True, slots=True)
class Target:
    """An object to be judged. path: None if it can't be resolved. status: looks at it as it is now; None: it isn't."""

    path: bytes | None
    status: Callable[[], os.stat_result] | None = None

    def mark(self) -> tuple[int, int]:
        """Which file it is now: an approval is for that one."""
        try:
            status = self.status() if self.status else None
        except OSError:
            status = None
        return (status.st_dev, status.st_ino) if status else (0, 0)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one effect of a call. all or nothing: the worst of the targets decides. passing: the kernel
    will look at the name again and judge it then (the trace point), so that only a denial counts here. check: raises
    the OSError that the call would fail with anyway; not asked where it is allowed, for then the kernel says so.
    """

    call: Call
    caller: Caller
    op: Op
    targets: tuple[Target, ...]
    passing: bool = False
    check: Callable[[], object] | None = None


class Refused(Exception):  # not an error: an answer
    """The call fails with EPERM."""


class Held(Exception):
    """Somebody is asked; the call waits, and is looked at anew when there is an answer."""


class Gone(Exception):
    """Nobody waits any more."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The call returns a descriptor for the file of `fd`, which is closed here. flags: O_CLOEXEC or 0."""

    fd: int
    flags: int


class GoOn:
    """The kernel carries the call out as the caller made it."""


GO_ON: Final = GoOn()
Result = int | Descriptor | GoOn
Names = tuple[int, bytes]
"""Where a name begins, and the name; b"": the object of the descriptor itself."""


class Request:
    """ask: raises Refused or Held, or returns. waits: does the caller wait for this still?"""

    def __init__(
        self,
        call: Call,
        caller: Caller,
        actor: Actor,
        root: int,
        ask: Callable[[Question], None],
        waits: Callable[[], bool],
    ) -> None:
        self.call = call
        self.caller = caller
        self.args = call.args
        self.compat = call.arch == ARCH_I386
        self.lookup = Lookup(caller, actor)
        self._actor = actor
        self._root = root
        self._ask = ask
        self.waits = waits

    def number(self, index: int) -> int:
        """An argument of the kernel's type int."""
        return signed(self.args[index])

    def flags(self, index: int) -> int:
        """An argument of the kernel's type unsigned int."""
        return self.args[index] & 0xFFFFFFFF

    def text(self, index: int, limit: int = 4096) -> bytes:
        """A string that an argument points to."""
        return self.caller.text(self.args[index], limit)

    def at(self, dirfd: int | None, name: int) -> tuple[int, bytes]:
        """(Directory, name) of two arguments; dirfd None: the working directory."""
        text = self.text(name)
        if text.startswith(b"/"):
            return self._root, text
        return self.caller.directory(0xFFFFFF9C if dirfd is None else self.args[dirfd]), text

    def name_or_object(self, dirfd: int, name: int, *, empty: bool) -> tuple[int, bytes]:
        """As at(); where there is no name and `empty` allows it, (the object of the descriptor, b"")."""
        if not self.args[name] or (empty and not self.text(name, 1 << 12)):
            return self.caller.object(self.args[dirfd]), b""
        return self.at(dirfd, name)

    def named(self, at: tuple[int, bytes], *, follow: bool) -> Found:
        """The object of at() or name_or_object()."""
        return self.lookup.found(*at, follow=follow) if at[1] else self.lookup.of(at[0])

    @contextmanager
    def as_caller(self) -> Iterator[None]:
        """With the caller's rights. Nothing is done for somebody who isn't there any more."""
        if not self.waits():
            raise Gone
        with self._actor.acting(self.caller.facts):
            yield

    def judge(
        self,
        op: Op,
        *objects: Found | Place | bytes,
        passing: bool = False,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Asks whether an effect may come about. Raises Refused, Held, and what check() raises."""
        question = Question(self.call, self.caller, op, tuple(map(_target, objects)), passing, check)
        self._actor.rested(lambda: self._ask(question))


def _target(thing: Found | Place | bytes) -> Target:
    if isinstance(thing, bytes):
        return Target(thing)
    if isinstance(thing, Found):
        return Target(thing.path, lambda: thing.status)
    name = thing.name.rstrip(b"/")
    return Target(thing.path, lambda: os.stat(name, dir_fd=thing.directory, follow_symlinks=False))


def self_fd(fd: int) -> bytes:
    """A name for the object of a descriptor of ours, from a supervisor thread's working directory, /proc."""
    return b"self/fd/%d" % fd


def no_such_call() -> OSError:
    """What is answered to what isn't known here."""
    return failed(errno.ENOSYS)
