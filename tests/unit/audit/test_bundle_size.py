"""Bundles bigger than the memory: their order, and what making one takes."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from agentd.audit import export, keys
from agentd.audit.evidence import bundle as maker
from agentd.audit.evidence import order
from agentd.audit.evidence.order import Ordered
from tests.unit.audit.test_bundle import build, home, ours, published

__all__ = ["home"]  # the fixture


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
