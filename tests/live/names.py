"""A small world of names for live tests: a network namespace with addresses of its own, and name servers in it.

The servers are real sockets and their messages are made by dnspython; the programs under test are not changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

RESOLVER: Final = "127.1.1.1"
IMPOSTOR: Final = "127.6.6.6"
WEB: Final = ("203.0.113.5", "203.0.113.6", "2001:db8::5")

CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

Records = dict[tuple[str, str], list[str]]
"""(name, type) -> the data of its records; a name with a CNAME leads on."""


@dataclass
class World:
    """The namespace, what the resolver says, and how it says it."""

    space: str
    records: Records = field(default_factory=dict)
    ttl: int = 300
    asked: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[bytes, tuple[str, int]], None] | None = None  # called with a question before it is answered
    truncate: bool = False
    mute: bool = False
    servers: list[socket.socket] = field(default_factory=list)
    mounts: str = ""  # the mount namespace as a file

    @property
    def place(self) -> str:
        """The namespace as a file."""
        return f"/run/netns/{self.space}"

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs `command` in the namespace, with a resolv.conf that names the resolver."""
        return ["/usr/bin/nsenter", f"--net={self.place}", f"--mount={self.mounts}", *command]

    def enter(self) -> None:
        """Takes the calling thread into the namespace."""
        with open(self.place, "rb") as file:
            if _LIBC.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {self.place}")

    def socket(self, *how: int) -> socket.socket:
        """A socket of the namespace."""
        made: list[socket.socket] = []

        def make() -> None:
            self.enter()
            made.append(socket.socket(*how))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def answer(self, data: bytes) -> bytes:
        """What the resolver answers."""
        question = dns.message.from_wire(data)
        made = dns.message.make_response(question)
        made.flags |= dns.flags.RA
        (asked,) = question.question
        name, kind = asked.name.to_text().lower().rstrip("."), dns.rdatatype.to_text(asked.rdtype)
        self.asked.append((name, kind))
        if self.truncate:
            made.flags |= dns.flags.TC
        while (name, "CNAME") in self.records:
            (alias,) = self.records[name, "CNAME"]
            made.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", "CNAME", alias + "."))
            name = alias
        if (name, kind) in self.records:
            made.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", kind, *self.records[name, kind]))
        return made.to_wire()


def _serve(world: World, server: socket.socket) -> None:
    while True:
        try:
            data, client = server.recvfrom(4096)
        except OSError:
            return
        if data == b"stop":
            return
        if world.before:
            world.before(data, client)
        if not world.mute:
            server.sendto(world.answer(data), client)


@contextlib.contextmanager
def serving(made: World) -> Iterator[None]:
    """Its addresses, and servers that answer: the resolver, and one that is not configured and says the same."""
    threads: list[tuple[threading.Thread, socket.socket, str]] = []

    def lay() -> None:
        made.enter()
        for words in (["link", "set", "lo", "up"], *(["addr", "add", f"{a}/{_bits(a)}", "dev", "lo"] for a in WEB)):
            subprocess.run(["/usr/sbin/ip", *words], check=True)

    try:
        laying = threading.Thread(target=lay)
        laying.start()
        laying.join()
        for address in (RESOLVER, IMPOSTOR):
            server = made.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((address, 53))
            made.servers.append(server)
            thread = threading.Thread(target=_serve, args=(made, server), daemon=True)
            thread.start()
            threads.append((thread, server, address))
        yield
    finally:
        for thread, server, address in threads:
            with made.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
                bell.sendto(b"stop", (address, 53))
            thread.join()
            server.close()


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


@contextlib.contextmanager
def kept_mounts(through: list[str]) -> Iterator[str]:
    """The mounts that `ip netns exec` makes, as a file to enter: made by a workload, the one over /sys is denied."""
    with tempfile.TemporaryDirectory(prefix="agentd-names-") as folder:
        place = f"{folder}/mounts"
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        subprocess.run(["mount", "--make-private", folder], check=True)
        Path(place).touch()
        with subprocess.Popen(
            [*through, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as kept:
            try:
                assert kept.stdout is not None and kept.stdout.readline() == b"\n"
                subprocess.run(["mount", "--bind", f"/proc/{kept.pid}/ns/mnt", place], check=True)
                try:
                    yield place
                finally:
                    subprocess.run(["umount", place], check=True)
            finally:
                kept.kill()
                subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A named namespace with those servers, whose programs find the resolver in their resolv.conf."""
    made = World(f"agentd-names-{os.getpid()}")
    config = Path("/etc/netns") / made.space
    run = ["/usr/sbin/ip", "netns"]
    subprocess.run([*run, "add", made.space], check=True)
    try:
        config.mkdir(parents=True)
        (config / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions timeout:2 attempts:1\n")
        (config / "nsswitch.conf").write_text("hosts: dns\n")
        with kept_mounts([*run, "exec", made.space]) as made.mounts, serving(made):
            yield made
    finally:
        subprocess.run([*run, "del", made.space], check=True)
        for file in config.iterdir():
            file.unlink()
        config.rmdir()
        with contextlib.suppress(OSError):
            config.parent.rmdir()
