"""`agentd run` between two services: it keeps the filter of a command that the service supervises.

While the service lives this waits. When it is gone, what it had received is refused at once (EPERM): nobody knows how
far it got. What comes then waits for the next service, GRACE_SECONDS at most, and is refused after that, until there is
one: it is handed the filter and judges again. A run that is killed takes this along: then the kernel says ENOSYS.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from agentd.daemon.client import Client
from agentd.errors import AgentdError
from agentd.kernel.notify import keeper, raw
from agentd.kernel.notify.device import take_listener

GRACE_SECONDS: Final = 10.0  # a restart takes two or three
RETRY_SECONDS: Final = 0.25
DYING_SECONDS: Final = 1.0
LATER_SECONDS: Final = 2.0  # and after that


class Keeper:
    """Of one command, with the service at `socket`."""

    def __init__(self, socket: Path, pid: int, pidfd: int, listener: int) -> None:
        """listener: its number in the process. Raises OSError: this kernel doesn't let this user have it."""
        self._socket = socket
        self._pid = pid
        self._listener = take_listener(pidfd, listener)
        self.received = keeper.new_received()
        self._refused = 0
        # a workload of the same user must not take the filter from here (ptrace(2), access mode checking)
        raw.not_dumpable()

    def wait(self, ended: int, service: int | None) -> None:
        """Until `ended`, the command's pidfd, can be read. service: the pidfd of the one that has the filter now, which
        this owns; None: that one is gone already.
        """
        try:
            while not _readable(ended, *([service] if service is not None else [])):
                if service is not None:
                    os.close(service)
                self._refused += keeper.refuse_received(self._listener, self.received)
                service = self._wait_for_another(ended)
        finally:
            if service is not None:
                os.close(service)
            os.close(self._listener)
            os.close(self.received)

    def _wait_for_another(self, ended: int) -> int | None:
        """The pidfd of the service that has taken over; None: the command has ended."""
        until = time.monotonic() + GRACE_SECONDS
        retry = 0.0
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        while True:
            if time.monotonic() >= retry:
                if (service := self._hand_over()) is not None:
                    return service
                retry = time.monotonic() + (RETRY_SECONDS if time.monotonic() < until else LATER_SECONDS)
            if time.monotonic() > until:
                poll.register(self._listener, select.POLLIN)
            for fd, event in poll.poll(RETRY_SECONDS * 1000):
                if fd == ended:
                    return None
                if event & select.POLLIN:
                    self._refused += keeper.refuse_next(self._listener)
                else:  # no process has the filter any more
                    poll.unregister(self._listener)
                    until = float("inf")

    def _hand_over(self) -> int | None:
        try:
            with Client(self._socket) as client:
                service = client.pidfd()
                try:
                    client.call(
                        "run.supervise",
                        pid=self._pid,
                        resume=self._listener,
                        received=self.received,
                        refused=self._refused,
                    )
                except (AgentdError, OSError) as error:
                    # It may have begun before it died; its sockets are closed before it has ended.
                    unreachable = not isinstance(error, AgentdError) or error.code == "service-unreachable"
                    if _ready(service, DYING_SECONDS if unreachable else 0):
                        self._refused += keeper.refuse_received(self._listener, self.received)
                    os.close(service)
                    raise
        except (AgentdError, OSError):
            return None  # none yet, or one that knows nothing of this workload
        self._refused = 0
        return service


def _ready(fd: int, seconds: float = 0) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def _readable(ended: int, *others: int) -> bool:
    """Waits for one of them; is it `ended`?"""
    if others:
        poll = select.poll()
        for fd in (ended, *others):
            poll.register(fd, select.POLLIN)
        poll.poll()
    return _ready(ended)


def spawn(listener: int, received: int) -> subprocess.Popen[bytes]:
    """The keeper of a standalone run, which outlives it if it is killed. It ends when its standard input is closed and
    no process has the filter any more.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(listener), str(received)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=(listener, received), env={}, cwd="/", start_new_session=True,
    )  # fmt: skip
