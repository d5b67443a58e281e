"""The canary's process (agentd/kernel/canary.py), asked without ever blocking whoever asks.

What waits is a generator: it yields a Wait, and is resumed when its descriptor can be read or its time is over. The
service resumes it from its loop, between the events of workloads; `drive` does where there is nothing else to do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from agentd.errors import AgentdError
from agentd.kernel import canary

SCRIPT: Final = Path(canary.__file__)
FOLDER: Final = Path("/run/agentd/canary")  # not /tmp: a workload must not be able to fill it
SOCKET_VARIABLE: Final = "AGENTD_CANARY_SOCKET"  # where systemd starts one, outside agentd.service's sandbox
ANSWER_SECONDS: Final = canary.TIMEOUT + 5
END_SECONDS: Final = 5.0

T = TypeVar("T")


class Wait(NamedTuple):
    """Until `fd` can be read, or `seconds` have passed. fd: -1 for none."""

    fd: int
    seconds: float


Steps = Generator[Wait, None, T]


def drive(steps: Steps[T]) -> T:
    """Runs to the end, blocking."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]
        select.select([wait.fd] if wait.fd >= 0 else [], [], [], wait.seconds)


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one attempt; see canary.py."""

    attempted: bool
    returned: int
    signal: int
    effect: bool
    ns: int

    def words(self) -> str:
        """For a person."""
        effect = "the effect came about" if self.effect else "no effect"
        if self.signal:
            return f"{signal.Signals(self.signal).name}, {effect}"
        return f"it worked, {effect}" if self.returned == 0 else f"errno {self.returned}, {effect}"


class Canary:
    """One process, for some attempts: systemd's where agentd.service is sandboxed, a child elsewhere. Methods raise
    OSError where it fails to answer.
    """

    def __init__(self) -> None:
        """Starts it. Raises OSError."""
        self._said = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        if place := os.environ.get(SOCKET_VARIABLE):
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(place)
            except OSError:
                self._socket.close()
                raise
            return
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(dir=FOLDER)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SCRIPT), self._folder], bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/",
            )  # fmt: skip
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def attempt(self, name: str, ready: Callable[[int, int], None], program: bytes = b"") -> Steps[Came]:
        """One attempt. ready: is told the child's number before it goes on, and its listener's. program: a seccomp
        filter for it; without one the second number is -1.
        """
        self._say(f"try {name} {program.hex()}")
        answer = yield from self._answer()
        pid, listener = answer.get("pid"), answer.get("listener", -1)
        if not isinstance(pid, int) or not isinstance(listener, int):
            raise OSError(errno.EPROTO, f"{name} could not be prepared")
        try:
            ready(pid, listener)
        except (AgentdError, OSError):
            self._say("stop")
            yield from self._answer()
            raise
        self._say("go")
        return Came(**(yield from self._answer()))

    def end(self) -> Steps[None]:
        """Ends it: at the end of its input it goes by itself."""
        if self._process is None:
            self._socket.close()
            return
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        pidfd = os.pidfd_open(self._process.pid)
        try:
            deadline = time.monotonic() + END_SECONDS
            while self._process.poll() is None and (left := deadline - time.monotonic()) > 0:
                yield Wait(pidfd, left)
        finally:
            os.close(pidfd)
            self.kill()

    def kill(self) -> None:
        """Ends it at once, if it hasn't ended; nothing of it is left then."""
        if self._process is None:
            self._socket.close()
            return
        assert self._process.stdin and self._process.stdout
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _say(self, text: str) -> None:
        if self._process is None:
            self._socket.sendall(text.encode() + b"\n")
            return
        assert self._process.stdin
        self._process.stdin.write(text.encode() + b"\n")

    def _answer(self) -> Steps[dict[str, Any]]:
        if self._process is None:
            fd = self._socket.fileno()
        else:
            assert self._process.stdout
            fd = self._process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._said:
            if (left := deadline - time.monotonic()) <= 0:
                raise OSError(errno.ETIMEDOUT, "it doesn't answer")
            yield Wait(fd, left)
            if not select.select([fd], [], [], 0)[0]:
                continue
            chunk = os.read(fd, 4096)
            if not chunk:
                raise OSError(errno.EPIPE, "it ended")
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(errno.EIO, str(answer["error"]))
        return answer
