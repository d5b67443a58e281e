"""Hosts by name: what a resolver has answered to a tagged process is open to it, and nothing else is."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import host as composition
from agentd.engine.resolvers import Resolvers
from agentd.kernel.hosts import TTL_MAX, TTL_MIN, Resolver
from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.names import IMPOSTOR, RESOLVER, WEB, World, world
from tests.live.probes import Run, untagged

pytestmark = pytest.mark.root

DEAD = "127.2.2.2"  # a configured resolver that doesn't run
ASKING = {
    "tool": "network",
    "operations": ["connect", "send"],
    "hosts": ["resolvers:53", "*:0", f"{IMPOSTOR}:53", "127.0.0.1"],
}
OTHERS = [{"tool": tool} for tool in harness.every_tool() if tool not in ("network", "web")]


def agent(*hosts: str, **keys: Any) -> dict[str, Any]:
    """An agent whose web is `hosts`."""
    named = {"tool": "web", "operations": ["fetch"], "hosts": list(hosts)}
    programs = {"tool": "web", "paths": ["**"]}
    bind = {"tool": "network", "operations": ["listen"]}
    return {"allow": [named, programs, ASKING, bind, *OTHERS], **keys}


@pytest.fixture(scope="module")
def space() -> Iterator[World]:
    """The namespace, with a web server at every address of its own."""
    with world() as made:
        servers = []
        for port in (80, 443):
            server = made.socket(socket.AF_INET6, socket.SOCK_STREAM)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            server.listen(64)
            threading.Thread(target=serve, args=(server,), daemon=True).start()
            servers.append(server)
        yield made
        for server in servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()


def serve(server: socket.socket) -> None:
    """Says the same to everybody."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.settimeout(1)
            try:
                client.recv(1000)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nreached")
            except OSError:
                pass


