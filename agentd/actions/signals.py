"""Signals to the process that is meant and no other: through a pidfd that was opened before the start time is compared,
so that a pid that was used again can't be hit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def send(pid: int, start: int, number: signal.Signals, start_of: Callable[[int], int | None]) -> bool:
    """Sends `number` to process `pid` if it is still the one that started at `start` (what start_of(pid) gave then).

    False: it is gone.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if start_of(pid) != start:
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
