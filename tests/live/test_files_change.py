"""Changes of files by a tagged process: seen when they have happened; the process doesn't come back from the call."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Result, assert_denied, untagged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it happens."""
    return tmp_path_factory.mktemp("change")


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """An agent that may change anything but what is below `kept`."""
    paths = [f"{folder}/kept/**"]
    deny = [{"tool": tool, "paths": paths} for tool in ("file_writer", "file")]
    with harness.enforcing(folder, {"bot": harness.agent(deny=deny)}) as host:
        yield host


def lay(folder: Path) -> None:
    """Fresh files: kept/file, kept/below/, free/file, and free/into, a symlink to kept."""
    for name in ("kept", "free"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name / "below").mkdir(parents=True)
        (folder / name / "file").write_text("text")
        (folder / name / "link").symlink_to("file")
    (folder / "free/into").symlink_to(folder / "kept")


# name -> (code, operation, the object below the folder). In the code P is the denied folder's path and F the free one's
# (bytes), D a descriptor of P. Numbers: syscall_64.tbl.
CHANGES = {
    "open to write": ("open(P + b'/file', 'w')", "write", "file"),
    "open to append": ("os.open(P + b'/file', os.O_WRONLY | os.O_APPEND)", "write", "file"),
    "open to truncate only": ("os.open(P + b'/file', os.O_RDONLY | os.O_TRUNC)", "write", "file"),
    "create": ("os.open(P + b'/new', os.O_WRONLY | os.O_CREAT)", "create", "new"),
    "create to read": ("os.open(P + b'/new', os.O_RDONLY | os.O_CREAT)", "create", "new"),
    "creat": ("syscall(85, P + b'/new', 0o600)", "create", "new"),
    "openat": ("os.open(b'new', os.O_WRONLY | os.O_CREAT, dir_fd=D)", "create", "new"),
    "openat2": ("syscall(437, D, b'new', struct.pack('QQQ', 0o101, 0o600, 0), 24)", "create", "new"),
    "truncate": ("os.truncate(P + b'/file', 1)", "write", "file"),
    "truncate through a link": ("os.truncate(P + b'/link', 1)", "write", "file"),
    "unlink": ("os.unlink(P + b'/file')", "delete", "file"),
    "unlink of a link": ("os.unlink(P + b'/link')", "delete", "link"),
    "unlinkat": ("os.unlink(b'file', dir_fd=D)", "delete", "file"),
    "rmdir": ("os.rmdir(P + b'/below')", "delete", "below"),
    "rmdir with slashes": ("os.rmdir(P + b'/below//')", "delete", "below"),
    "unlinkat of a folder": ("os.rmdir(b'below', dir_fd=D)", "delete", "below"),
    "rename from": ("os.rename(P + b'/file', F + b'/new')", "rename", "file"),
    "rename to": ("os.rename(F + b'/file', P + b'/new')", "rename", "new"),
    "rename over": ("os.rename(F + b'/file', P + b'/file')", "rename", "file"),
    "renameat": ("os.rename(b'file', b'new', src_dir_fd=D, dst_dir_fd=D)", "rename", "file"),
    "renameat2, exchange": ("syscall(316, -100, F + b'/file', D, b'file', 2)", "rename", "file"),
    "rename of the folder itself": ("os.rename(P, F + b'/moved')", "rename", ""),
    "link from": ("os.link(P + b'/file', F + b'/new')", "link", "file"),
    "link to": ("os.link(F + b'/file', P + b'/new')", "link", "new"),
    "linkat of a descriptor": (
        "syscall(265, os.open(F + b'/file', os.O_PATH), b'', D, b'new', 0x1000)", "link", "new"
    ),
    "symlink": ("os.symlink(b'/etc/passwd', P + b'/new')", "link", "new"),
    "symlinkat": ("os.symlink(b'/etc/passwd', b'new', dir_fd=D)", "link", "new"),
    "mkdir": ("os.mkdir(P + b'/new')", "create", "new"),
    "mkdir with a slash": ("os.mkdir(P + b'/new/')", "create", "new"),
    "mkdirat": ("os.mkdir(b'new', dir_fd=D)", "create", "new"),
    "mknod": ("os.mknod(P + b'/new')", "create", "new"),
    "mkfifo": ("os.mkfifo(P + b'/new')", "create", "new"),
    "mknodat": ("os.mknod(b'new', dir_fd=D)", "create", "new"),
    "chmod": ("os.chmod(P + b'/file', 0o600)", "setattr", "file"),
    "chmod through a link": ("os.chmod(P + b'/link', 0o600)", "setattr", "file"),
    "fchmod": ("os.fchmod(os.open(P + b'/file', os.O_RDONLY), 0o600)", "setattr", "file"),
    "fchmodat": ("os.chmod(b'file', 0o600, dir_fd=D)", "setattr", "file"),
    "fchmodat2": ("syscall(452, D, b'file', 0o600, 0)", "setattr", "file"),
    "chown": ("os.chown(P + b'/file', 1, 1)", "setattr", "file"),
    "lchown": ("os.lchown(P + b'/link', 1, 1)", "setattr", "link"),
    "fchown": ("os.fchown(os.open(P + b'/file', os.O_RDONLY), 1, 1)", "setattr", "file"),
    "fchownat": ("os.chown(b'link', 1, 1, dir_fd=D, follow_symlinks=False)", "setattr", "link"),
    "fchownat, empty": ("syscall(260, os.open(P + b'/file', os.O_PATH), b'', 1, 1, 0x1000)", "setattr", "file"),
    "utime": ("syscall(132, P + b'/file', None)", "setattr", "file"),
    "utimes": ("syscall(235, P + b'/file', None)", "setattr", "file"),
    "futimesat": ("syscall(261, D, b'file', None)", "setattr", "file"),
    "utimensat": ("os.utime(b'file', dir_fd=D)", "setattr", "file"),
    "futimens": ("os.utime(os.open(P + b'/file', os.O_RDONLY))", "setattr", "file"),
    "utimensat, not followed": ("os.utime(P + b'/link', follow_symlinks=False)", "setattr", "link"),
    "setxattr": ("os.setxattr(P + b'/file', 'user.a', b'b')", "setattr", "file"),
    "lsetxattr": ("os.setxattr(P + b'/link', 'trusted.a', b'b', follow_symlinks=False)", "setattr", "link"),
    "fsetxattr": ("os.setxattr(os.open(P + b'/file', os.O_RDONLY), 'user.a', b'b')", "setattr", "file"),
    "removexattr": ("os.removexattr(P + b'/file', 'user.there')", "setattr", "file"),
    "relative": ("os.unlink(b'file')", "delete", "file"),
    "dotdot": ("os.unlink(F + b'/../kept/below/../file')", "delete", "file"),
    "through a symlinked folder": ("os.unlink(F + b'/into/file')", "delete", "file"),
    "through a symlinked folder, *at": ("os.mkdir(b'into/new', dir_fd=os.open(F, os.O_PATH))", "create", "new"),
    "through a symlinked folder, rename": ("os.rename(F + b'/file', F + b'/into/new')", "rename", "new"),
}  # fmt: skip


