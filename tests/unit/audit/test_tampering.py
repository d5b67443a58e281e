"""Tampering at random: whatever somebody without the key does to a signed log, in any combination, is found; and the
quick way of verifying, part by part, says word for word what reading record by record says.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.audit import chain, form, keys, segments, verify
from agentd.audit.record import time_text
from tests.unit.audit.samples import START, denied
from tests.unit.audit.signed import begin, judge, write

Files = dict[str, bytes]
ROUNDS: Final = 16  # of each seed


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two logs of one host: the same keys, other records. Both change keys, and have lost something."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    write(one, 40)
    (one / "log/audit.head").rename(one / "older.head")
    keys.rotate(one / "keys", time_text(START))
    writer, _ = begin(one, clock=lambda: START + 3600 * 10**9)
    writer.append([denied(40, event="gap", reason="7 events were lost")])
    writer.close()
    write(one, 40, first=41, clock=lambda: START + 7200 * 10**9)
    shutil.copytree(one / "keys", two / "keys")
    write(two, 90, first=500)
    return one, two


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on writing the torn lines here."""
    monkeypatch.setattr(form, "_TORN_WAIT", (1, 0.0))


def both(folder: Path, key: Path, dice: random.Random, **options: Any) -> verify.Result:
    """Record by record and part by part: one verdict."""
    slow = judge(folder, key, jobs=0, **options)
    quick = judge(folder, key, jobs=1, part=dice.choice([700, 3000, 20_000]), first=dice.choice([1, 5000]), **options)
    assert dataclasses.replace(quick, notes=()) == dataclasses.replace(slow, notes=())
    return slow


def files_of(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in sorted((folder / "log").iterdir())}


def pick(dice: random.Random, files: Files, kind: str = ".jsonl") -> str:
    return dice.choice([name for name in files if name.endswith(kind)])


def flip(dice: random.Random, files: Files, other: Files) -> None:
    name = pick(dice, files, "")
    data = bytearray(files[name])
    for _ in range(dice.choice([1, 1, 2, 50])):
        if data:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    files[name] = bytes(data)


def cut_bytes(dice: random.Random, files: Files, other: Files) -> None:
    name = pick(dice, files, "")
    start, end = sorted(dice.randrange(len(files[name]) + 1) for _ in range(2))
    start, end = dice.choice([(start, end), (0, end), (start, len(files[name]))])
    files[name] = files[name][:start] + files[name][end:]


def lines(dice: random.Random, files: Files, other: Files) -> None:
    """Removes, doubles, moves or borrows whole lines."""
    name = pick(dice, files)
    found = files[name].splitlines(keepends=True)
    if not found:
        return
    at, to = dice.randrange(len(found)), dice.randrange(len(found) + 1)
    how = dice.choice(["remove", "double", "move", "borrow", "tail", "head"])
    if how == "remove":
        del found[at : at + dice.randrange(1, 5)]
    elif how == "double":
        found.insert(to, found[at])
    elif how == "move":
        found.insert(to, found.pop(at))
    elif how == "borrow":
        found.insert(to, dice.choice(other[pick(dice, other)].splitlines(keepends=True)))
    elif how == "tail":
        del found[at:]
    else:
        del found[:at]
    files[name] = b"".join(found)


def whole_files(dice: random.Random, files: Files, other: Files) -> None:
    name = pick(dice, files, "")
    how = dice.choice(["remove", "swap", "borrow", "rename", "double"])
    if how == "remove":
        del files[name]
    elif how == "swap":
        second = pick(dice, files, "")
        files[name], files[second] = files[second], files[name]
    elif how == "borrow":
        files[name] = other[pick(dice, other, "")]
    elif how == "double":
        files["audit-0000000000009999.jsonl"] = files[name]
    else:
        files["audit-0000000000009999.jsonl"] = files.pop(name)


def rechain(dice: random.Random, files: Files, other: Files) -> None:
    """Edits records and chains everything anew, as one file or as the same ones."""
    names = sorted(name for name in files if name.endswith(".jsonl"))
    records: list[Any] = []
    for name in names:
        for line in files[name].splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not isinstance(record, dict):
                return
            records.append((name, record))
    if not records:
        return
    for _ in range(dice.randrange(1, 4)):
        name, record = records[dice.randrange(len(records))]
        how = dice.choice(["edit", "edit", "drop", "insert", "metadata"])
        if how == "edit":
            record[dice.choice(["decision", "reason", "agent_id", "timestamp", "event"])] = dice.choice(
                ["allow", "x", "denied"]
            )
        elif how == "drop" and len(records) > 1:
            records.remove((name, record))
        elif how == "insert":
            records.insert(dice.randrange(len(records)), (name, dict(record)))
        elif how == "metadata" and record.get("metadata"):
            record["metadata"][dice.choice(sorted(record["metadata"]))] = dice.choice([1, "x", None, []])
    made: Files = dict.fromkeys(names, b"")
    link = chain.Link()
    for name, record in records:
        body = {key: value for key, value in record.items() if key not in ("seq", "prev_hash", "hash")}
        try:
            line, link = chain.seal(body, link)
        except ValueError:
            return
        made[name] += line
    files |= made


HOW: Final[tuple[Callable[[random.Random, Files, Files], None], ...]] = (
    flip, cut_bytes, lines, whole_files, rechain,
)  # fmt: skip


