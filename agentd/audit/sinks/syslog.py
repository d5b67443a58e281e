"""Syslog as in RFC 5424 over TCP, with TLS (RFC 5425: a length before each message).

A connection that breaks has lost what stood in its buffers, and nobody says how much that was. So the last batch is
sent again after each break: a receiver may see records twice (they have numbers), and misses none of the last batch.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentd.audit import many
from agentd.audit.sinks.base import Item, message, plain, severity

FACILITY: Final = 13  # log audit
PATIENCE: Final = 10.0  # seconds for a connection, and for a batch to be taken
# 32473 is the enterprise number that RFC 5612 sets aside for what has none of its own.
SD_ID: Final = "agentd@32473"
PARAMETERS: Final = (
    ("seq", "seq"), ("hash", "hash"), ("agent", "agent_id"), ("tool", "tool_name"), ("operation", "operation"),
    ("decision", "decision"), ("rule", "rule"), ("action", "action"), ("guarantee", "guarantee"), ("point", "point"),
    ("object", "object"), ("action_id", "action_id"), ("count", "count"),
)  # fmt: skip


class Syslog:
    """host, port: of the receiver. tls: on by default; ca: what its certificate is checked with (the system's, if not
    given), server_name: what it has to be for (the host, if not given), cert and key: this client's own.
    """

    def __init__(
        self, host: str, port: int, *, tls: bool = True, ca: str = "", server_name: str = "", cert: str = "",
        key: str = "",
    ) -> None:  # fmt: skip
        self._address = (host, port)
        self._name = server_name or host
        self._files = (ca, cert, key)
        self._tls = tls
        self._socket: socket.socket | None = None
        self._last = b""

    def send(self, items: Sequence[Item]) -> None:
        data = b"".join(frame(record) for item in items for record in many.each(item.record))
        if self._socket is None:
            self._socket = self._connect()
            again, self._last = self._last, b""
            self._socket.sendall(again)
            self._last = again
        self._still_open(self._socket)
        self._socket.sendall(data)
        self._last = data

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=PATIENCE)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if not self._tls:
                return made
            ca, cert, key = self._files
            context = ssl.create_default_context(cafile=ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if cert:
                context.load_cert_chain(cert, key or None)
            return context.wrap_socket(made, server_hostname=self._name)
        except BaseException:
            made.close()
            raise

    def _still_open(self, connection: socket.socket) -> None:
        """A receiver says nothing, unless it closes: notice that before more is written into the void."""
        readable, _, _ = select.select([connection], [], [], 0)
        if not readable:
            return
        connection.settimeout(0)
        try:
            if connection.recv(4096) == b"":
                raise ConnectionError("the receiver closed the connection")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass  # a message of TLS itself
        finally:
            connection.settimeout(PATIENCE)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def frame(record: Mapping[str, Any]) -> bytes:
    """One message with its length before it. Receivers cut long ones: a record of many objects is one for each."""
    pri = FACILITY * 8 + severity(record["event"])
    host = _word(str(record.get("host") or "-"), 255)
    found = [(name, record[member]) for name, member in PARAMETERS if record.get(member) is not None]
    data = "".join(f' {name}="{_escaped(plain(value))}"' for name, value in found)
    head = f"<{pri}>1 {record['timestamp']} {host} agentd {os.getpid()} {_word(record['event'], 32)} [{SD_ID}{data}] "
    text = (head + message(record)).replace("\n", " ").encode("utf-8", "backslashreplace")
    return b"%d %b" % (len(text), text)


def _escaped(text: str) -> str:
    """RFC 5424, section 6.3.3."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _word(text: str, most: int) -> str:
    """Printable ASCII without spaces, section 6."""
    return "".join(char if "!" <= char <= "~" else "_" for char in text)[:most] or "-"
