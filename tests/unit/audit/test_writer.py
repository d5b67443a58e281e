"""The writer: acknowledged means on disk, and nothing is lost without a record."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.audit import reader, verify
from agentd.audit.chain import MAX_LINE
from agentd.audit.writer import BATCH_BYTES, AuditWriter
from agentd.errors import AgentdError
from tests.unit.audit.samples import START, allowed, denied, make, opened


def events(path: Path) -> list[str]:
    return [record["event"] for record in reader.last(path, 10**6)[0]]


def good(path: Path, **options: object) -> verify.Result:
    result = verify.verify(path, strict=True, **options)  # type: ignore[arg-type]
    assert result.bad is None, result.bad
    return result


def test_a_commit_counts_what_is_on_disk(tmp_path: Path) -> None:
    """commit() returns how many records it made durable, head follows, and the log verifies."""
    path = tmp_path / "new" / "audit.jsonl"
    writer = opened(path)
    writer.append([denied(), allowed()])
    assert (writer.head.seq, writer.pending, path.stat().st_size) == (0, 2, 0)
    assert writer.commit() == 2
    assert writer.commit() == 0
    assert (writer.head.seq, writer.pending, writer.failed) == (2, 0, "")
    assert writer.bytes_written == path.stat().st_size
    writer.close()
    assert good(path).head == writer.head.hash


def test_the_log_is_private(tmp_path: Path) -> None:
    """The file is 0600 and a directory made for it 0700, also when the file was wider before."""
    path = tmp_path / "audit" / "audit.jsonl"
    opened(path).close()
    path.chmod(0o644)
    opened(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_reopening_continues_the_chain(tmp_path: Path) -> None:
    """Records of several runs make one chain."""
    path = tmp_path / "audit.jsonl"
    for run in range(4):
        make(path, 5, run)
    assert good(path).records == 20


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """While one writer has the log a second one gets audit-locked; afterwards it may."""
    path = tmp_path / "audit.jsonl"
    first = opened(path)
    with pytest.raises(AgentdError) as caught:
        opened(path)
    assert caught.value.code == "audit-locked"
    first.close()
    opened(path).close()


@pytest.mark.parametrize("kind", ["directory", "symlink", "device", "fifo"])
def test_only_a_regular_file_is_a_log(tmp_path: Path, kind: str) -> None:
    """A directory, a symbolic link, a device or a pipe in the place of the log is refused."""
    path = tmp_path / "audit.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "device":
        path = Path("/dev/full")
    else:
        os.mkfifo(path)
    with pytest.raises(AgentdError) as caught:
        opened(path)
    assert caught.value.code == "audit-unwritable"
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_the_sandbox_keeps_read_only_is_told_with_what_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the unit lets the service write nothing, the error names the setting and the folder; other errors don't."""
    for number, hint in ((errno.EROFS, f"ReadWritePaths={tmp_path}/data"), (errno.EACCES, "")):

        def refused(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "mkdir", refused)
        with pytest.raises(AgentdError) as caught:
            opened(tmp_path / "data/audit.jsonl")
        assert caught.value.code == "audit-unwritable"
        assert caught.value.hint.endswith(hint) and bool(caught.value.hint) == bool(hint)


@pytest.mark.parametrize("torn", [b"{", b'{"action":null', b"\0" * 5000, b"x" * (3 << 20)], ids=len)
def test_a_torn_tail_is_cut_and_recorded(tmp_path: Path, torn: bytes) -> None:
    """Bytes after the last newline are cut at open, and a record says how many."""
    path = make(tmp_path / "audit.jsonl", 5)
    with path.open("ab") as log:
        log.write(torn)
    assert not verify.verify(path).ok
    opened(path).close()
    assert good(path).records == 6
    assert reader.last(path, 1)[0][0]["metadata"]["bytes"] == len(torn)


def test_a_log_that_is_only_torn_starts_anew(tmp_path: Path) -> None:
    """A first line that was never finished is cut and the chain starts with the record of that."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"action"')
    opened(path).close()
    assert events(path) == ["log_repaired"]
    assert good(path).records == 1


def test_a_hole_is_cut_and_kept_aside(tmp_path: Path) -> None:
    """When a block of the last commit never reached the disk, the lines after it are cut and copied aside."""
    path = make(tmp_path / "audit.jsonl", 9)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = sum(map(len, lines[:6]))
    path.write_bytes(whole[: start + 10] + bytes(300) + whole[start + 310 :])
    opened(path).close()
    assert events(path)[5:] == ["denied", "log_repaired"]
    assert good(path).records == 7
    assert (tmp_path / f"audit.jsonl.cut-{start}").read_bytes().endswith(lines[-1])


@pytest.mark.parametrize("where", ["last", "before"])
def test_a_changed_tail_is_refused(tmp_path: Path, where: str) -> None:
    """A whole last line that doesn't verify isn't continued and isn't touched."""
    path = make(tmp_path / "audit.jsonl", 5)
    lines = path.read_bytes().splitlines(keepends=True)
    index = -1 if where == "last" else -3
    lines[index] = lines[index].replace(b"research_bot", b"research_bat")
    path.write_bytes(b"".join(lines))
    with pytest.raises(AgentdError) as caught:
        opened(path)
    assert caught.value.code == "audit-corrupt"
    assert path.read_bytes() == b"".join(lines)


