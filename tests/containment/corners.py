"""Corners of the kernel's interface: mount namespaces, watches, devices, queues, bpf(), the name of a program."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.containment.attacks import guard, pin
from tests.containment.beyond import file_system
from tests.containment.promises import INLINE
from tests.containment.suite import Probe, Scenario, Suite, Told, came_back, marked, thing
from tests.live.probes import untagged

QUEUE: Final = "agentd-denied"
NODE: Final = Path("/dev/shm/agentd-containment/node")
SYS_BPF, BPF_MAP_CREATE, BPF_OBJ_PIN, BPF_ARRAY = 321, 0, 6, 2
MODPROBE: Final = Path("/proc/sys/kernel/modprobe")
LOADERS: Final[list[str]] = []  # what stood there before
PROTOCOL: Final = 253  # RFC 3692: for experiments
FMODE_EXEC: Final = 0x20  # in the kernel's flags of a file: it was opened by execve


class Wire:
    """Hears what raw sockets send to ::1."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __call__(self, ground: Any) -> None:
        """Begins anew."""
        self.close()
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, PROTOCOL)
        self._socket.setblocking(False)

    def heard(self) -> bool:
        """Did something come?"""
        assert self._socket
        with contextlib.suppress(BlockingIOError):
            return self._socket.recv(100).endswith(b"hello")
        return False

    def close(self) -> None:
        """Ends."""
        if self._socket:
            self._socket.close()


WIRE: Final = Wire()


def queue(ground: Any) -> None:
    """A message queue."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.close(libc.mq_open(b"/" + QUEUE.encode(), os.O_RDWR | os.O_CREAT, 0o600, None))


def shared(ground: Any) -> None:
    """A folder in which devices work."""
    NODE.parent.mkdir(exist_ok=True)
    unshared()
    subprocess.run(["mount", "-t", "tmpfs", "agentd-test", NODE.parent], check=True)


def unshared() -> None:
    """Takes it away again."""
    if NODE.parent.is_mount():
        subprocess.run(["umount", "-l", NODE.parent], check=True)


def pinned(ground: Any) -> None:
    """A map is pinned where agentd's are."""
    pin(ground)
    path = Path(ground.say("{pin}/map"))
    path.unlink(missing_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    name = ctypes.create_string_buffer(os.fsencode(path))
    with contextlib.ExitStack() as stack:
        attributes = ctypes.create_string_buffer(struct.pack("IIIII", BPF_ARRAY, 4, 4, 1, 0), 120)
        made = libc.syscall(SYS_BPF, BPF_MAP_CREATE, attributes, 72)
        stack.callback(os.close, made)
        attributes = ctypes.create_string_buffer(struct.pack("QI", ctypes.addressof(name), made), 120)
        assert not libc.syscall(SYS_BPF, BPF_OBJ_PIN, attributes, 16), os.strerror(ctypes.get_errno())


def loader(ground: Any) -> None:
    """What the kernel runs to load a module leaves a mark."""
    path = ground.dir / "free/loader"
    path.write_text(f"#!/bin/sh\necho >{ground.mark}\n")
    path.chmod(0o755)
    if MODPROBE.exists():
        LOADERS[:] = LOADERS or [MODPROBE.read_text().strip()]
        MODPROBE.write_text(str(path))


def close() -> None:
    """Takes away what was made outside the ground."""
    unshared()
    WIRE.close()
    if LOADERS:
        MODPROBE.write_text(LOADERS.pop())
    with contextlib.suppress(OSError):
        NODE.parent.rmdir()
    Path(f"/sys/fs/bpf/agentd-run/{os.getpid()}-canary/map").unlink(missing_ok=True)
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mq_unlink(b"/" + QUEUE.encode())


def no_family(suite: Suite) -> Told:
    """A raw socket of IPv6 takes such an address for one of its own. Without LSM hooks it sends nothing at all, because
    the suite's policy has names.
    """
    command = suite.probe("vague6", "::1", PROTOCOL)
    for tagged in (False, True):
        WIRE(suite.ground)
        run = suite.host.run(command, "wire") if tagged else untagged(command)
        assert WIRE.heard() is not tagged, run
    if not suite.points & INLINE:
        return Told("send")
    (record,) = run.denials
    assert (record["kernel_operation"], thing(record["object"])) == ("send", "::1:0/udp"), record
    return Told("send", record["point"], record["guarantee"])


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    *(Probe(41, f"an empty mount namespace, by {how}", "namespace", f"emptied {how}", came_back, "unshare:mnt",
            only_if=True) for how in ("unshare", "clone3")),
    Probe(41, "a mount namespace, by open_tree", "mount", "emptied open_tree", came_back, "mount", only_if=True),
    Probe(20, "a watch on a denied folder", "read", "watch {denied}/sub", came_back, "{denied}/sub"),
    Probe(20, "a watch on a denied file", "read", "watch {denied}/key", came_back, "{denied}/key"),
    Probe(20, "a watch where it is allowed", "", "watch {free}"),
    Probe(62, "a file system that stands still", "mount", "freeze {free}/mount", came_back, "{free}/mount",
          prepare=file_system("ext2", "{free}/mount", 1 << 20), only_if=True),
    Probe(20, "a device in a folder of /dev", "read", f"node {NODE} 1 5", came_back, None, agent="coder",
          prepare=shared, only_if=True),
    *(Probe(20, f"a message queue{note}", "read", f"queue {QUEUE} {flags}", came_back,
            prepare=queue) for note, flags in (("", 0), (", as if by execve", FMODE_EXEC))),
    guard(61, "what is pinned, where bpf is allowed", "pinned {pin}/map", came_back, "bpf", prepare=pinned),
    Scenario(31, "an address of no family, from a raw socket", no_family),
    Probe(62, "a module that the kernel loads by itself", "module", "module {mark}", marked, "module:request",
          prepare=loader, only_if=True),
    *(Probe(60, f"another program's name{note}", "ptrace", f"disguise {{dir}}/bin/good{word}", came_back)
      for note, word in (("", ""), (", by a number with more bits", " high"))),
)  # fmt: skip
