"""Row 36: names. A name server, an impostor and web servers live in a network namespace of the suite's own, and the
probe enters it. Whatever is said to it there, only what the resolver has answered to a question of the agent is open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.kernel.hosts import TTL_MAX, TTL_MIN, Resolver
from tests.containment.suite import Scenario, Suite, Told
from tests.live.names import CLONE_NEWNET, IMPOSTOR, RESOLVER, WEB, Records, World, serving
from tests.live.probes import Run, untagged

DEAD: Final = "127.2.2.2"  # a configured resolver that doesn't run
RESOLVERS: Final = tuple(Resolver(socket.inet_aton(address)) for address in (RESOLVER, DEAD))
EPERM: Final = "errno 1"
WWW: Final = "www.example.test"
RECORDS: Final[Records] = {
    (WWW, "A"): [WEB[0]],
    (WWW, "AAAA"): [WEB[2]],
    ("example.test", "A"): [WEB[0]],
    ("evilexample.test", "A"): [WEB[0]],
    ("www.example.test.evil.test", "A"): [WEB[0]],
    ("alias.example.test", "CNAME"): ["a.cdn.test"],
    ("a.cdn.test", "CNAME"): ["b.cdn.test"],
    ("b.cdn.test", "A"): [WEB[1]],
    ("alias.evil.test", "CNAME"): [WWW],
    ("rebound.example.test", "A"): ["127.0.0.1"],
}


class Space(World):
    """A namespace without a name: nothing of it stays when its descriptor is closed."""

    fd = -1

    @property
    def place(self) -> str:
        """As a file."""
        return f"/proc/self/fd/{self.fd}"

    def open(self) -> None:
        """Makes it."""

        def make() -> None:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            for interface in ("all", "lo"):  # packets made by hand may come from this host
                for setting in ("route_localnet", "accept_local"):
                    Path(f"/proc/thread-self/root/proc/sys/net/ipv4/conf/{interface}/{setting}").write_text("1")
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()


_open: ExitStack = ExitStack()
_space: list[Space] = []


def space() -> Space:
    """The one of this suite, with servers on ports of which no rule names all."""
    if not _space:
        made = Space("")
        made.open()
        _open.callback(os.close, made.fd)
        for port in (53, 443, 8443):
            server = _open.enter_context(made.socket(socket.AF_INET6, socket.SOCK_STREAM))
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            server.listen(128)  # who connects is content
        _open.enter_context(serving(made))
        _space.append(made)
    return _space[0]


def close() -> None:
    """Ends the servers."""
    _open.close()
    _space.clear()


Before = Callable[[Space, bytes, tuple[str, int]], None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Steps of the word `names` (c/names.c), what they print untagged, and as an agent.

    before: what the servers do first when they are asked. truncate: the resolver's answers are. inherits: makes a
    socket that the probe has from somewhere else, as descriptor {fd}. ttl: the least and the most, in seconds.
    dropped: so many of the agent's EPERM are packets that are not sent, of which there is no record. may_end: its
    process may be killed instead of what `tagged` says, where the point can only do that.
    """

    steps: Sequence[str]
    free: Sequence[str]
    tagged: Sequence[str]
    before: Before | None = None
    truncate: bool = False
    inherits: Callable[[Space], socket.socket] | None = None
    ttl: tuple[int, int] = (TTL_MIN, TTL_MAX)
    dropped: int = 0
    may_end: bool = False

    def __call__(self, suite: Suite) -> Told:
        """Both runs."""
        here, control, names = space(), suite.host.engine.loaded.control, suite.host.engine.names
        here.records, here.truncate, here.mute = dict(RECORDS), self.truncate, False
        here.before = (lambda data, client: self.before and self.before(here, data, client)) if self.before else None
        control.name_ttl_min, control.name_ttl_max = self.ttl
        try:
            outcome = said(self.once(suite, here, tagged=False))
            assert outcome == list(self.free), f"untagged it says {outcome}"
            here.mute = False
            names.forget()
            run = self.once(suite, here, tagged=True)
        finally:
            here.before, here.truncate, here.mute = None, False, False
            control.name_ttl_min, control.name_ttl_max = TTL_MIN, TTL_MAX
        if self.may_end and run.killed:
            assert run.denials, str(run)
            return told(run)
        assert said(run) == list(self.tagged), f"expected {list(self.tagged)}: {run}"
        assert len(run.denials) == list(self.tagged).count(EPERM) - self.dropped, str(run)
        return told(run)

    def once(self, suite: Suite, here: Space, tagged: bool) -> Run:
        """One run."""
        with contextlib.ExitStack() as stack:
            keep = [here.fd]
            if self.inherits:
                keep.append(stack.enter_context(self.inherits(here)).fileno())
            steps = [f"enter/{here.fd}", *(step.format(fd=keep[-1]) for step in self.steps)]
            command = suite.probe("names", *steps)
            return suite.host.run(command, "surfer", keep=keep) if tagged else untagged(command, keep=keep)


