"""Signed logs that the tests share: folder/log is the log, folder/keys has the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentd.audit import chain, keys, segments, verify
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


def reseal(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """What somebody without the key does best: changes records, then numbers and chains everything anew."""
    files = read(folder)
    records = [json.loads(line) for lines in files.values() for line in lines]
    link, made = chain.Link(), b""
    for record in change(records):
        for member in ("seq", "prev_hash", "hash"):
            record.pop(member, None)
        line, link = chain.seal(record, link)
        made += line
    for file in files:
        file.unlink()
    (folder / "log/audit.jsonl").write_bytes(made)
