"""The files of a log: closed by size and age, removed only as configured, whole after any interruption."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.audit import keys, segments, verify
from agentd.audit.segments import DAY, Limits
from agentd.errors import AgentdError
from tests.unit.audit.samples import START, denied, opened

SECOND = 1_000_000_000


def good(path: Path) -> verify.Result:
    result = verify.verify(path, strict=True)
    assert result.bad is None, result.bad
    return result


def test_a_file_is_closed_by_its_size(tmp_path: Path) -> None:
    """No file is much larger than the limit, their names are in the order of the chain, and the chain goes through."""
    path = tmp_path / "audit.jsonl"
    for run in range(3):
        writer = opened(path, limits=Limits(file_bytes=10_000))
        for number in range(40):
            writer.append([denied(run * 40 + number)])
            if number % 7 == 0:
                writer.commit()
        writer.close()
    files = segments.all_of(path)
    assert len(files) == writer.files > 8
    assert all(file.stat().st_size < 12_000 for file in files)
    assert good(path).records == 120 + len(files) - 1


def test_a_file_is_closed_by_its_age(tmp_path: Path) -> None:
    """After the time that is configured the next file begins, also when agentd was started again in between."""
    path = tmp_path / "audit.jsonl"
    clock = iter(range(START, START + 10**18, SECOND))

    def tick() -> int:
        return next(clock)

    for run in range(2):
        writer = opened(path, clock=tick, limits=Limits(file_seconds=DAY))
        writer.append([denied()])
        writer.commit()
        writer.maintain()
        assert writer.files == 1 + run
        clock = iter(range(next(clock) + DAY * SECOND, START + 10**18, SECOND))
        writer.maintain()
        writer.append([denied()])
        writer.commit()
        assert writer.files == 2 + run
        writer.close()
    good(path)


def test_old_files_go_only_as_configured(tmp_path: Path) -> None:
    """Without limits everything stays; by size and by age the oldest go first, each with a record of its own."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path, limits=Limits(file_bytes=20_000))
    for number in range(240):
        writer.append([denied(number)])
    writer.commit()
    writer.maintain()
    before = segments.closed(path)
    assert len(before) > 8
    writer.limits = Limits(file_bytes=20_000, keep_bytes=80_000)
    writer.maintain()
    gone = [file for file in before if not file.exists()]
    assert gone == before[: len(gone)] != []
    after = segments.closed(path)
    assert sum(file.stat().st_size for file in after) <= 101_000  # the records about that may have filled a file
    os.utime(after[0], (0, START / 1e9 - 3 * DAY))
    for file in after[1:]:
        os.utime(file, (0, START / 1e9))
    writer.limits = Limits(file_bytes=20_000, keep_seconds=2 * DAY)
    writer._clock = lambda: START
    writer.maintain()
    assert segments.closed(path)[:1] == after[1:2]
    writer.close()
    assert path.read_bytes().count(b'"event":"pruned"') >= 1
    bad = verify.verify(path).bad
    assert bad is None, bad


@pytest.mark.parametrize("call", ["open", "rename", "fsync"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_change_of_file_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, time: int
) -> None:
    """When a step of it fails nothing is lost or written twice, and the next commit does the rest."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path, limits=Limits(file_bytes=5_000))
    real = getattr(os, call)
    left = [time]

    def broken(*arguments: object, **more: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **more)

    writer.append([denied(number) for number in range(8)])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        writer.commit()
    writer.append([denied(9)])
    writer.commit()
    assert writer.failed == ""
    writer.close()
    assert good(path).records == 9 + writer.files - 1


KILLED = """
import sys
from pathlib import Path
from agentd.audit.segments import Limits
from agentd.audit.signer import LogSigner
from tests.unit.audit.samples import denied, opened
folder = Path(sys.argv[1])
import time
writer = opened(folder / "log/audit.jsonl", limits=Limits(file_bytes=20_000), clock=time.time_ns)
signer = LogSigner(writer, folder / "keys", interval=0)
number = 0
while True:
    now = time.time_ns()
    writer.append(denied(number + i, timestamp=now) for i in range(7))
    number += writer.commit()
    print(writer.head.seq, writer.head.hash, flush=True)
    if number % 3 == 0:
        signer.round()
"""


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Killed while it writes, signs and changes files: what was acknowledged is there, verifies at once with the key,
    again after the next start, and everything is signed in the end.
    """
    path = tmp_path / "log/audit.jsonl"
    for count in (1, 2, 3, 5, 8, 21, 34, 55):
        with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(count)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        seq, head = next(line for line in reversed(lines) if line.endswith("\n")).split()
        pins = [keys.parse_public(keys.load(tmp_path / "keys").public.pem)]
        result = verify.verify(path, head=head, count=int(seq), pins=pins if result_is_signed(path) else [])
        assert result.bad is None or "no end" in result.bad.why, result.bad
    writer = opened(path)
    from agentd.audit.signer import LogSigner

    LogSigner(writer, tmp_path / "keys")
    writer.append([denied()])
    writer.close()
    last = verify.verify(path, strict=True, pins=pins)
    assert (last.bad, last.unsigned) == (None, 0)
    assert last.files > 5


def result_is_signed(path: Path) -> bool:
    return any(b'"event":"signed"' in file.read_bytes() for file in segments.all_of(path))


def test_a_crash_between_two_files(tmp_path: Path) -> None:
    """With the old file closed and no new one yet, the next start goes on from the end of the old one."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    writer.append([denied(number) for number in range(5)])
    writer.close()
    path.rename(segments.closed_name(path, 1))
    writer = opened(path)
    writer.append([denied(5)])
    writer.close()
    assert (good(path).records, good(path).files) == (6, 2)


def test_a_closed_file_that_is_torn_is_refused(tmp_path: Path) -> None:
    """The chain isn't continued from a closed file that doesn't end with a whole record."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    writer.append([denied()])
    writer.close()
    closed = segments.closed_name(path, 1)
    closed.write_bytes(path.read_bytes()[:-9])
    path.unlink()
    with pytest.raises(AgentdError) as caught:
        opened(path)
    assert caught.value.code == "audit-corrupt"


def test_a_second_writer_is_refused_after_a_change_of_file_too(tmp_path: Path) -> None:
    """The lock is the directory's, so a new file doesn't open a door."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path, limits=Limits(file_bytes=2_000))
    writer.append([denied(number) for number in range(9)])
    writer.commit()
    assert writer.files > 1
    with pytest.raises(AgentdError) as caught:
        opened(path)
    assert caught.value.code == "audit-locked"
    writer.close()
