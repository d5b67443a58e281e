"""Verify a log offline: one pass, constant memory, and the first bad place by name.

Found by the chain alone: any changed byte, records missing, inserted, repeated or moved, the start cut off, two logs
spliced, a torn end. Not found by a chain alone: records cut off at the end, on a line boundary, because a shorter
chain is a chain too. For that the auditor notes a hash (or a number of records) beforehand and gives it as `head` (or
`count`): the log must still contain it. `Result.notes` says which of this was checked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agentd.audit import canonical, chain
from agentd.audit.record import MEMBERS
from agentd.errors import EXIT_USAGE, AgentdError

PROGRESS_EVERY: Final = 20_000  # records between two calls of the progress callback
_TORN_WAIT: Final = 5, 0.02  # tries and seconds a writer gets to finish the line it is writing
_KNOWN: Final = frozenset(MEMBERS)
_REQUIRED: Final = _KNOWN - {"count", "first", "last"}
_GAP: Final = b'"event":"gap"'
_REPAIR: Final = b'"event":"log_repaired"'


@dataclass(frozen=True, slots=True)
class Bad:
    """The first bad place. line counts from 1, offset is in bytes from the start of the file; seq if it can be read."""

    line: int
    seq: int | None
    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """records, size: how much is good, up to `bad` or the end; head: hash of the last good record.

    gaps, repairs: how many of the good records say themselves that something was lost, or cut after a crash.
    """

    path: str
    records: int
    size: int
    last_seq: int
    head: str
    gaps: int
    repairs: int
    bad: Bad | None
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.bad is None


def locate(path: Path) -> Path:
    """The log that `path` means: itself, or `audit.jsonl` in a directory. Raises AgentdError usage (exit 2)."""
    log = path / "audit.jsonl" if path.is_dir() else path
    try:
        with log.open("rb"):
            return log
    except OSError as error:
        hint = "give the path of an audit log or of its directory"
        raise AgentdError("usage", str(log), error.strerror or str(error), hint, exit_code=EXIT_USAGE) from None


def verify(
    path: Path, *, head: str | None = None, count: int | None = None, strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:  # fmt: skip
    """Verify the log `path`.

    head: a hash that the log must contain; count: the least number of records; strict: also parse every record and
    check that it is canonical JSON with all members (several times slower); progress(bytes done, bytes in all).
    Raises OSError if the file can't be read.
    """
    with path.open("rb", buffering=1 << 18) as log:
        return _Run(log, str(path), head, count, strict, progress).result()


class _Run:
    def __init__(
        self, log: BinaryIO, path: str, head: str | None, count: int | None, strict: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.log = log
        self.path = path
        self.head = head
        self.count = count
        self.strict = strict
        self.progress = progress
        self.head_seq: int | None = 0 if head == chain.GENESIS else None
        self.link = chain.Link()
        self.records = 0
        self.offset = 0
        self.gaps: list[int] = [0, 0]  # how many, and the first one's seq
        self.repairs: list[int] = [0, 0]

    def result(self) -> Result:
        bad = self.scan() or self.ends()
        return Result(
            self.path, self.records, self.offset, self.link.seq, self.link.hash, self.gaps[0], self.repairs[0], bad,
            self.notes(),
        )  # fmt: skip

    def scan(self) -> Bad | None:
        total = os.fstat(self.log.fileno()).st_size
        seq, previous = 0, chain.GENESIS
        offset = records = 0
        read, expected_head, strict = chain.read, self.head, self.strict
        bad: Bad | None = None
        while line := self.log.readline(chain.MAX_LINE):
            if line[-1:] != b"\n" and len(line) < chain.MAX_LINE:
                line += self.rest(chain.MAX_LINE - len(line))
            number: int | None = None
            try:
                number, prev, digest = read(line)
                if prev != previous or number != seq + 1:
                    raise chain.Damage(chain.follow(chain.Link(seq, previous), number, prev))
                if strict:
                    check_form(line)
            except chain.Damage as damage:
                bad = Bad(records + 1, number if number is not None else claimed_seq(line), offset, str(damage))
                break
            seq, previous = number, digest
            records += 1
            offset += len(line)
            if digest == expected_head:
                self.head_seq = seq
            if _GAP in line:
                self.gaps = [self.gaps[0] + 1, self.gaps[1] or seq]
            elif _REPAIR in line:
                self.repairs = [self.repairs[0] + 1, self.repairs[1] or seq]
            if self.progress is not None and records % PROGRESS_EVERY == 0:
                self.progress(offset, max(total, offset))
        if self.progress is not None:
            self.progress(offset, max(total, offset))
        self.link, self.offset, self.records = chain.Link(seq, previous), offset, records
        return bad

    def rest(self, limit: int) -> bytes:
        """The rest of a last line that a live writer is just writing, if it comes."""
        found = b""
        for _ in range(_TORN_WAIT[0]):
            time.sleep(_TORN_WAIT[1])
            found += self.log.readline(limit - len(found))
            if found[-1:] == b"\n":
                break
        return found

    def ends(self) -> Bad | None:
        """The end of the log against what the auditor noted."""
        here = (self.records + 1, None, self.offset)
        if self.head is not None and self.head_seq is None:
            return Bad(*here, f"the expected head {self.head} is not in the log: its end was cut off, or another log")
        if self.count is not None and self.records < self.count:
            return Bad(*here, f"{self.records} records where at least {self.count} were expected: its end was cut off")
        return None

    def notes(self) -> tuple[str, ...]:
        notes = ["checked: every record's hash, its link to the record before, the numbering, the start of the chain"]
        if self.strict:
            notes.append("checked: every record is canonical JSON (RFC 8785) with all its members")
        if self.head_seq is not None:
            notes.append(
                f"checked: the expected head is record {self.head_seq}; {self.link.seq - self.head_seq} after it"
            )
        if self.count is not None and self.records >= self.count:
            notes.append(f"checked: at least {self.count} records")
        for what, (number, first) in (("losses", self.gaps), ("repairs after a crash", self.repairs)):
            if number:
                notes.append(f"to look at: {what} that agentd itself recorded: {number}, the first is record {first}")
        if self.head is None and self.count is None:
            notes.append(
                "NOT checked: records cut off at the end (a chain alone can't show it; note the head, and give it "
                "next time with --head)"
            )
        return tuple(notes)


def _refuse(text: str) -> int:
    raise chain.Damage(f"not canonical JSON: {text} is a number that no record holds")


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 17 else canonical.MAX_INTEGER + 1
    return value if -canonical.MAX_INTEGER <= value <= canonical.MAX_INTEGER else _refuse(text[:40])


_decode = json.JSONDecoder(parse_float=_refuse, parse_int=_integer, parse_constant=_refuse).decode


def check_form(line: bytes) -> None:
    """Raise Damage unless the line is the canonical JSON of an object with all members of a record."""
    try:
        value = _decode(line.decode())
        # The decoder has seen to the numbers, and keys of plain ASCII have one order only.
        same = (canonical.dumps_checked(value) if line.isascii() else canonical.dumps(value)) == line[:-1]
    except chain.Damage:
        raise
    except (ValueError, RecursionError) as error:
        raise chain.Damage(f"not canonical JSON: {error}") from None
    if not same:
        raise chain.Damage("not canonical JSON: the same record has another canonical form")
    if not isinstance(value, dict) or not _REQUIRED <= value.keys() <= _KNOWN:
        raise chain.Damage("not a record: members are missing or unknown")


def claimed_seq(line: bytes) -> int | None:
    """The seq that a bad line claims, if it is JSON at all."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    seq = value.get("seq") if isinstance(value, dict) else None
    return seq if isinstance(seq, int) else None
