"""ioctl(2) opens and changes files on some file systems: XFS opens by a handle, btrfs makes and removes subvolumes.

Where there are no LSM hooks the filter of `agentd run` refuses these, and a tagged process ends by them.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.kernel import lsm, seccomp
from agentd.model import Point
from tests.live import harness
from tests.live.harness import Host
from tests.live.probes import PYTHON, Run, untagged

pytestmark = pytest.mark.root

# call(FD, REQUEST, ARGUMENT) prints what an ioctl came to; the words are those of DO.
PREAMBLE = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(fd, request, argument):
    value = libc.ioctl(fd, ctypes.c_ulong(request), argument)
    print(f"errno {ctypes.get_errno()}" if value < 0 else "ok", flush=True)
    return value
folder = os.open(sys.argv[1], os.O_RDONLY)
"""
EVERY = "for word in sys.argv[2:]: call(folder, int(word), ctypes.create_string_buffer(4096))"
BY_HANDLE = """
def request(fd, path, flags, one, long, other, at):
    address = lambda what: ctypes.addressof(what) if what is not None else 0
    words = fd, address(path), flags, address(one), long, address(other), address(at)
    return ctypes.create_string_buffer(struct.pack("IxxxxQIxxxxQIxxxxQQ", *words), 56)
path = ctypes.create_string_buffer(sys.argv[1].encode() + b"/kept/file")
handle, size = ctypes.create_string_buffer(64), ctypes.c_uint32(64)
call(folder, 0xC0385869, request(folder, path, os.O_RDONLY, None, 0, handle, size))
fd = call(folder, 0xC038586B, request(folder, None, os.O_RDWR, handle, size.value, None, None))
if fd >= 0:
    os.write(fd, b"overwritten")
"""
SUBVOLUME = """
kept = os.open(sys.argv[1] + "/kept", os.O_RDONLY)
call(kept, int(sys.argv[2]), ctypes.create_string_buffer(struct.pack("q", 0) + b"volume", 4096))
"""
CREATE, DESTROY = (seccomp.FILE_IOCTLS[f"BTRFS_IOC_{name}"] for name in ("SUBVOL_CREATE", "SNAP_DESTROY"))


def words(code: str, *arguments: str | Path | int) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", PREAMBLE + code, *map(str, arguments)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where file systems are mounted."""
    return tmp_path_factory.mktemp("ioctls")


@pytest.fixture(scope="module")
def live(place: Path) -> Iterator[Host]:
    """An agent that may change anything but what is below a `kept`."""
    if lsm.point() is not Point.NONE:
        pytest.skip("there are LSM hooks on this host: they judge it")
    deny = [{"tool": tool, "paths": [f"{place}/*/kept/**"]} for tool in ("file", "file_writer")]
    with harness.enforcing(place, {"bot": harness.agent(deny=deny)}) as host:
        yield host


@pytest.fixture
def mounted(place: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of the kind that is asked for, with a folder `kept` and a file in it."""
    kind = request.param
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"needs mkfs.{kind}")
    folder, image = place / kind, place / f"{kind}.img"
    folder.mkdir(exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        (folder / "kept").mkdir()
        (folder / "kept/file").write_text("kept")
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        image.unlink()


def ended(live: Host, command: list[str], *, seccomp: bool) -> Run:
    """After it was refused, or ended by what it did, on record."""
    run = live.run(command, seccomp=seccomp)
    if seccomp:
        assert run.status == 0 and f"errno {errno.EPERM}" in run.lines, run
    else:
        assert run.status == -signal.SIGKILL and len(run.denials) == 1, run
    return run


def test_the_filter_refuses_what_changes_files_by_ioctl(live: Host, tmp_path: Path) -> None:
    """Each of these requests is EPERM in a command that agentd starts; untagged none is, known here or not."""
    requests = [number for name, number in seccomp.FILE_IOCTLS.items() if "VERITY" not in name]
    command = words(EVERY, tmp_path, *requests)
    control = untagged(command)
    assert len(control.lines) == len(requests) and f"errno {errno.EPERM}" not in control.lines, control
    run = live.run(command, seccomp=True)
    assert run.lines == [f"errno {errno.EPERM}"] * len(requests), run


@pytest.mark.parametrize("mounted", ["xfs"], indirect=True)
@pytest.mark.parametrize("seccomp", [False, True], ids=["tagged", "started by agentd run"])
def test_no_denied_file_is_opened_by_a_handle_of_xfs(live: Host, mounted: Path, seccomp: bool) -> None:
    """The file is as it was; untagged it is overwritten."""
    command = words(BY_HANDLE, mounted)
    run = ended(live, command, seccomp=seccomp)
    assert (mounted / "kept/file").read_text() == "kept"
    if not seccomp:
        (record,) = run.denials
        assert (record["kernel_operation"], record["object"]) == ("write", f"{mounted}/kept/file")
        assert (record["point"], record["guarantee"]) == ("trace", "contained")
    assert untagged(command).lines == ["ok", "ok"]
    assert (mounted / "kept/file").read_text() == "overwritten", "the control"


@pytest.mark.parametrize("mounted", ["btrfs"], indirect=True)
@pytest.mark.parametrize("seccomp", [False, True], ids=["tagged", "started by agentd run"])
def test_no_subvolume_of_btrfs_is_made_or_removed_unseen(live: Host, mounted: Path, seccomp: bool) -> None:
    """Whoever tries is refused by the filter, or ended after it and on record; untagged both work."""
    for request, operation in ((CREATE, "create"), (DESTROY, "delete")):
        command = words(SUBVOLUME, mounted, request)
        run = ended(live, command, seccomp=seccomp)
        if seccomp:
            assert (mounted / "kept/volume").exists() == (operation == "delete")
            assert untagged(command).lines == ["ok"], "the control"
        else:
            (record,) = run.denials
            assert (record["kernel_operation"], record["object"]) == (operation, None)
            assert (record["point"], record["guarantee"]) == ("trace", "detected")
