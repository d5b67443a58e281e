"""Whose process is at the other end of a connection over loopback.

The kernel is asked for that one socket (sock_diag(7), INET_DIAG, linux/inet_diag.h): it costs the same however many
there are, and nobody can make it slow. A socket that no process has open any more has no inode.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
TCP_ESTABLISHED: Final = 1
HEADER: Final = struct.Struct("=IHHII")
REQUEST: Final = struct.Struct("=BBBBI")  # family, protocol, ext, pad, states
PORTS: Final = struct.Struct("!HH")
ANY_SOCKET: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # interface, no cookie
MESSAGE: Final = struct.Struct("=BBBB48sIIIII")  # family, state, timer, retrans, id, expires, queues, uid, inode


@dataclass(frozen=True, slots=True)
class Owner:
    """uid: of who made the socket; inode: its number, as /proc/PID/fd shows it."""

    uid: int
    inode: int


def owner_of_peer(connection: socket.socket) -> Owner | None:
    """The owner of the other end; None when it can't be known: it is closed, or in another network namespace.

    Raises OSError.
    """
    ours, theirs = connection.getsockname(), connection.getpeername()
    ends = PORTS.pack(theirs[1], ours[1]) + _address(connection.family, theirs) + _address(connection.family, ours)
    body = REQUEST.pack(connection.family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_ESTABLISHED) + ends + ANY_SOCKET
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(1)
        asked.sendto(HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + body, (0, 0))
        answer = asked.recv(8192)
    if len(answer) < HEADER.size + MESSAGE.size or HEADER.unpack_from(answer)[1] != SOCK_DIAG_BY_FAMILY:
        return None
    _, state, _, _, found, _, _, _, uid, inode = MESSAGE.unpack_from(answer, HEADER.size)
    # Without such a connection the kernel would look for a listener.
    if state != TCP_ESTABLISHED or found[: len(ends)] != ends or not inode:
        return None
    return Owner(uid, inode)


def _address(family: int, address: tuple[str, int]) -> bytes:
    return socket.inet_pton(family, address[0]).ljust(16, b"\0")


def holds_socket(pids: Iterable[int], inode: int) -> bool:
    """Has any of these processes the socket open? A process that can't be looked at counts as one that has."""
    wanted = f"socket:[{inode}]"
    for pid in pids:
        folder = Path(f"/proc/{pid}/fd")
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, ProcessLookupError):
            continue  # gone, and its descriptors with it
        except OSError:
            return True
        for name in names:
            try:
                if os.readlink(folder / name) == wanted:
                    return True
            except OSError:
                continue
    return False
