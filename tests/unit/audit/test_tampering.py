"""Tampering at random: whatever somebody without the key does to a signed log, in any combination, is found."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.audit import chain, segments
from tests.unit.audit.signed import judge, write

Files = dict[str, bytes]
ROUNDS: Final = 25  # of each seed


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two logs of one host: the same key, other records."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    write(one, 80)
    shutil.copytree(one / "keys", two / "keys")
    write(two, 90, first=500)
    return one, two


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


def content(files: Files) -> tuple[bytes, bytes | None]:
    """What a log says, however its files are called: its lines in the order of the names, and its head."""
    names = sorted(name for name in files if name.endswith(".jsonl") and name != "audit.jsonl")
    return b"".join(files[name] for name in names) + files.get("audit.jsonl", b""), files.get("audit.head")


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
        result = judge(tmp_path, logs[0], strict=dice.random() < 0.2)
        same = content(files) == content(one)
        changed += not same
        assert result.ok == same, (files.keys(), result.bad)
    assert changed > ROUNDS / 2
