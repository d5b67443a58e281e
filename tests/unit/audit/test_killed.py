"""kill -9 at every system call that changes a file: of the writer, the signer, a new file, an old one that goes, and a
change of key. Whatever the moment: the log verifies, goes on, and has all that was acknowledged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.audit import keys, segments, verify
from agentd.audit.segments import Limits
from tests.unit.audit.samples import denied
from tests.unit.audit.signed import NOW, begin
from tests.unit.audit.stepper import run

LIMITS = Limits(file_bytes=9_000, keep_bytes=30_000)
IN_CI = 9  # how many of the moments are tried without --slow: every ninth


def life(folder: Path, acknowledge: Callable[[int, str], None]) -> None:
    """What happens to a log, in a few records."""
    writer, signer = begin(folder, limits=LIMITS)

    def more(count: int) -> None:
        writer.append([denied(number) for number in range(count)])
        writer.commit()
        acknowledge(writer.head.seq, writer.head.hash)

    for count in (1, 4, 9):
        more(count)
        signer.round()
    keys.rotate(folder / "keys", "2026-11-26T00:00:00Z")
    more(3)
    signer.round()
    for count in (20, 12):
        more(count)
        writer.maintain()
        signer.round()
    writer.close()
    acknowledge(writer.head.seq, writer.head.hash)


def lived(home: Path, folder: Path, at: int | None) -> tuple[list[str], int, str]:
    """Kills that at its call `at`: the calls that were made, and what was acknowledged."""
    shutil.copytree(home, folder)
    ours, theirs = os.pipe()
    try:
        made = run(lambda: life(folder, lambda seq, head: os.write(theirs, b"%d %b\n" % (seq, head.encode()))), at)
        os.set_blocking(ours, False)
        try:
            told = os.read(ours, 1 << 16).split()
        except BlockingIOError:
            told = [b"0", b""]
    finally:
        os.close(ours)
        os.close(theirs)
    return made, int(told[-2]), told[-1].decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The keys of a host whose agentd was never started."""
    keys.load(tmp_path / "home/keys")
    return tmp_path / "home"


def test_killed_at_any_call(home: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """After each of these the log verifies with the first key pinned, as it lies there and after the next start, which
    signs all of it; no acknowledged record is missing, and no second private key stays.
    """
    pins = [keys.load(home / "keys").public]
    shutil.copytree(home, tmp_path / "warm")
    life(tmp_path / "warm", lambda seq, head: None)  # what is imported on the way is imported now
    calls, last, _ = lived(home, tmp_path / "whole", None)
    assert {"write", "fdatasync", "fsync", "rename", "unlink"} <= set(calls)
    assert len(keys.rotations(tmp_path / "whole/keys")) == 1
    assert last > 50 and segments.closed(tmp_path / "whole/log/audit.jsonl")[0].name > "audit-0000000000000001.jsonl"
    step = 1 if pytestconfig.getoption("--slow") else IN_CI
    told = set()
    for at in range(0, len(calls), step):
        folder = tmp_path / str(at)
        made, acknowledged, head = lived(home, folder, at)
        assert made == calls[:at]
        told.add(acknowledged)
        where = f"killed at call {at}, {calls[at]}"
        log = folder / "log/audit.jsonl"
        if acknowledged:
            found = verify.verify(log, now=NOW, head=head)
            assert found.bad is None and found.last_seq >= acknowledged, (where, found.bad)
        writer, signer = begin(folder, limits=LIMITS)
        writer.append([denied(99)])
        writer.close()
        assert signer.failed == "", (where, signer.failed)
        result = verify.verify(log, pins=pins, now=NOW, strict=True, head=head or None)
        assert result.bad is None, (where, result.bad)
        assert result.last_seq > acknowledged and result.unsigned == 0, where
        assert [file.name for file in (folder / "keys").glob("*.key*")] == [keys.PRIVATE], where
        assert not [file for file in (folder / "log").iterdir() if file.name.startswith(".")], where
        shutil.rmtree(folder)
    assert len(told) > 4
