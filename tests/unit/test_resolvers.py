"""Which servers are believed: resolv.conf and the configuration, read as they are meant."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from agentd.daemon.config import read_config
from agentd.engine.resolvers import parse_resolver, read_resolv_conf
from agentd.errors import AgentdError
from agentd.kernel.hosts import Resolver


def addresses(text: str) -> list[str]:
    """The name servers of a resolv.conf."""
    found = read_resolv_conf(text)
    assert all(one.port == 53 for one in found)
    return [str(ipaddress.ip_address(one.address)) for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.2\nnameserver 2001:db8::1\n", ["10.0.0.2", "2001:db8::1"]),
        (
            "search a.test\n# nameserver 10.0.0.9\n;nameserver 10.0.0.9\n\tnameserver\t127.0.0.53  # s\n",
            ["127.0.0.53"],
        ),
        ("nameserver fe80::1%eth0\n", ["fe80::1"]),
        ("nameserver ::ffff:10.0.0.2\n", ["10.0.0.2"]),
        ("nameserver 10.0.0.2\nnameserver 10.0.0.2\n", ["10.0.0.2"]),
        ("nameserver ns.example.com\nnameserver\noptions edns0\n", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
    ],
)
def test_resolv_conf_is_read_as_the_c_library_reads_it(text: str, expected: list[str]) -> None:
    """Name servers are found among everything else, and without one it is this host's."""
    assert addresses(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.2", Resolver(b"\x0a\0\0\2", 53)),
        ("10.0.0.2:5353", Resolver(b"\x0a\0\0\2", 5353)),
        ("::1", Resolver(bytes(15) + b"\1", 53)),
        ("[::1]:54", Resolver(bytes(15) + b"\1", 54)),
    ],
)
def test_a_resolver_of_the_configuration(text: str, expected: Resolver) -> None:
    """An address, with a port or without."""
    assert parse_resolver(text) == expected


@pytest.mark.parametrize("text", ["ns.example.com", "10.0.0.0/8", "10.0.0.2:50-60", "*", "localhost", "resolvers", ""])
def test_what_is_no_resolver(text: str) -> None:
    """Names, networks and several ports are refused."""
    with pytest.raises(ValueError):
        parse_resolver(text)


def test_the_configuration_names_resolvers(tmp_path: Path) -> None:
    """`resolvers:` takes the place of resolv.conf; without it there is none given."""
    file = tmp_path / "agentd.yaml"
    file.write_text("resolvers: [10.0.0.2, '[::1]:5353']\n")
    assert read_config(file).resolvers == (Resolver(b"\x0a\0\0\2"), Resolver(bytes(15) + b"\1", 5353))
    file.write_text("workspace: /\n")
    assert read_config(file).resolvers is None


@pytest.mark.parametrize("value", ["[]", "ns.example.com", "[ns.example.com]", "[10.0.0.0/8]", "[[]]", "[1]", ""])
def test_a_mistake_in_the_resolvers_is_named(value: str, tmp_path: Path) -> None:
    """What can't be a list of resolvers is an error with its place."""
    file = tmp_path / "agentd.yaml"
    file.write_text(f"resolvers: {value}\n")
    with pytest.raises(AgentdError, match=r"agentd\.yaml:1:\d+"):
        read_config(file)
