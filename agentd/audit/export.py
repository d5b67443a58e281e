"""Hands records of a log out: as they stand (JSON lines), as a table (CSV), or as an evidence bundle (evidence/)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from agentd.audit import chain, many, rawbytes, segments
from agentd.audit.canonical import Json

COLUMNS: Final = (
    *("seq", "timestamp", "event", "agent_id", "tool_name", "operation", "decision", "action", "guarantee", "rule"),
    *("input_summary", "reason", "count", "pid", "exe", "argv", "uid", "host", "hash"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records; empty matches everything. since, until: RFC 3339, both included."""

    agent: str = ""
    decision: str = ""
    tool: str = ""
    since: str = ""
    until: str = ""

    def filters(self) -> dict[str, str]:
        """What was asked for, by name."""
        named = (("agent", self.agent), ("decision", self.decision), ("tool", self.tool))
        times = (("since", self.since), ("until", self.until))
        return {name: value for name, value in (*named, *times) if value}

    def matches(self, record: dict[str, Any]) -> bool:
        """Does the record pass?"""
        if self.agent and record.get("agent_id") != self.agent:
            return False
        if self.decision and record.get("decision") != self.decision:
            return False
        if self.tool and record.get("tool_name") != self.tool:
            return False
        # Both have the same form (UTC, six digits), so they compare as text.
        when = str(record.get("timestamp"))
        return (not self.since or when >= self.since) and (not self.until or when <= self.until)


def utc(text: str, end: bool = False) -> str:
    """A time that a person wrote, in the form of records; a date alone is its first moment, or its last one.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if len(text) == 10:
        moment = datetime.fromisoformat(text + ("T23:59:59.999999+00:00" if end else "T00:00:00+00:00"))
    if moment.tzinfo is None:
        raise ValueError("no time zone: write for example 2026-11-25T12:00:00Z")
    return f"{datetime.fromtimestamp(moment.timestamp(), tz=UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def select(path: Path, wanted: Selection) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a log (all of its files) that pass, and what they say, up to where it is now or later.

    Raises ValueError for a line that is none, OSError.
    """
    files, last = segments.opened(path)
    with last:
        for file in files[:-1]:
            with file.open("rb") as log:
                yield from _select(log, file.name, wanted)
        yield from _select(last, files[-1].name, wanted)


def _select(log: BinaryIO, name: str, wanted: Selection) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in enumerate(iter(lambda: log.readline(chain.MAX_LINE), b""), 1):
        if line[-1:] != b"\n":
            return  # just being written
        record = json.loads(line)
        if not isinstance(record, dict) or "event" not in record or "seq" not in record:
            raise ValueError(f"{name} line {number}: not a record")
        if wanted.matches(record):
            yield line, record


def csv_rows(record: Mapping[str, Any]) -> str:
    """The lines of the table for a record: one for each object. Nothing in them is taken for a formula by a
    spreadsheet, or moves a terminal's cursor.
    """
    return "".join(map(_csv_row, many.each(record)))


def _csv_row(record: Mapping[str, Any]) -> str:
    found = record.get("process")
    process = found if isinstance(found, dict) else {}
    values = {**record, "pid": process.get("pid"), "uid": process.get("uid"), "exe": process.get("exe")}
    values["argv"] = process.get("argv") or ""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(values.get(name)) for name in COLUMNS])
    return out.getvalue()


def csv_header() -> str:
    """The names of the columns."""
    return ",".join(COLUMNS) + "\n"


def _cell(value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = " ".join(_plain(item) for item in value)
    text = _plain(value)
    return "'" + text if text.startswith(_FORMULA) else text


def _plain(value: Json) -> str:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return rawbytes.printable(rawbytes.decode(value))
    return rawbytes.printable(value if isinstance(value, str) else json.dumps(value))
