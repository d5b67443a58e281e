"""A bad disk under the whole log: full, failing, writing short and losing power, with the signer and changes of key."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from agentd.audit import keys, verify
from agentd.audit.segments import Limits
from agentd.audit.signer import LogSigner
from agentd.errors import AgentdError
from tests.unit.audit.samples import allowed, denied
from tests.unit.audit.signed import NOW, begin
from tests.unit.audit.test_power import Disk, leave, start


@pytest.mark.parametrize("seed", range(20))
def test_what_was_acknowledged_is_signed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Through errors of the disk in the log, the head and the keys, kills and power loss: every acknowledged record
    stays, the log verifies strictly with the very first key, and when the disk is well again all of it is signed.
    """
    dice = random.Random(seed)
    first = keys.load(tmp_path / "keys").public
    path = tmp_path / "log/audit.jsonl"
    path.parent.mkdir()
    disk = Disk(monkeypatch, dice)
    for file in (tmp_path / "keys").iterdir():  # made before, on a disk that was well
        disk.durable[file.stat().st_ino] = file.read_bytes()
    limits = Limits(file_bytes=15_000) if seed % 2 else Limits()
    acknowledged, head, failed, losses = 0, "", 0, 0
    for _ in range(6):
        writer = start(path, limits)
        signer = LogSigner(writer, tmp_path / "keys", interval=0)
        for number in range(dice.randrange(2, 8)):
            writer.append([(denied if dice.random() < 0.6 else allowed)(number) for _ in range(dice.randrange(1, 6))])
            writer.commit()
            if dice.random() < 0.2:
                with contextlib.suppress(AgentdError):
                    keys.rotate(tmp_path / "keys", f"t{number}")
            signer.round()
            failed += bool(signer.failed)
            assert writer.head.seq >= acknowledged
            acknowledged, head = writer.head.seq, writer.head.hash
        leave(writer)
        if dice.random() < 0.6:
            losses += 1
            disk.power_loss(path.parent)
            disk.power_loss(tmp_path / "keys")
    disk.calm = True
    writer, signer = begin(tmp_path, limits=limits)
    writer.append([denied()])
    writer.close()
    assert signer.failed == ""
    result = verify.verify(path, pins=[first], now=NOW, strict=True, head=head or None, count=acknowledged)
    assert result.bad is None, result.bad
    assert (result.unsigned, bool(disk.errors)) == (0, True)
