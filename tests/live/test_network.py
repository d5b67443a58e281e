"""Connections, datagrams, binds and unusual sockets of a tagged process: refused before the effect, with EPERM."""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Result, Run, assert_allowed, assert_denied, untagged

pytestmark = pytest.mark.root


RESERVED = 61234  # a port that nobody may bind


class Sinks:
    """Servers on the loopback addresses: one port that the policy allows, one that it denies."""

    def __init__(self, stack: ExitStack) -> None:
        self.tcp: dict[str, socket.socket] = {}
        self.udp: dict[str, socket.socket] = {}
        self.port: dict[str, int] = {}
        for name in ("free", "denied"):
            # One port number for TCP and UDP, both families: a v6 socket that takes v4 too.
            server = stack.enter_context(socket.socket(socket.AF_INET6))
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", 0))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
            server.listen(64)
            port = server.getsockname()[1]
            datagrams = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            datagrams.bind(("::", port))
            self.tcp[name], self.udp[name], self.port[name] = server, datagrams, port

    def seen(self, name: str) -> list[str]:
        """What has reached the servers of `name` since the last call."""
        found = []
        while select.select([self.tcp[name]], [], [], 0.05)[0]:
            connection, _ = self.tcp[name].accept()
            connection.close()
            found.append("tcp")
        while select.select([self.udp[name]], [], [], 0.05)[0]:
            found.append("udp " + self.udp[name].recv(100).decode())
        return found


@pytest.fixture(scope="module")
def sinks() -> Iterator[Sinks]:
    """The servers."""
    with ExitStack() as stack:
        yield Sinks(stack)


