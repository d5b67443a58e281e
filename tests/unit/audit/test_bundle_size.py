"""Bundles bigger than the memory: their order, and what making one takes."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agentd.audit import export, keys
from agentd.audit.evidence import bundle as maker
from agentd.audit.evidence import check, order, stream
from agentd.audit.evidence.order import Ordered
from agentd.audit.segments import Limits
from tests.unit.audit.signed import write
from tests.unit.audit.test_bundle import NOW, build, good, home, ours, published

__all__ = ["good", "home"]  # the fixtures


@pytest.mark.parametrize("window", [1, 7, 40, 1000])
def test_records_come_in_the_order_of_their_times(home: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """However disordered a log is and however few of its records are in memory, the bundle is the same."""
    monkeypatch.setattr(order, "WINDOW", window)
    found = list(export.select(home / "log/audit.jsonl", export.Selection()))
    wanted = sorted((record["timestamp"], record["seq"]) for _, record in found)
    for seed in range(3):
        random.Random(seed).shuffle(found)
        with Ordered(iter(found), home) as records:
            assert [(record["timestamp"], record["seq"]) for record in records] == wanted
    made = build(home, records=iter(found))
    assert published(made) and ours(home, made) == ""
    assert made["records"] == build(home)["records"]


def test_memory_does_not_grow_with_the_bundle(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export of five times as many records takes the same memory."""
    monkeypatch.setattr(order, "WINDOW", 50)
    ((line, record),) = list(export.select(home / "log/audit.jsonl", export.Selection(decision="deny")))[:1]

    def peak(count: int) -> int:
        found = ((line, {**record, "seq": seq}) for seq in range(count))
        with Path("/dev/null").open("w", encoding="utf-8") as out, Ordered(found, home) as records:
            maker.write(
                out, records, keys.load(home / "keys"), framework="soc2", period=(None, None), generated_at="x", log="",
                selected={}, rotations=[], retention_days=None,
            )  # fmt: skip
            return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        peak(10)
        tracemalloc.reset_peak()
        small = peak(200)
        tracemalloc.reset_peak()
        assert peak(1000) < small + (1 << 19)  # 3 MB more of it
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_what_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of six times as many records is checked in the same memory, and progress is told up to its end."""

    def made(count: int) -> Path:
        folder = tmp_path / str(count)
        write(folder, count, limits=Limits())  # signed every 25 records: a root's record holds the receipts of all
        path = folder / "bundle.json"
        path.write_text(json.dumps(build(folder)), encoding="utf-8")
        return path

    def peak(path: Path) -> int:
        told: list[tuple[int, int]] = []
        pins = [keys.read_pin(path.parent / "keys/signing.pub")]
        tracemalloc.reset_peak()
        result = check.check_file(path, pins, NOW, lambda done, total: told.append((done, total)))
        assert result.ok, result.bad
        assert told == sorted(told) and told[-1][0] > told[-1][1] * 0.9
        return tracemalloc.get_traced_memory()[1]

    monkeypatch.setattr(stream, "_STEP", 1 << 14)  # or the small one would be read in one go
    monkeypatch.setattr("agentd.audit.merkle._FOLD", 16)  # leaves that wait to be hashed together
    small, big = made(60), made(360)
    assert big.stat().st_size > small.stat().st_size + (1 << 19)
    tracemalloc.start()
    try:
        peak(small)
        first = peak(small)
        assert peak(big) < first + (1 << 18)
    finally:
        tracemalloc.stop()


def forms(made: dict[str, Any]) -> dict[str, str]:
    """The same bundle as others would write it."""
    records = json.dumps(made["records"])
    rest = {name: made[name] for name in made if name != "records"}
    return {
        "indented": json.dumps(made, indent=4),
        "compact": json.dumps(made, separators=(",", ":"), ensure_ascii=False),
        "sorted, reversed": json.dumps(dict(sorted(made.items(), reverse=True)), sort_keys=False),
        "records last": json.dumps(rest)[:-1] + ', "records": ' + records + "}",
        "records first": '{"records": ' + records + ", " + json.dumps(rest)[1:],
        "padded": " \n" * 300_000 + json.dumps(made) + "\t" * 10,
    }


def test_any_form_of_the_same_json_passes(home: Path, good: dict[str, Any]) -> None:
    """What is signed are values: spaces, the order of members and escapes change nothing."""
    for name, text in forms(good).items():
        assert json.loads(text) == good
        assert ours(home, text) == "", name


def texts(good: dict[str, Any]) -> dict[str, str]:
    """What is no JSON, or not one bundle."""
    text = json.dumps(good)
    return {
        "records twice": text[:-1] + ', "records": []}',
        "records twice, the true ones last": '{"records": [], ' + text[1:],
        "something behind it": text + " {}",
        "a bundle behind it": text + text,
        "no end": text[:-1],
        "no comma": text.replace(', "records"', ' "records"', 1),
        "a comma too many": text.replace('"records": [', '"records": [, ', 1),
        "a comma at the end": text[:-1] + ", }",
        "no name": text[:-1] + ", 3: 4}",
        "records a number": json.dumps({**good, "records": len(good["records"])}),
        "records an object": json.dumps({**good, "records": {}}),
        "a record a number": json.dumps({**good, "records": [*good["records"], 7]}),
        "a value without end": '{"framework": "' + "x" * (3 * stream.LARGEST),
        "a number without end": '{"framework": ' + "1" * 3000 + text[1:],
    }


def test_what_is_not_one_object_is_refused(home: Path, good: dict[str, Any]) -> None:
    """Cut, doubled and misplaced text has a reason; a value that never ends is not read to its end."""
    for name, text in texts(good).items():
        assert ours(home, text) != "", name
    endless = io.BytesIO(b'{"framework": "' + b"x" * (6 * stream.LARGEST))
    with pytest.raises(stream.Refused, match="more than"):
        stream.outer(endless, "records", lambda done: None)
    assert endless.tell() < 5 * stream.LARGEST


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_values_are_whole_wherever_the_reading_stops(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """However few bytes are read at once, values are those of the standard parser: also numbers, escapes, UTF-8."""
    monkeypatch.setattr(stream, "_STEP", step)
    value = {
        "a": 123456,
        "records": [{"x": -17}, '\u00e9\U0001f600\\"', True, None, [], 42],
        "z": [1, {"b": "c"}],
        "n": 7,
    }
    for ascii_only in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
        rest, count = stream.outer(io.BytesIO(data), "records", lambda done: None)
        assert (rest, count) == ({**value, "records": []}, 6)
        assert list(stream.items(io.BytesIO(data), "records", lambda done: None)) == value["records"]
        with pytest.raises(ValueError, match="behind"):
            stream.outer(io.BytesIO(data + b"x"), "records", lambda done: None)
        for end in range(len(data)):
            with pytest.raises(ValueError, match=r"around byte|end of data|name"):
                stream.outer(io.BytesIO(data[:end]), "records", lambda done: None)
