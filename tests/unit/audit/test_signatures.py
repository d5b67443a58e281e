"""Signed logs: what somebody without the key can do to one, and that each of it is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.audit import chain, keys, segments
from agentd.audit.segments import Limits
from tests.unit.audit.samples import denied, opened
from tests.unit.audit.signed import NOW, judge, pin, read, reseal, write


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three closed files and an open one, signed every 25 records, with gaps and receipts; `other` has another key."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("mine", "other"):
        write(folder / name, 100)
    return folder


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A copy of the log to do things to."""
    shutil.copytree(home / "mine" / "log", tmp_path / "log")
    return tmp_path


@pytest.mark.parametrize("strict", [False, True])
def test_a_good_log_is_good(home: Path, strict: bool) -> None:
    """An untouched log of several files verifies with its key, to the last record, and says what was checked."""
    result = judge(home / "mine", home / "mine", strict=strict)
    assert result.bad is None
    assert result.files > 2
    assert (result.signed, result.unsigned) == (result.last_seq, 0)
    assert result.keys == (pin(home / "mine").kid,)
    assert any("signed roots" in note for note in result.notes)
    assert any("25 receipts" in note for note in result.notes) == strict


def test_without_a_pinned_key_the_result_says_so(home: Path) -> None:
    """Whose key it was is NOT checked unless one is pinned."""
    result = judge(home / "mine")
    assert result.ok
    assert any("NOT checked: whose key" in note for note in result.notes)


def test_another_key_is_refused(home: Path) -> None:
    """A log that is good but signed by somebody else fails with the key pinned."""
    bad = judge(home / "mine", home / "other").bad
    assert bad is not None
    assert "and not by" in bad.why


def test_an_unsigned_log_is_refused_with_a_key(tmp_path: Path, home: Path) -> None:
    """With a key pinned, a log that nobody signed fails; without, it passes and says that it isn't signed."""
    writer = opened(tmp_path / "log" / "audit.jsonl")
    writer.append([denied()])
    writer.close()
    assert judge(tmp_path).ok
    bad = judge(tmp_path, home / "mine").bad
    assert bad is not None
    assert "nothing is signed" in bad.why


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_records_cut_off_the_end_are_found(copy: Path, home: Path, cut: int) -> None:
    """The signed head tells how many are missing, wherever the cut is."""
    last = copy / "log/audit.jsonl"
    for file in reversed(segments.all_of(last)):
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[: max(0, len(lines) - cut)]))
        cut -= len(lines)
        if cut <= 0:
            break
    bad = judge(copy, home / "mine").bad
    assert bad is not None
    assert "missing" in bad.why


def test_a_removed_or_forged_head_is_found(copy: Path, home: Path) -> None:
    """Without the head nobody knows where the log ends; a head of another key, another log or edited is refused."""
    head = copy / "log/audit.head"
    good = head.read_bytes()
    edited = json.dumps(json.loads(good) | {"record": 10}).encode()
    for content in (None, b"", b"{}", good[:40], edited, (home / "other/log/audit.head").read_bytes()):
        head.unlink(missing_ok=True)
        if content is not None:
            head.write_bytes(content)
        bad = judge(copy, home / "mine").bad
        assert bad is not None
        assert "head" in bad.why
    head.write_bytes(good)
    assert judge(copy, home / "mine").ok


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_file_that_is_missing_is_found(copy: Path, home: Path, which: int) -> None:
    """The oldest, a middle or the newest file can't be taken away."""
    segments.all_of(copy / "log/audit.jsonl")[which].unlink()
    assert not judge(copy, home / "mine").ok


def test_appended_records_are_found(copy: Path, home: Path) -> None:
    """Records that fit the chain but nobody signed are bad, unless they are so recent that agentd may yet sign them."""
    path = copy / "log/audit.jsonl"
    last = json.loads(path.read_bytes().splitlines()[-1])
    forged = json.loads(path.read_bytes().splitlines()[-1]) | {"event": "approved"}
    for member in ("seq", "prev_hash", "hash"):
        forged.pop(member)
    line, _ = chain.seal(forged, chain.Link(last["seq"], last["hash"]))
    with path.open("ab") as log:
        log.write(line)
    bad = judge(copy, home / "mine", now=NOW + 3600).bad
    assert bad is not None
    assert "not signed" in bad.why
    assert not judge(copy, home / "mine", now=NOW - 3600).ok
    fresh = judge(copy, home / "mine")
    assert (fresh.ok, fresh.unsigned) == (True, 1)
    assert any("NOT signed yet" in note for note in fresh.notes)


