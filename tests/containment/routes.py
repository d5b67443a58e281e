"""Row 31, source routes: a packet whose address is allowed goes to another host first. Seen on the wire of row 36's
namespace.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from tests.containment import hostnames
from tests.containment.ground import Ground
from tests.containment.suite import Probe, Seen

VIA: Final = "127.8.8.8"
SIX: Final = "2001:db8::5"  # of the namespace
ETH_P_ALL: Final = 3


class Wire:
    """Everything that is sent in the namespace."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __call__(self, ground: Ground) -> None:
        """Begins to listen."""
        here = hostnames.space()
        ground.names["space"] = os.dup(here.fd)  # for one run
        self.close()
        self._socket = here.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.bind(("lo", ETH_P_ALL))
        self._socket.setblocking(False)

    def saw(self, address: str) -> bool:
        """Was a packet sent there?"""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        wanted = socket.inet_pton(family, address)
        at = 24 if ":" in address else 16
        assert self._socket is not None
        while True:
            try:
                packet = self._socket.recv(2000)
            except BlockingIOError:
                return False
            if packet[at : at + len(wanted)] == wanted and b"hello" in packet:
                return True

    def close(self) -> None:
        """Ends."""
        if self._socket:
            self._socket.close()


WIRE: Final = Wire()


def went(address: str) -> bool:
    """The effect: the text was sent to `address`."""
    return WIRE.saw(address)


def routed(name: str, via: str, *steps: str) -> Probe:
    """One way to set a route."""

    def effect(seen: Seen) -> bool:
        return went(via)

    return Probe(31, f"a source route, {name}", "socket, source routes", ["names", "enter/{space}", *steps], effect,
                 "inet:route", agent="roamer", prepare=WIRE, keep=lambda ground: [ground.names["space"]])  # fmt: skip


PROBES: Final = (
    routed("by an option of the socket", VIA, "udp/0", f"route/0/{VIA}", "hello/0/127.0.0.1/{free_port}"),
    routed("by an option of a connected socket", VIA, "udp/0", "aim/0/127.0.0.1/{free_port}", f"route/0/{VIA}",
           "hello/0/127.0.0.1/{free_port}"),
    routed("by an option of a message", VIA, "udp/0", f"hello/0/127.0.0.1/{{free_port}}/{VIA}"),
    routed("by an option of the second message", VIA, "udp/0", f"twice/0/127.0.0.1/{{free_port}}/{VIA}"),
    routed("by a routing header", SIX, "six-udp/0", f"six-route/0/{SIX}", "hello/0/::1/{free_port}"),
)  # fmt: skip
