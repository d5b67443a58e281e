"""Rows 40 to 46: leaving the workload."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agentd.kernel import abi
from agentd.kernel.libbpf import BPF_ANY, check, library
from tests.containment import promises
from tests.containment.ground import Ground
from tests.containment.paths import KEY, NEWCGROUP, NEWNS, NEWPID, NEWUSER, reads
from tests.containment.suite import Probe, Scenario, Seen, Suite, Told, came_back, marked, secret, touch
from tests.live.probes import untagged

LEAVINGS: Final = (
    "nothing",
    "double fork",
    "setsid",
    "subreaper",
    "CLONE_PARENT",
    "thread",
    "fork in a thread",
    "exec",
    "user",
)
NAMESPACES: Final = {"pid": NEWPID, "user": NEWUSER, "mount": NEWNS, "cgroup": NEWCGROUP}


def dummy(ground: Ground) -> None:
    """A module that nobody uses, where the kernel has it."""
    subprocess.run(["modprobe", "dummy"], check=False, stderr=subprocess.DEVNULL)


# how -> (kind, object, may the kernel lack it, what makes it possible). Each is a case of privilege_word() in c/tag.c.
PRIVILEGES: Final[dict[str, tuple[str, str, bool, Callable[[Ground], None] | None]]] = {
    "setns": ("namespace", "setns", False, None),
    "clone, mnt": ("namespace, of a child", "unshare:mnt", False, None),
    "clone, uts": ("namespace, of a child", "unshare:other", False, None),
    "fspick": ("mount", "mount", False, None),
    "userfaultfd": ("perf, fanotify and userfaultfd", "userfaultfd", True, None),
    "fanotify": ("perf, fanotify and userfaultfd", "fanotify_init", True, None),
    "delete_module": ("module", "module", True, dummy),
}
GROUP: Final = f"agentd-containment-{os.getpid()}"

# What a coding agent must not write, because somebody else runs it later: below the home or the workspace.
START_UP: Final = {
    "a shell's start-up file": "{home}/.bashrc",
    "a log-in's start-up file": "{home}/.profile",
    "an authorized key": "{home}/.ssh/authorized_keys",
    "a user's unit": "{home}/.config/systemd/user/x.service",
    "a git hook": "{work}/.git/hooks/pre-commit",
}
DEPUTIES: Final = ("sudo", "at", "crontab", "systemd-run", "ssh")


def cgroup2() -> Path:
    """Where the hierarchy of version 2 is mounted."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return Path(next(line.split()[1] for line in lines if line.split()[2] == "cgroup2"))


def group(ground: Ground) -> None:
    """A cgroup to move to."""
    made = cgroup2() / GROUP
    made.mkdir(exist_ok=True)
    ground.names["group"] = made


def remove_group() -> None:
    """Takes it away again."""
    with contextlib.suppress(OSError):
        (cgroup2() / GROUP).rmdir()


def leaves(row: int, how: str, agent: str = "bot", name: str = "") -> Iterator[Probe]:
    """One way out, and the same way to a file that is allowed: whoever gets there is held to the same policy."""
    for path, kind, effect, label in ((KEY, "read", secret, ""), ("{free}/plain", "", came_back, ", what is allowed")):
        words = ["leave", how, path, "{group}"]
        named = KEY if kind else "*"
        kind_here = "read, shared descriptors" if kind and how == "thread" else kind
        yield Probe(row, (name or how) + label, kind_here, words, effect, named, agent=agent, prepare=readable)


def readable(ground: Ground) -> None:
    """For the one who becomes another user; and the cgroup."""
    group(ground)
    ground.dir.chmod(0o755)


def wrote(path: str) -> Callable[[Seen], bool]:
    """The effect: the file has our line."""

    def effect(seen: Seen) -> bool:
        made = Path(seen.ground.say(path))
        return made.exists() and made.read_bytes().endswith(b"more")

    return effect


def empty(path: str) -> Callable[[Ground], None]:
    """An empty file there."""

    def prepare(ground: Ground) -> None:
        made = Path(ground.say(path))
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"")

    return prepare


