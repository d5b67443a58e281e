"""The connections that processes have, and ending them: sock_diag(7), by pyroute2.

Sockets are looked for in the network namespace of each process. Everything happens in a thread of its own: a thread can
enter another namespace alone, and pyroute2 runs a loop of its own in it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.errors import AgentdError
from agentd.model import Endpoint

SOCK_DESTROY: Final = 21  # linux/sock_diag.h
REQUEST_ACK: Final = 1 | 4  # NLM_F_REQUEST, NLM_F_ACK
ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT, LISTEN = 1, 2, 3, 8, 10  # net/tcp_states.h
STATES: Final = sum(1 << state for state in (ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT, LISTEN))
PROTOCOLS: Final = (("tcp", socket.IPPROTO_TCP), ("udp", socket.IPPROTO_UDP))

Holders = Mapping[int, set[int]]
"""The inode of a socket -> the processes that hold it."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A socket that has a peer. pids: who holds it; accepted: its local port is one that listens there."""

    pids: tuple[int, ...]
    local: Endpoint
    remote: Endpoint
    accepted: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A connection that was to be destroyed. error: why it was not, in words; empty: it is gone."""

    connection: Connection
    error: str


def holders(pids: Iterable[int]) -> dict[int, dict[int, set[int]]]:
    """Holders by network namespace (its inode) of these processes; those that are gone hold nothing."""
    found: dict[int, dict[int, set[int]]] = {}
    for pid in pids:
        try:
            links = [_link(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            numbers = [int(link[8:-1]) for link in links if link.startswith("socket:[")]
            if numbers:
                own = found.setdefault(os.stat(f"/proc/{pid}/ns/net").st_ino, {})
                for number in numbers:
                    own.setdefault(number, set()).add(pid)
        except OSError:
            continue
    return found


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def cut(pids: Collection[int], unwanted: Callable[[Connection], bool], enter: Callable[[int], None]) -> list[Cut]:
    """Destroys those connections of processes that are unwanted; what was tried. enter: takes a thread to the network
    namespace of a process.

    Raises AgentdError `enforcement-lost` where a namespace can't be looked at; the other namespaces have been, by then.
    """
    done: list[Cut] = []
    failed: list[Exception] = []

    def work(pid: int, inodes: Holders) -> None:
        try:
            enter(pid)
            done.extend(_cut_here(inodes, unwanted))
        except Exception as error:  # noqa: BLE001  # of a library, in a thread: told by the one who started it
            failed.append(error)

    for inodes in holders(pids).values():
        thread = threading.Thread(target=work, args=(min(next(iter(inodes.values()))), inodes), name="sockets")
        thread.start()
        thread.join()
    if failed:
        raise AgentdError(
            "enforcement-lost",
            "connections",
            f"they can't be listed: {failed[0]}",
            "end the workload and start it anew",
        )
    return done


def _cut_here(inodes: Holders, unwanted: Callable[[Connection], bool]) -> Iterator[Cut]:
    from pyroute2 import DiagSocket
    from pyroute2.netlink.exceptions import NetlinkError

    with DiagSocket() as diag:
        diag.bind()
        for protocol, number in PROTOCOLS:
            rows = [
                row
                for family in (socket.AF_INET, socket.AF_INET6)
                for row in diag.get_sock_stats(family=family, protocol=number, states=STATES)
            ]
            listening = {row["idiag_sport"] for row in rows if protocol == "tcp" and row["idiag_state"] == LISTEN}
            for row in rows:
                if row["idiag_inode"] not in inodes or row["idiag_state"] == LISTEN or not row["idiag_dport"]:
                    continue
                connection = Connection(
                    tuple(sorted(inodes[row["idiag_inode"]])),
                    _endpoint(row["idiag_src"], row["idiag_sport"], protocol),
                    _endpoint(row["idiag_dst"], row["idiag_dport"], protocol),
                    row["idiag_sport"] in listening,
                )
                if not unwanted(connection):
                    continue
                try:
                    tuple(diag.nlm_request(_destroy(row, number), SOCK_DESTROY, REQUEST_ACK))
                    yield Cut(connection, "")
                except NetlinkError as error:
                    yield Cut(connection, os.strerror(error.code))


def _destroy(row: Any, number: int) -> Any:
    from pyroute2.netlink.diag import inet_diag_req

    request = inet_diag_req()
    request["sdiag_family"], request["sdiag_protocol"] = row["idiag_family"], number
    request["idiag_states"] = 1 << row["idiag_state"]
    for key in ("idiag_sport", "idiag_dport", "idiag_if", "idiag_cookie"):
        request[key] = row[key]
    for key in ("idiag_src", "idiag_dst"):
        raw = ipaddress.ip_address(row[key]).packed.ljust(16, b"\0")
        request[key] = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(0, 16, 4))
    return request


def _endpoint(address: str, port: int, protocol: str) -> Endpoint:
    """As the policy writes it: a v4-mapped address is a v4 one."""
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return Endpoint((mapped or found).packed, port, protocol)
