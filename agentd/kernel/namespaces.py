"""Entering another process's network namespace: setns(2), which Python 3.11 doesn't have."""

from __future__ import annotations

import ctypes
import os
from typing import Final

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


def enter_network(pid: int) -> None:
    """Takes this thread to the network namespace of a process, if that is another one. Raises OSError."""
    own, theirs = (os.stat(f"/proc/{who}/ns/net").st_ino for who in ("thread-self", pid))
    if own == theirs:
        return
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)
