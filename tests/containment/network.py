"""Rows 30 to 36: destinations, servers, sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.containment.ground import RESERVED, Ground
from tests.containment.suite import Probe, Scenario, Seen, arrived, came_back, reached

# written -> judged as
ADDRESSES: Final = {
    "127.0.0.1": "127.0.0.1",
    "127.9.8.7": "127.9.8.7",
    "0.0.0.0": "127.0.0.1",
    "::1": "::1",
    "::": "::1",
    "::ffff:127.0.0.1": "127.0.0.1",
    "::ffff:0.0.0.0": "127.0.0.1",
}
STREAMS: Final = ("connect", "nonblocking", "fastopen", "fastopen-option")
DATAGRAMS: Final = {"udp": "connect", "sendto": "send", "sendmsg": "send", "sendmmsg": "send"}
# name -> (family, type, protocol, kind, object)
SOCKETS: Final = {
    "raw": (2, 3, 1, "socket", "inet:raw"),
    "raw v6": (10, 3, 58, "socket", "inet:raw"),
    "SCTP": (2, 1, 132, "socket", "inet:sctp"),
    "MPTCP": (2, 1, 262, "socket", "inet:mptcp"),
    "UDP-Lite": (2, 2, 136, "socket", "inet:other"),
    "packet": (17, 3, 768, "socket, not inet", "packet"),
    "vsock": (40, 1, 0, "socket, not inet", "vsock"),
    "AF_ALG": (38, 5, 0, "socket, not inet", "alg"),
    "XDP": (44, 3, 0, "socket, not inet", "xdp"),
    "SMC": (43, 1, 0, "socket, not inet", "other"),
    "SMC, as a protocol": (2, 1, 256, "socket", "inet:other"),
    "RDS": (21, 5, 0, "socket, not inet", "other"),
    "TIPC": (30, 5, 0, "socket, not inet", "other"),
    "KCM": (41, 2, 0, "socket, not inet", "other"),
    "RXRPC": (33, 2, 2, "socket, not inet", "other"),
}
SOCKET_PLACES: Final = {  # what is written -> where it is bound
    "a denied socket": "{socks}/denied.sock",
    "the container engine's socket": "{socks}/docker.sock",
    "a denied abstract socket": "@agentd-denied",
}


class Listening:
    """Unix sockets in a folder of their own while the suite runs; the folder is short enough for their addresses."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def __call__(self, ground: Ground) -> None:
        """Binds them anew."""
        for old in self._sockets.values():
            old.close()
        self._sockets.clear()
        folder = ground.dir / "free/socks"
        for name in ("denied", "docker", "free"):
            for kind, ending in ((socket.SOCK_STREAM, ".sock"), (socket.SOCK_DGRAM, ".datagram.sock")):
                self._bind(f"{folder}/{name}{ending}", kind)
        self._bind("\0agentd-denied", socket.SOCK_STREAM)
        self._bind("\0agentd-free", socket.SOCK_STREAM)

    def _bind(self, address: str, kind: int) -> None:
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(address)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.listen(8)
        self._sockets[address] = made

    def heard(self, ending: str) -> bool:
        """Did a socket whose address ends so get something?"""
        for address, made in self._sockets.items():
            if address.endswith(ending):
                with contextlib.suppress(BlockingIOError):
                    if made.type == socket.SOCK_DGRAM:
                        return bool(made.recv(10))
                    connection, _ = made.accept()
                    with connection:
                        return connection.recv(10) == b"hello"
        return False

    def close(self) -> None:
        """Closes them."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()


LISTENING: Final = Listening()


def heard(ending: str) -> Any:
    """The effect: a unix socket got the word."""

    def effect(seen: Seen) -> bool:
        return LISTENING.heard(ending)

    return effect


CALLERS: Final[list[socket.socket]] = []


def made(kind: int) -> Callable[[Ground], None]:
    """Prepares a socket that the probe inherits."""

    def prepare(ground: Ground) -> None:
        ground.names["socket"] = socket.socket(socket.AF_INET, kind).detach()

    return prepare


def waiting(ground: Ground) -> None:
    """Prepares a socket that listens, which the probe inherits, with a connection that waits there."""
    server = socket.create_server(("127.0.0.1", 0))
    ground.names["served_port"] = server.getsockname()[1]
    for caller in CALLERS:
        caller.close()
    CALLERS[:] = [socket.create_connection(server.getsockname())]
    ground.names["socket"] = server.detach()


def calls(how: str, kind: str, protocol: str, row: int) -> Iterator[Probe]:
    """One call to each address, denied and permitted."""
    for address, judged in ADDRESSES.items():
        yield Probe(row, f"{how} to {address}", kind, f"reach {how} {address} {{denied_port}}", arrived,
                    f"{judged}:{{denied_port}}/{protocol}",
                    records=1 if how != "sendmmsg" else None)  # fmt: skip
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        yield Probe(35, f"{how} to {address}", "", f"reach {how} {address} {{free_port}}", reached)


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    *(probe for how in STREAMS for probe in calls(how, "connect", "tcp", 32 if "open" in how else 30)),
    *(probe for how, kind in DATAGRAMS.items() for probe in calls(how, kind, "udp", 31)),
    Probe(31, "a connected socket that is connected again", "connect", "reconnect 127.0.0.1 {free_port} {denied_port}",
          arrived, "127.0.0.1:{denied_port}/udp"),
    Probe(31, "an address of no family", "send", "vague 127.0.0.1 {denied_port}", arrived,
          "127.0.0.1:{denied_port}/udp"),
    Probe(31, "a v4 address from a v6 socket", "send", "four 127.0.0.1 {denied_port}", arrived,
          "127.0.0.1:{denied_port}/udp"),
    Probe(31, "the second message of sendmmsg", "send", "mixed 127.0.0.1 {free_port} {denied_port}", arrived,
          "127.0.0.1:{denied_port}/udp"),
    Probe(30, "a socket of SMC, where those are allowed", "connect", "smc 127.9.8.7 {denied_port}", arrived,
          "127.9.8.7:{denied_port}/tcp", agent="surfer", only_if=True),
    *(Probe(row, f"a {what} socket that another process has made", "connect",
            "given {socket} 127.0.0.1 {denied_port}", arrived, f"127.0.0.1:{{denied_port}}/{what}",
            prepare=made(kind), keep=lambda ground: [ground.names["socket"]])
      for row, what, kind in ((30, "tcp", socket.SOCK_STREAM), (31, "udp", socket.SOCK_DGRAM))),
    Probe(31, "sendto from a socket connected elsewhere", "send", "elsewhere 127.0.0.1 {free_port} {denied_port}",
          arrived, "127.0.0.1:{denied_port}/udp"),
    *(Probe(32, name, kind, f"socket {family} {number} {protocol}", came_back, named, only_if=True)
      for name, (family, number, protocol, kind, named) in SOCKETS.items()),
    Probe(32, "netlink", "", "socket 16 3 0"),
    *(Probe(33, f"bind of {what} {address}", "bind", f"inetbind {number} {address} {RESERVED}", came_back,
            f"{judged}:{RESERVED}/{what}")
      for number, what in ((1, "tcp"), (2, "udp"))
      for address, judged in (("127.0.0.1",) * 2, ("0.0.0.0",) * 2, ("::1",) * 2, ("::",) * 2,
                              ("::ffff:127.0.0.1", "127.0.0.1"))),
    Probe(33, "bind of another port", "", "inetbind 1 127.0.0.1 0"),
    Probe(33, "listen and accept", "listen", "listen 127.0.0.1", agent="deaf"),
    Probe(33, "listen and accept, v6", "listen", "listen ::1", agent="deaf"),
    Probe(33, "listen and accept where it is allowed", "", "listen 127.0.0.1"),
    Probe(33, "accept on a socket that listens already", "accept", "accept {socket}", came_back,
          "127.0.0.1:{served_port}/tcp", agent="deaf", prepare=waiting, keep=lambda ground: [ground.names["socket"]]),
    Probe(33, "the same, where it is allowed", "", "accept {socket}", prepare=waiting,
          keep=lambda ground: [ground.names["socket"]]),
    *(Probe(34, f"connect to {name}", "unix_connect", f"unix stream {place}".replace("{socks}", "{free}/socks"),
            heard(place.rpartition("/")[2].lstrip("@")), place.replace("{socks}", "{free}/socks"), prepare=LISTENING)
      for name, place in SOCKET_PLACES.items()),
    *(Probe(34, f"{how} to the container engine's socket", "unix_connect, datagram",
            f"unix {how} {{free}}/socks/docker.datagram.sock", heard("docker.datagram.sock"),
            "{free}/socks/docker.datagram.sock", agent="sender", prepare=LISTENING)
      for how in ("datagram", "message", "many")),
    Probe(34, "the second message of sendmmsg", "unix_connect, datagram",
          "second {free}/socks/free.datagram.sock {free}/socks/docker.datagram.sock", heard("docker.datagram.sock"),
          agent="sender", prepare=LISTENING),
    Probe(34, "a socket's file in a denied folder", "create", "unixbind {denied}/new",
          lambda seen: (seen.ground.dir / "denied/new").exists(), "{denied}/new"),
    *(Probe(35, f"connect to {place}", "", f"unix stream {place}", heard(place.rpartition("/")[2].lstrip("@")),
            prepare=LISTENING) for place in ("{free}/socks/free.sock", "@agentd-free")),
    Probe(36, "an address that nobody resolved, where names are allowed", "connect",
          "reach connect 127.0.0.1 {denied_port}", arrived, "127.0.0.1:{denied_port}/tcp", agent="named"),
    Probe(36, "the same, v6", "connect", "reach connect ::1 {denied_port}", arrived, "::1:{denied_port}/tcp",
          agent="named"),
)  # fmt: skip
