"""Signed logs that the tests share: folder/log is the log, folder/keys has the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentd.audit import keys, segments, verify
from agentd.audit.segments import Limits
from agentd.audit.signer import LogSigner
from agentd.audit.writer import AuditWriter
from tests.unit.audit.samples import START, allowed, denied, opened

NOW = START / 1e9


def write(folder: Path, count: int, first: int = 0, **options: Any) -> AuditWriter:
    """A signed log in folder/log with keys in folder/keys, closed in order."""
    writer, signer = begin(folder, **options)
    for number in range(first, first + count):
        writer.append([denied(number) if number % 4 == 0 else allowed(number)])
        if number % 25 == 24:
            writer.commit()
            signer.round()
    writer.close()
    assert signer.failed == ""
    return writer


def begin(folder: Path, **options: Any) -> tuple[AuditWriter, LogSigner]:
    """A signed log that is open."""
    limits = options.pop("limits", Limits(file_bytes=30_000))
    clock = options.pop("clock", lambda: START)
    writer = opened(folder / "log" / "audit.jsonl", clock=clock, limits=limits, **options)
    return writer, LogSigner(writer, folder / "keys", interval=0)


def pin(folder: Path) -> keys.PublicKey:
    return keys.read_pin(folder / "keys" / "signing.pub")


def judge(folder: Path, key: Path | None = None, **options: Any) -> verify.Result:
    """The verdict on folder/log with the key of `key` pinned."""
    pins = [] if key is None else [pin(key)]
    return verify.verify(folder / "log" / "audit.jsonl", pins=pins, **{"now": NOW, **options})


def read(folder: Path) -> dict[Path, list[bytes]]:
    return {file: file.read_bytes().splitlines(keepends=True) for file in segments.all_of(folder / "log/audit.jsonl")}
