"""Read a log for people: the last records, following it, one record by number. It trusts nothing it reads.

Records are given as parsed objects; a line that isn't one is given as `{"unreadable": "..."}` instead of being
skipped, because a log that hides its damaged lines would be worse than none. Verification is verify.py's.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.audit import chain, rawbytes, segments

POLL: Final = 0.2  # seconds between looks at a followed log

Shown = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records to show; an empty field matches everything."""

    agent: str = ""
    event: str = ""
    decision: str = ""
    tool: str = ""

    def matches(self, record: Shown) -> bool:
        wanted = (
            (self.agent, "agent_id"),
            (self.event, "event"),
            (self.decision, "decision"),
            (self.tool, "tool_name"),
        )
        return all(not value or record.get(member) == value for value, member in wanted)


def last(
    path: Path, number: int, wanted: Filter | None = None, most: int | None = None
) -> tuple[list[Shown], int]:  # fmt: skip
    """The last `number` whole records that pass, oldest first, and the offset after the last whole line of `path`.

    Goes back into the closed files of the log as far as it has to; most: and no further than the file in which so many
    bytes were read.
    """
    wanted = wanted or Filter()
    found: list[Shown] = []
    size = read = 0
    files, newest = segments.opened(path)
    for file in reversed(files):
        if most is not None and read >= most:
            break
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(newest if file == files[-1] else file.open("rb"))
            except FileNotFoundError:
                continue  # closed files go when they are old
            if (length := opened.seek(0, 2)) == 0:
                continue
            read += length
            with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as log:
                end = log.rfind(b"\n") + 1
                size = end if file == path else size
                while end > 0 and len(found) < number:
                    start = log.rfind(b"\n", 0, end - 1) + 1
                    record = parse(log[max(start, end - chain.MAX_LINE) : end])
                    if wanted.matches(record):
                        found.append(record)
                    end = start
        if len(found) >= number:
            break
    found.reverse()
    return found, size


def follow(
    path: Path, offset: int, wanted: Filter | None = None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Shown]:
    """Records written after `offset`, for ever; ends when the file is replaced or becomes shorter."""
    wanted = wanted or Filter()
    with path.open("rb") as log:
        identity = _identity(path)
        log.seek(offset)
        held = b""
        while True:
            data = log.read(1 << 16)
            if not data:
                if _identity(path) != identity or os.fstat(log.fileno()).st_size < log.tell():
                    return
                sleep(POLL)
                continue
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                record = parse(line)
                if wanted.matches(record):
                    yield record
            held = held[-chain.MAX_LINE :]


def find(path: Path, seq: int) -> Shown | None:
    """The record number `seq`, by binary search (a log is in order of seq); None if there is none."""
    older = [file for file in segments.closed(path) if segments.first_of(file) <= seq]
    found = _find(path, seq) if path.exists() else None
    return _find(older[-1], seq) if found is None and older else found


def _find(path: Path, seq: int) -> Shown | None:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return None
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as log:
            low, high = 0, log.rfind(b"\n") + 1
            while low < high:
                start = log.rfind(b"\n", low, (low + high) // 2) + 1 or low
                end = log.find(b"\n", start, high) + 1
                record = parse(log[start : min(end, start + chain.MAX_LINE)])
                here = record.get("seq")
                if not isinstance(here, int) or isinstance(here, bool):
                    return _scan(log, seq)
                if here == seq:
                    return record
                if here < seq:
                    low = end
                else:
                    high = start
    return None


class Onward:
    """Records by number, each higher than the one before: all of them together cost one reading of the log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: Iterator[bytes] = iter(())
        self._file = 0  # the number in the name of the file that is being read

    def find(self, seq: int) -> Shown | None:
        """The record number `seq`; None if there is none from where the last one stood. Raises OSError."""
        after = [segments.first_of(file) for file in segments.closed(self._path)]
        first = max((number for number in after if number <= seq), default=0)
        if first > self._file:
            self._open(segments.closed_name(self._path, first))
            self._file = first
        record = self._next(seq)
        if record is None and self._file >= max(after, default=0):
            self._open(self._path)
            record = self._next(seq)
        return record

    def _open(self, file: Path) -> None:
        self._lines = _lines(file)

    def _next(self, seq: int) -> Shown | None:
        wanted = b',"seq":%d,"timestamp":"' % seq
        for line in self._lines:
            if wanted in line[line.rfind(b',"seq":') :]:
                return parse(line)
        return None


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as log:
        yield from iter(lambda: log.readline(chain.MAX_LINE), b"")


def _scan(log: mmap.mmap, seq: int) -> Shown | None:
    """The slow way, for a log with damaged lines."""
    log.seek(0)
    while line := log.readline():
        record = parse(line[: chain.MAX_LINE])
        if record.get("seq") == seq:
            return record
    return None


def parse(line: bytes) -> Shown:
    """One line as a record, or what can be shown of a line that is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "seq" in value and "event" in value:
        return value
    return {"unreadable": rawbytes.printable(line[:200].rstrip(b"\n"))}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
