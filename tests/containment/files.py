"""Rows 20 to 25: files, descriptors, io_uring, the old system calls."""

from __future__ import annotations

import array
import os
import re
import socket
import subprocess
from typing import Final

from agentd.engine.coverage import INLINE
from tests.containment.ground import Ground
from tests.containment.paths import KEY, reads
from tests.containment.suite import Probe, Scenario, Suite, Told, arrived, came_back, changed, plain, secret
from tests.containment.tag import tagged_later

TARGET: Final = "{denied}/file"
# how -> (kind, the object below the denied folder). Each is a case of change() in c/files.c.
CHANGES: Final = {
    "truncate": ("write", "file"),
    "truncate through a link": ("write", "file"),
    "punch": ("write, nothing truncated", "file"),
    "creat": ("create", "new"),
    "unlink": ("delete", "file"),
    "unlinkat": ("delete", "file"),
    "unlink of a link": ("delete", "link"),
    "unlink through a folder": ("delete", "file"),
    "rmdir": ("delete", "below"),
    "unlinkat of a folder": ("delete", "below"),
    "rename from": ("rename", "file"),
    "rename to": ("rename", "new"),
    "rename over": ("rename", "file"),
    "rename within": ("rename", "file"),
    "rename, exchange": ("rename", "file"),
    "link from": ("link", "file"),
    "link to": ("link", "new"),
    "linkat of a descriptor": ("link", "new"),
    "symlink": ("link", "new"),
    "symlinkat": ("link", "new"),
    "mkdir": ("create", "new"),
    "mkdirat": ("create", "new"),
    "mknod": ("create", "new"),
    "mkfifo": ("create", "new"),
    "mknodat of a device": ("create", "new"),
    "chmod": ("setattr", "file"),
    "chmod through a link": ("setattr", "file"),
    "fchmodat": ("setattr", "file"),
    "fchmodat2": ("setattr", "file"),
    "chown": ("setattr", "file"),
    "lchown": ("setattr", "link"),
    "fchownat": ("setattr", "link"),
    "fchownat, empty": ("setattr", "file"),
    "utime": ("setattr", "file"),
    "utimes": ("setattr", "file"),
    "futimesat": ("setattr", "file"),
    "utimensat": ("setattr", "file"),
    "lutimens": ("setattr", "link"),
    "setxattr": ("setattr", "file"),
    "lsetxattr": ("setattr", "link"),
    "removexattr": ("setattr", "file"),
    "an access list": ("setattr", "file"),
    "file_setattr": ("setattr", "file"),
}
# These open the file to read before they change it; the agent that may do that is another one.
BY_DESCRIPTOR: Final = ("fchmod", "fchown", "futimens", "fsetxattr", "chattr", "chattr, extended")
NEWER: Final = ("fchmodat2", "file_setattr", "chattr", "chattr, extended")  # Linux 6.6, 6.17; tmpfs has flags since 6.6

O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE = 1, 2, 0o100, 0o1000, 0o2000, 0o20200000


def inherited(ground: Ground) -> list[int]:
    """The denied file, open before the workload begins; its number is in {fd}."""
    descriptor = os.open(ground.dir / "denied/key", os.O_RDONLY)
    ground.names["fd"] = descriptor
    return [descriptor]


def inherited_to_write(ground: Ground) -> list[int]:
    """The same to write."""
    descriptor = os.open(ground.say(TARGET), os.O_RDWR)
    ground.names["fd"] = descriptor
    return [descriptor]


def inherited_free(ground: Ground) -> list[int]:
    """A file that is allowed."""
    descriptor = os.open(ground.dir / "free/plain", os.O_RDONLY)
    ground.names["fd"] = descriptor
    return [descriptor]


