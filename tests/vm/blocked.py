"""What a machine waits for that isn't done in time: its kernel says it, asked by the keyboard that QEMU makes.

That reaches a kernel in which no process gets on any more. The answer is on the console; see sysrq.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Final

# Everything to the console; then the blocked tasks' stacks, what the processors do, RCU's grace periods.
KEYS: Final = ("8", "w", "l", "y")
APPEND: Final = ("sysctl.kernel.sysrq=1", "rcutree.sysrq_rcu=1")
LINES: Final = 400  # of an answer that are shown; all of it is in the console's file
LONGEST: Final = 107  # of a socket's path, unix(7)
QUIET_SECONDS: Final = 2.0
MOST_SECONDS: Final = 60.0


def options(folder: Path) -> str:
    """The emulator's, for a machine that can be asked. folder: the boot's own; with a path too long for a socket there
    are none.
    """
    name = str(_monitor(folder))
    return f"-monitor unix:{name},server=on,wait=off" if len(name) <= LONGEST else ""


def ask(folder: Path, console: Path) -> list[str]:
    """The lines that the kernel answers. Empty where the emulator doesn't listen; else the processor is shown, too."""
    had = _size(console)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(QUIET_SECONDS)
        monitor.connect(str(_monitor(folder)))
        for key in KEYS:
            monitor.sendall(f"sendkey alt-sysrq-{key}\n".encode())
            _quiet(console)
        monitor.sendall(b"info registers\n")
        said = _all(monitor)
        with console.open("rb") as file:
            file.seek(had)
            answer = file.read().decode("utf-8", "replace").replace("\r", "").splitlines()
        return [*answer[:LINES], *[line.rstrip() for line in said.splitlines() if line.startswith(("RIP", "EIP"))]]
    return []


def _monitor(folder: Path) -> Path:
    return folder / "monitor"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _quiet(console: Path) -> None:
    """Waits until nothing more comes."""
    deadline = time.monotonic() + MOST_SECONDS
    size = -1
    while size != (size := _size(console)) and time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)


def _all(monitor: socket.socket) -> str:
    """What the emulator has said, until it says nothing more."""
    said = b""
    with contextlib.suppress(TimeoutError):
        while chunk := monitor.recv(1 << 16):
            said += chunk
    return said.decode("utf-8", "replace")
