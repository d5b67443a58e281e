"""Calls that act on the host and on other processes: namespaces, mounts, tracing, BPF, rings.

Most are seen when they have happened (`detected`), so the tests take away what a denied mount leaves. What a command
that agentd starts is refused before it happens stands at the end.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Result, assert_allowed, assert_denied, untagged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has `point`, where something can be mounted."""
    made = tmp_path_factory.mktemp("host")
    (made / "point").mkdir()
    return made


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """`bot` may do nothing of this; `trusted` may do it all."""
    agents = {"bot": harness.agent(but=["host", "process"]), "trusted": harness.agent()}
    with harness.enforcing(folder, agents) as host:
        yield host


@pytest.fixture(autouse=True)
def unmounted(folder: Path) -> Iterator[None]:
    """Takes away what a probe has mounted."""
    yield
    while subprocess.run(["umount", folder / "point"], capture_output=True, check=False).returncode == 0:
        pass


# Only in a process of its own, so that the probe's report still works: `in_child` gives 0 if the call came back.
IN_CHILD = """
def in_child(call):
    def run():
        pid = os.fork()
        if not pid:
            try:
                call()
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), os.WTERMSIG(status))
        if status:
            raise OSError(os.WEXITSTATUS(status), "")
        return 0
    return run
def victim():
    pid = os.fork()
    if not pid:
        libc.prctl(1, 9, 0, 0, 0)
        time.sleep(100)
        os._exit(0)
    return pid
def end(pid):
    os.kill(pid, 9); os.waitpid(pid, 0)
"""

# name -> (code of the attempt, operation, object, guarantee). P: the mount point. Numbers: syscall_64.tbl.
ACTS = {
    "mount": ("attempt(lambda: syscall(165, b'none', P, b'tmpfs', 0, None))", "mount", "point", "detected"),
    "bind mount": ("attempt(lambda: syscall(165, b'/etc', P, None, 4096, None))", "mount", "point", "detected"),
    "umount": (
        "attempt(in_child(lambda: (checked(libc.umount2(T, 2)))))", "mount", "taken", "detected"
    ),
    "fsopen": ("attempt(lambda: syscall(430, b'tmpfs', 0))", "mount", "mount", "detected"),
    "open_tree": ("attempt(lambda: syscall(428, -100, b'/usr/share', 1))", "mount", "/usr/share", "detected"),
    "unshare user": ("attempt(in_child(lambda: syscall(272, 0x10000000)))", "namespace", "unshare:user", "detected"),
    "unshare mnt": ("attempt(in_child(lambda: syscall(272, 0x20000)))", "namespace", "unshare:mnt", "detected"),
    "unshare pid": ("attempt(in_child(lambda: syscall(272, 0x20000000)))", "namespace", "unshare:pid", "detected"),
    "unshare net": ("attempt(in_child(lambda: syscall(272, 0x40000000)))", "namespace", "unshare:net", "detected"),
    "unshare uts": ("attempt(in_child(lambda: syscall(272, 0x4000000)))", "namespace", "unshare:other", "detected"),
    "setns": (
        "f = os.open('/proc/self/ns/uts', os.O_RDONLY); attempt(lambda: syscall(308, f, 0))",
        "namespace", "setns", "detected",
    ),
    "chroot": ("attempt(in_child(lambda: os.chroot(P)))", "chroot", "point", "detected"),
    "ptrace attach": (
        "pid = victim()\nattempt(lambda: syscall(101, 16, pid, 0, 0)); end(pid)", "ptrace", "ptrace:attach", "detected"
    ),
    "ptrace seize": (
        "pid = victim()\nattempt(lambda: syscall(101, 0x4206, pid, 0, 0)); end(pid)",
        "ptrace", "ptrace:attach", "detected",
    ),
    "ptrace traceme": (
        "attempt(in_child(lambda: syscall(101, 0, 0, 0, 0)))", "ptrace", "ptrace:traceme", "detected"
    ),
    "process_vm_readv": (
        "b = ctypes.create_string_buffer(b'data'); v = struct.pack('PL', ctypes.addressof(b), 4)\n"
        "pid = victim()\nattempt(lambda: syscall(310, pid, v, 1, v, 1, 0)); end(pid)",
        "ptrace", "ptrace:process_vm_readv", "detected",
    ),
    "process_vm_writev": (
        "b = ctypes.create_string_buffer(b'data'); v = struct.pack('PL', ctypes.addressof(b), 4)\n"
        "pid = victim()\nattempt(lambda: syscall(311, pid, v, 1, v, 1, 0)); end(pid)",
        "ptrace", "ptrace:process_vm_writev", "detected",
    ),
    "pidfd_getfd": (
        "pid = victim(); f = os.pidfd_open(pid)\nattempt(lambda: syscall(438, f, 1, 0)); end(pid)",
        "ptrace", "ptrace:pidfd_getfd", "contained",
    ),
    "bpf": (
        "attempt(lambda: syscall(321, 0, struct.pack('IIIII', 2, 4, 4, 1, 0) + bytes(100), 120))",
        "bpf", "bpf", "detected",
    ),
    "perf": (
        "attempt(lambda: syscall(298, struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0))",
        "perf", "perf_event_open", "contained",
    ),
    "userfaultfd": ("attempt(lambda: syscall(323, 1))", "perf", "userfaultfd", "contained"),
    "io_uring": (
        "p = ctypes.create_string_buffer(120); attempt(lambda: syscall(425, 4, p))",
        "io_uring", "io_uring_setup", "contained",
    ),
}  # fmt: skip
CLONES = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "other": 0x4000000}
REFUSED = ("bpf", "perf", "userfaultfd", "io_uring")