@pytest.mark.parametrize("how", [*HOW, None], ids=lambda how: how.__name__ if how else "mixed")
@pytest.mark.parametrize("seed", range(6))
def test_any_tampering_is_found(logs: tuple[Path, Path], tmp_path: Path, how: Any, seed: int) -> None:
    """Every change that leaves other bytes than before is found with the key pinned; the same bytes pass."""
    dice = random.Random(f"{seed}{how}")
    one, other = files_of(logs[0]), files_of(logs[1])
    changed = 0
    for _ in range(ROUNDS):
        files = dict(one)
        for _ in range(1 if how else dice.randrange(1, 4)):
            (how or dice.choice(HOW))(dice, files, other)
            if not files:
                break
        target = tmp_path / "log"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, data in files.items():
            (target / name).write_bytes(data)
        if not segments.all_of(target / "audit.jsonl"):
            continue
        result = both(tmp_path, logs[0], dice, strict=dice.random() < 0.2)
        same = files == one
        changed += not same
        assert result.ok == same, (files.keys(), result.bad)
    assert changed > ROUNDS / 2


def records_of(folder: Path) -> list[Any]:
    files = segments.all_of(folder / "log/audit.jsonl")
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def rewritten(folder: Path, change: Callable[[list[Any]], None]) -> None:
    """Changes the records of a log, and chains them anew in the same files."""
    files = segments.all_of(folder / "log/audit.jsonl")
    records = [(file, json.loads(line)) for file in files for line in file.read_bytes().splitlines()]
    kept = [record for _, record in records]
    change(kept)
    made: dict[Path, bytes] = dict.fromkeys(files, b"")
    where = {id(record): file for file, record in records}
    link, file = chain.Link(), files[0]
    for record in kept:
        file = where.get(id(record), file)
        body = {key: value for key, value in record.items() if key not in ("seq", "prev_hash", "hash")}
        line, link = chain.seal(body, link)
        made[file] += line
    for path, data in made.items():
        path.write_bytes(data)


def at(records: list[Any], event: str) -> int:
    return next(index for index, record in enumerate(records) if record["event"] == event)


def no_gap(records: list[Any]) -> None:
    del records[at(records, "gap")]


def forged_rotation(records: list[Any]) -> None:
    """The new key of the statement is a thief's, who can't sign for the old one."""
    said = records[at(records, "key_rotated")]["metadata"]
    with tempfile.TemporaryDirectory() as folder:
        keys.ensure(Path(folder))
        thief = keys.load(Path(folder))
    said["to"], said["to_pem"] = thief.kid, thief.public.pem
    del said["signature"], said["signature_new"]
    data = keys.canonical(said)
    said["signature"] = said["signature_new"] = thief.sign(data)


def no_rotation(records: list[Any]) -> None:
    del records[at(records, "key_rotated")]


def other_root(records: list[Any]) -> None:
    records[at(records, "signed")]["metadata"]["root"] = "0" * 64


def other_receipts(records: list[Any]) -> None:
    records[at(records, "signed")]["metadata"]["receipts"] = []


CHAINED_ANEW: Final = (no_gap, forged_rotation, no_rotation, other_root, other_receipts)


@pytest.mark.parametrize("change", CHAINED_ANEW, ids=lambda change: change.__name__)
def test_what_is_chained_anew_is_found_where_it_was_changed(
    logs: tuple[Path, Path], tmp_path: Path, change: Callable[[list[Any]], None]
) -> None:
    """Whoever computes all hashes again after a change can't sign, and the first signature after it tells."""
    shutil.copytree(logs[0], tmp_path, dirs_exist_ok=True)
    good = both(tmp_path, logs[0], random.Random(1))
    assert good.ok and good.gaps == 1 and len(good.keys) == 2, good
    rewritten(tmp_path, lambda records: None)
    assert both(tmp_path, logs[0], random.Random(1)).ok  # the control: nothing changed, nothing found
    before = records_of(tmp_path)
    rewritten(tmp_path, change)
    after = records_of(tmp_path)
    first = next(i for i, (old, new) in enumerate(zip(before, after, strict=False)) if old != new) + 1
    bad = both(tmp_path, logs[0], random.Random(2)).bad
    assert bad is not None
    signed = [record["seq"] for record in after if record["seq"] >= first and record["event"] == "signed"]
    assert first <= (bad.seq or 0) <= signed[1], (first, bad)


def test_an_older_head_is_found(logs: tuple[Path, Path], tmp_path: Path) -> None:
    """The head file of an hour before, put back beside a log that went on, is no head of it; the right one is."""
    shutil.copytree(logs[0], tmp_path, dirs_exist_ok=True)
    assert both(tmp_path, logs[0], random.Random(1)).ok
    shutil.copy(logs[0] / "older.head", tmp_path / "log/audit.head")
    bad = both(tmp_path, logs[0], random.Random(1)).bad
    assert bad is not None and "the signed head is an older one" in bad.why


def test_processes_say_the_same(logs: tuple[Path, Path], tmp_path: Path) -> None:
    """With two processes the verdicts are those of one, on a good log and on a changed one, and none is left behind."""
    shutil.copytree(logs[0], tmp_path, dirs_exist_ok=True)
    alone = judge(tmp_path, logs[0], jobs=0)
    together = judge(tmp_path, logs[0], jobs=2, part=3000, first=1)
    assert alone.ok and dataclasses.replace(alone, notes=()) == dataclasses.replace(together, notes=())
    file = segments.all_of(tmp_path / "log/audit.jsonl")[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    alone = judge(tmp_path, logs[0], jobs=0)
    together = judge(tmp_path, logs[0], jobs=2, part=3000, first=1)
    assert alone.bad is not None and together.bad == alone.bad
