"""Has fetchers compiled, in a helper process that ends when they are in place (compile.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentd.calls.headers import write_headers
from agentd.calls.operands import Operand, operands, parameter
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.policy.ir import CallPoint, TextKind

# bcc is Debian's python3-bpfcc, which belongs to the system's interpreter and not to ours.
INTERPRETERS: Final = ("/usr/bin/python3", sys.executable)
HELPER: Final = Path(__file__).with_name("compile.py")
SECONDS: Final = 25  # a compiler on a busy host; less than systemd waits for a sign of life (systemd/agentd.service)
STARTING: Final = 240  # while nobody waits for one yet: an emulated processor, a host that boots
MISSING: Final = "bcc is not installed"

Fetch = tuple[CallPoint, str]
"""A function, and where the arguments of a USDT probe lie (operands.py); empty: where functions have them."""


def compile_fetchers(wanted: Mapping[int, Fetch], fetchers: int, called: int, seconds: int = SECONDS) -> None:
    """Compiles a fetcher for each function, by number, into the map `fetchers`. Descriptors: of the two maps. seconds:
    that the compiler may take.

    Raises AgentdError `kernel-unsupported` without bcc, `kernel-load` when a fetcher isn't taken or the compiler ends;
    ValueError when a probe has no such argument. What was placed by then judges nothing: no probe leads to it.
    """
    asked = json.dumps([_asked(number, *fetch) for number, fetch in sorted(wanted.items())])
    why = ""
    with tempfile.TemporaryDirectory(prefix="agentd-headers-") as folder:
        write_headers(Path(folder))
        for interpreter in dict.fromkeys(INTERPRETERS):
            why = _run(interpreter, Path(folder), asked, fetchers, called, seconds)
            if not why.startswith(MISSING):
                break
    if not why:
        return
    missing = why.startswith(MISSING)
    raise AgentdError(
        "kernel-unsupported" if missing else "kernel-load",
        f"{len(wanted)} library calls of the policy",
        why,
        "install the package python3-bpfcc, or take the tools that stand for library calls out of the policy"
        if missing
        else "nothing of this is in force; load the policy again, or take the tools that stand for library calls out",
        exit_code=EXIT_CANNOT_ENFORCE,
    )


def lying(point: CallPoint, arguments: str) -> tuple[Operand, Operand | None, Operand | None]:
    """Where the text, its length and the stream's handle lie. Raises ValueError."""
    if not point.usdt:
        return (
            parameter(point.argument),
            parameter(point.length, signed=point.signed) if point.length else None,
            parameter(point.stream) if point.stream else None,
        )
    found = operands(arguments)
    most = max(point.argument, point.length, point.stream)
    if len(found) < most:
        raise ValueError(f"{point.function} is told {len(found)} arguments, and number {most} is asked for")
    text, length, stream = (found[n - 1] if n else None for n in (point.argument, point.length, point.stream))
    assert text is not None
    return text, length, stream


def _asked(number: int, point: CallPoint, arguments: str) -> dict[str, Any]:
    text, length, stream = lying(point, arguments)
    return {
        "number": number,
        "word": point.word,
        "string": point.kind is TextKind.STRING,
        "closing": point.closing,
        "text": text._asdict(),
        "length": length._asdict() if length else None,
        "stream": stream._asdict() if stream else None,
    }


def _run(interpreter: str, headers: Path, asked: str, fetchers: int, called: int, seconds: int) -> str:
    """What went wrong, or nothing."""
    command = [interpreter, "-I", str(HELPER), str(fetchers), str(called), str(headers), str(os.getpid())]
    try:
        done = subprocess.run(
            command,
            input=asked,
            pass_fds=(fetchers, called),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        return f"{MISSING} (there is no {interpreter})"
    except subprocess.TimeoutExpired:
        return f"the compiler was not done in {seconds} seconds"
    except (OSError, subprocess.SubprocessError) as error:
        return f"the compiler could not be run: {error}"
    try:
        why = str(json.loads(done.stdout.splitlines()[-1])["error"])
    except (ValueError, IndexError, KeyError, TypeError):
        return f"the compiler {_ended(done.returncode)}{_said(done.stderr, ': ')}"
    return f"{why}{_said(done.stderr, ': ')}" if why else ""


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _said(text: str, before: str) -> str:
    """The line that tells most: the compiler's first error, or the last that was said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return f"{before}{(errors or lines[-1:])[0]}" if lines else ""
