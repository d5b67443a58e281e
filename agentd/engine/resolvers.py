"""Which resolvers are believed: those of the configuration, or those of resolv.conf, read again when it changes."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentd.kernel import abi
from agentd.kernel.hosts import MAX_RESOLVERS, HostNames, Resolver
from agentd.policy.hosts import parse_host

RESOLV_CONF: Final = Path("/etc/resolv.conf")
DEFAULT: Final = Resolver(b"\x7f\0\0\1")  # what the C library asks when resolv.conf names nobody (resolv.conf(5))
PORT: Final = 53


def parse_resolver(text: str) -> Resolver:
    """`ADDRESS` or `ADDRESS:PORT` (`[ADDRESS]:PORT`). Raises ValueError for anything else."""
    (pattern, *others) = parse_host(text)
    if others or pattern.network is None or pattern.prefix != 8 * len(pattern.network):
        raise ValueError(f"{text} is not one address; write ADDRESS or ADDRESS:PORT")
    if pattern.port_low == pattern.port_high:
        return Resolver(pattern.network, pattern.port_low)
    if (pattern.port_low, pattern.port_high) != (0, 65535):
        raise ValueError(f"{text} names several ports; write ADDRESS or ADDRESS:PORT")
    return Resolver(pattern.network, PORT)


def read_resolv_conf(text: str) -> tuple[Resolver, ...]:
    """The name servers of a resolv.conf(5), as the C library reads it; what it can't read is left out."""
    found: list[Resolver] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        mapped = getattr(address, "ipv4_mapped", None)
        found.append(Resolver((mapped or address).packed, PORT))
    return tuple(dict.fromkeys(found)) or (DEFAULT,)


class Resolvers:
    """Keeps the kernel's list up to date. given: by the configuration; None: those of `file`."""

    def __init__(self, names: HostNames, given: Sequence[Resolver] | None, file: Path = RESOLV_CONF) -> None:
        self._names = names
        self._given = given
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self.current: tuple[Resolver, ...] = ()

    def refresh(self) -> bool:
        """Reads them again if they may have changed; True: they have. A file that can't be read changes nothing."""
        if self._given is not None:
            return self._use(tuple(self._given))
        try:
            status = os.stat(self._file)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._seen:
                return False
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            stamp, text = (0, 0, 0), ""
            if stamp == self._seen:
                return False
        except OSError:
            return False
        self._seen = stamp
        return self._use(read_resolv_conf(text)[:MAX_RESOLVERS])

    def status(self, stats: Sequence[int]) -> dict[str, object]:
        """For `agentd status`. stats: the kernel's counters; `lost` are addresses that could not be kept."""
        return {
            "resolvers": self.text(),
            "learned": stats[abi.STAT_NAMES],
            "lost": stats[abi.STAT_NAMES_LOST],
        }

    def text(self) -> str:
        """The resolvers, for people."""
        return ", ".join(f"{ipaddress.ip_address(one.address)} port {one.port}" for one in self.current) or "nobody"

    def _use(self, resolvers: tuple[Resolver, ...]) -> bool:
        if resolvers == self.current:
            return False
        self._names.believe(resolvers)
        self.current = resolvers
        return True