def test_a_record_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    """A record without a canonical form raises ValueError and the chain goes on without it."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    with pytest.raises(ValueError, match="surrogate"):
        writer.append([denied(metadata={"a": "\ud800"})])
    writer.append([denied()])
    assert writer.commit() == 1
    writer.close()
    good(path)


def test_appending_goes_on_while_a_commit_runs(tmp_path: Path) -> None:
    """Threads that append while another commits lose nothing and break nothing."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)

    def produce() -> None:
        for number in range(300):
            writer.append([denied(number)])

    threads = [threading.Thread(target=produce) for _ in range(3)]
    for thread in threads:
        thread.start()
    committed = 0
    while any(thread.is_alive() for thread in threads):
        committed += writer.commit()
    committed += writer.commit()
    writer.close()
    assert committed == 900
    assert good(path).records == 900


# --- the disk refuses -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "agentd-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(writer: AuditWriter, count: int) -> int:
    done = 0
    for number in range(count):
        writer.append([denied(number)])
        done += writer.commit()
    return done


@pytest.mark.root
def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    """With the disk full records wait in memory, the file stays whole lines, and all is written when space returns."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40 << 10))
    path = small_disk / "audit.jsonl"
    writer = opened(path)
    done = fill(writer, 40)
    assert 0 < done < 40
    assert "ENOSPC" in writer.failed
    assert writer.pending == 40 - done
    assert good(path).records == done
    ballast.unlink()
    assert writer.commit() == 40 - done
    assert (writer.failed, writer.lost) == ("", 0)
    writer.close()
    assert good(path).records == 40


@pytest.mark.root
def test_a_full_queue_ends_as_one_gap_record(small_disk: Path) -> None:
    """What doesn't fit the queue either is counted by kind, and one gap record says so, in its place in the chain."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(60 << 10))
    path = small_disk / "audit.jsonl"
    writer = opened(path, queue_bytes=8000)
    writer.append([denied(number) if number % 2 else allowed(number) for number in range(40)])
    kept = writer.pending
    assert writer.lost == 40 - kept > 0
    writer.commit()
    ballast.unlink()
    writer.commit()
    writer.append([denied(99)])
    writer.commit()
    writer.close()
    assert events(path)[kept:] == ["gap", "denied"]
    gap = reader.last(path, 2)[0][0]
    assert gap["count"] == 40 - kept
    assert sum(gap["metadata"]["lost"].values()) == 40 - kept
    assert gap["metadata"]["operations"] == gap["metadata"]["lost"]["denied"] + 7 * gap["metadata"]["lost"]["allowed"]
    assert good(path).records == kept + 2


@pytest.mark.root
def test_closing_on_a_full_disk_says_so(small_disk: Path) -> None:
    """A log that can't be finished is closed with audit-unwritable and the number of records given up."""
    path = small_disk / "audit.jsonl"
    writer = opened(path)
    (small_disk / "ballast").write_bytes(bytes(60 << 10))
    writer.append(denied(number) for number in range(30))
    with pytest.raises(AgentdError, match="records were not written") as caught:
        writer.close()
    assert caught.value.code == "audit-unwritable"
    good(path)
    opened(path).close()


def test_a_failed_sync_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fdatasync reports EIO nothing of that commit counts, and the next one writes all of it again."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    fill(writer, 3)
    real = os.fdatasync

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    writer.append([denied(3), denied(4)])
    assert writer.commit() == 0
    assert writer.commit() == 0
    assert "EIO" in writer.failed
    monkeypatch.setattr(os, "fdatasync", real)
    assert writer.commit() == 2
    assert writer.failed == ""
    writer.close()
    assert good(path).records == 5


@pytest.mark.parametrize("change", ["shortened", "appended", "removed"])
def test_a_file_changed_by_others_is_left_alone(tmp_path: Path, change: str) -> None:
    """A log that somebody shortened, appended to or removed under the writer makes it fail, and isn't overwritten."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    fill(writer, 3)
    if change == "shortened":
        os.truncate(path, path.stat().st_size - 10)
    elif change == "appended":
        with path.open("ab") as log:
            log.write(b"forged\n")
    else:
        path.unlink()
    before = path.read_bytes() if path.exists() else b""
    assert fill(writer, 1) == 0
    assert "changed by somebody else" in writer.failed
    assert (path.read_bytes() if path.exists() else b"") == before
    with pytest.raises(AgentdError):
        writer.close()


def test_a_long_queue_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long wait for the disk one commit writes everything, a bounded piece at a time."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    writer.append(denied(number) for number in range(3000))
    sizes: list[int] = []
    real = os.write

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", counted)
    assert writer.commit() == 3000
    monkeypatch.undo()
    writer.close()
    assert len(sizes) > 2
    assert max(sizes) < BATCH_BYTES + MAX_LINE
    assert good(path).records == 3000


# --- the machine refuses ----------------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from tests.unit.audit.samples import denied, opened
writer = opened(Path(sys.argv[1]))
number = 0
while True:
    writer.append(denied(number + i) for i in range(7))
    number += writer.commit()
    print(writer.head.seq, writer.head.hash, flush=True)
"""


def test_a_killed_writer_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """After kill -9 at any moment everything acknowledged is in the log, and the next writer continues its chain."""
    path = tmp_path / "audit.jsonl"
    dice = random.Random(7)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(dice.randrange(1, 60))]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        seq, head = next(line for line in reversed(lines) if line.endswith("\n")).split()
        opened(path).close()
        assert good(path, head=head, count=int(seq)).records >= int(seq)
    assert good(path).records > 50


def test_time_is_what_the_caller_says(tmp_path: Path) -> None:
    """The writer's own records take their time from the given clock."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"torn")
    opened(path, clock=lambda: START).close()
    assert reader.last(path, 1)[0][0]["timestamp"].startswith("2026-11-21T")
