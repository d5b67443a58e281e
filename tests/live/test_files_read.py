"""Reading by a tagged process: an open is judged by the file it got, and the process dies before it has it."""

from __future__ import annotations

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

SECRET = "the-secret-itself"


class Ground:
    """`secret/key` may not be read, `free/plain` may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("secret/key", SECRET), ("free/plain", "plain"), ("secret.pub/key", "public")):
            path = folder / name
            path.parent.mkdir()
            path.write_text(text)
        (folder / "free/link").symlink_to("../secret/key")
        (folder / "free/absolute").symlink_to(folder / "secret/key")
        (folder / "free/folder").symlink_to(folder / "secret")
        (folder / "free/twice").symlink_to("link")
        (folder / "mounted").mkdir()

    @property
    def key(self) -> Path:
        """The file that may not be read."""
        return self.folder / "secret/key"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The files."""
    return Ground(tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def live(ground: Ground) -> Iterator[Host]:
    """An agent that may read anything but below `secret`."""
    rule = {"tool": "file_reader", "paths": [f"{ground.folder}/secret/**"]}
    with harness.enforcing(ground.folder, {"bot": harness.agent(deny=[rule])}) as host:
        yield host


# How the denied file is opened: code that ends with an attempt at a descriptor or the text. `d` is the ground's folder.
OPENS = {
    "plain": "attempt(lambda: open(d + '/secret/key').read())",
    "read and write": "attempt(lambda: open(d + '/secret/key', 'r+').read())",
    "symlink": "attempt(lambda: open(d + '/free/link').read())",
    "absolute symlink": "attempt(lambda: open(d + '/free/absolute').read())",
    "symlink to a symlink": "attempt(lambda: open(d + '/free/twice').read())",
    "symlinked folder": "attempt(lambda: open(d + '/free/folder/key').read())",
    "dotdot": "attempt(lambda: open(d + '/free/../free/.././secret/key').read())",
    "slashes": "attempt(lambda: open('//' + d + '///secret//key').read())",
    "relative": "os.chdir(d + '/secret'); attempt(lambda: open('key').read())",
    "proc root": "attempt(lambda: open('/proc/self/root' + d + '/secret/key').read())",
    "proc cwd": "os.chdir(d); attempt(lambda: open('/proc/self/cwd/secret/key').read())",
    "dirfd": (
        "f = os.open(d + '/secret', os.O_PATH)\nattempt(lambda: os.read(os.open('key', os.O_RDONLY, dir_fd=f), 99))"
    ),
    "dirfd and dotdot": (
        "f = os.open(d + '/free', os.O_RDONLY)\n"
        "attempt(lambda: os.read(os.open('../secret/key', os.O_RDONLY, dir_fd=f), 99))"
    ),
    "openat2": (
        "how = struct.pack('QQQ', os.O_RDONLY, 0, 0)\n"
        "attempt(lambda: os.read(syscall(437, -100, (d + '/secret/key').encode(), how, 24), 99))"
    ),
    "open, the old call": "attempt(lambda: os.read(syscall(2, (d + '/secret/key').encode(), 0, 0), 99))",
    "reopen of a path": (
        "f = os.open(d + '/secret/key', os.O_PATH)\nattempt(lambda: open(f'/proc/self/fd/{f}').read())"
    ),
    "openat of a path, empty": (
        "f = os.open(d + '/secret', os.O_PATH)\n"
        "attempt(lambda: os.read(os.open(f'/proc/self/fd/{f}/key', os.O_RDONLY), 99))"
    ),
    "handle": (
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128)); mount = ctypes.c_int()\n"
        "syscall(303, -100, (d + '/secret/key').encode(), handle, ctypes.byref(mount), 0)\n"
        "root = os.open(d, os.O_RDONLY)\n"
        "attempt(lambda: os.read(syscall(304, root, handle, os.O_RDONLY), 99))"
    ),
    "mapped": (
        "import mmap\n"
        "attempt(lambda: bytes(mmap.mmap(os.open(d + '/secret/key', os.O_RDONLY), 0, prot=mmap.PROT_READ)))"
    ),
    "in a child": (
        "say('attempt')\n"
        "pid = os.fork()\n"
        "if not pid: say(open(d + '/secret/key').read()); os._exit(0)\n"
        "if os.waitpid(pid, 0)[1] == 9: os.kill(os.getpid(), 9)\n"
        "say('ok ')"
    ),
    "no symlink": "attempt(lambda: os.read(os.open(d + '/secret/key', os.O_RDONLY | os.O_NOFOLLOW), 99))",
    "its folder": "attempt(lambda: os.listdir(d + '/secret/below'))",
}


