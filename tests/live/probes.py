"""Probes: small programs that make one attempt each.

A probe prints `attempt` before its attempt, and `ok VALUE` or `errno N` after it. So a run has one of four results, and
only one of them is a denial:

    ALLOWED          the attempt came back with success (whatever happened to the process afterwards)
    DENIED           the expected errno or signal, and agentd recorded that it was its doing
    NOT_ATTEMPTED    the probe never came to its attempt, or this kernel doesn't have what it tried
    REFUSED_ELSEWHERE  any other failure, or the expected one without a record of agentd

`untagged` runs a probe outside agentd: the positive control, without which a denial is worth nothing.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.audit import rawbytes

PYTHON: Final = "/usr/bin/python3"
GRACE: Final = 5.0  # seconds that a killed probe is given to end, before the failure is told all the same
PATIENCE: Final = 120.0  # seconds until a probe that doesn't end is a failed test; not a measure of anything
UNSUPPORTED: Final = frozenset(
    {errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EOPNOTSUPP}
)

# What every Python probe begins with. syscall() takes numbers, bytes, ctypes objects and None.
PREAMBLE: Final = """
import ctypes, errno, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def say(text):
    os.write(1, text.encode("utf-8", "surrogateescape") + b"\\n")
def checked(value):
    if value == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value
def syscall(number, *args):
    return checked(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
def attempt(call):
    say("attempt")
    try:
        value = call()
    except OSError as error:
        say(f"errno {error.errno}")
        return None
    say(f"ok {value!r}")
    return value
"""

# The same for probes in C: ATTEMPT(expression) where -1 is failure.
C_PREAMBLE: Final = Path(__file__).with_name("probe.h").read_text(encoding="utf-8")


class Result(enum.Enum):
    """How an attempt ended; see the module's docstring."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NOT_ATTEMPTED = "could not be attempted"
    REFUSED_ELSEWHERE = "refused by something else"


@dataclass(frozen=True, slots=True)
class Run:
    """A program that has ended. status: as subprocess gives it (-N: signal N)."""

    status: int
    out: bytes
    err: bytes
    pid: int
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.decode("utf-8", "surrogateescape").splitlines()

    @property
    def value(self) -> str:
        """What the attempt returned, in the probe's own notation."""
        found = next((line[3:] for line in self.lines if line.startswith("ok ")), None)
        assert found is not None, f"it says nothing of the kind: {self}"
        return found

    @property
    def killed(self) -> bool:
        """SIGKILL ended it."""
        return self.status == -signal.SIGKILL

    def of(self, *events: str) -> list[dict[str, Any]]:
        """Its records of these events."""
        return [record for record in self.records if record["event"] in events]

    @property
    def denials(self) -> list[dict[str, Any]]:
        """Its records of refused operations."""
        return self.of("denied")

    def result(self, *, number: int | None = None, killed_by: int | None = None) -> Result:
        """Which of the four. number: the errno that a denial has; killed_by: its signal."""
        if "attempt" not in self.lines:
            return Result.NOT_ATTEMPTED
        if any(line.startswith("ok ") for line in self.lines):
            return Result.ALLOWED
        failed = next((int(line[6:]) for line in self.lines if line.startswith("errno ")), None)
        if failed in UNSUPPORTED:
            return Result.NOT_ATTEMPTED
        expected = (number is not None and failed == number) or (
            killed_by is not None and failed is None and self.status == -killed_by
        )
        return Result.DENIED if expected and self.denials else Result.REFUSED_ELSEWHERE

    def __str__(self) -> str:
        shown = [(r["event"], r["kernel_operation"], r["object"], r["rule"]) for r in self.records]
        return f"status {self.status}, printed {self.out[-2000:]!r}, {self.err[-2000:]!r}, records {shown}"


def python(code: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command line of a probe in Python."""
    return [PYTHON, "-I", "-S", "-c", PREAMBLE + code, *[os.fspath(word) for word in arguments]]


class Compiler:
    """Makes probes in C, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, source: str, *flags: str) -> Path:
        """A statically linked program: nothing is loaded, so its first effect is its own."""
        text = C_PREAMBLE + source
        made = self._folder / hashlib.sha256((text + repr(flags)).encode()).hexdigest()[:16]
        if not made.exists():
            subprocess.run(
                ["gcc", "-static", "-pthread", "-O1", "-w", *flags, "-x", "c", "-o", made, "-"],
                input=text.encode(), check=True, capture_output=True,
            )  # fmt: skip
        return made


def untagged(
    command: Sequence[str | os.PathLike[str]], *, keep: Sequence[int] = (), cwd: str | os.PathLike[str] | None = None
) -> Run:
    """The positive control: the same program outside agentd."""
    done = subprocess.Popen(
        [os.fspath(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, pass_fds=keep, cwd=cwd,
    )  # fmt: skip
    try:
        out, err = done.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        where = waits_at(done.pid)
        done.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # not even that ends one that can't be woken
            done.communicate(timeout=GRACE)
        done.poll()
        for pipe in (done.stdout, done.stderr):
            assert pipe
            pipe.close()
        raise AssertionError(f"not done after {PATIENCE:.0f} s; {where}") from None
    return Run(done.returncode, out, err, done.pid)


def state(pid: int) -> str:
    """The state letter of proc_pid_stat(5); `X` for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "X"


def waits_at(pid: int) -> str:
    """Where a process that doesn't end waits in the kernel, and everything else that can't be woken.

    It may only be the first to ask for what somebody else doesn't give.
    """
    found = []
    for status in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        thread = int(status.parent.name)
        if int(status.parts[2]) != pid and state(thread) != "D":
            continue
        with contextlib.suppress(OSError):
            stack = [line.split()[-1] for line in status.with_name("stack").read_text().splitlines()]
            name = status.with_name("comm").read_text().strip()
            found.append(f"{name} {thread}, state {state(thread)}: {' < '.join(stack)}")
    return "; ".join(found) or f"process {pid} is gone"


def raw(value: Any) -> bytes:
    """The bytes of a record's object."""
    return rawbytes.decode(value)


def assert_denied(
    run: Run, *, number: int | None = None, killed_by: int | None = None, **wanted: Any
) -> dict[str, Any]:
    """The run was DENIED as expected, with exactly one record, whose members are `wanted`; that record."""
    found = run.result(number=number, killed_by=killed_by)
    assert found is Result.DENIED, f"{found.value}: {run}"
    assert len(run.denials) == 1, f"{len(run.denials)} records of one denial: {run}"
    record = run.denials[0]
    shown = {name: record[name] for name in wanted}
    assert shown == wanted, f"{run}"
    return record


def assert_allowed(run: Run) -> None:
    """The run's attempt succeeded, and nothing was recorded against it."""
    found = run.result()
    assert found is Result.ALLOWED, f"{found.value}: {run}"
    assert not run.denials, f"{run}"
