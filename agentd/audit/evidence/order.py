"""Records in the order of a bundle, (timestamp, seq), whatever their number: what memory doesn't hold goes to a file.

A log is in that order but for records that were made side by side, so WINDOW records are kept and the smallest goes out
(replacement selection): one run for nearly every log, which is read back as it was written. Several runs are merged.
"""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

WINDOW: Final = 10_000  # records in memory
_READ: Final = 1 << 17  # bytes of one run that are read at once, a line more


class Ordered:
    """`records` (lines of a log, and what they say), sorted into a file without a name in `folder`.

    count: how many; hosts: which ones they name, two at most; first, last: their timestamps.
    """

    def __init__(self, records: Iterable[tuple[bytes, dict[str, Any]]], folder: Path | None) -> None:
        self.count = 0
        self.hosts: set[str] = set()
        self.first = self.last = ""
        self._runs: list[tuple[int, int]] = []  # where each begins and ends
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="agentd-export-")  # noqa: SIM115
        try:
            self._sort(records)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Ordered:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def _sort(self, records: Iterable[tuple[bytes, dict[str, Any]]]) -> None:
        heap: list[tuple[int, str, int, bytes]] = []
        run, begun, written, newest = 0, 0, 0, ("", 0)

        def pop() -> None:
            nonlocal run, begun, written, newest
            number, timestamp, seq, line = heapq.heappop(heap)
            if number != run:
                self._runs.append((begun, written))
                run, begun = number, written
            self._file.write(line)
            written += len(line)
            newest = timestamp, seq

        for line, record in records:
            timestamp, seq = str(record["timestamp"]), int(record["seq"])
            self.count += 1
            if len(self.hosts) < 2:
                self.hosts.add(str(record["host"]))
            self.first = min(self.first or timestamp, timestamp)
            self.last = max(self.last, timestamp)
            heapq.heappush(heap, (run + ((timestamp, seq) < newest), timestamp, seq, line))
            if len(heap) > WINDOW:
                pop()
        while heap:
            pop()
        self._runs.append((begun, written))
        self._file.flush()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        runs = [self._read(begin, end) for begin, end in self._runs]
        if len(runs) == 1:
            return runs[0]
        return heapq.merge(*runs, key=lambda record: (record["timestamp"], record["seq"]))

    def _read(self, at: int, end: int) -> Iterator[dict[str, Any]]:
        held = b""
        step = max(_READ // len(self._runs), 1 << 14)
        while at < end:
            data = os.pread(self._file.fileno(), min(step, end - at), at)
            if not data:
                raise OSError("the sorted records are cut off")
            at += len(data)
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