def opened_before(suite: Suite) -> Told:
    """What a process has open when it is tagged is judged when it is used."""
    words = ("before", str(suite.ground.dir / "state/go"), "read")
    out, denials = tagged_later(suite, *words, KEY, tags=(), says=b"open\n")
    assert b"data secret" in out and not denials, "untagged it reads"
    out, denials = tagged_later(suite, *words, "{free}/plain", says=b"open\n")
    assert b"data plain" in out and not denials, "what is allowed"
    out, denials = tagged_later(suite, *words, KEY, says=b"open\n")
    if not suite.points & INLINE:
        found = [record for record in suite.host.records() if record["event"] == "descriptor_found"]
        assert b"data secret" in out and found[-1]["metadata"]["path"] == suite.ground.say(KEY), (out, found)
        return Told("read", detail="seen, and not judged")
    assert b"data secret" not in out and len(denials) == 1, (out, denials)
    return Told("read", str(denials[0]["point"]), str(denials[0]["guarantee"]))


def sent(ground: Ground) -> list[int]:
    """A socket on which a descriptor of the denied file waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    descriptor = os.open(ground.dir / "denied/key", os.O_RDONLY)
    with ours:
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    os.close(descriptor)
    ground.names["fd"] = theirs.fileno()
    return [theirs.detach()]


def mount(*words: str) -> None:
    """mount(8); the ground takes it away again."""
    subprocess.run(["mount", *words], check=True)


def overlay(ground: Ground, lower: str, target: str) -> None:
    """An overlay over `lower`, its changes in the free folder."""
    words = ground.say(f"lowerdir={lower},upperdir={{free}}/upper,workdir={{free}}/workdir")
    mount("-t", "overlay", "-o", words, "overlay", ground.say(target))


def bound(ground: Ground) -> None:
    """The denied folder has a second place, in the free one."""
    mount("--bind", ground.say("{denied}"), ground.say("{free}/mount"))


def overlaid(ground: Ground) -> None:
    """The denied folder is what lies below an overlay in the free one."""
    overlay(ground, "{denied}", "{free}/mount")


def over_denied(ground: Ground) -> None:
    """An overlay of free files, at a place that is denied."""
    overlay(ground, "{dir}/bin", "{denied}/below")
    (ground.dir / "denied/below/file").write_text("text")


RINGS: Final = (
    # operation, words after `ring HOW`, kind where the ring itself is allowed, effect
    ("open", "open {denied}/key", "read", secret),
    ("unlink", "unlink {denied}/file", "delete", changed),
    ("rename", "rename {denied}/file {free}/new", "rename", changed),
    ("link", "link {denied}/file {free}/new", "link", changed),
    ("connect", "connect {denied_port}", "connect", arrived),
    ("send", "send {denied_port}", "send", arrived),
)
HOWS: Final = ((0, ""), (1, ", SQPOLL"), (2, ", a worker thread"))

PROBES: Final[tuple[Probe | Scenario, ...]] = (
    reads(20, "open to read", f"open 0 {KEY}"),
    Probe(20, "open to read and write", "write, nothing truncated", f"open {O_RDWR} {KEY}", secret, KEY),
    Probe(20, "open to write", "write, nothing truncated", f"open {O_WRONLY} {TARGET}", changed, TARGET),
    Probe(20, "open to append", "write, nothing truncated", f"open {O_WRONLY | O_APPEND} {TARGET}", changed, TARGET),
    Probe(20, "open to truncate", "write", f"open {O_WRONLY | O_TRUNC} {TARGET}", changed, TARGET),
    Probe(20, "open to read and truncate", "write", f"open {O_TRUNC} {TARGET}", changed, TARGET),
    Probe(20, "open to create", "create", f"open {O_WRONLY | O_CREAT} {{denied}}/new", changed, "{denied}/new"),
    Probe(20, "open without a name", "write, nothing truncated", f"open {O_RDWR | O_TMPFILE} {{denied}}"),
    Probe(20, "a core dump", "create, core dumps", "dump {denied}", changed, only_if=True),
    reads(20, "a path descriptor, opened again", f"reopen {KEY}"),
    Probe(20, "a path descriptor", "", f"open 0x200000 {KEY}"),
    reads(20, "a handle", f"handle {{dir}} {KEY}"),
    reads(20, "openat2", f"openat2 {KEY}"),
    Probe(20, "open of what is allowed", "", "open 0 {free}/plain", plain),
    *(Probe(21, how, kind, ["change", how, "{denied}", "{free}"], changed, f"{{denied}}/{name}",
            only_if=how in NEWER) for how, (kind, name) in CHANGES.items()),
    *(Probe(21, how, "setattr", ["change", how, "{denied}", "{free}"], changed, TARGET, agent="reader",
            only_if=how in NEWER) for how in BY_DESCRIPTOR),
    *(Probe(21, f"{how} where it is allowed", "", ["change", how, "{free}", "{dir}/deniedfoo"])
      for how in CHANGES if how not in (*NEWER, "mkdirat") and not re.search("rename|link|folder", how)),
    Probe(21, "utimes through a bind mount", "setattr", ["change", "utimes", "{free}/mount", "{free}"], changed, TARGET,
          prepare=bound),
    Probe(21, "utimes through an overlay of a denied folder", "", ["change", "utimes", "{free}/mount", "{free}"],
          prepare=overlaid),
    Probe(21, "setxattr through an overlay of a denied folder", "", ["change", "setxattr", "{free}/mount", "{free}"],
          prepare=overlaid),
    Probe(21, "utimes below a denied folder, in an overlay", "setattr",
          ["change", "utimes", "{denied}/below", "{free}"], came_back, "{denied}/below/file", prepare=over_denied),
    reads(22, "over a unix socket", "received {fd}", keep=sent),
    *(reads(22, f"inherited, {how}", ["inherited", how, "{fd}"], keep=inherited)
      for how in ("read", "readv", "splice", "duplicate", "map")),
    *(Probe(22, f"inherited, {how}", "write, nothing truncated", ["inherited", how, "{fd}"], changed, TARGET,
            keep=inherited_to_write) for how in ("write", "map to write", "map, then write", "truncate")),
    Scenario(22, "opened before tagging", opened_before),
    Probe(22, "inherited, what is allowed", "", ["inherited", "read", "{fd}"], plain, keep=inherited_free),
    Probe(22, "pidfd_getfd", "ptrace, descriptor", "taken {pid} {fd}", secret, keep=inherited),
    *(reads(23, how, f"through {how} {KEY}") for how in ("splice", "sendfile", "copy_file_range", "mmap")),
    *(Probe(23, f"{how} of what is allowed", "", f"through {how} {{free}}/plain", plain)
      for how in ("splice", "sendfile", "copy_file_range", "mmap")),
    Probe(24, "a ring", "io_uring, setup", "setup", object="io_uring_setup", only_if=True),
    Probe(24, "a ring, of a command that agentd starts", "io_uring, setup", "setup", seccomp=True, only_if=True),
    *(Probe(24, f"{name}{note}, where rings are denied", "io_uring, setup", f"ring {how} {words}", effect,
            only_if=True) for name, words, _, effect in RINGS for how, note in HOWS),
    *(Probe(24, f"{name}{note}, where rings are allowed", kind, f"ring {how} {words}", effect, agent="roamer",
            only_if=True) for name, words, kind, effect in RINGS for how, note in HOWS),
    Probe(24, "open into registered files, where rings are allowed", "read", "ring 4 open {denied}/key", secret,
          agent="roamer", only_if=True),
    Probe(25, "a call of 32 bits", "compat", "narrow open {free}/plain", plain, "i386", only_if=True),
    reads(25, "open of 32 bits, where those are allowed", f"narrow open {KEY}", agent="roamer", only_if=True),
    Probe(25, "unlink of 32 bits, where those are allowed", "delete", f"narrow unlink {TARGET}", changed, TARGET,
          agent="roamer", only_if=True),
    Probe(25, "x32", "compat", "wide {free}/plain", plain, "x32", only_if=True),
    reads(25, "open of x32, where that is allowed", f"wide {KEY}", agent="roamer", only_if=True),
)  # fmt: skip
