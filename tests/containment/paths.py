"""Rows 1 to 8: one file, many names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.containment.ground import LENGTHS, PLAIN, SECRET, Ground
from tests.containment.suite import Probe, Scenario, Seen, changed, marked, plain, secret

KEY: Final = "{denied}/key"
NEWNS, NEWUSER, NEWPID, NEWCGROUP = 0x20000, 0x10000000, 0x20000000, 0x02000000

# kind: the name's bytes
ODD_NAMES: Final = {
    "newline": b"a\nb",
    "quotes": b'it\'s "so"',
    "escape": b"\x1b[2J\x1b]0;x\x07",
    "invalid UTF-8": b"\xff\xfe\x80bytes",
    "json": b'","decision":"allow',
    "255 bytes": b"n" * 255,
}


def reads(row: int, name: str, words: str, **how: Any) -> Probe:
    """An attempt to read the secret."""
    return Probe(row, name, "read", words, secret, **{"object": KEY, **how})


def odd(label: str, name: bytes, call: str, kind: str) -> Probe:
    """A file with a name of any bytes; `names` is a folder without braces in its name."""
    path = "{names}/" + os.fsdecode(name)

    def prepare(ground: Ground) -> None:
        Path(ground.say(path)).write_text(SECRET)

    def gone(seen: Seen) -> bool:
        return not Path(seen.ground.say(path)).exists()

    effect = secret if call == "read" else gone
    return Probe(6, f"{call} of a name with {label}", kind, [call, path], effect, path, prepare=prepare)


def chain(place: str, label: str, count: int, size: int, last: int, *, total: int = 0) -> Probe:
    """A deep or long path, built by openat. total: bytes in all, instead of count and last."""
    base = "{chains}/" + place

    def shape(ground: Ground) -> list[str]:
        if not total:
            return [str(count), str(size), str(last)]
        left = total - len(os.fsencode(ground.say(base))) - 1
        folders = (left - 1) // 200
        return [str(folders), "199", str(left - 200 * folders)]

    def prepare(ground: Ground) -> None:
        folder = ground.dir / "chains" / place
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.mkdir(parents=True)
        subprocess.run([ground.programs / "probe", "chain", "build", folder, *shape(ground)], check=True)
        ground.names["shape"], ground.names["shape1"], ground.names["shape2"] = shape(ground)

    whole = "*" if total <= 4096 else None
    kind = "read" if place == "kept" or total > 4096 else ""
    words = ["chain", "read", base, "{shape}", "{shape1}", "{shape2}"]
    return Probe(4, f"{label}, {place}", kind, words, plain, whole, prepare=prepare)


def folding(ground: Ground) -> None:
    """A file system with a folder, `in`, that disregards case. A kernel that has none leaves things as they are."""
    image, place = ground.dir / "state/folding", Path(ground.say("{free}/mount"))
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "casefold", image], check=True)
    modprobe = Path("/proc/sys/kernel/modprobe")
    if modprobe.exists():  # else this kernel has no modules
        subprocess.run([modprobe.read_text(encoding="ascii").strip(), "loop"], check=False, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True).returncode:
        return
    folder = place / "in"
    folder.mkdir()
    subprocess.run(["chattr", "+F", folder], check=True)
    (folder / "key").write_text(SECRET)
    (place / "beside").mkdir()
    (place / "beside/plain").write_text(PLAIN)


SHAPES: Final = (
    ("20 deep", 20, 1, 1, 0),
    ("200 deep", 200, 1, 1, 0),
    ("2000 deep", 2000, 1, 1, 0),
    ("255 bytes", 0, 0, 255, 0),
    ("4095 bytes", 0, 0, 0, 4095),
    ("4096 bytes", 0, 0, 0, 4096),
    ("4097 bytes", 0, 0, 0, 4097),
    ("5000 bytes", 0, 0, 0, 5000),
)

PROBES: Final[tuple[Probe | Scenario, ...]] = (
    reads(1, "its own name", "read {denied}/key"),
    reads(1, "symlink", "read {free}/alias"),
    reads(1, "symlinked folder", "read {free}/into/key"),
    reads(1, "a symlink of its own", "ownlink ../denied/key {free}/mine"),
    reads(1, "dotdot", "read {free}/../free/below/../../denied/./key"),
    reads(1, "slashes", "read //{denied}///key"),
    reads(1, "relative", "readfrom {free} ../denied/key"),
    reads(1, "relative to a descriptor", "readat {denied} key"),
    reads(1, "dotdot from a descriptor", "readat {free} ../denied/key"),
    Probe(1, "folder with a slash", "read", "open 0x10000 {denied}/sub/", object="{denied}/sub"),
    Probe(2, "hard link of a denied file", "link", ["change", "link from", "{denied}", "{free}"], changed),
    Probe(2, "hard link to a denied place", "link", ["change", "link to", "{denied}", "{free}"], changed),
    Probe(2, "rename of a denied file", "rename", ["change", "rename from", "{denied}", "{free}"], changed),
    Probe(2, "rename to a denied place", "rename", ["change", "rename to", "{denied}", "{free}"], changed),
    Probe(2, "rename of a denied folder", "rename", "moved {denied}/sub {free}/moved key", secret, "{denied}/sub"),
    Probe(2, "rename of the parent of a denied file", "rename", "moved {denied} {dir}/moved key", secret, "{denied}"),
    *(
        Probe(2, f"another process's {how} of a denied program", how,
              f"steal {how} {{nobin}}/bad {{free}}/x x {{mark}}", marked, records=None)
        for how in ("rename", "link")
    ),
    Probe(3, "bind mount", "mount", "bind {denied} {free}/mount key", secret, "{free}/mount", records=None),
    Probe(3, "detached mount", "mount", "opentree {denied} key", secret, records=None),
    Probe(3, "fsopen", "mount", "fsopen"),
    Probe(3, "overlay", "mount", "overlay {denied} {free}/upper {free}/workdir {free}/mount key", secret,
          "{free}/mount", records=None),
    Probe(3, "pivot_root", "mount", "pivot {dir} /denied/key", secret, "/", agent="walker", records=None),
    Probe(3, "chroot", "chroot", "chrootcall {dir}", object="{dir}"),
    Probe(3, "mount namespace", "namespace", f"namespace {NEWNS} {{free}}/plain", plain, "unshare:mnt"),
    Probe(3, "user namespace", "namespace", f"namespace {NEWUSER} {{free}}/plain", plain, "unshare:user"),
    Probe(3, "user and mount namespace", "namespace", f"namespace {NEWUSER | NEWNS} {{free}}/plain", plain),
    reads(3, "below a chroot that is allowed", "chroot {dir} /denied/key", agent="walker"),
    reads(3, "in an allowed user namespace", f"namespace {NEWUSER} {{denied}}/key", agent="walker"),
    reads(3, "in an allowed mount namespace", f"namespace {NEWNS} {{denied}}/key", agent="walker"),
    reads(3, "in allowed user, mount and pid namespaces", f"namespace {NEWUSER | NEWNS | NEWPID} {{denied}}/key",
          agent="walker"),
    *(reads(3, f"/proc/self/{how}", f"proc {how} {{denied}} {rest}") for how, rest in (
        ("cwd", "key"), ("fd/9", "key"), ("root", "{denied}/key"))),
    reads(3, "/proc/PID/cwd", "proc parent {denied} key"),
    reads(3, "/proc/thread-self/root", "proc task {denied} key"),
    *(chain(place, label, count, size, last, total=total)
      for label, count, size, last, total in SHAPES for place in ("kept", "free")),
    Probe(5, "a folder that begins like a denied one", "", "read {dir}/deniedfoo/key", secret),
    Probe(5, "a denied name with a suffix", "", "read {dir}/denied.pub/key", secret),
    Probe(5, "the file beside the denied ones", "", "read {free}/plain", plain),
    *(odd(label, name, call, kind) for label, name in ODD_NAMES.items()
      for call, kind in (("read", "read"), ("remove", "delete"))),
    reads(6, "a name spelled in capitals in a folder that disregards case", "readin {free}/mount/in KEY", object=None,
          prepare=folding, only_if=True),
    Probe(6, "another folder of that file system", "", "readin {free}/mount/beside plain", plain, prepare=folding,
          only_if=True),
    *(reads(7, f"a rule of {size} characters", f"read {{long{size}x}}", object=f"{{long{size}x}}") for size in LENGTHS),
    *(Probe(7, f"the last of {size} characters is another", "", f"read {{long{size}y}}", secret) for size in LENGTHS),
    *(reads(8, f"a process that calls itself {name}", f"comm {name} {{denied}}/key")
      for name in ("agentd", "dpkg", "systemd", "kworker/0:1")),
)  # fmt: skip
