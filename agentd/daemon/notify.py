"""sd_notify(3) without a library: READY, RELOADING, STOPPING, WATCHDOG. Nothing happens outside systemd."""

from __future__ import annotations

import os
import socket
import time


def notify(*states: str) -> None:
    """Sends states to the socket in NOTIFY_SOCKET; a failure to send is the manager's to notice."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall("\n".join(states).encode())
        except OSError:
            return


def reloading() -> None:
    """RELOADING=1 with the timestamp that Type=notify-reload wants."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
