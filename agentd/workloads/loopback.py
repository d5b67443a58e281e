"""Whose process is at the other end of a connection over loopback.

Source: proc_net_tcp in the kernel's documentation: local and remote address, uid and inode of every socket of this
network namespace. A socket that nobody has open has no inode there.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TABLES: Final = {socket.AF_INET: "/proc/net/tcp", socket.AF_INET6: "/proc/net/tcp6"}


@dataclass(frozen=True, slots=True)
class Owner:
    """uid: of who made the socket; inode: its number, as /proc/PID/fd shows it."""

    uid: int
    inode: int


def owner_of_peer(connection: socket.socket) -> Owner | None:
    """The owner of the other end; None when it can't be known: it is closed, or in another network namespace."""
    ours, theirs = connection.getsockname(), connection.getpeername()
    wanted = (_text(connection.family, theirs), _text(connection.family, ours))
    with open(TABLES[connection.family], encoding="ascii") as table:
        next(table)
        for line in table:
            words = line.split()
            if (words[1], words[2]) == wanted and words[9] != "0":
                return Owner(int(words[7]), int(words[9]))
    return None


def _text(family: int, address: tuple[str, int]) -> str:
    """As the kernel prints it: words of the address in this machine's order, in hex."""
    packed = socket.inet_pton(family, address[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


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