def probe(folder: Path, name: str) -> list[str]:
    code = CHANGES[name][0]
    setup = f"P = {os.fsencode(folder / 'kept')!r}; F = {os.fsencode(folder / 'free')!r}\nos.chdir(P)\n"
    return probes.python(f"{setup}D = os.open(P, os.O_PATH)\nattempt(lambda: {code})\nsay('after')")


def looks(folder: Path) -> list[tuple[object, ...]]:
    """Everything that a change could show in: names, kinds, modes, owners, sizes, contents, attributes."""
    found: list[tuple[object, ...]] = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        changed = (facts.st_mode, facts.st_uid, facts.st_size, facts.st_nlink, facts.st_mtime_ns, facts.st_ctime_ns)
        found.append((str(path), *changed))
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_forbidden_change_is_the_last_thing_done(live: Host, folder: Path, name: str) -> None:
    """A denied change ends the process before its call returns; one record names the object really used."""
    _, operation, target = CHANGES[name]
    for tagged in (False, True):
        lay(folder)
        if name == "removexattr":
            os.setxattr(folder / "kept/file", "user.there", b"x")
        before = looks(folder / "kept")
        run = live.run(probe(folder, name)) if tagged else untagged(probe(folder, name))
        if not tagged:
            assert run.result() is Result.ALLOWED and run.lines[-1] == "after", run
            assert looks(folder / "kept") != before or "to append" in name, "the control changed nothing"
    assert_denied(
        run, killed_by=signal.SIGKILL, kernel_operation=operation, object=str(folder / "kept" / str(target)),
        point="trace", action="kill",
        guarantee="contained" if name == "open to append" else "detected",
    )  # fmt: skip
    assert run.lines == ["attempt"]


def test_the_same_changes_where_they_are_allowed(live: Host, folder: Path) -> None:
    """Every one of these calls works in a folder that the policy doesn't protect."""
    for name in CHANGES:
        lay(folder)
        os.setxattr(folder / "free/file", "user.there", b"x")
        code = " ".join(probe(folder, name)[4:]).replace("/kept", "/open")
        shutil.rmtree(folder / "open", ignore_errors=True)
        shutil.copytree(folder / "free", folder / "open", symlinks=True)
        (folder / "open/into").unlink()
        (folder / "free/into").unlink()
        (folder / "free/into").symlink_to(folder / "open")
        os.setxattr(folder / "open/file", "user.there", b"x")
        run = live.run([probes.PYTHON, "-I", "-S", "-c", code])
        assert run.result() is Result.ALLOWED and not run.denials, (name, run)


def test_a_name_that_was_a_folder_before(live: Host, folder: Path) -> None:
    """A deleted folder that somebody still holds open is not mistaken for the symlink that has its name now."""
    lay(folder)
    code = f"""
F = {os.fsencode(folder / "free")!r}
os.symlink({os.fsencode(folder / "kept")!r}, F + b'/b')
os.mkdir(F + b'/a')
held = os.open(F + b'/a', os.O_PATH)
os.rmdir(F + b'/a')
os.rename(F + b'/b', F + b'/a')
attempt(lambda: os.unlink(F + b'/a/file'))
say('after')
"""
    run = live.run(probes.python(code))
    assert not (folder / "kept/file").exists()
    assert_denied(run, killed_by=signal.SIGKILL, kernel_operation="delete", object=str(folder / "kept/file"))


def test_a_temporary_file_without_a_name(live: Host, folder: Path) -> None:
    """O_TMPFILE in a protected folder ends the process; linking it in would have been the next step."""
    lay(folder)
    code = probes.python(f"attempt(lambda: os.open({str(folder / 'kept')!r}, os.O_TMPFILE | os.O_RDWR)); say('after')")
    assert untagged(code).result() is Result.ALLOWED
    run = live.run(code)
    record = assert_denied(run, killed_by=signal.SIGKILL, point="trace")
    assert str(record["object"]).startswith(str(folder / "kept")) and record["kernel_operation"] in ("create", "write")
