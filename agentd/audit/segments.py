"""The files of a log: `audit.jsonl`, which is written to, and the older ones, `audit-<first seq>.jsonl`.

Together they are one chain. A file is closed by giving it its number and starting a new `audit.jsonl`; nothing in it
changes any more. The signed head stands in `audit.head`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

DIGITS: Final = 16
DAY: Final = 86_400  # seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """When a new file is started, and how many old ones are kept; 0: without limit.

    file_bytes, file_seconds: size and age of one file; keep_bytes, keep_seconds: of all closed ones together, and of
    the last write to one.
    """

    file_bytes: int = 64 << 20
    file_seconds: int = DAY
    keep_bytes: int = 0
    keep_seconds: int = 0

    def surplus(self, files: Sequence[Path], now: int) -> Iterator[tuple[Path, str]]:
        """Which of the closed files (oldest first) go, and why; now: ns since the epoch."""
        if not files or not (self.keep_bytes or self.keep_seconds):
            return
        found = [(file, file.stat()) for file in files]
        size = sum(status.st_size for _, status in found)
        for file, status in found:
            age = now // 1_000_000_000 - int(status.st_mtime)
            if self.keep_seconds and age > self.keep_seconds:
                yield file, f"written {age // DAY} days ago, and files are kept for {self.keep_seconds // DAY}"
            elif self.keep_bytes and size > self.keep_bytes:
                yield file, f"the closed files have {size} bytes, and {self.keep_bytes} are kept"
            else:
                return
            size -= status.st_size


def closed_name(path: Path, first: int) -> Path:
    """What the file `path`, whose first record is `first`, is called once it is closed."""
    return path.with_name(f"{path.stem}-{first:0{DIGITS}d}{path.suffix}")


def head_of(path: Path) -> Path:
    """The file of the signed head."""
    return path.with_name(f"{path.stem}.head")


def closed(path: Path) -> list[Path]:
    """The closed files of the log `path`, oldest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}-[0-9]{{{DIGITS}}}{re.escape(path.suffix)}")
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    return [path.with_name(name) for name in sorted(names) if pattern.fullmatch(name)]


def all_of(path: Path) -> list[Path]:
    """All files of the log `path` that exist, in the order of their records."""
    return [*closed(path), *([path] if path.exists() else [])]


def opened(path: Path) -> tuple[list[Path], BinaryIO]:
    """The files of the log `path`, and the last of them, open: a live log may go on in a new one just now, and what was
    the last one has another name then. Raises OSError.
    """
    while True:
        files = all_of(path) or [path]
        last = files[-1].open("rb", buffering=1 << 18)
        try:
            if os.path.samestat(os.fstat(last.fileno()), files[-1].stat()) and files == (all_of(path) or [path]):
                return files, last
        except FileNotFoundError:
            pass
        last.close()


def first_of(file: Path) -> int:
    """The seq that a closed file's name says it begins with."""
    return int(file.stem.rpartition("-")[2])