@pytest.fixture(scope="module")
def live(sinks: Sinks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` may not reach the denied port nor make raw sockets; `killed` dies when it tries."""
    hosts = [f"*:{sinks.port['denied']}", f"*:{RESERVED}"]
    rule = {"tool": "network", "hosts": hosts}
    agents = {
        "bot": harness.agent(
            deny=[
                rule,
                {"tool": "network", "operations": ["raw"]},
                {"tool": "ipc", "paths": ["**/denied.sock", f"@agentd-denied-{os.getpid()}"]},
            ]
        ),
        "killed": harness.agent(deny=[{**rule, "action": "kill"}]),
        "mute": harness.agent(deny=[{"tool": "mute"}]),
    }
    tools = {"mute": {"listen": [{"listen": ["*"]}]}}
    with harness.enforcing(tmp_path_factory.mktemp("network"), agents, tools) as host:
        yield host


SIZES = {"4": "socket.AF_INET", "6": "socket.AF_INET6"}
CALLS = {
    # name -> (what to run with `family`, `kind`, `to`; the operation)
    "connect": ("s = socket.socket(family); s.settimeout(20); attempt(lambda: s.connect(to))", "connect"),
    "connect, not blocking": (
        "import select\n"
        "s = socket.socket(family); s.setblocking(False)\n"
        "def go():\n"
        "    failed = s.connect_ex(to)\n"
        "    if failed not in (0, errno.EINPROGRESS): raise OSError(failed, '')\n"
        "    select.select([], [s], [], 20)\n"
        "attempt(go)",
        "connect",
    ),
    "fast open": (
        "s = socket.socket(family); attempt(lambda: s.sendto(b'hello', 0x20000000, to))",
        "connect",
    ),
    "fast open by option": (
        "s = socket.socket(family); s.settimeout(20); s.setsockopt(6, 30, 1)\n"
        "attempt(lambda: (s.connect(to), s.send(b'hello')))",
        "connect",
    ),
    "udp connect": (
        "s = socket.socket(family, socket.SOCK_DGRAM); attempt(lambda: (s.connect(to), s.send(b'hello')))",
        "connect",
    ),
    "sendto": ("s = socket.socket(family, socket.SOCK_DGRAM); attempt(lambda: s.sendto(b'hello', to))", "send"),
    "sendto of a connected socket": (
        "s = socket.socket(family, socket.SOCK_DGRAM); s.connect(free); attempt(lambda: s.sendto(b'hello', to))",
        "send",
    ),
    "sendmsg": (
        "s = socket.socket(family, socket.SOCK_DGRAM); attempt(lambda: s.sendmsg([b'hel', b'lo'], [], 0, to))",
        "send",
    ),
    "sendmmsg": (
        "s = socket.socket(family, socket.SOCK_DGRAM)\n"
        "name = ctypes.create_string_buffer(sockaddr(family, to))\n"
        "data = ctypes.create_string_buffer(b'hello', 5)\n"
        "vec = ctypes.create_string_buffer(struct.pack('PL', ctypes.addressof(data), 5))\n"
        "one = struct.pack('PIxxxxPLPLixxxxIxxxx', ctypes.addressof(name), len(name.raw) - 1, ctypes.addressof(vec), 1,"
        " 0, 0, 0, 0)\n"
        "both = ctypes.create_string_buffer(one * 2)\n"
        "attempt(lambda: syscall(307, s.fileno(), both, 2, 0))",
        "send",
    ),
}
SOCKADDR = """
def sockaddr(family, to):
    if family == socket.AF_INET:
        return struct.pack("=H", 2) + struct.pack("!H4s8x", to[1], socket.inet_pton(family, to[0]))
    return struct.pack("=H", 10) + struct.pack("!HI16sI", to[1], 0, socket.inet_pton(family, to[0]), 0)
"""
ADDRESSES = {
    # written -> (family, judged as)
    "127.0.0.1": ("4", "127.0.0.1"),
    "127.9.8.7": ("4", "127.9.8.7"),
    "0.0.0.0": ("4", "127.0.0.1"),
    "::1": ("6", "::1"),
    "::": ("6", "::1"),
    "::ffff:127.0.0.1": ("6", "127.0.0.1"),
    "::ffff:0.0.0.0": ("6", "127.0.0.1"),
}


def calls(how: str, port: int, free: int) -> list[str]:
    """A probe that makes the same call to each address in turn; EPERM leaves it alive."""
    code = SOCKADDR
    for address, (family, _) in ADDRESSES.items():
        code += f"family = {SIZES[family]}; to = ({address!r}, {port}); free = ({address!r}, {free})\n{CALLS[how][0]}\n"
    return probes.python(code)


def results(run: Run) -> list[str]:
    """Each attempt's outcome: `ok`, or its errno."""
    assert run.lines.count("attempt") == len(run.lines) // 2, run
    return ["ok" if line.startswith("ok") else line for line in run.lines[1::2]]


def place(address: str, port: int, protocol: str) -> dict[str, Any]:
    """An endpoint, as it stands in a record."""
    return {"address": str(ipaddress.ip_address(address)), "port": port, "protocol": protocol}


@pytest.mark.parametrize("how", CALLS)
def test_a_denied_destination_is_not_reached(live: Host, sinks: Sinks, how: str) -> None:
    """Whatever call and however the address is written: EPERM, nothing arrives, one record with the address meant."""
    port, free = sinks.port["denied"], sinks.port["free"]
    command = calls(how, port, free)
    assert results(untagged(command)) == ["ok"] * len(ADDRESSES)
    assert len(sinks.seen("denied")) >= len(ADDRESSES), "the control didn't arrive"
    sinks.seen("free")
    run = live.run(command)
    assert results(run) == [f"errno {errno.EPERM}"] * len(ADDRESSES)
    assert sinks.seen("denied") == []
    protocol = "tcp" if how.startswith(("connect", "fast")) else "udp"
    assert [record["object"] for record in run.denials] == [
        place(judged, port, protocol) for _, judged in ADDRESSES.values()
    ]
    wanted = (CALLS[how][1], "cgroup", "prevented", "deny", "bot/deny/0")
    for record in run.denials:
        members = ("kernel_operation", "point", "guarantee", "action", "rule")
        assert tuple(record[member] for member in members) == wanted


@pytest.mark.parametrize("how", CALLS)
def test_an_allowed_destination_is_reached(live: Host, sinks: Sinks, how: str) -> None:
    """The same calls to a port that the policy allows arrive, and nothing is recorded against them."""
    run = live.run(calls(how, sinks.port["free"], sinks.port["free"]))
    assert results(run) == ["ok"] * len(ADDRESSES)
    assert not run.denials
    arrived = sinks.seen("free")
    assert len(arrived) >= len(ADDRESSES) and set(arrived) <= {"tcp", "udp hello"}


@pytest.mark.parametrize("how", ["connect", "sendto"])
def test_the_action_kill(live: Host, sinks: Sinks, how: str) -> None:
    """Where the action is kill the call has no effect and the process doesn't come back from it."""
    port, free = sinks.port["denied"], sinks.port["free"]
    command = calls(how, port, free)
    run = live.run(command, "killed")
    assert_denied(run, killed_by=signal.SIGKILL, action="kill", guarantee="prevented", rule="killed/deny/0")
    assert run.lines == ["attempt"]
    assert sinks.seen("denied") == []
    assert results(live.run(calls(how, free, free), "killed")) == ["ok"] * len(ADDRESSES)
    assert sinks.seen("free")


BINDS = {
    "v4": ("socket.AF_INET", "127.0.0.1", "127.0.0.1"),
    "v4 any": ("socket.AF_INET", "0.0.0.0", "0.0.0.0"),
    "v6": ("socket.AF_INET6", "::1", "::1"),
    "v6 any": ("socket.AF_INET6", "::", "::"),
    "mapped": ("socket.AF_INET6", "::ffff:127.0.0.1", "127.0.0.1"),
}


@pytest.mark.parametrize("kind, protocol", [("SOCK_STREAM", "tcp"), ("SOCK_DGRAM", "udp")])
def test_a_bind_to_a_denied_port(live: Host, sinks: Sinks, kind: str, protocol: str) -> None:
    """A denied port can't be bound, TCP or UDP, v4, v6 or mapped; every other port can."""

    def command(port: int) -> list[str]:
        code = ""
        for family, address, _ in BINDS.values():
            code += f"s = socket.socket({family}, socket.{kind}); attempt(lambda: s.bind(({address!r}, {port})))\n"
            code += "s.close()\n"
        return probes.python(code)

    reserved = RESERVED
    assert results(untagged(command(reserved))) == ["ok"] * len(BINDS)
    run = live.run(command(reserved))
    assert results(run) == [f"errno {errno.EPERM}"] * len(BINDS)
    wanted = [place(judged, reserved, protocol) for _, _, judged in BINDS.values()]
    assert [record["object"] for record in run.denials] == wanted
    assert {record["kernel_operation"] for record in run.denials} == {"bind"}
    run = live.run(command(0))
    assert results(run) == ["ok"] * len(BINDS) and not run.denials


def test_listening_where_only_listening_is_denied(live: Host) -> None:
    """A port that may be bound but not listened on: the process dies before listen returns."""
    code = "s = socket.socket(); s.bind(('127.0.0.1', 0)); attempt(lambda: s.listen()); say('after')"
    assert untagged(probes.python(code)).lines[-1] == "after"
    run = live.run(probes.python(code), "mute")
    assert_denied(run, killed_by=signal.SIGKILL, kernel_operation="listen", guarantee="contained", point="trace")


@pytest.fixture
def ping_sockets() -> Iterator[None]:
    """Lets root make ICMP sockets without raw ones, as systemd lets everybody (icmp(7), ping_group_range)."""
    setting = Path("/proc/sys/net/ipv4/ping_group_range")
    before = setting.read_text()
    setting.write_text("0 0")
    yield
    setting.write_text(before)


SOCKETS = {
    # the object -> (family, type, protocol, how it is refused)
    "inet:raw": ("AF_INET", 3, 1, "cgroup"),
    "inet:raw ": ("AF_INET6", 3, 58, "cgroup"),
    "inet:sctp": ("AF_INET", 1, 132, "cgroup"),
    "inet:mptcp": ("AF_INET", 1, 262, "cgroup"),
    "inet:other": ("AF_INET", 2, 136, "cgroup"),
    "inet:icmp": ("AF_INET", 2, 1, "cgroup"),
    "inet:icmp ": ("AF_INET6", 2, 58, "cgroup"),
    "packet": ("AF_PACKET", 3, 768, "trace"),
    "vsock": ("AF_VSOCK", 1, 0, "trace"),
    "alg": ("AF_ALG", 5, 0, "trace"),
    "xdp": ("AF_XDP", 3, 0, "trace"),
}


@pytest.mark.parametrize("word", SOCKETS)
def test_unusual_sockets(live: Host, ping_sockets: None, word: str) -> None:
    """Sockets below or beside TCP and UDP are refused: inet ones with EPERM, others by the end of the process."""
    family, kind, protocol, point = SOCKETS[word]
    number = {"AF_XDP": 44}.get(family, f"socket.{family}")
    command = probes.python(f"attempt(lambda: syscall(41, int({number}), {kind}, {protocol})); say('after')")
    tried = untagged(command)
    if tried.result() is Result.NOT_ATTEMPTED:
        # The kernel says so before any program of ours runs; then there is nothing that could be denied.
        assert live.run(command).result() is Result.NOT_ATTEMPTED
        return
    assert tried.result() is Result.ALLOWED
    run = live.run(command)
    how: dict[str, int] = {"number": errno.EPERM} if point == "cgroup" else {"killed_by": signal.SIGKILL}
    assert_denied(run, **how, object=word.strip(), point=point, kernel_operation="socket", operation="raw")
    assert (run.lines[-1] == "after") == (point == "cgroup")


@pytest.mark.parametrize(
    "family, kind, protocol", [("AF_INET", 1, 6), ("AF_INET6", 2, 17), ("AF_UNIX", 1, 0), ("AF_NETLINK", 3, 0)]
)
def test_usual_sockets(live: Host, family: str, kind: int, protocol: int) -> None:
    """TCP, UDP, unix and netlink sockets can be made."""
    assert_allowed(live.run(probes.python(f"attempt(lambda: syscall(41, int(socket.{family}), {kind}, {protocol}))")))


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unix_socket(live: Host, tmp_path: Path, abstract: bool) -> None:
    """A connection to a denied unix socket ends the process before connect returns; to another one it works."""
    folder = live.folder / f"unix-{abstract}"
    folder.mkdir()
    for name in ("free", "denied"):
        address = f"\0agentd-{name}-{os.getpid()}" if abstract else f"{folder}/{name}.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            server.listen(4)
            code = f"s = socket.socket(socket.AF_UNIX); attempt(lambda: s.connect({address!r})); s.send(b'x')"
            command = probes.python(code)
            assert untagged(command).result() is Result.ALLOWED
            run = live.run(command)
            if name == "free":
                assert_allowed(run)
                continue
            seen = address.replace("\0", "@")
            assert_denied(
                run, killed_by=signal.SIGKILL, object=seen, kernel_operation="unix_connect", guarantee="contained"
            )
            for expected in (b"x", b""):
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(1) == expected
