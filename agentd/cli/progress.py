"""A progress bar for what may take long."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress

PROGRESS_AFTER: Final = 2.0  # seconds of verifying before a progress bar shows


class Bar:
    """A progress bar on a terminal, for what takes longer than PROGRESS_AFTER; otherwise nothing."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.wanted = sys.stderr.isatty()
        self.shown: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.shown is not None:
            self.shown.stop()

    def update(self, done: int, total: int) -> None:
        if not self.wanted or time.monotonic() - self.begun < PROGRESS_AFTER:
            return
        if self.shown is None:
            from rich.console import Console
            from rich.progress import Progress

            self.shown = Progress(console=Console(stderr=True), transient=True)
            self.shown.add_task("verifying", total=total)
            self.shown.start()
        self.shown.update(self.shown.task_ids[0], completed=done, total=total)