def drop(event: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda records: [record for record in records if record["event"] != event]


def edit(index: int, **members: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda records: [*records[:index], {**records[index], **members}, *records[index + 1 :]]


def alter_root(member: str, value: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def change(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        root = [record for record in records if record["event"] == "signed"][1]
        root["metadata"][member] = value
        return records

    return change


RESEALED = {
    "a denial becomes an approval": edit(4, event="approved", decision="allow"),
    "a record is removed": lambda records: records[:10] + records[11:],
    "a record is inserted": lambda records: [*records[:10], {**records[8]}, *records[10:]],
    "two records are swapped": lambda records: [*records[:10], records[11], records[10], *records[12:]],
    "the signatures are removed": drop("signed"),
    "a root is altered": alter_root("root", "a" * 64),
    "a root's range is altered": alter_root("from", 2),
    "a signature is altered": alter_root("signature", "A" * 86),
    "the last signature is of another record": lambda records: [*records[:-1], records[30]],
    "receipts are removed": alter_root("receipts", []),
    "the key is announced as another": edit(25, metadata={"key": "b" * 64, "pem": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("what", RESEALED)
def test_a_log_chained_anew_is_found(copy: Path, home: Path, what: str) -> None:
    """Hashes alone anybody can make again; the roots and the head can't be made without the key."""
    reseal(copy, RESEALED[what])
    result = judge(copy, home / "mine")
    assert result.bad is not None, what


def test_resealing_alone_is_no_damage(copy: Path, home: Path) -> None:
    """The control of the above: the same records chained anew are the same log."""
    reseal(copy, lambda records: records)
    assert judge(copy, home / "mine").bad is None


def test_an_altered_root_is_named(copy: Path, home: Path) -> None:
    """The first bad place is the altered root itself, not where it came out."""
    at = [json.loads(line)["seq"] for lines in read(copy).values() for line in lines if b'"event":"signed"' in line][1]
    reseal(copy, alter_root("root", "a" * 64))
    bad = judge(copy, home / "mine").bad
    assert bad is not None
    assert (bad.seq, bad.why) == (at, "the root over the records since the last one is not the one that was signed")


def test_a_log_signed_by_a_thief_of_the_format_is_refused(home: Path, tmp_path: Path) -> None:
    """Everything made anew with a key of one's own is good in itself, and refused with the host's key pinned."""
    write(tmp_path, 30)
    assert judge(tmp_path).ok
    assert not judge(tmp_path, home / "mine").ok


def test_two_signed_logs_cannot_be_spliced(home: Path, tmp_path: Path) -> None:
    """The start of one log and the rest of another with the same key are found, also with the other's head."""
    shutil.copytree(home / "mine" / "keys", tmp_path / "keys")
    write(tmp_path, 100, first=1)
    spliced = tmp_path / "spliced"
    shutil.copytree(home / "mine" / "log", spliced / "log")
    for file in segments.all_of(tmp_path / "log/audit.jsonl")[1:]:
        (spliced / "log" / file.name).write_bytes(file.read_bytes())
    for head in (home / "mine", tmp_path):
        shutil.copy(head / "log/audit.head", spliced / "log/audit.head")
        assert not judge(spliced, home / "mine").ok
    assert judge(tmp_path, home / "mine").ok


def test_every_flipped_bit_of_the_signing_records_is_found(home: Path, tmp_path: Path) -> None:
    """Any byte of a root, a receipt or the head that changes is found, by the chain or by the signature."""
    write(tmp_path, 8, limits=Limits())
    files = (tmp_path / "log/audit.jsonl", tmp_path / "log/audit.head")
    for file in files:
        good = file.read_bytes()
        start = good.index(b'"event":"signed"') if file is files[0] else 0
        for at in range(start, len(good) - 1, 7):
            changed = bytearray(good)
            changed[at] ^= 1
            file.write_bytes(changed)
            assert not judge(tmp_path, tmp_path).ok, at
        file.write_bytes(good)
    assert judge(tmp_path, tmp_path).ok


def test_a_forged_rotation_is_refused(copy: Path, home: Path, tmp_path: Path) -> None:
    """A statement that the old key has not signed, however well it is chained, ends the verification there."""
    thief = keys.load(tmp_path / "thief")
    mine = pin(home / "mine")
    said = {
        "version": keys.ROTATION_VERSION, "from": mine.kid, "from_pem": mine.pem, "to": thief.kid,
        "to_pem": thief.public.pem, "time": "t",
    }  # fmt: skip
    signature = thief.sign(keys.canonical(said))
    metadata = {**said, "signature": signature, "signature_new": signature}
    reseal(copy, lambda records: [*records, {**records[-1], "event": "key_rotated", "metadata": metadata}])
    bad = judge(copy, home / "mine").bad
    assert bad is not None
    assert "the old key has not signed it" in bad.why