# -- scenarios


def short_threads(suite: Suite) -> Told:
    """Thousands of short threads: still tagged afterwards, and nothing is left of them."""
    ground, number = suite.ground, suite.rounds(2000, 20000)
    assert b"data secret" in untagged(suite.probe("threads", 10, ground.say(KEY))).out
    run = suite.host.run(suite.probe("threads", number, ground.say(KEY)))
    assert len(run.denials) == 1 and b"data secret" not in run.out, run
    fine = suite.host.run(suite.probe("threads", number, ground.dir / "free/plain"))
    assert b"data plain" in fine.out and not fine.denials, fine
    left = suite.host.engine.marks.list()
    assert not left, f"{len(left)} marks are left"
    record = run.denials[0]
    return Told("read", record["point"], record["guarantee"], f"{number} threads")


def tagged_later(
    suite: Suite, *words: str, tags: tuple[str, ...] = ("bot",), says: bytes = b""
) -> tuple[bytes, list[dict[str, object]]]:
    """Starts a program untagged, marks it while it runs (once it has said something, if `says` is given), lets it go;
    (what it printed, the records of denials).
    """
    ground, host = suite.ground, suite.host
    ground.fresh()
    go = ground.dir / "state/go"
    go.unlink(missing_ok=True)
    first = host.engine.audit.head.seq
    command = [str(ground.say(word)) if "{" in word else word for word in words]
    child = subprocess.Popen([str(ground.programs / "probe"), *command], stdout=subprocess.PIPE, bufsize=0)
    try:
        if says:
            assert child.stdout and child.stdout.read(len(says)) == says
        for name in tags:
            host.engine.tagging.tree(child.pid, name, "the containment suite")
        touch(go)
        out, _ = child.communicate(timeout=60)
        host.pump()
    finally:
        child.kill()
        child.wait()
        go.unlink(missing_ok=True)
    return out, [record for record in host.records(first) if record["event"] == "denied"]


def older_thread(suite: Suite) -> Told:
    """A thread that is older than two marks forks: the child belongs to the second one."""
    go = str(suite.ground.dir / "state/go")
    out, denials = tagged_later(suite, "older", go, KEY, tags=())
    assert b"data secret" in out and not denials, "untagged it reads"
    out, denials = tagged_later(suite, "older", go, KEY, tags=("roamer", "deaf"))
    assert b"data secret" in out and not denials, "the second mark allows it"
    out, denials = tagged_later(suite, "older", go, KEY, tags=("deaf", "bot"))
    assert b"data secret" not in out and len(denials) == 1 and denials[0]["agent_id"] == "bot", (out, denials)
    return Told("read", str(denials[0]["point"]), str(denials[0]["guarantee"]))


def during_exec(suite: Suite) -> Told:
    """Marked while it execs itself over and over, a process is held to the policy."""
    rounds = suite.rounds(20, 200)
    go = str(suite.ground.dir / "state/go")
    out, denials = tagged_later(suite, "again", go, KEY, tags=())
    assert b"data secret" in out and not denials, "untagged it reads"
    for _ in range(rounds):
        out, denials = tagged_later(suite, "again", go, KEY)
        assert b"data secret" not in out and len(denials) == 1, (out, denials)
    return Told("read", str(denials[0]["point"]), str(denials[0]["guarantee"]), f"{rounds} rounds")


def pid_reuse(suite: Suite) -> Told:
    """A pid that a tagged process had means nothing for the next one that has it, and the other way round."""
    ground, host = suite.ground, suite.host
    ground.fresh()
    run = host.run(suite.probe("read", KEY.format(**ground.names)))
    assert b"data secret" not in run.out, run
    free = untagged(suite.probe("settid", run.pid, ground.say(KEY)))
    assert b"data secret" in free.out, f"an untagged process with the pid of a tagged one: {free}"
    old = untagged(suite.probe("read", ground.say(KEY)))
    again = host.run(suite.probe("settid", old.pid, ground.say(KEY)))
    assert b"data secret" not in again.out and len(again.denials) == 1, again
    record = again.denials[0]
    assert record["process"]["pid"] == old.pid, f"the pid was not used again: {again}"
    return Told("read", record["point"], record["guarantee"])