def said(run: Run) -> list[str]:
    """The lines that count: what was received, and whether each attempt succeeded."""
    return [line.split()[0] if line.startswith("ok ") else line for line in run.lines if line != "attempt"]


def told(run: Run) -> Told:
    """By what the denials were."""
    if not run.denials:
        return Told("connect")
    record = run.denials[-1]
    return Told(record["kernel_operation"], record["point"], record["guarantee"])


def ask(name: str, server: str = RESOLVER, how: str = "send") -> tuple[str, ...]:
    """A question and its answer."""
    return ("udp/0", f"{how}/0/{name}/{server}", "recv/0")


def visit(*addresses: str, port: int = 443) -> tuple[str, ...]:
    """A connection to each."""
    return tuple(f"visit/{address}/{port}" for address in addresses)


def got(address: str) -> str:
    """The line of recv for an answer whose last record is `address`."""
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return "data " + ".".join(map(str, raw[-4:]))


def lies(change: Callable[[bytes], bytes], source: str = RESOLVER, port: int = 53) -> Before:
    """Before the true answer comes one that says WEB[1], changed, from somewhere."""

    def before(here: Space, data: bytes, client: tuple[str, int]) -> None:
        lie = change(here.answer(data).replace(socket.inet_aton(WEB[0]), socket.inet_aton(WEB[1])))
        if (source, port) == (RESOLVER, 53):
            here.servers[0].sendto(lie, client)
            return
        with here.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((source, port))
            other.sendto(lie, client)

    return before


def twice(here: Space, data: bytes, client: tuple[str, int]) -> None:
    """The resolver says one thing, and then another."""
    true = here.answer(data)
    here.mute = True
    here.servers[0].sendto(true, client)
    here.servers[0].sendto(true.replace(socket.inet_aton(WEB[0]), socket.inet_aton(WEB[1])), client)


def unsolicited(here: Space, data: bytes, client: tuple[str, int]) -> None:
    """Whoever is asked, the resolver answers."""
    here.mute = True
    here.servers[0].sendto(here.answer(data), client)


def full(here: Space) -> socket.socket:
    """A socket whose memory for options is used up, so that nothing can be noted at it."""
    made = here.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    loopback = struct.pack("I", 1)
    for number in range(1, 10000):
        group = b"\xff\x02" + bytes(10) + struct.pack("!I", number)
        try:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + loopback)
        except OSError:
            return made
    raise AssertionError("its memory has no end")


_LIE: Final = ("recv/0", *visit(WEB[1]))

