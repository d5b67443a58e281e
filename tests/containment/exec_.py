"""Rows 10 to 16: programs that may not run."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.containment.ground import Ground
from tests.containment.suite import Probe, Scenario, Suite, Told, came_back, marked, secret
from tests.live.probes import untagged

BAD: Final = "{nobin}/bad"


def runs(row: int, name: str, words: str | list[str], **how: Any) -> Probe:
    """An attempt to run a program that may not run; it would leave its mark."""
    return Probe(row, name, "exec", words, marked, **{"object": BAD, **how})


def may(row: int, name: str, words: str | list[str], **how: Any) -> Probe:
    """The same with a program that may."""
    return Probe(row, name, "", words, marked, **how)


def script(path: str, text: str) -> Any:
    """Prepares a script."""

    def prepare(ground: Ground) -> None:
        made = Path(ground.say(path))
        made.write_text(ground.say(text))
        made.chmod(0o755)

    return prepare


def several(*each: Any) -> Any:
    """Prepares with all of them."""

    def prepare(ground: Ground) -> None:
        for one in each:
            one(ground)

    return prepare


def symlink(ground: Ground) -> None:
    """free/x leads to the denied program."""
    (ground.dir / "free/x").symlink_to(ground.dir / "nobin/bad")


def lazy(ground: Ground) -> None:
    """A page with the forbidden argument."""
    (ground.dir / "free/page").write_bytes(b"--forbidden".ljust(4096, b"\0"))


def capable(ground: Ground) -> None:
    """A denied program with a file capability (cap_net_bind_service, capability.h's struct vfs_cap_data)."""
    shutil.copy(ground.programs / "effect", ground.dir / "nobin/capable")
    os.setxattr(ground.dir / "nobin/capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    opened(ground)


def opened(ground: Ground) -> None:
    """Lets other users make the mark."""
    ground.dir.chmod(0o777)


def preloaded(ground: Ground) -> None:
    """A library in the free folder."""
    shutil.copy(ground.programs / "effect.so", ground.dir / "free/effect.so")


@contextlib.contextmanager
def formats(ground: Ground, **programs: str) -> Iterator[bool]:
    """Files whose names end in .agentd-NAME are started by a program of binfmt_misc. False: this kernel has none."""
    subprocess.run(["modprobe", "-q", "binfmt_misc"], check=False)
    place = ground.dir / "free/formats"
    place.mkdir()
    if subprocess.run(["mount", "-t", "binfmt_misc", "none", place], check=False, capture_output=True).returncode:
        yield False
        return
    entries = {place / f"agentd-{name}": program for name, program in programs.items()}
    try:
        for entry, program in entries.items():
            if entry.exists():  # of a run that was killed
                entry.write_text("-1")
            (place / "register").write_text(f":{entry.name}:E::{entry.name}::{ground.say(program)}:")
        yield True
    finally:
        for entry in entries:
            if entry.exists():
                entry.write_text("-1")


def registered(suite: Suite) -> Told:
    """What binfmt_misc starts for a file is a program as any other."""
    ground = suite.ground
    ground.fresh()
    with formats(ground, bad=BAD, good="{bin}/good") as there:
        if not there:
            return Told("exec", detail="no binfmt_misc in this kernel")
        bad, good = (ground.dir / f"free/x.agentd-{name}" for name in ("bad", "good"))
        for file in (bad, good):
            file.write_text("text")
            file.chmod(0o755)
        untagged(suite.probe("spawn", "fork", bad, "x", ground.mark))
        assert ground.mark.exists(), "untagged it has no effect"
        ground.mark.unlink()
        run = suite.host.run(suite.probe("spawn", "fork", bad, "x", ground.mark))
        assert not ground.mark.exists(), f"it ran: {run}"
        record = run.denials[-1]
        assert record["object"] == ground.say(BAD), record
        fine = suite.host.run(suite.probe("spawn", "fork", good, "x", ground.mark))
        assert ground.mark.exists() and not fine.denials, f"what may run did not: {fine}"
    return Told("exec", record["point"], record["guarantee"])


# name, words, effect, object
CODE: Final = (
    ("LD_PRELOAD of a file of its own",
     "spawn fork /usr/bin/env env LD_PRELOAD={free}/effect.so MARK={mark} /usr/bin/true", marked, "{free}/effect.so"),
    ("machine code in memory", "code", came_back, "anon:memory"),
    ("machine code in its heap", "codeheap", came_back, "anon:memory"),
    ("machine code in memory that may be written to", "codewide", came_back, "anon:memory"),
    ("machine code in a file of its own", "codefile {free}/code", came_back, "{free}/code"),
    ("machine code in its copy of a library", "codecopy /lib/x86_64-linux-gnu/libc.so.6", came_back, "anon:memory"),
)  # fmt: skip


TOOL: Final = ["spawn", "fork", "{bin}/tool", "tool"]
ARGUMENTS: Final = {
    "1": ["--forbidden"],
    "4": ["a", "b", "c", "--forbidden"],
    "20": [*(str(i) for i in range(19)), "--forbidden"],
    "1, long": ["--forbidden=" + "x" * 5000],
    "past 4 KB": ["x" * 4090, "--forbidden"],
    "across 4 KB": ["x" * 3000, "x" * 1080, "--forbidden=y"],
    "past 100 KB": [*["x" * 1000] * 101, "--forbidden"],
}
SHELL: Final = "spawn fork /bin/sh sh"

PROBES: Final[tuple[Probe | Scenario, ...]] = (
    runs(10, "its own name", "spawn fork {nobin}/bad x {mark}"),
    may(10, "the same program where it may run", "spawn fork {bin}/good x {mark}"),
    runs(10, "a copy in the denied folder", "spawn fork {nobin}/copy x {mark}", object="{nobin}/copy",
         prepare=lambda ground: shutil.copy(ground.programs / "effect", ground.dir / "nobin/copy")),
    Probe(10, "a copy it makes of a program that it may not read", "read",
          "steal copy {denied}/program {free}/x x {mark}", marked, "{denied}/program",
          prepare=lambda ground: shutil.copy(ground.programs / "effect", ground.dir / "denied/program"), records=None),
    runs(10, "symlink", "spawn fork {free}/x x {mark}", prepare=symlink),
    runs(10, "dotdot and slashes", "spawn fork {free}/..//nobin/./bad x {mark}"),
    runs(10, "/proc/self/root", "spawn fork /proc/self/root{nobin}/bad x {mark}"),
    runs(11, "a program in memory", "memory {bin}/good x {mark}", object="*"),
    runs(11, "a file without a name in a denied folder", "tmpfile {nobin} {bin}/good x {mark}", object="*"),
    may(11, "a file without a name", "tmpfile {free} {bin}/good x {mark}"),
    runs(11, "a deleted file", "deleted {nobin}/doomed x {mark}", object="*"),
    runs(11, "a descriptor", "descriptor {nobin}/bad x {mark}"),
    runs(12, "the dynamic loader", "spawn fork {bin}/ld-linux-x86-64.so.2 ld.so {bin}/good {mark}",
         object="{bin}/ld-linux-x86-64.so.2"),
    runs(12, "the real dynamic loader", "spawn fork /lib64/ld-linux-x86-64.so.2 ld.so /usr/bin/touch {mark}",
         object="*"),
    Probe(12, "LD_PRELOAD of a denied file", "read",
          "spawn fork /usr/bin/env env LD_PRELOAD={denied}/effect.so MARK={mark} /usr/bin/true", marked,
          "{denied}/effect.so", records=None,
          prepare=lambda ground: shutil.copy(ground.programs / "effect.so", ground.dir / "denied/effect.so")),
    *(Probe(12, f"{name}{note}", kind, words, effect, thing, agent=agent, records=None, prepare=preloaded)
      for name, words, effect, named in CODE
      for note, kind, thing, agent in (("", "execmem", named, "pure"), (", where that is allowed", "", "*", "bot"))),
    runs(13, "a denied script", "spawn fork {free}/x.no x {mark}", object="{free}/x.no",
         prepare=script("{free}/x.no", "#!/bin/sh\n: > $1\n")),
    may(13, "a script that may run", "spawn fork {free}/x.yes x {mark}",
        prepare=script("{free}/x.yes", "#!/bin/sh\n: > $1\n")),
    Probe(12, "a denied file as the dynamic loader", "read", "spawn fork {bin}/loaded x {mark}", marked,
          "{denied}/loader"),
    runs(13, "a script with a denied interpreter", "spawn fork {free}/x.yes x {mark}",
         prepare=script("{free}/x.yes", "#!{nobin}/bad\n")),
    runs(13, "a chain of scripts", "spawn fork {free}/x.outer x {mark}", object="/usr/bin/dash",
         prepare=several(script("{free}/x.inner", "#!/bin/sh\n: > $2\n"),
                         script("{free}/x.outer", "#!{free}/x.inner\n"))),
    runs(13, "sh SCRIPT, by its argument", [*SHELL.split(), "{free}/x.inner", "{mark}"], object="/usr/bin/dash",
         prepare=script("{free}/x.inner", ": > $1\n")),
    runs(13, "a shell's command", [*SHELL.split(), "-c", "{nobin}/bad x {mark}"], records=1),
    runs(13, "python -c", ["spawn", "fork", "/usr/bin/python3", "python3", "-I", "-S", "-c",
                           "import sys; open(sys.argv[1], 'w')", "{mark}"], object="*"),
    runs(13, "an applet", "spawn fork {bin}/busybox busybox rm {mark}", object="{bin}/busybox"),
    may(13, "another applet", "spawn fork {bin}/busybox busybox ls {mark}"),
    Scenario(13, "binfmt_misc", registered),
    *(runs(14, f"an argument at place {place}", [*TOOL, *words, "{mark}"], object="{bin}/tool")
      for place, words in ARGUMENTS.items()),
    *(may(14, f"another argument at place {place}",
          [*TOOL, *(word.replace("--forbidden", "--permitted") for word in words), "{mark}"])
      for place, words in ARGUMENTS.items()),
    runs(14, "an argument in a page nobody has touched", "lazy {free}/page {bin}/tool tool {mark}",
         object="{bin}/tool", prepare=lazy),
    runs(15, "a thread that doesn't lead", "thread {nobin}/bad x {mark}"),
    may(15, "the same for what may run", "thread {bin}/good x {mark}"),
    *(probe for how in ("fork", "vfork", "posix_spawn", "clone") for probe in (
        runs(15, how, f"spawn {how} {{nobin}}/bad x {{mark}}"),
        may(15, f"{how} of what may run", f"spawn {how} {{bin}}/good x {{mark}}"))),
    runs(16, "a setuid program", "spawn nobody {nobin}/suid x {mark}", object="{nobin}/suid", prepare=opened),
    may(16, "a setuid program that may run", "spawn nobody {bin}/suid x {mark}", prepare=opened),
    Probe(16, "what a setuid program does is judged", "read", "spawn nobody {bin}/suidprobe x read {denied}/key",
          secret, "{denied}/key", records=None, prepare=lambda ground: (
              shutil.copy(ground.programs / "probe", ground.dir / "bin/suidprobe"),
              (ground.dir / "bin/suidprobe").chmod(0o4755), (ground.dir / "denied/key").chmod(0o600))),
    runs(16, "a program with a file capability", "spawn nobody {nobin}/capable x {mark}", object="{nobin}/capable",
         prepare=capable),
)  # fmt: skip
