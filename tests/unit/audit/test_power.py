"""Power loss, simulated at the file layer: short writes, full disks, and fsync that fails and loses what it was about.

`Disk` stands between the writer and the real calls. It knows what is durable: pages that a good fsync has written. A
failed one leaves its pages clean and lost, as Linux does: no later fsync writes them unless somebody writes to them
again. When the power goes, every page that was not durable is there in its new form, in its old one, or as zeros.
"""

from __future__ import annotations

import errno
import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

from agentd.audit import verify
from agentd.audit.segments import Limits
from agentd.audit.writer import AuditWriter
from agentd.errors import AgentdError
from tests.unit.audit.samples import allowed, denied, opened

PAGE = 4096


class Disk:
    """What of the files in a folder is durable. calm: no errors, only power loss."""

    def __init__(self, patch: pytest.MonkeyPatch, dice: random.Random) -> None:
        self.dice = dice
        self.calm = False
        self.durable: dict[int, bytes] = defaultdict(bytes)
        self.dirty: dict[int, set[int]] = defaultdict(set)
        self.errors = 0
        self.real = {name: getattr(os, name) for name in ("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync")}
        for name in self.real:
            patch.setattr(os, name, getattr(self, name))

    def fails(self, chance: float, code: int) -> None:
        if not self.calm and self.dice.random() < chance:
            self.errors += 1
            raise OSError(code, os.strerror(code))

    def touch(self, fd: int, start: int, size: int) -> None:
        pages = range(start // PAGE, (start + max(size, 1) - 1) // PAGE + 1)
        self.dirty[os.fstat(fd).st_ino].update(pages)

    def open(self, path: str | Path, flags: int, mode: int = 0o777) -> int:
        new = flags & os.O_CREAT and not os.path.lexists(path)
        fd: int = self.real["open"](path, flags, mode)
        if new:  # perhaps with the number of a file that is gone
            for known in (self.durable, self.dirty):
                known.pop(os.fstat(fd).st_ino, None)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        self.fails(0.1, errno.ENOSPC)
        if not self.calm and self.dice.random() < 0.3:
            data = bytes(data)[: self.dice.randrange(1, len(data) + 1)]
        start = os.fstat(fd).st_size
        done: int = self.real["write"](fd, data)
        self.touch(fd, start, done)
        return done

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        done: int = self.real["pwrite"](fd, data, offset)
        self.touch(fd, offset, done)
        return done

    def ftruncate(self, fd: int, size: int) -> None:
        self.fails(0.05, errno.EIO)
        self.real["ftruncate"](fd, size)
        self.touch(fd, size, 1)

    def fsync(self, fd: int) -> None:
        number = os.fstat(fd).st_ino
        dirty, self.dirty[number] = self.dirty[number], set()
        self.fails(0.15, errno.EIO)  # and what was dirty is clean now, and nowhere
        if not os.path.isfile(f"/proc/self/fd/{fd}"):
            return
        now = Path(f"/proc/self/fd/{fd}").read_bytes()
        self.durable[number] = self.mixed(now, self.durable[number], dirty, len(now))

    fdatasync = fsync

    @staticmethod
    def mixed(now: bytes, old: bytes, new_pages: set[int], size: int) -> bytes:
        """The old content with some pages of the new one."""
        made = bytearray(old[:size].ljust(size, b"\0"))
        for page in new_pages:
            part = now[page * PAGE : (page + 1) * PAGE]
            made[page * PAGE : page * PAGE + len(part)] = part
        return bytes(made[:size])

    def power_loss(self, folder: Path) -> None:
        """The files as they are found after it."""
        for file in folder.iterdir():
            if not file.is_file():
                continue
            number, now = file.stat().st_ino, file.read_bytes()
            old = self.durable[number]
            came = {page for page in self.dirty[number] if self.dice.random() < 0.5}
            size = self.dice.choice([len(now), len(old), self.dice.randint(*sorted((len(now), len(old))))])
            found = self.mixed(now, old, came, max(size, len(old) if len(now) >= len(old) else 0))
            file.write_bytes(found)
            self.durable[number], self.dirty[number] = found, set()


def start(path: Path, limits: Limits) -> AuditWriter:
    """Opens the log; an error of the disk is tried again, as systemd would."""
    while True:
        try:
            return opened(path, limits=limits)
        except AgentdError as error:
            if error.code != "audit-unwritable":
                raise


def leave(writer: AuditWriter) -> None:
    """kill -9: nothing is written any more, the page cache stays."""
    os.close(writer._fd)
    os.close(writer._directory)
    writer._fd = -1


@pytest.mark.parametrize("seed", range(60))
def test_what_was_acknowledged_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Through short writes, full disks, lost fsyncs, kills and power loss: every acknowledged record stays, the log can
    always be opened again, and it verifies.
    """
    dice = random.Random(seed)
    disk = Disk(monkeypatch, dice)
    path = tmp_path / "log" / "audit.jsonl"
    path.parent.mkdir()
    limits = Limits(file_bytes=40_000) if seed % 2 else Limits()
    acknowledged, head = 0, ""
    losses = 0
    for _ in range(12):
        writer = start(path, limits)
        for number in range(dice.randrange(1, 12)):
            writer.append([(denied if dice.random() < 0.6 else allowed)(number) for _ in range(dice.randrange(1, 9))])
            writer.commit()
            assert writer.head.seq >= acknowledged
            acknowledged, head = writer.head.seq, writer.head.hash
        leave(writer)
        if dice.random() < 0.6:
            losses += 1
            disk.power_loss(path.parent)
    disk.calm = True
    writer = start(path, limits)
    writer.append([denied()])
    writer.commit()
    writer.close()
    result = verify.verify(path, strict=True, head=head or None, count=acknowledged)
    assert result.bad is None, result.bad
    assert disk.errors and losses


def test_the_model_loses_what_a_failed_fsync_was_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: on this disk, trying a failed fsync again without writing again acknowledges what isn't there."""
    disk = Disk(monkeypatch, random.Random(1))
    path = tmp_path / "file"
    disk.calm = True
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, b"first\n")
        os.fsync(fd)
        os.write(fd, b"second\n")
        disk.calm = False
        monkeypatch.setattr(disk.dice, "random", lambda: 0.0)
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
        disk.calm = True
        os.fsync(fd)
    finally:
        os.close(fd)
    disk.power_loss(tmp_path)
    assert b"second" not in path.read_bytes()


@pytest.mark.parametrize("seed", range(8))
def test_the_model_finds_a_writer_that_only_syncs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The control of the end that is written again at a start: without that, acknowledged records are lost."""
    dice = random.Random(seed)
    disk = Disk(monkeypatch, dice)
    path = tmp_path / "log" / "audit.jsonl"
    disk.calm = True
    writer = opened(path)
    writer.append([denied(number) for number in range(3)])
    writer.commit()
    writer.append([denied(number) for number in range(3, 9)])
    monkeypatch.setattr(os, "fdatasync", lambda fd: disk.dirty.pop(os.fstat(fd).st_ino) and broken())
    writer.commit()
    assert "EIO" in writer.failed
    leave(writer)
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    if seed % 2:
        monkeypatch.setattr("agentd.audit.repair.write_again", lambda *_: None)
    writer = opened(path)
    writer.append([denied(9)])
    assert writer.commit() == 1
    head = writer.head
    leave(writer)
    disk.power_loss(path.parent)
    whole = path.read_bytes().count(head.hash.encode()) == 1 and b"\0" not in path.read_bytes()
    assert whole == (seed % 2 == 0)


def broken() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
