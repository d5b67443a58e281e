"""Host patterns: which endpoints a policy's `hosts:` entry means, and the byte key the kernel reads of an endpoint.

Forms: `ADDRESS`, `ADDRESS/PREFIX`, a name, `*.name`, `localhost`, `resolvers` or `*`, each with an optional `:PORT`; an
IPv6 address with a port stands in brackets. PORT is a number, `LOW-HIGH` or `*`. IPv4-mapped IPv6 (RFC 4291, 2.5.5.2)
is IPv4.

A name means the addresses that the agent was given for it by a configured resolver, while the answer is fresh. `*.name`
is every name below `name`, at any depth, and not `name` itself. `resolvers` means the configured resolvers, over UDP.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from agentd.model import Endpoint

MAX_PORT: Final = 65535
PROTOCOL_BYTES: Final = {"tcp": b"t", "udp": b"u"}
RESOLVERS: Final = "@resolvers"  # stands for a name; no name that is asked for has such a character
NO_NAME: Final = 0  # the class of an address that has no name any pattern matches

_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOCALHOST: Final = ((b"\x7f\0\0\0", 8), (bytes(15) + b"\x01", 128))
# What is this host, this link or no single host, and what hands out credentials: no name means these (RFC 6890).
_NAMELESS: Final = tuple(
    (network.network_address.packed, network.prefixlen)
    for network in map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/3",
            "::/96",
            "fe80::/10",
            "ff00::/8",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ),
    )
)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_HINT: Final = "write ADDRESS, ADDRESS/PREFIX, a name or *, with an optional :PORT"


@dataclass(frozen=True, slots=True)
class HostPattern:
    """Some endpoints, over every protocol.

    network: 4 or 16 bytes, host bits zero; None: any address of either family, or a name.
    prefix: how many leading bits of `network` count. Ports are inclusive. name: lower case, may begin with `*.`.
    """

    text: str
    network: bytes | None
    prefix: int
    port_low: int
    port_high: int
    name: str | None


def parse_host(text: str) -> tuple[HostPattern, ...]:
    """What `text` means; `localhost` is two patterns, everything else one. Raises ValueError when it is malformed."""
    host, low, high = _split_port(text)
    if host == "*":
        return (HostPattern(text, None, 0, low, high, None),)
    if host.lower() == "resolvers":
        return (HostPattern(text, None, 0, low, high, RESOLVERS),)
    if host.lower() == "localhost":
        return tuple(HostPattern(text, network, prefix, low, high, None) for network, prefix in _LOCALHOST)
    if "/" in host or ":" in host or _is_ipv4(host):
        network, prefix = _network(host)
        return (HostPattern(text, network, prefix, low, high, None),)
    return (HostPattern(text, None, 0, low, high, _name(host)),)


def host_matches(pattern: HostPattern, endpoint: Endpoint) -> bool:
    """Whether `endpoint` is one of `pattern`'s: by one of its names, if the pattern has one."""
    if not pattern.port_low <= endpoint.port <= pattern.port_high:
        return False
    if pattern.name is not None:
        return any(name_matches(pattern.name, name) for name in live_names(endpoint))
    if pattern.network is None:
        return True
    return _inside(_unmapped(endpoint.address), pattern.network, pattern.prefix)


def name_matches(pattern: str, name: str) -> bool:
    """Whether `name` (lower case, without a dot at its end) is one that `pattern` (`name`, `*.name`) means."""
    return name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern


def live_names(endpoint: Endpoint) -> tuple[str, ...]:
    """The names by which an endpoint can be judged: none for an address that no name means. Resolvers are UDP."""
    named = nameable(endpoint.address)
    return tuple(name for name in endpoint.names if (endpoint.protocol == "udp" if name == RESOLVERS else named))


def nameable(address: bytes) -> bool:
    """Whether a name may mean `address`. Private networks have names; this host, this link and multicast don't.

    An answer is whatever the owner of the name says: without this, a name that is allowed could be made to mean the
    services of this host, or those that hand out credentials.
    """
    address = _unmapped(address)
    return not any(_inside(address, network, prefix) for network, prefix in _NAMELESS)


def _inside(address: bytes, network: bytes, prefix: int) -> bool:
    if len(address) != len(network):
        return False
    shift = 8 * len(address) - prefix
    return int.from_bytes(address, "big") >> shift == int.from_bytes(network, "big") >> shift


def host_key(endpoint: Endpoint, name_class: int = NO_NAME) -> bytes:
    """The bytes that the kernel's host automaton reads (bpf/abi.h, AGENTD_HOST_KEY_MAX).

    name_class: 0 to 255, of the name it is judged by, as the agent's own automaton of names tells it.

    Raises ValueError for an address that isn't 4 or 16 bytes, a port out of range, or an unknown protocol.
    """
    address = _unmapped(endpoint.address)
    if len(address) not in (4, 16):
        raise ValueError(f"an address of {len(endpoint.address)} bytes")
    if not 0 <= endpoint.port <= MAX_PORT:
        raise ValueError(f"port {endpoint.port} is out of range")
    if endpoint.protocol not in PROTOCOL_BYTES:
        raise ValueError(f"unknown protocol {endpoint.protocol!r}")
    family = b"4" if len(address) == 4 else b"6"
    return (
        family + PROTOCOL_BYTES[endpoint.protocol] + address + endpoint.port.to_bytes(2, "big") + bytes((name_class,))
    )


def _unmapped(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def _split_port(text: str) -> tuple[str, int, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError("`[` is not closed")
        if ":" not in host:
            raise ValueError("brackets are for IPv6 addresses")
        if rest and not rest.startswith(":"):
            raise ValueError(f"unexpected {rest!r} after `]`; write `]:PORT`")
        return host, *_ports(rest[1:] if rest else "*")
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, *_ports(port)
    return text, *_ports("*")


def _ports(text: str) -> tuple[int, int]:
    """0 to 65535 for `*`: a bind to port 0 is any port too."""
    if text == "*":
        return 0, MAX_PORT
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if high < low:
        raise ValueError(f"the port range {text} is reversed")
    return low, high


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PORT):
        raise ValueError(f"{text!r} is not a port; write 0-{MAX_PORT}, LOW-HIGH or *")
    return int(text)


def _is_ipv4(host: str) -> bool:
    """Whether the last label is a number: no name ends so (RFC 3696, 2), an address or a typing error does."""
    return host.rpartition(".")[2].isdigit()


def _network(host: str) -> tuple[bytes, int]:
    if "%" in host:
        raise ValueError("an address with a zone can't be matched; leave out the % and what follows")
    base, slash, length = host.partition("/")
    try:
        address = ipaddress.ip_address(base)
    except ValueError:
        raise ValueError(f"{base!r} is not an IP address; {_HINT}") from None
    bits: int = address.max_prefixlen
    prefix = bits
    if slash:
        if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
            raise ValueError(f"{length!r} is not a prefix length from 0 to {bits}")
        prefix = int(length)
    mask = (1 << bits) - (1 << (bits - prefix))
    if int(address) & ~mask:
        corrected = type(address)(int(address) & mask)
        raise ValueError(f"host bits are set in {host}; write {corrected}/{prefix}")
    packed = address.packed
    if prefix >= 96 and packed != _unmapped(packed):
        return _unmapped(packed), prefix - 96
    return packed, prefix


def _name(host: str) -> str:
    name = host.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        hint = "write an international name in its xn-- form" if not host.isascii() else _HINT
        raise ValueError(f"{host!r} is not a host name; {hint}")
    return name