@pytest.mark.parametrize("how", OPENS)
def test_a_denied_file_is_not_read(live: Host, ground: Ground, how: str) -> None:
    """Whatever name leads to it, a denied file is never read: the process dies in the open; one record names it."""
    (ground.folder / "secret/below").mkdir(exist_ok=True)
    code = probes.python(f"d = {str(ground.folder)!r}\n{OPENS[how]}\nsay('after')")
    seen = "/secret/below" if how == "its folder" else "/secret/key"
    control = untagged(code)
    assert control.result() is Result.ALLOWED
    assert how == "its folder" or SECRET in control.out.decode()
    run = live.run(code)
    record = assert_denied(run, killed_by=signal.SIGKILL, kernel_operation="read", guarantee="contained", point="trace")
    assert record["object"] == str(ground.folder) + seen
    assert run.lines == ["attempt"] and SECRET not in run.out.decode() + run.err.decode()


def test_a_bind_mount_made_by_others(live: Host, ground: Ground) -> None:
    """A folder that is mounted elsewhere is judged as the path by which it is reached, on both sides."""
    for source, target, allowed in (("secret", "mounted", True), ("free", "secret/below", False)):
        (ground.folder / target).mkdir(exist_ok=True)
        name = "key" if source == "secret" else "plain"
        code = probes.python(f"attempt(lambda: open({str(ground.folder / target / name)!r}).read())")
        subprocess.run(["mount", "--bind", ground.folder / source, ground.folder / target], check=True)
        try:
            assert untagged(code).result() is Result.ALLOWED
            run = live.run(code)
        finally:
            subprocess.run(["umount", ground.folder / target], check=True)
        if allowed:
            assert_allowed(run)
        else:
            assert_denied(run, killed_by=signal.SIGKILL, object=str(ground.folder / target / name))


def test_what_only_looks_like_a_denied_file(live: Host, ground: Ground) -> None:
    """A look-alike folder, another file, a path descriptor and the attributes of a denied file are no reading of it."""
    for code in (
        "attempt(lambda: open(d + '/secret.pub/key').read())",
        "attempt(lambda: open(d + '/free/plain').read())",
        "attempt(lambda: os.open(d + '/secret/key', os.O_PATH))",
        "attempt(lambda: os.stat(d + '/secret/key').st_size)",
        "attempt(lambda: os.listdir(d + '/free'))",
    ):
        assert_allowed(live.run(probes.python(f"d = {str(ground.folder)!r}\n{code}")))


@pytest.mark.parametrize("how", ["hard link", "renamed", "renamed folder"])
def test_a_file_under_another_name_is_judged_by_that_name(live: Host, ground: Ground, how: str) -> None:
    """Of a hard link or rename made by others, the path by which the file is opened counts."""
    for place, allowed in (("free", True), ("secret", False)):
        made = ground.folder / place / how
        source = ground.folder / f"source {how}"
        source.mkdir(exist_ok=True)
        (source / "file").write_text(SECRET)
        if how == "hard link":
            os.link(source / "file", made)
        elif how == "renamed":
            (source / "file").rename(made)
        else:
            source.rename(made)
            made = made / "file"
        code = probes.python(f"attempt(lambda: open({str(made)!r}).read())")
        assert SECRET in untagged(code).value
        run = live.run(code)
        if allowed:
            assert_allowed(run)
            assert SECRET in run.value
        else:
            assert_denied(run, killed_by=signal.SIGKILL, object=str(made))
            assert SECRET not in run.out.decode()


def test_a_renamed_file_that_is_open(live: Host, ground: Ground) -> None:
    """A file is judged by where it is when it is opened, also through a descriptor of its folder that moved."""
    folder = ground.folder / "moving"
    folder.mkdir()
    (folder / "file").write_text(SECRET)
    code = f"""
f = os.open({str(folder)!r}, os.O_PATH)
sys.stdin.read()
os.rename({str(folder)!r}, {str(ground.folder / "secret/moved")!r})
attempt(lambda: os.read(os.open('file', os.O_RDONLY, dir_fd=f), 99))
"""
    run = live.run(probes.python(code))
    assert_denied(run, killed_by=signal.SIGKILL, object=str(ground.folder / "secret/moved/file"))


def test_another_thread_may_have_used_the_descriptor(live: Host, ground: Ground) -> None:
    """Where threads share descriptors the process is killed too, and the record claims no more than detected."""
    code = f"""
stop = threading.Event()
t = threading.Thread(target=stop.wait, daemon=True); t.start()
attempt(lambda: open({str(ground.key)!r}).read())
"""
    assert SECRET in untagged(probes.python(code + "os._exit(0)")).value
    record = assert_denied(live.run(probes.python(code)), killed_by=signal.SIGKILL, guarantee="detected")
    assert record["metadata"]["shared_descriptors"] is True


def test_a_failed_open_is_no_violation(live: Host, ground: Ground) -> None:
    """An open that the system itself refused had no effect and is not recorded as a denial."""
    code = f"attempt(lambda: open({str(ground.folder / 'secret/nothing')!r}).read()); say('after')"
    run = live.run(probes.python(code))
    assert run.result(number=2) is Result.REFUSED_ELSEWHERE and run.lines[-1] == "after" and not run.denials
