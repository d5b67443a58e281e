"""Rows 20, 21, 25, 32, 41, 45, 60 and 62: what a call does beyond its own process and its own files.

Through the kernel or a helper of it: cgroups, keys, events, ports, terminals, file systems by numbers, further
addresses of SCTP, packets of AF_XDP; and the 32-bit forms of such calls.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.containment.ground import RESERVED
from tests.containment.others import STRANGER, stranger
from tests.containment.promises import INLINE
from tests.containment.suite import Probe, Scenario, Seen, Suite, Told, came_back, secret
from tests.containment.tag import group
from tests.live.harness import wait_for
from tests.live.probes import untagged

KEPT: Final = contextlib.ExitStack()  # of the probe at hand
MODULES: Final = "/run/kernel"  # of the kernel of ./dev vm
ELSEWHERE: Final = "127.9.9.9"  # denied to `sailor`
IPPROTO_SCTP: Final = 132
ETH_P_IP: Final = 0x800
NETLINK_KOBJECT_UEVENT: Final = 15
WAIT: Final = 1.0  # seconds for what comes by itself, where it is to come


def modules(*names: str) -> None:
    """Loads them, where the kernel has them."""
    words = ["modprobe", *(["-d", MODULES] if Path(MODULES, "lib/modules").exists() else []), "-a", *names]
    subprocess.run(words, check=False, capture_output=True)


def file_system(kind: str, place: str, size: int, *options: str) -> Callable[[Any], None]:
    """One of its own at `place`, with a secret in it. Nothing happens where this host can't have one."""

    def prepare(ground: Any) -> None:
        image = ground.dir / f"state/{kind}"
        if not image.exists():
            modules("loop", kind)
            with open(image, "wb") as file:
                file.truncate(size)
            with contextlib.suppress(FileNotFoundError):
                subprocess.run([f"mkfs.{kind}", "-q", *options, image], check=False, capture_output=True)
        mount = ["mount", "-o", "loop", image, ground.say(place)]
        for _ in range(2):  # the first use of a loop device makes it
            if not subprocess.run(mount, check=False, capture_output=True).returncode:
                lay(Path(ground.say(place)), kind)
                return

    return prepare


def lay(root: Path, kind: str) -> None:
    """What the probes need of it."""
    if (root / "file").exists():
        return
    (root / "file").write_text("text")
    (root / "folder").mkdir()
    (root / "in").mkdir()
    (root / "in/key").write_text("secret: not for you")
    if kind == "btrfs":
        subprocess.run(["btrfs", "subvolume", "snapshot", "-r", root, root / "kept"], check=False, capture_output=True)
        os.sync()


BTRFS: Final = file_system("btrfs", "{free}/mount", 130 << 20)
WHOLE: Final = file_system("ext4", "{free}/mount", 8 << 20, "-O", "encrypt,^metadata_csum")
ATTRIBUTES: Final = file_system("ext4", "{denied}/below", 8 << 20, "-O", "encrypt,^metadata_csum")