@pytest.fixture(scope="module")
def live(space: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Agents that know hosts by name; the resolver is configured, the impostor is not."""
    agents = {
        "bot": agent("*.example.test:80", "*.example.test:443", "exact.test:443"),
        "other": agent("*.example.test:443"),
        "asking": agent(
            "nothing.test", require_approval=[{"tool": "web", "hosts": ["www.example.test"], "timeout": 60}]
        ),
    }
    resolvers = [Resolver(socket.inet_aton(RESOLVER)), Resolver(socket.inet_aton(DEAD))]
    with harness.enforcing(tmp_path_factory.mktemp("names"), agents, resolvers=resolvers) as host:
        yield host


@pytest.fixture(autouse=True)
def fresh(space: World, live: Host) -> Iterator[None]:
    """Every test begins with nothing known and a resolver that knows nothing."""
    live.engine.names.forget()
    space.records, space.asked, space.ttl = {}, [], 300
    space.before, space.truncate, space.mute = None, False, False
    yield
    live.engine.loaded.control.name_ttl_min = TTL_MIN
    live.engine.loaded.control.name_ttl_max = TTL_MAX


CLIENT = f"""
def query(name, number=4711, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!HH", kind, 1)
def ask(name, to="{RESOLVER}", kind=1, wait=5):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(wait)
        s.sendto(query(name, kind=kind), (to, 53))
        return s.recv(4096)
def visit(address, port=443):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.settimeout(20)
        attempt(lambda: s.connect((address, port)))
"""


def visitor(space: World, code: str) -> list[str]:
    """A probe in the namespace that asks and visits as it says itself."""
    return space.inside(probes.python(CLIENT + code))


def visits(run: Run) -> list[str]:
    """The outcome of each visit."""
    return [line if line.startswith("errno") else "ok" for line in run.lines if line.startswith(("ok", "errno"))]


EPERM = f"errno {errno.EPERM}"


def test_unmodified_programs_reach_what_they_looked_up(live: Host, space: World) -> None:
    """curl and getent find the hosts that are allowed by name, and curl reaches those and no other."""
    space.records = {
        ("www.example.test", "A"): [WEB[0]],
        ("www.example.test", "AAAA"): [WEB[2]],
        ("www.evil.test", "A"): [WEB[1]],
    }
    curl = ["/usr/bin/curl", "-sS", "--max-time", "20"]
    for name in ("www.example.test", "www.evil.test"):
        assert b"reached" in untagged(space.inside([*curl, f"http://{name}/"])).out
    run = live.run(space.inside([*curl, "http://WWW.Example.test/"]))
    assert b"reached" in run.out, run
    assert not [record for record in run.denials if record["object"]["port"] == 80]
    run = live.run(space.inside([*curl, "http://www.evil.test/"]))
    assert b"reached" not in run.out and run.status != 0
    assert [record["object"] for record in run.denials if record["object"]["port"] == 80] == [
        {"address": WEB[1], "port": 80, "protocol": "tcp"}
    ]
    run = live.run(space.inside(["/usr/bin/getent", "ahosts", "www.example.test"]))
    assert run.status == 0 and WEB[0].encode() in run.out and WEB[2].encode() in run.out
    assert {WEB[0], WEB[2]} <= {
        socket.inet_ntop(socket.AF_INET6 if len(item.address) == 16 else socket.AF_INET, item.address)
        for item in live.engine.names.known()
    }


def test_the_answer_is_known_before_the_program_has_it(live: Host, space: World) -> None:
    """Asking and connecting at once, a hundred times, is never too early; and what was reached is on record by name."""
    space.records = {(f"n{i}.example.test", "A"): [WEB[0]] for i in range(100)}
    code = f"for i in range(100):\n    ask(f'n{{i}}.example.test')\n    visit({WEB[0]!r})\n"
    run = live.run(visitor(space, code))
    assert visits(run) == ["ok"] * 100, run
    counted = [r for r in live.counted("bot") if r["kernel_operation"] == "connect" and r["object"]["port"] == 443]
    assert {r["object"]["address"] for r in counted} == {WEB[0]}
    assert all(r["object"]["name"].endswith(".example.test") for r in counted)
    assert sum(r["count"] for r in counted) == 100


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("visit({0!r})", [EPERM]),
        ("ask('www.example.test'); visit({0!r}); visit({1!r})", ["ok", EPERM]),
        ("ask('www.example.test'); visit({0!r}, 8443)", [EPERM]),
        ("ask('evilexample.test'); visit({1!r}); ask('example.test'); visit({0!r})", [EPERM, EPERM]),
        ("ask('exact.test'); visit({0!r}); visit({0!r}, 80)", ["ok", EPERM]),
        ("ask('many.example.test'); visit({0!r}); visit({1!r})", ["ok", "ok"]),
        ("ask('six.example.test', kind=28); visit({2!r}); visit({0!r})", ["ok", EPERM]),
        ("ask('alias.example.test'); visit({1!r})", ["ok"]),
        ("ask('alias.evil.test'); visit({0!r})", [EPERM]),
        ("ask('rebound.example.test'); visit('127.0.0.1'); visit('::1'); visit('0.0.0.0')", [EPERM] * 3),
        ("ask('mapped.example.test', kind=28); visit('::ffff:{0}'); visit({1!r})", ["ok", EPERM]),
    ],
)
def test_only_what_was_answered_is_open(live: Host, space: World, code: str, expected: list[str]) -> None:
    """An address is open by an allowed name that was looked up, on the ports of the rule; look-alikes, names that lead
    to allowed names, and allowed names that are made to mean this host open nothing.
    """
    space.records = {
        ("www.example.test", "A"): [WEB[0]],
        ("exact.test", "A"): [WEB[0]],
        ("example.test", "A"): [WEB[0]],
        ("evilexample.test", "A"): [WEB[1]],
        ("many.example.test", "A"): [WEB[0], WEB[1]],
        ("six.example.test", "AAAA"): [WEB[2]],
        ("alias.example.test", "CNAME"): ["a.cdn.test"],
        ("a.cdn.test", "CNAME"): ["b.cdn.test"],
        ("b.cdn.test", "A"): [WEB[1]],
        ("alias.evil.test", "CNAME"): ["www.example.test"],
        ("rebound.example.test", "A"): ["127.0.0.1", "0.0.0.0"],
        ("mapped.example.test", "AAAA"): [f"::ffff:{WEB[0]}"],
    }
    command = visitor(space, code.format(*WEB))
    if "8443" not in code:  # where nobody listens
        assert visits(untagged(command)) == ["ok"] * len(expected)
    run = live.run(command)
    assert visits(run) == expected, run
    assert len([r for r in run.denials if r["kernel_operation"] == "connect"]) == expected.count(EPERM)


def test_names_are_known_to_the_agent_that_asked(live: Host, space: World) -> None:
    """What one agent has looked up another one has not."""
    space.records = {("www.example.test", "A"): [WEB[0]]}
    assert visits(live.run(visitor(space, f"ask('www.example.test'); visit({WEB[0]!r})"))) == ["ok"]
    assert visits(live.run(visitor(space, f"visit({WEB[0]!r})"), "other")) == [EPERM]
    assert visits(live.run(visitor(space, f"ask('www.example.test'); visit({WEB[0]!r})"), "other")) == ["ok"]


def test_answers_of_anybody_else_teach_nothing(live: Host, space: World) -> None:
    """A server that is not configured gives the same answer, and the program gets it, but the address stays closed."""
    space.records = {("www.example.test", "A"): [WEB[0]]}
    run = live.run(visitor(space, f"say(str(len(ask('www.example.test', {IMPOSTOR!r})) > 40)); visit({WEB[0]!r})"))
    assert run.lines[0] == "True" and visits(run) == [EPERM]


def test_expired_names_are_closed(live: Host, space: World) -> None:
    """When the time to live is over the address is closed, until somebody asks again."""
    live.engine.loaded.control.name_ttl_min, live.engine.loaded.control.name_ttl_max = 0, 1
    space.records = {("www.example.test", "A"): [WEB[0]]}
    code = f"""
ask('www.example.test')
visit({WEB[0]!r})
end = time.clock_gettime(time.CLOCK_BOOTTIME) + 1
while time.clock_gettime(time.CLOCK_BOOTTIME) < end: time.sleep(0.05)
visit({WEB[0]!r})
ask('www.example.test')
visit({WEB[0]!r})
"""
    assert visits(live.run(visitor(space, code))) == ["ok", EPERM, "ok"]


FORGERIES = {
    "another port of the resolver": ("port", lambda data: data),
    "another address": ("address", lambda data: data),
    "another id": ("resolver", lambda data: bytes((data[0] ^ 1,)) + data[1:]),
    "another question": ("resolver", lambda data: data.replace(b"\x03www", b"\x03wvw", 1)),
    "another type": ("resolver", lambda data: data.replace(b"\x04test\0\0\x01", b"\x04test\0\0\x1c", 1)),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_forged_answers_teach_nothing(live: Host, space: World, how: str) -> None:
    """A packet that reaches the socket first but is not the answer to its question opens nothing; the real one does."""
    source, change = FORGERIES[how]
    space.records = {("www.example.test", "A"): [WEB[0]]}
    truth = space.answer
    with (
        space.socket(socket.AF_INET, socket.SOCK_DGRAM) as port,
        space.socket(socket.AF_INET, socket.SOCK_DGRAM) as address,
    ):
        port.bind((RESOLVER, 5353))
        address.bind(("127.6.6.7", 53))
        forged = struct.pack("!4B", *map(int, WEB[1].split(".")))
        real = struct.pack("!4B", *map(int, WEB[0].split(".")))

        def forge(data: bytes, client: tuple[str, int]) -> None:
            lie = change(truth(data).replace(real, forged))
            {"port": port, "address": address, "resolver": space.servers[0]}[source].sendto(lie, client)

        space.before = forge
        code = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(query('www.example.test'), ({RESOLVER!r}, 53))
say(s.recv(4096)[-4:].hex())
visit({WEB[1]!r})
say(s.recv(4096)[-4:].hex())
visit({WEB[0]!r})
visit({WEB[1]!r})
"""
        run = live.run(visitor(space, code))
    assert forged.hex() in run.lines and real.hex() in run.lines, run
    assert visits(run) == [EPERM, "ok", EPERM]


def test_a_question_is_answered_once(live: Host, space: World) -> None:
    """A second answer to the same question, from the resolver itself, teaches nothing."""
    space.records = {("www.example.test", "A"): [WEB[0]]}
    truth = space.answer
    later = [struct.pack("!4B", *map(int, address.split("."))) for address in WEB[:2]]

    def twice(data: bytes, client: tuple[str, int]) -> None:
        space.mute = True
        space.servers[0].sendto(truth(data), client)
        space.servers[0].sendto(truth(data).replace(*later), client)

    space.before = twice
    code = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(query('www.example.test'), ({RESOLVER!r}, 53))
s.recv(4096); s.recv(4096)
visit({WEB[0]!r}); visit({WEB[1]!r})
"""
    assert visits(live.run(visitor(space, code))) == ["ok", EPERM]


def test_truncated_answers_and_tcp(live: Host, space: World) -> None:
    """A truncated answer teaches nothing, and a resolver can't be asked over TCP."""
    space.records = {("www.example.test", "A"): [WEB[0]]}
    space.truncate = True
    code = f"ask('www.example.test'); visit({WEB[0]!r}); visit({RESOLVER!r}, 53)"
    run = live.run(visitor(space, code))
    assert visits(run) == [EPERM, EPERM]
    assert run.denials[-1]["object"] == {"address": RESOLVER, "port": 53, "protocol": "tcp"}


def test_a_workload_can_not_answer_in_the_name_of_a_resolver(live: Host, space: World) -> None:
    """A packet of a tagged process that comes from a resolver's address and port isn't sent, and teaches nothing."""
    code = f"""
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(({DEAD!r}, 53))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.sendto(query('www.example.test'), ({DEAD!r}, 53))
data, client = server.recvfrom(4096)
lie = data[:2] + bytes.fromhex('81800001000100000000') + data[12:] + bytes.fromhex('c00c000100010000012c0004')
attempt(lambda: server.sendto(lie + socket.inet_aton({WEB[0]!r}), client))
try: say(s.recv(4096)[-4:].hex())
except TimeoutError: say('no answer')
visit({WEB[0]!r})
"""
    command = visitor(space, code)
    told = socket.inet_aton(WEB[0]).hex()
    assert told in untagged(command).lines
    run = live.run(command)
    assert visits(run) == [EPERM, EPERM] and "no answer" in run.lines, run
    assert not list(live.engine.names.known())


def test_a_held_connection_keeps_its_name(live: Host, space: World) -> None:
    """A connection that waits for approval is the same by name when it is approved after the answer has expired."""
    live.engine.loaded.control.name_ttl_min, live.engine.loaded.control.name_ttl_max = 0, 1
    space.records = {("www.example.test", "A"): [WEB[0]]}
    running = live.start(visitor(space, f"ask('www.example.test'); visit({WEB[0]!r})"), "asking")
    question = live.held(running)
    assert "www.example.test" in str(question)
    known = [item for item in live.engine.names.known() if item.name == "www.example.test"]
    assert known and all(item.expires > time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 30 * 10**9 for item in known)
    live.answer(question, True)
    assert visits(running.wait()) == ["ok"]


def test_answers_are_only_read_while_a_policy_has_names(tmp_path: Path) -> None:
    """Without names nothing is attached to the host's packets; a policy with names attaches it, the next detaches."""
    readers = {"dns_asks", "dns_answers"}
    with harness.enforcing(tmp_path, {"bot": harness.agent()}) as host:
        loaded = host.engine.loaded
        pinned = loaded.pins / "links"

        def attached() -> set[str]:
            found = {entry.name.rpartition("-")[0] for entry in pinned.iterdir()} & readers
            assert found == readers & loaded.links()
            return found

        assert attached() == set()
        file = tmp_path / "names.yaml"
        file.write_text("version: 1\nagents: {bot: {allow: [{tool: web, hosts: [a.test]}]}}")
        host.engine.install(composition.read_policy(file, str(tmp_path)))
        assert attached() == readers
        host.engine.install(composition.read_policy(tmp_path / "policy.yaml", str(tmp_path)))
        assert attached() == set()


def test_the_resolvers_of_resolv_conf_are_followed(tmp_path: Path) -> None:
    """A change of resolv.conf is seen at the next tick, and who isn't in it any more is not believed."""
    with harness.enforcing(tmp_path, {"bot": harness.agent()}) as host:
        file = tmp_path / "resolv.conf"
        host.engine.resolvers = Resolvers(host.engine.names, None, file)
        for text, expected in (
            ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ["192.0.2.1", "2001:db8::1"]),
            ("search a.test\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
            ("", ["127.0.0.1"]),
        ):
            file.write_text(text)
            host.engine.tick()
            believed = {
                socket.inet_ntop(socket.AF_INET6 if len(one.address) == 16 else socket.AF_INET, one.address)
                for one in host.engine.names.believed()
            }
            assert believed == set(expected)
        assert [r["event"] for r in host.records() if r["event"] == "resolvers_changed"] == ["resolvers_changed"] * 3
