"""Connections that a process had before its policy: destroyed when it is marked and when the policy changes."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.service import PYTHON, Service, bot, until

pytestmark = pytest.mark.root

# One line in, one line out: `tcp PORT`, `udp PORT`, `listen`, `send N`, `accept N`; N counts what was opened.
SOURCE = r"""
import socket, sys
opened = []
def do(verb, *rest):
    if verb == "tcp":
        opened.append(socket.create_connection(("127.0.0.1", int(rest[0]))))
    elif verb == "tcp6":
        opened.append(socket.create_connection(("::1", int(rest[0]))))
    elif verb == "udp":
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(("127.0.0.1", int(rest[0])))
        opened.append(made)
    elif verb == "listen":
        opened.append(socket.create_server(("127.0.0.1", 0)))
        return opened[-1].getsockname()[1]
    elif verb == "accept":
        opened.append(opened[int(rest[0])].accept()[0])
    elif verb == "send":
        opened[int(rest[0])].send(b"x")
    return "ok"
for line in sys.stdin:
    try:
        print(do(*line.split()), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""


class Talker:
    """An untagged process with connections."""

    def __init__(self, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, PYTHON, "-I", "-S", "-c", SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, *words: object) -> str:
        """Its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def talker() -> Iterator[Talker]:
    made = Talker()
    yield made
    made.close()


@contextlib.contextmanager
def server(family: int = socket.AF_INET) -> Iterator[socket.socket]:
    """A TCP port that accepts."""
    with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as made:
        yield made


def hosts(*texts: str, **keys: Any) -> dict[str, Any]:
    """A bot that may connect to these and listen nowhere."""
    made = bot(**keys)
    rule = {"tool": "network", "operations": ["connect", "send"], "hosts": [*texts]}
    return made | {"allow": [*made["allow"], *([rule] if texts else [])]}


def reset(peer: socket.socket) -> bool:
    """Was the connection reset, seen from the other end?"""
    try:
        return select.select([peer], [], [], 10)[0] != [] and peer.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_tagged_process_keeps_only_connections_that_are_allowed(talker: Talker) -> None:
    """TCP over both families and connected UDP are destroyed, on record; what is allowed or untagged lives on."""
    with contextlib.ExitStack() as stack:
        good, bad = stack.enter_context(server()), stack.enter_context(server())
        six = stack.enter_context(server(socket.AF_INET6))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (good, bad, six, udp)]
        service = stack.enter_context(Service({"bot": hosts(f"127.0.0.1:{ports[0]}")}))
        other = Talker()
        stack.callback(other.close)
        for one in (talker, other):
            assert [one.do(verb, port) for verb, port in zip(("tcp", "tcp", "tcp6", "udp"), ports, strict=True)] == [
                "ok"
            ] * 4
        peers = [stack.enter_context(listener.accept()[0]) for listener in (good, bad, six)]
        service.tag(talker.process.pid)
        assert talker.do("send", 0) == "ok"
        assert peers[0].recv(1) == b"x"
        assert [talker.do("send", number).split()[0] for number in (1, 2, 3)] == ["errno"] * 3
        assert reset(peers[1]) and reset(peers[2])
        assert [other.do("send", number) for number in range(4)] == ["ok"] * 4
        cut = until(lambda: r if len(r := service.records("disconnected")) == 3 else None, "the records")
        assert {record["metadata"]["remote"] for record in cut} == {
            f"127.0.0.1:{ports[1]}/tcp", f"[::1]:{ports[2]}/tcp", f"127.0.0.1:{ports[3]}/udp",
        }  # fmt: skip
        assert all(record["agent_id"] == "bot" and record["metadata"]["error"] == "" for record in cut)
        assert all(record["metadata"]["pids"] == [talker.process.pid] for record in cut)


def test_a_reload_cuts_what_the_new_policy_does_not_allow(talker: Talker) -> None:
    """A connection that the old policy allowed ends with it; one that both allow goes on; a bad policy cuts nothing."""
    with server() as kept, server() as gone:
        ports = [one.getsockname()[1] for one in (kept, gone)]
        with Service({"bot": hosts(*(f"127.0.0.1:{port}" for port in ports))}) as service:
            service.tag(talker.process.pid)
            assert [talker.do("tcp", port) for port in ports] == ["ok", "ok"]
            with kept.accept()[0], gone.accept()[0] as peer:
                service.policy.write_text("nonsense", encoding="utf-8")
                assert service.reload().returncode != 0
                assert talker.do("send", 1) == "ok"
                assert peer.recv(1) == b"x"
                service.write_policy({"bot": hosts(f"127.0.0.1:{ports[0]}")})
                assert service.reload().returncode == 0
                assert talker.do("send", 0) == "ok"
                assert talker.do("send", 1).startswith("errno")
                assert reset(peer)


def test_accepted_connections_are_judged_by_where_they_were_listened_for(talker: Talker) -> None:
    """A server's connections live while it may listen on its port, and end with that."""
    port = int(talker.do("listen"))
    allowed = bot()
    listening = {"tool": "network", "operations": ["listen"], "hosts": [f"127.0.0.1:{port}"]}
    allowed["allow"] = [*allowed["allow"], listening]
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert talker.do("accept", 0) == "ok"
        with Service({"bot": allowed}) as service:
            service.tag(talker.process.pid)
            assert talker.do("send", 1) == "ok"
            assert client.recv(1) == b"x"
            service.write_policy({"bot": bot()})
            assert service.reload().returncode == 0
            assert talker.do("send", 1).startswith("errno")
            assert reset(client)


def test_connections_in_another_network_namespace_are_cut_there() -> None:
    """A process in a namespace of its own is looked at in it; a connection with the same numbers elsewhere lives."""
    talker = Talker("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    try:
        port = int(talker.do("listen"))
        assert talker.do("tcp", port) == "ok"
        assert talker.do("accept", 0) == "ok"
        with Service({"bot": bot()}) as service:
            service.tag(talker.process.pid)
            assert talker.do("send", 1).startswith("errno")
            assert until(lambda: service.records("disconnected"), "the record")
            assert (
                os.stat(f"/proc/{service.process.pid if service.process else 0}/ns/net").st_ino
                == os.stat("/proc/self/ns/net").st_ino
            ), "the daemon is where it was"
    finally:
        talker.close()


def test_a_mode_that_only_watches_cuts_nothing(talker: Talker) -> None:
    """mode: monitor leaves connections alone."""
    with server() as bad, Service({"bot": hosts(mode="monitor")}) as service:
        assert talker.do("tcp", bad.getsockname()[1]) == "ok"
        service.tag(talker.process.pid)
        assert talker.do("send", 0) == "ok"