def session(ground: Any) -> None:
    """Somebody else's, with a terminal."""
    KEPT.close()
    master, slave = os.openpty()
    ground.names["terminal"] = os.ttyname(slave)
    other = subprocess.Popen(["setsid", "-c", "sleep", "1000"], stdin=slave)
    KEPT.callback(os.close, master)
    KEPT.callback(other.wait)
    KEPT.callback(other.kill)
    os.close(slave)
    stat = Path(f"/proc/{other.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[4] != "0", "a terminal of its own")


def hears(*sockets: socket.socket) -> None:
    """These are listened to by the next probe."""
    KEPT.close()
    for each in sockets:
        each.setblocking(False)
        KEPT.enter_context(each)
    HEARING[:] = sockets


HEARING: Final[list[socket.socket]] = []


def heard(text: bytes) -> Callable[[Seen], bool]:
    """Something with this text has come to one of them; at one that listens, somebody."""

    def took(each: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and each.type == socket.SOCK_STREAM:
                each.accept()[0].close()
                return True
            while data := each.recv(8192):
                if text in data:
                    return True
        return False

    def effect(seen: Seen) -> bool:
        end = time.monotonic() + (0.05 if seen.run.records else WAIT)
        while not any(took(each) for each in HEARING):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    return effect


def events(ground: Any) -> None:
    """Hears what the kernel and udev say of devices."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
    made.bind((0, 3))
    hears(made)


def frames(ground: Any) -> None:
    """Hears what comes to the loopback device."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    made.bind(("lo", ETH_P_IP))
    hears(made)


def frame(how: str) -> Callable[[Suite], Told]:
    """Where a policy has names, whoever may have such a socket sends nothing by it."""

    def run(suite: Suite) -> Told:
        command = suite.probe("frame", how, suite.ground.sinks.port["denied"])
        frames(suite.ground)
        control = Seen(suite.ground, untagged(command), [])
        if not heard(b"hello")(control):
            return Told("send", detail="not on this kernel")
        frames(suite.ground)
        seen = Seen(suite.ground, suite.host.run(command, "surfer"), [])
        assert not heard(b"hello")(seen) and len(seen.run.denials) == 1, seen.run
        record = seen.run.denials[0]
        if suite.points & INLINE:
            assert (record["kernel_operation"], record["object"]) == ("bind", None), record
        return Told(record["kernel_operation"], record["point"], record["guarantee"])

    return run


def sctp(ground: Any) -> None:
    """Servers of SCTP at the free and the denied port, where this kernel has it."""
    modules("sctp")
    KEPT.close()
    made: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for kind, port in ((socket.SOCK_STREAM, "denied_port"), (socket.SOCK_SEQPACKET, "free_port")):
            made.append(socket.socket(socket.AF_INET, kind, IPPROTO_SCTP))
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made[-1].bind(("0.0.0.0", ground.names[port]))
            made[-1].listen(5)
    hears(*made)


def close() -> None:
    """Takes away what was made outside the ground."""
    KEPT.close()


def requests(kind: str, prepare: Any, agent: str, named: str | None, numbers: dict[str, str]) -> Iterator[Probe]:
    """Requests of ioctl(2) that come to one kind."""
    for name, words in numbers.items():
        yield Probe(21, name, kind, f"request {words}", came_back, named, agent=agent, prepare=prepare, only_if=True)


def sctp_probe(how: str, kind: str, words: str, effect: Any, named: str | None) -> Probe:
    """One way to a destination, where such sockets are allowed."""
    return Probe(32, f"SCTP, {how}", kind, words, effect, named, agent="sailor", prepare=sctp, only_if=True)


OLD: Final = {  # 32-bit forms, where those are allowed: (kind, object, words, effect)
    "prlimit": ("signal", "signal:outside", "340 {stranger} 10 %12345,0,12345,0 0", STRANGER.limited),
    "F_SETOWN": ("signal", "signal:outside", "221 ^/dev/null 8 {stranger}", came_back),
    "F_SETOWN_EX": ("signal", "signal:outside", "221 ^/dev/null 15 %1,{stranger}", came_back),
    "TIOCSTI": ("signal", "signal:terminal", "54 ^{terminal} 0x5412 @x", STRANGER.typed),
    "setpriority": ("signal", "signal:outside", "97 0 {stranger} 1", came_back),
    "sched_setaffinity": ("signal", "signal:outside", "241 {stranger} 4 %1", came_back),
    "process_madvise": ("signal", "signal:outside", "440 ={stranger} %0,0 1 20 0", came_back),
    "unshare": ("namespace", "unshare:mnt", "310 0x20000", came_back),
    "fsopen": ("mount", "mount", "430 @tmpfs 0", came_back),
}


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    Probe(41, "a child in another cgroup", "namespace, of a child", "grouped {group}", came_back, "clone:cgroup",
          prepare=group),
    Probe(41, "a child in another cgroup, where that is allowed", "", "grouped {group}", agent="roamer", prepare=group),
    Probe(45, "a key that the kernel has a helper ask for", "module", "upcall", came_back, "module:key"),
    *(Probe(45, f"a device's event, as {who} tells it", "module", f"event {who}", heard(b"MODALIAS=agentd"),
            "module:event", prepare=events, only_if=True) for who in ("kernel", "udev")),
    *(Probe(60, f"the machine's ports, by {how}", "write, nothing truncated", f"ports {how}", came_back, "/dev/port",
            only_if=True) for how in ("iopl", "ioperm")),
    stranger(60, "a stranger's memory, written out", "advise {stranger}"),
    Probe(60, "memory that is called broken", "signal", "soften", came_back, "signal:outside", only_if=True),
    Probe(62, "a terminal that is hung up", "signal", "hangup", came_back, "signal:terminal"),
    *(Probe(62, f"another session's terminal{note}", "signal", f"seize {{terminal}} {word}", came_back,
            "signal:terminal", prepare=session)
      for note, word in (("", 1), (", by a number with more bits", (1 << 32) + 1))),
    Probe(62, "what is written to the console", "signal", "console", came_back, "signal:terminal"),
    sctp_probe("connect", "connect", "sctp connect 127.0.0.1 {denied_port}", heard(b""), "127.0.0.1:{denied_port}/tcp"),
    sctp_probe("connectx", "connect", "sctp connectx 127.0.0.1 {denied_port}", heard(b""),
               "127.0.0.1:{denied_port}/tcp"),
    sctp_probe("connectx to two addresses", "connect", f"sctp connectx 127.0.0.1 {{free_port}} {ELSEWHERE}", came_back,
               None),
    sctp_probe("a message to two addresses", "connect", f"sctp both 127.0.0.1 {{free_port}} {ELSEWHERE}", came_back,
               None),
    sctp_probe("bindx", "bind", f"sctp bindx 127.0.0.1 {RESERVED}", came_back, f"127.0.0.1:{RESERVED}/tcp"),
    sctp_probe("a message, where it is allowed", "", "sctp many 127.0.0.1 {free_port}", heard(b"hello"), "*"),
    *(Scenario(32, f"a frame of AF_XDP, sent by {how}", frame(how)) for how in ("poll", "send")),
    Probe(20, "a file's content, out of btrfs' trees", "read, shared descriptors", "tree {free}/mount/file", secret,
          None, prepare=BTRFS, only_if=True),
    Probe(20, "a file's content, sent by btrfs", "read, shared descriptors", "sent {free}/mount/kept", secret, None,
          prepare=BTRFS, only_if=True),
    Probe(20, "a name, by its number in btrfs", "read, shared descriptors",
          "request {free}/mount/file 0xd0009412 5 0 258", came_back, None, prepare=BTRFS, only_if=True),
    *requests("mount", BTRFS, "bot", "{free}/mount/file", {"quotas of btrfs": "{free}/mount/file 0xc0109428 1"}),
    *requests("", BTRFS, "bot", "*", {"btrfs, written out": "{free}/mount/file 0x9408"}),
    *requests("mount", WHOLE, "bot", "{free}/mount/file",
              {"a file system's label": "{free}/mount/file 0x41009432 0x41"}),
    *requests("setattr", ATTRIBUTES, "reader", "{denied}/below/file",
              {"a file's version": "{denied}/below/file 0x40087602 5",
               "a file's version, by ext4's request": "{denied}/below/file 0x40086604 5"}),
    *requests("setattr", ATTRIBUTES, "reader", "{denied}/below/folder",
              {"a folder's encryption": "{denied}/below/folder 0x800c6613 0x00040100"}),
    *(Probe(25, f"{name}, of the 32-bit table", kind, f"called 32 {words}", effect, named, agent="old",
            prepare=STRANGER) for name, (kind, named, words, effect) in OLD.items()),
    Probe(25, "request_key, of the 32-bit table", "module", "upcall 32", came_back, "module:key", agent="old"),
    Probe(25, "getpid, of the 32-bit table", "", "called 32 20", agent="old"),
)  # fmt: skip
