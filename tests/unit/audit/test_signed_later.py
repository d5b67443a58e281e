"""Signed logs over time: crashes, changes of key, and old files that are removed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentd.audit import files, keys, segments, verify
from agentd.audit.segments import Limits
from tests.unit.audit.samples import START, allowed, denied, opened
from tests.unit.audit.signed import NOW, begin, judge, pin, read, reseal, write

# --- a crash ----------------------------------------------------------------------------------------------------------


def test_what_a_crash_left_unsigned_is_signed_at_the_next_start(tmp_path: Path) -> None:
    """Records whose writer died before signing are chained and pass while fresh; the next agentd signs them."""
    write(tmp_path, 30, limits=Limits())
    writer, signer = begin(tmp_path, limits=Limits())
    writer.append([denied(number) for number in range(5)])
    writer.commit()
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "log", crashed / "log")
    shutil.copytree(tmp_path / "keys", crashed / "keys")
    writer.close()
    fresh = judge(crashed, crashed)
    assert (fresh.ok, fresh.unsigned) == (True, 5)
    assert not judge(crashed, crashed, now=NOW + 3600).ok
    writer, signer = begin(crashed)
    writer.append([allowed()])
    writer.close()
    result = judge(crashed, crashed, strict=True)
    assert (result.bad, result.unsigned) == (None, 0)
    assert signer.receipts == 5


def test_a_head_that_takes_long_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first signed head is on its way to a slow disk, whatever the log holds by then passes without it."""
    seen = []

    def slow(path: Path, data: bytes, mode: int = 0o600) -> None:
        writer.commit()  # the engine's loop goes on meanwhile
        seen.append((path.exists(), judge(tmp_path).bad))
        files.replace(path, data, mode)

    slowed = SimpleNamespace(replace=slow)
    monkeypatch.setattr("agentd.audit.signer.files", slowed)
    writer, signer = begin(tmp_path)
    writer.append([denied(number) for number in range(5)])
    writer.commit()
    signer.round()
    writer.close()
    assert seen[0] == (False, None)
    assert judge(tmp_path, tmp_path, strict=True).bad is None


def test_changed_records_are_not_signed_after_a_crash(tmp_path: Path) -> None:
    """A tail that was edited between the crash and the start gets no signature, and why is told."""
    writer, signer = begin(tmp_path, limits=Limits())
    writer.append([denied(number) for number in range(2000)])
    writer.commit()
    path = tmp_path / "log/audit.jsonl"
    data = path.read_bytes()
    writer.close()
    (tmp_path / "log/audit.head").unlink()
    path.write_bytes(data.replace(b"research_bot", b"research_bat", 1))
    writer, signer = begin(tmp_path, limits=Limits())
    signer.round()
    assert "changed after it was written" in signer.failed
    writer.close()


def test_a_flood_before_the_key_is_there_is_signed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More records than wait in memory for the key are read from the disk again."""
    monkeypatch.setattr("agentd.audit.signer.EARLY", 50)
    writer, signer = begin(tmp_path)
    for number in range(180):
        writer.append([denied(number)])
    signer.round()
    assert "before it is on disk" in signer.failed
    writer.commit()
    writer.append([denied(999)])
    writer.close()
    assert signer.failed == ""
    result = judge(tmp_path, tmp_path, strict=True)
    assert (result.bad, result.unsigned) == (None, 0)
    assert signer.receipts == 181


@pytest.mark.parametrize("kept", [1, 10, 60_000])
def test_a_flood_of_denials_verifies_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """In a flood receipts come late and some never; --strict says how many, whatever it can keep in mind, and a receipt
    that is not the record's is still found.
    """
    monkeypatch.setattr("agentd.audit.signer.BACKLOG", 30)
    monkeypatch.setattr("agentd.audit.signer.RATE", 7)
    monkeypatch.setattr("agentd.audit.signatures.WAITING", kept)
    writer, signer = begin(tmp_path)
    for first in range(0, 400, 20):
        writer.append([denied(number) for number in range(first, first + 20)])
        writer.commit()
        signer.round()
    writer.close()
    assert signer.left_out > 100 and signer.receipts + signer.left_out == 400
    result = judge(tmp_path, tmp_path, strict=True)
    assert result.bad is None
    assert f"checked: {signer.receipts} receipts of single records" in result.notes
    assert any(f"{signer.left_out} denials, holds or answers have no receipt" in note for note in result.notes)
    for change in (other_place, twice):
        spoilt = tmp_path / change.__name__
        shutil.copytree(tmp_path / "log", spoilt / "log")
        reseal(spoilt, change)
        bad = judge(spoilt, tmp_path, strict=True).bad
        assert bad is not None and "receipt" in bad.why, bad


def last_receipts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the last root, which nothing but the head covers."""
    found: list[dict[str, Any]] = [record for record in records if record["event"] == "signed"][-1]["metadata"][
        "receipts"
    ]
    return found


