"""A journal entry for each notice, with fields of its own: `journalctl AGENTD_AGENT=bot`.

The native protocol (systemd, JOURNAL_NATIVE_PROTOCOL): one datagram, `NAME=value` lines, a value with a newline as its
name, a newline, its length in 64 bits little-endian and its bytes.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

from agentd.notify.dispatch import Notice, text_of

SOCKET: Final = Path("/run/systemd/journal/socket")
PRIORITIES: Final = {"flood": "4", "asked": "5"}  # warning, notice; info otherwise
FIELDS: Final = (
    "event", "id", "agent", "tool", "operation", "summary", "rule", "workload", "answer", "by", "reason", "standing",
)  # fmt: skip
VALUE_MAX: Final = 8192  # bytes; a datagram has to fit the socket's buffer


class JournaldSink:
    """path: the journal's socket."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """There is one journal."""
        return "journald"

    async def deliver(self, notice: Notice) -> None:
        """Raises OSError (a full socket too: BlockingIOError)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
            out.sendto(entry(notice), str(self._path))


def entry(notice: Notice) -> bytes:
    """The datagram."""
    fields = {
        "MESSAGE": text_of(notice),
        "PRIORITY": PRIORITIES.get(str(notice["event"]), "6"),
        "SYSLOG_IDENTIFIER": "agentd",
    }
    fields.update({f"AGENTD_{name.upper()}": str(notice[name]) for name in FIELDS if notice.get(name)})
    data = b""
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")[:VALUE_MAX]
        if b"\n" in value:
            data += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            data += name.encode() + b"=" + value + b"\n"
    return data