def command(folder: Path, code: str) -> list[str]:
    setup = f"P = {os.fsencode(folder / 'point')!r}; T = {os.fsencode(folder / 'taken')!r}\n"
    return probes.python(setup + IN_CHILD + code + "\nsay('after')")


@pytest.fixture
def taken(folder: Path) -> Iterator[Path]:
    """Something mounted by others."""
    made = folder / "taken"
    made.mkdir(exist_ok=True)

    def mount() -> None:
        if not made.is_mount():
            subprocess.run(["mount", "-t", "tmpfs", "none", made], check=True)

    mount()
    yield made
    while made.is_mount():
        subprocess.run(["umount", made], check=True)


@pytest.mark.parametrize("name", ACTS)
def test_an_act_on_the_host(live: Host, folder: Path, taken: Path, name: str) -> None:
    """A denied act ends the process before its call returns, with one record; an agent that may, can."""
    code, operation, target, guarantee = ACTS[name]
    tried = untagged(command(folder, code))
    if tried.result() is Result.NOT_ATTEMPTED:
        assert live.run(command(folder, code)).result() is Result.NOT_ATTEMPTED
        return
    assert tried.result() is Result.ALLOWED and tried.lines[-1] == "after", tried
    if not taken.is_mount():
        subprocess.run(["mount", "-t", "tmpfs", "none", taken], check=True)
    run = live.run(command(folder, code))
    seen = str(folder / target) if target in ("point", "taken") else target
    assert_denied(
        run, killed_by=signal.SIGKILL, kernel_operation=operation, object=seen, guarantee=guarantee, point="trace",
        rule="default-deny",
    )  # fmt: skip
    assert run.lines == ["attempt"]
    if not taken.is_mount():
        subprocess.run(["mount", "-t", "tmpfs", "none", taken], check=True)
    assert_allowed(live.run(command(folder, code), "trusted"))


@pytest.mark.parametrize("kind", CLONES)
@pytest.mark.parametrize("call", ["clone", "clone3"])
def test_a_child_in_a_namespace_of_its_own(live: Host, folder: Path, kind: str, call: str) -> None:
    """A child in new namespaces dies before it has run an instruction; without them it runs."""
    made = {
        "clone": "syscall(56, {f} | 17, 0, 0, 0, 0)",
        "clone3": "syscall(435, struct.pack('8Q', {f}, 0, 0, 0, 17, 0, 0, 0), 64)",
    }
    code = """
def go():
    pid = MADE
    if not pid:
        os.write(1, b"ran\\n"); os._exit(0)
    return os.waitpid(pid, 0)[1]
attempt(go)
"""
    with_it = command(folder, code.replace("MADE", made[call].format(f=CLONES[kind])))
    tried = untagged(with_it)
    assert tried.value == "0" and "ran" in tried.lines, tried
    run = live.run(with_it)
    assert run.value == "9" and "ran" not in run.lines, run
    (record,) = run.denials
    assert (record["kernel_operation"], record["object"]) == ("namespace", f"unshare:{kind}")
    assert record["guarantee"] == "contained"
    assert "ran" in live.run(command(folder, code.replace("MADE", made[call].format(f=0)))).lines
    assert "ran" in live.run(with_it, "trusted").lines


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_started_command_is_refused_at_once(live: Host, folder: Path, name: str) -> None:
    """In a command that agentd started itself these calls fail with EPERM, and the process goes on."""
    code = ACTS[name][0]
    assert untagged(command(folder, code)).result() is Result.ALLOWED
    for agent in ("bot", "trusted"):
        run = live.run(command(folder, code), agent, seccomp=True)
        assert run.lines == ["attempt", f"errno {errno.EPERM}", "after"] and run.status == 0
        assert not run.denials  # the filter is a cut of its own: nothing tells agentd of it