def other_place(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = last_receipts(records)
    made[0]["signature"], made[1]["signature"] = made[1]["signature"], made[0]["signature"]
    return records


def twice(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = last_receipts(records)
    made.insert(1, dict(made[0]))
    return records


def test_killed_between_the_first_head_and_the_first_signature(tmp_path: Path) -> None:
    """The first head is there before any record about signatures: such a log passes while it is fresh, with its key and
    without; with another key, cut, or chained anew it doesn't.
    """
    writer, signer = begin(tmp_path)
    writer.append([denied(number) for number in range(6)])
    writer.commit()
    signer.round()  # what it has sealed is not committed
    crashed = tmp_path / "crashed"
    for name in ("log", "keys"):
        shutil.copytree(tmp_path / name, crashed / name)
    writer.close()
    assert b"sign" not in b"".join(line for found in read(crashed).values() for line in found)
    keys.load(tmp_path / "other/keys")
    for key in (crashed, None):
        assert judge(crashed, key).bad is None
    assert not judge(crashed, tmp_path / "other").ok
    path = crashed / "log/audit.jsonl"
    good = path.read_bytes()
    for change in (good[: good.rindex(b"{")], good.replace(b"research_bot", b"research_bat")):
        path.write_bytes(change)
        assert not judge(crashed, crashed).ok
    path.write_bytes(b"")
    other = opened(path)
    other.append([allowed(number) for number in range(6)])
    other.close()
    assert not judge(crashed, crashed).ok
    assert not judge(crashed).ok


def test_a_head_that_cannot_be_written_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room for the head nothing is signed and why is told; later the log is as if nothing had happened."""
    keys.load(tmp_path / "keys")
    writer, signer = begin(tmp_path)
    writer.append([denied(1)])
    writer.commit()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("agentd.audit.files.replace", full)
        signer.round()
        signer.round()
    assert "No space left" in signer.failed
    writer.append([denied(2)])
    writer.close()
    assert signer.failed == ""
    assert judge(tmp_path, tmp_path, strict=True).bad is None


def test_a_log_that_was_never_signed_is_signed_from_its_beginning(tmp_path: Path) -> None:
    """The log of an agentd without signatures verifies with the key after the next start, all of it."""
    old = opened(tmp_path / "log/audit.jsonl")
    old.append([denied(number) for number in range(30)])
    old.close()
    writer, signer = begin(tmp_path)
    writer.append([denied(31)])
    writer.close()
    result = judge(tmp_path, tmp_path, strict=True)
    assert (result.bad, result.unsigned) == (None, 0)
    assert signer.receipts == 31


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_rotated_key_is_followed(tmp_path: Path) -> None:
    """After two changes of key, one while the log is open, the log verifies with each of the three keys pinned."""
    write(tmp_path, 10)
    pins = [pin(tmp_path)]
    keys.rotate(tmp_path / "keys", "2026-11-21T00:00:00Z")
    writer, signer = begin(tmp_path)
    writer.append([denied(1)])
    writer.commit()
    signer.round()
    pins.append(pin(tmp_path))
    keys.rotate(tmp_path / "keys", "2026-11-22T00:00:00Z")
    writer.append([denied(2)])
    signer.round()
    pins.append(pin(tmp_path))
    writer.close()
    assert signer.failed == ""
    for key in pins:
        result = verify.verify(tmp_path / "log/audit.jsonl", pins=[key], now=NOW, strict=True)
        assert result.bad is None
        assert result.keys == tuple(item.kid for item in pins)


def test_a_key_that_nobody_vouches_for_signs_nothing(tmp_path: Path) -> None:
    """A key that was put in the place of the old one by hand doesn't sign, and the log stays good up to there."""
    write(tmp_path, 10)
    shutil.copytree(tmp_path / "keys", tmp_path / "kept")
    shutil.rmtree(tmp_path / "keys")
    writer, signer = begin(tmp_path)
    writer.append([denied(1)])
    writer.close()
    assert "nothing says that" in signer.failed
    kept = keys.read_pin(tmp_path / "kept/signing.pub")
    result = verify.verify(tmp_path / "log/audit.jsonl", pins=[kept], now=NOW)
    assert (result.ok, result.unsigned) == (True, 1)


# --- old files --------------------------------------------------------------------------------------------------------


def test_pruned_files_may_be_missing_and_no_others(tmp_path: Path) -> None:
    """A start that a signed record explains is good; one file more away, or the record of it gone, is not."""
    writer, signer = begin(tmp_path, limits=Limits(file_bytes=10_000, keep_bytes=40_000))
    for number in range(150):
        writer.append([denied(number)])
        writer.commit()
        if number % 10 == 0:
            signer.round()
            writer.maintain()
    writer.close()
    result = judge(tmp_path, tmp_path, strict=True)
    assert result.bad is None
    assert any("were removed, as signed records say" in note for note in result.notes)
    segments.closed(tmp_path / "log/audit.jsonl")[0].unlink()
    bad = judge(tmp_path, tmp_path).bad
    assert bad is not None
    assert "no record says that those before were removed" in bad.why


def test_the_key_before_the_pruned_files_still_leads_here(tmp_path: Path) -> None:
    """An auditor who pinned the first key can verify a log whose change of key was removed with an old file."""
    write(tmp_path, 10, limits=Limits(file_bytes=5_000))
    first = pin(tmp_path)
    keys.rotate(tmp_path / "keys", "2026-11-21T00:00:00Z")
    writer, signer = begin(tmp_path, limits=Limits(file_bytes=5_000, keep_bytes=10_000))
    for number in range(40):
        writer.append([denied(number)])
        writer.commit()
        signer.round()
    writer.maintain()
    writer.close()
    assert b"key_rotated" not in b"".join(line for lines in read(tmp_path).values() for line in lines)
    for key in (first, pin(tmp_path)):
        assert verify.verify(tmp_path / "log/audit.jsonl", pins=[key], now=NOW).bad is None


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_a_file_begun_before_the_key_is_there(tmp_path: Path, killed: bool, changed: bool) -> None:
    """A start that has to begin a new file at once can't say yet who signs it. It is said later in that file, so that
    the files before may go; also if agentd is killed in between, or the key was changed while it was away.
    """
    first = keys.load(tmp_path / "keys").public
    write(tmp_path, 30, limits=Limits())
    if changed:
        keys.rotate(tmp_path / "keys", "2026-11-26T00:00:00Z")
    limits = Limits(file_bytes=5_000)
    writer, signer = begin(tmp_path, limits=limits)
    writer.append([denied(1)])
    writer.commit()
    if killed:
        os.close(writer._fd)
        os.close(writer._directory)
        writer, signer = begin(tmp_path, limits=Limits())
    writer.append([denied(2)])
    signer.round()
    writer.close()
    (old,) = segments.closed(tmp_path / "log/audit.jsonl")[:1]
    assert judge(tmp_path, strict=True).bad is None
    writer, signer = begin(tmp_path, limits=Limits(keep_bytes=1))
    writer.append([denied(3)])
    signer.round()
    writer.maintain()
    writer.close()
    assert not old.exists()
    result = verify.verify(tmp_path / "log/audit.jsonl", pins=[first], now=NOW, strict=True)
    assert (result.bad, result.unsigned) == (None, 0)


def test_the_head_keeps_up_with_denials_that_never_pause(tmp_path: Path) -> None:
    """With something to sign in every round the head is one round behind, so the log is good at any time, also after
    many minutes of that.
    """
    now = [START]
    writer, signer = begin(tmp_path, clock=lambda: now[0])
    for number in range(200):
        writer.append([denied(number)])
        writer.commit()
        signer.round()
        now[0] += 1_000_000_000
        writer.commit()
        if number % 40 == 39:
            result = judge(tmp_path, tmp_path, now=now[0] / 1e9)
            assert result.bad is None, result.bad
    writer.close()
