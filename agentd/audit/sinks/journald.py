"""The journal, in its own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `journalctl AGENTD_AGENT=bot` finds records.

A record is one datagram of fields. A field whose value has a line break is written with its length; a datagram that is
too large for the socket goes as a sealed memfd. The journal adds who sent it (_PID, _EXE, ...) by itself, so a workload
can't pretend to be agentd: match _COMM or _SYSTEMD_UNIT too.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentd.audit import many
from agentd.audit.sinks.base import Item, message, plain, severity

SOCKET: Final = "/run/systemd/journal/socket"
PATIENCE: Final = 5.0  # seconds that a datagram may wait for the journal
MESSAGE_ID: Final = "6f1f2d1c9f0e4f8d8b5a3c0a7a9f6e21"  # of all records of agentd
FIELDS: Final = (
    ("AGENTD_SEQ", "seq"), ("AGENTD_HASH", "hash"), ("AGENTD_EVENT", "event"), ("AGENTD_AGENT", "agent_id"),
    ("AGENTD_TOOL", "tool_name"), ("AGENTD_OPERATION", "operation"), ("AGENTD_DECISION", "decision"),
    ("AGENTD_RULE", "rule"), ("AGENTD_ACTION", "action"), ("AGENTD_GUARANTEE", "guarantee"), ("AGENTD_POINT", "point"),
    ("AGENTD_KERNEL_OPERATION", "kernel_operation"), ("AGENTD_REASON", "reason"),
    ("AGENTD_ACTION_ID", "action_id"), ("AGENTD_RISK", "risk_level"), ("AGENTD_COUNT", "count"),
    ("AGENTD_TIMESTAMP", "timestamp"), ("AGENTD_POLICY_SHA256", "policy_sha256"),
)  # fmt: skip


class Journald:
    """path: the journal's socket."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, items: Sequence[Item]) -> None:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            made.settimeout(PATIENCE)
            try:
                made.connect(self._path)
            except OSError:
                made.close()
                raise
            self._socket = made
        for item in items:
            self._one(self._socket, b"".join(fields(item)))

    def _one(self, journal: socket.socket, data: bytes) -> None:
        try:
            journal.send(data)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            fd = os.memfd_create("agentd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
                journal.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            finally:
                os.close(fd)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def fields(item: Item) -> Iterator[bytes]:
    """The fields of one record, as the journal reads them."""
    record = item.record
    yield _field("MESSAGE", message(record))
    yield _field("PRIORITY", str(severity(record["event"])))
    yield _field("SYSLOG_IDENTIFIER", "agentd")
    yield _field("MESSAGE_ID", MESSAGE_ID)
    for name, member in FIELDS:
        if record.get(member) is not None:
            yield _field(name, plain(record[member]))
    for one in many.objects(record):  # a field may come more than once, and each is found
        yield _field("AGENTD_OBJECT", plain(one))
    yield from _process(record.get("process"))
    yield _field("AGENTD_RECORD", item.line.rstrip(b"\n").decode("utf-8", "replace"))


def _process(process: Any) -> Iterator[bytes]:
    if isinstance(process, dict):
        for name in ("pid", "uid", "exe", "cgroup"):
            if process.get(name) is not None:
                yield _field(f"AGENTD_PROCESS_{name.upper()}", plain(process[name]))


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