ATTEMPTS: Final[dict[str, Attempt]] = {
    "an address by an allowed name, and no other port or address": Attempt(
        (*ask(WWW), *visit(WEB[0], WEB[1]), *visit(WEB[0], port=8443)),
        (got(WEB[0]), "ok", "ok", "ok"), (got(WEB[0]), "ok", EPERM, EPERM)),
    "a v6 address by an allowed name": Attempt(
        (*ask(WWW, how="six"), *visit(WEB[2], WEB[0])), (got(WEB[2]), "ok", "ok"), (got(WEB[2]), "ok", EPERM)),
    "names that look like an allowed one": Attempt(
        tuple(step for name in ("example.test", "evilexample.test", "www.example.test.evil.test")
              for step in (*ask(name), *visit(WEB[0]))),
        (got(WEB[0]), "ok") * 3, (got(WEB[0]), EPERM) * 3),
    "aliases": Attempt(
        (*ask("alias.evil.test"), *visit(WEB[0]), *ask("alias.example.test"), *visit(WEB[1])),
        (got(WEB[0]), "ok", got(WEB[1]), "ok"), (got(WEB[0]), EPERM, got(WEB[1]), "ok")),
    "an allowed name that is made to mean this host": Attempt(
        ("udp/0", f"send/0/rebound.example.test/{RESOLVER}", "recv/0", *visit("::1"), *visit("::ffff:0.0.0.0")),
        ("data 127.0.0.1", "ok", "ok"), ("data 127.0.0.1", EPERM, EPERM)),
    "an answer of a server that is not configured": Attempt(
        (*ask(WWW, IMPOSTOR), *visit(WEB[0])), (got(WEB[0]), "ok"), (got(WEB[0]), EPERM)),
    "an answer that nobody asked the resolver for": Attempt(
        (*ask(WWW, IMPOSTOR), *visit(WEB[0])), (got(WEB[0]), "ok"), (got(WEB[0]), EPERM), unsolicited),
    "a second answer to one question": Attempt(
        (*ask(WWW), "recv/0", *visit(WEB[0], WEB[1])),
        (got(WEB[0]), got(WEB[1]), "ok", "ok"), (got(WEB[0]), got(WEB[1]), "ok", EPERM), twice),
    "a truncated answer": Attempt(
        (*ask(WWW), *visit(WEB[0])), (got(WEB[0]), "ok"), (got(WEB[0]), EPERM), truncate=True),
    "an answer that has expired": Attempt(
        (*ask(WWW), *visit(WEB[0]), "sleep/1100", *visit(WEB[0]), *ask(WWW), *visit(WEB[0])),
        (got(WEB[0]), "ok", "ok", got(WEB[0]), "ok"), (got(WEB[0]), "ok", EPERM, got(WEB[0]), "ok"), ttl=(0, 1)),
    **{
        f"a forged answer, {name}": Attempt(
            (*ask(WWW), *visit(WEB[1]), "recv/0", *visit(WEB[0], WEB[1])),
            (got(WEB[1]), "ok", got(WEB[0]), "ok", "ok"), (got(WEB[1]), EPERM, got(WEB[0]), "ok", EPERM), how)
        for name, how in {
            "from another port": lies(bytes, port=5353),
            "from another address": lies(bytes, "127.6.6.7"),
            "with another id": lies(lambda data: bytes((data[0] ^ 1,)) + data[1:]),
            "to another question": lies(lambda data: data.replace(b"\x03www", b"\x03wvw", 1)),
            "of another type": lies(lambda data: data.replace(b"\x04test\0\0\x01", b"\x04test\0\0\x1c", 1)),
        }.items()
    },
    "a resolver that the workload is itself": Attempt(
        ("udp/1", f"bind/1/{DEAD}/53", "udp/0", f"send/0/{WWW}/{DEAD}", f"lie/1/{WEB[1]}", *_LIE),
        ("ok", "ok", got(WEB[1]), "ok"), ("ok", EPERM, "data nothing", EPERM), dropped=1),
    **{
        f"a forged answer, {name}": Attempt(
            ("udp/0", f"send/0/{WWW}/{DEAD}", "raw/1", f"{how}/1/0/{DEAD}/{WEB[1]}", *_LIE),
            ("ok", got(WEB[1]), "ok"), (EPERM, "data nothing", EPERM), dropped=1)
        for how, name in (("whole", "by hand"), ("pieces", "by hand in fragments"))
    },
    "a forged answer, by a packet socket": Attempt(
        ("udp/0", f"send/0/{WWW}/{DEAD}", "packet/1", f"whole/1/0/{DEAD}/{WEB[1]}", *_LIE),
        ("ok", got(WEB[1]), "ok"), (EPERM, "data nothing", EPERM), may_end=True),
    "a resolver that the workload is by a socket that can't be noted": Attempt(
        ("fd/1/{fd}", f"bind/1/::ffff:{DEAD}/53", "udp/0", f"send/0/{WWW}/{DEAD}", f"lie/1/{WEB[1]}", *_LIE),
        ("ok", "ok", got(WEB[1]), "ok"), (EPERM, "errno 11", "data nothing", EPERM), inherits=full),
    "a question of a socket that can't be noted": Attempt(
        ("fd/0/{fd}", f"connect/0/::ffff:{RESOLVER}/53", f"send/0/{WWW}/::ffff:{RESOLVER}", *visit(WEB[0])),
        ("ok", "ok"), (EPERM, EPERM, EPERM), inherits=full, may_end=True),
    "a resolver over TCP": Attempt(
        (f"visit/{RESOLVER}/53",), ("ok",), (EPERM,)),
}  # fmt: skip

PROBES: Final = tuple(Scenario(36, name, attempt) for name, attempt in ATTEMPTS.items())
