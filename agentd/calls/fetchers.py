"""Has fetchers compiled, in a helper process that ends when they are in place (compile.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentd.calls.headers import write_headers
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.policy.ir import CallPoint, TextKind

# bcc is Debian's python3-bpfcc, which belongs to the system's interpreter and not to ours.
INTERPRETERS: Final = ("/usr/bin/python3", sys.executable)
HELPER: Final = Path(__file__).with_name("compile.py")
SECONDS: Final = 60  # a compiler on a busy host


def compile_fetchers(points: Mapping[int, CallPoint], fetchers: int, called: int) -> None:
    """Compiles a fetcher for each function, by number, into the map `fetchers`. Descriptors: of the two maps.

    Raises AgentdError `kernel-unsupported` without bcc, `kernel-load` when a fetcher isn't taken.
    """
    asked = [
        {
            "number": number,
            "word": point.word,
            "argument": point.argument,
            "string": point.kind is TextKind.STRING,
            "length": point.length,
            "signed": point.signed,
            "stream": point.stream,
        }
        for number, point in sorted(points.items())
    ]
    why = ""
    with tempfile.TemporaryDirectory(prefix="agentd-headers-") as folder:
        write_headers(Path(folder))
        for interpreter in dict.fromkeys(INTERPRETERS):
            why = _run(interpreter, Path(folder), json.dumps(asked), fetchers, called)
            if not why.startswith("bcc is not installed"):
                break
    if not why:
        return
    missing = why.startswith("bcc is not installed")
    raise AgentdError(
        "kernel-unsupported" if missing else "kernel-load",
        f"{len(asked)} library calls of the policy",
        why,
        "install the package python3-bpfcc, or take the tools that stand for library calls out of the policy"
        if missing
        else "take the tools that stand for library calls out of the policy, and report this",
        exit_code=EXIT_CANNOT_ENFORCE,
    )


def _run(interpreter: str, headers: Path, asked: str, fetchers: int, called: int) -> str:
    """What went wrong, or nothing."""
    command = [interpreter, "-I", str(HELPER), str(fetchers), str(called), str(headers)]
    try:
        done = subprocess.run(
            command,
            input=asked,
            pass_fds=(fetchers, called),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the compiler could not be run: {error}"
    try:
        return str(json.loads(done.stdout.splitlines()[-1])["error"])
    except (ValueError, IndexError, KeyError):
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"the compiler ended with {done.returncode}: {said[-1] if said else 'it said nothing'}"
