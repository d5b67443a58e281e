"""A terminal that a live view draws on: whole screens, single keys, and everything as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Final

from agentd.cli import render
from agentd.errors import AgentdError

ARROWS: Final = {b"\x1b[A": "k", b"\x1b[B": "j", b"\x1bOA": "k", b"\x1bOB": "j"}


class Screen:
    """The terminal of this process. keyboard: its descriptor."""

    def __init__(self, keyboard: int) -> None:
        self._keyboard = keyboard
        self._shown: list[str] = []

    def size(self) -> tuple[int, int]:
        """Width and height in characters."""
        width, height = shutil.get_terminal_size()
        return width, height

    def draw(self, lines: Sequence[str]) -> None:
        """Puts these lines on the screen, if others are there."""
        if lines != self._shown:
            sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")
            sys.stdout.flush()
            self._shown = [*lines]

    def keys(self, seconds: float) -> list[str] | None:
        """Keys that come within so many seconds; None: the keyboard is gone."""
        if not select.select([self._keyboard], [], [], seconds)[0]:
            return []
        data = os.read(self._keyboard, 1024)
        return keys_of(data) if data else None


@contextlib.contextmanager
def screen(what: str) -> Iterator[Screen]:
    """The terminal as a screen. Raises AgentdError `usage` where standard input is none. what: the verb, for that."""
    keyboard = sys.stdin.fileno()
    if not os.isatty(keyboard):
        raise AgentdError("usage", what, "standard input is no terminal", "use --json in scripts")
    before = termios.tcgetattr(keyboard)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        tty.setcbreak(keyboard)
        yield Screen(keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def keys_of(data: bytes) -> list[str]:
    """What was read from the keyboard as single keys; an arrow is j or k, other sequences are nothing."""
    if data in ARROWS:
        return [ARROWS[data]]
    if data.startswith(b"\x1b") and len(data) > 1:
        return []
    return list(data.decode("utf-8", "ignore"))


def cut(text: str, width: int) -> str:
    """One line of visible characters that fits."""
    shown = render.printable(text)
    return shown if len(shown) <= width else shown[: max(width - 1, 0)] + "…"


def bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def reverse(text: str) -> str:
    return f"\x1b[7m{text}\x1b[0m"