def put(suite: Suite, pidfd: int, tag: abi.Tag) -> None:
    """Writes the mark of a process's main thread."""
    fd, update = ctypes.c_int(pidfd), library().bpf_map_update_elem
    check(update(suite.host.engine.loaded.fds["tags"], ctypes.byref(fd), ctypes.byref(tag), BPF_ANY), "put a mark")


def overlooked(suite: Suite) -> Told:
    """A workload begins with one program, also where its start was not seen (the trace point was left out)."""
    go, mark = suite.ground.say("{free}/go"), suite.ground.mark
    words = [
        "/bin/sh",
        "-c",
        f"while [ ! -e {go} ]; do sleep 0.02; done; exec {suite.ground.say('{nobin}/bad')} {mark}",
    ]
    suite.ground.fresh()
    touch(Path(go))
    assert untagged(words).status == 0 and mark.exists(), "the control"
    suite.ground.fresh()
    if not suite.points & promises.INLINE:
        return Told("exec", detail="the point exec is that trace point")
    workload = suite.host.start(words)
    suite.host.until(lambda: os.readlink(f"/proc/{workload.pid}/exe").endswith("sh"), "the shell")
    pidfd = os.pidfd_open(workload.pid)
    try:
        marks = suite.host.engine.marks
        tag = marks.get(pidfd)
        assert tag and not tag.flags & abi.TAG_ROOT_EXEC
        tag.flags |= abi.TAG_ROOT_EXEC
        tag.granted[0] = 1  # the address space that it came from
        put(suite, pidfd, tag)
    finally:
        os.close(pidfd)
    touch(Path(go))
    run = workload.wait()
    assert not mark.exists() and len(run.denials) == 1, run
    return Told("exec", run.denials[0]["point"], run.denials[0]["guarantee"])


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    *(probe for how in LEAVINGS for probe in leaves(40, how)),
    *leaves(40, "clone3 into a cgroup", "roamer"),
    *leaves(41, "cgroup", name="another cgroup"),
    *(probe for name, flags in NAMESPACES.items()
      for probe in leaves(41, str(flags), "roamer", f"a new {name} namespace, where that is allowed")),
    *(Probe(41, how, kind, ["privilege", how, "{free}"], came_back, thing, only_if=only_if, prepare=prepare)
      for how, (kind, thing, only_if, prepare) in PRIVILEGES.items()),
    *(Probe(41, f"{how}, where it is allowed", "", ["privilege", how, "{free}"], agent="roamer")
      for how in ("setns", "clone, mnt", "clone, uts", "fspick")),
    *(Probe(41, f"a new {name} namespace", "namespace", f"namespace {flags} {{free}}/plain",
            lambda seen: b"data plain" in seen.run.out) for name, flags in NAMESPACES.items()),
    Scenario(42, "short threads", short_threads),
    Scenario(43, "a thread older than the mark forks", older_thread),
    Scenario(44, "a pid that is used again", pid_reuse),
    *(Probe(45, name, "write, nothing truncated", f"open 1 {path}", wrote(path), path, agent="coder",
            prepare=empty(path)) for name, path in START_UP.items()),
    Probe(45, "a file of its own", "", "open 1 {work}/file", wrote("{work}/file"), agent="coder",
          prepare=empty("{work}/file")),
    *(Probe(45, name, "exec", f"spawn fork {{bin}}/{name} {name} {{mark}}", marked, f"{{bin}}/{name}", agent="coder")
      for name in DEPUTIES),
    Probe(45, "a program of its own", "", "spawn fork {bin}/good x {work}/mark",
          lambda seen: (seen.ground.dir / "work/mark").exists(), agent="coder",
          prepare=lambda ground: (ground.dir / "work/mark").unlink(missing_ok=True)),
    Scenario(46, "marked during exec", during_exec),
    Scenario(46, "a beginning that was overlooked", overlooked),
    reads(46, "the same file, tagged from the start", f"read {KEY}"),
)  # fmt: skip
