"""Verify a log offline: one pass over all its files, constant memory, and the first bad place by name.

Found by the chain of hashes: any changed byte, records missing, inserted, repeated or moved, two logs spliced, a torn
end. Found by the signatures (signatures.py), with the key of the host pinned: a log that somebody else made or changed
and chained anew, a replaced key, an altered root, and, by the signed head beside the log, records cut off the end. A
start that was cut off is found unless a signed record says that those files were removed.

Without a pinned key whoever made the log may have signed it; without signatures and a head noted before (`head`,
`count`), records cut off the end can't be seen. `Result.notes` says what was checked and what was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from agentd.audit import canonical, chain, receipts, segments
from agentd.audit.keys import PublicKey
from agentd.audit.record import MEMBERS
from agentd.audit.signatures import MARKS, RECENT, Signatures, read_head, seconds_since
from agentd.errors import EXIT_USAGE, AgentdError

PROGRESS_EVERY: Final = 20_000  # records between two calls of the progress callback
_TORN_WAIT: Final = 5, 0.02  # tries and seconds a writer gets to finish the line it is writing
_KNOWN: Final = frozenset(MEMBERS)
_REQUIRED: Final = _KNOWN - {"count", "first", "last"}
_RECEIPTS: Final = frozenset(event.encode() for event in receipts.RECEIPT_EVENTS)
_FOLD: Final = 1024


@dataclass(frozen=True, slots=True)
class Bad:
    """The first bad place. line counts from 1, offset is in bytes from the start of the file; seq if it can be read."""

    line: int
    seq: int | None
    offset: int
    why: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """records, size: how much is good, up to `bad` or the end; head: hash of the last good record.

    gaps, repairs: how many of the good records say themselves that something was lost, or cut after a crash.
    signed: seq up to which signatures go; unsigned: records after that; keys: who signed, in their order (kid);
    log: the hash of its first record, which names a log; files: how many it has.
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
    signed: int = 0
    unsigned: int = 0
    keys: tuple[str, ...] = ()
    log: str = ""
    files: int = 1

    @property
    def ok(self) -> bool:
        return self.bad is None


def locate(path: Path) -> Path:
    """The log that `path` means: itself, or `audit.jsonl` in a directory. Raises AgentdError usage (exit 2)."""
    log = path / "audit.jsonl" if path.is_dir() else path
    if segments.closed(log):
        return log  # even without the newest file: that is for the signed head to tell
    try:
        with log.open("rb"):
            return log
    except OSError as error:
        hint = "give the path of an audit log or of its directory"
        raise AgentdError("usage", str(log), error.strerror or str(error), hint, exit_code=EXIT_USAGE) from None


def verify(
    path: Path, *, head: str | None = None, count: int | None = None, strict: bool = False,
    progress: Callable[[int, int], None] | None = None, pins: Sequence[PublicKey] = (), now: float | None = None,
) -> Result:  # fmt: skip
    """Verify the log `path`, with the closed files beside it.

    head: a hash that the log must contain; count: the least number of records; strict: also parse every record, check
    that it is canonical JSON with all members, and compute every signature and receipt (several times slower);
    progress(bytes done, bytes in all); pins: the keys that may have signed; now: seconds since the epoch. Raises
    OSError if a file can't be read.
    """
    return _Run(path, head, count, strict, progress, tuple(pins), time.time() if now is None else now).result()


class _Run:
    def __init__(
        self, path: Path, head: str | None, count: int | None, strict: bool,
        progress: Callable[[int, int], None] | None, pins: tuple[PublicKey, ...], now: float,
    ) -> None:  # fmt: skip
        self.path = path
        self.files: list[Path] = []
        self.head = head
        self.count = count
        self.strict = strict
        self.progress = progress
        self.now = now
        self.head_seq: int | None = 0 if head == chain.GENESIS else None
        self.link = chain.Link()
        self.records = 0
        self.size = 0  # of the files before this one
        self.line = 0  # of this file
        self.offset = 0  # in this file
        self.total = 0
        self.gaps: list[int] = [0, 0]  # how many, and the first one's seq
        self.repairs: list[int] = [0, 0]
        self.signatures = Signatures(pins, strict)
        self.signed_head = read_head(path)
        self.noted = self.signed_head[0]["record"] if self.signed_head else 0
        self.hash_at: dict[int, str] = {}
        self.last_time = b""

    def result(self) -> Result:
        bad: Bad | None = None
        with self.newest() as last:
            for file in self.files[:-1]:
                with file.open("rb", buffering=1 << 18) as log:
                    bad = bad or self.scan(log, file.name)
                    self.size += self.offset
            bad = bad or self.scan(last, self.files[-1].name)
        bad = bad or self.ends()
        signatures = self.signatures
        unsigned = max(0, self.link.seq - signatures.covered) if signatures.signed else 0
        return Result(
            str(self.path), self.records, self.size + self.offset, self.link.seq, self.link.hash, self.gaps[0],
            self.repairs[0], bad, self.notes(unsigned), min(signatures.covered, self.link.seq), unsigned,
            tuple(key.kid for _, key in signatures.changes), signatures.log, len(self.files),
        )  # fmt: skip

    def newest(self) -> BinaryIO:
        """Opens the newest file, and says which files there are. A live log may be going on in a new one just now."""
        while True:
            self.files = segments.all_of(self.path) or [self.path]
            last = self.files[-1].open("rb", buffering=1 << 18)
            same = os.path.samestat(os.fstat(last.fileno()), self.files[-1].stat())
            if same and self.files == (segments.all_of(self.path) or [self.path]):
                self.total = sum(file.stat().st_size for file in self.files)
                return last
            last.close()

    def scan(self, log: BinaryIO, name: str) -> Bad | None:
        seq, previous = self.link.seq, self.link.hash
        self.offset = offset = records = 0
        read, expected_head, strict, noted = chain.read, self.head, self.strict, self.noted
        signatures, tree = self.signatures, self.signatures.tree
        add, waiting = tree.waiting.append, tree.waiting
        begun = self.records > 0
        earlier: Any = None
        bad: Bad | None = None
        while line := log.readline(chain.MAX_LINE):
            if line[-1:] != b"\n" and len(line) < chain.MAX_LINE:
                line += rest(log, chain.MAX_LINE - len(line))
            number: int | None = None
            try:
                number, prev, digest = read(line)
                if prev != previous or number != seq + 1:
                    self.follows(begun, seq, previous, number, prev)
                if not begun:
                    signatures.begin(number, prev, digest)
                    begun = True
                if strict:
                    check_form(line)
                at = line.find(b'"event":"') + 9
                kind = line[at : line.find(b'"', at)]
                if kind in MARKS:
                    earlier = signatures.take(kind, line, number, prev, (name, records + 1, number, offset))
                    if earlier is not None:
                        break
                elif kind == b"gap":
                    self.gaps = [self.gaps[0] + 1, self.gaps[1] or number]
                elif kind == b"log_repaired":
                    self.repairs = [self.repairs[0] + 1, self.repairs[1] or number]
                elif strict and kind in _RECEIPTS:
                    signatures.receipt_due(line, digest, prev, number)
            except chain.Damage as damage:
                number = number if number is not None else claimed_seq(line)
                bad = Bad(records + 1, number, offset, str(damage), name)
                break
            add(digest.encode())
            if len(waiting) >= _FOLD:
                tree.fold()
            seq, previous = number, digest
            records += 1
            offset += len(line)
            if digest == expected_head:
                self.head_seq = seq
            if number == noted:
                self.hash_at[seq] = digest
            if self.progress is not None and records % PROGRESS_EVERY == 0:
                self.progress(self.size + offset, max(self.total, self.size + offset))
        if self.progress is not None:
            self.progress(self.size + offset, max(self.total, self.size + offset))
        self.link, self.offset = chain.Link(seq, previous), offset
        self.records += records
        self.line = records
        if records:
            self.last_time = self.time_of(log, offset)
        if earlier is not None:
            (file, number_of_line, place_seq, place), why = earlier
            return Bad(number_of_line, place_seq, place, why, file)
        return bad

    def follows(self, begun: bool, seq: int, previous: str, number: int, prev: str) -> None:
        """A log may begin in the middle if a signed record says why (`ends` looks); else it has to follow."""
        if not begun and number > 1 and (len(self.files) > 1 or segments.head_of(self.path).exists()):
            return
        raise chain.Damage(chain.follow(chain.Link(seq, previous), number, prev))

    def time_of(self, log: BinaryIO, end: int) -> bytes:
        """The timestamp of the last good line."""
        log.seek(max(0, end - 300))
        return log.read(end - max(0, end - 300)).rpartition(b'"timestamp":"')[2].partition(b'"')[0]

    def here(self, why: str) -> Bad:
        return Bad(self.line + 1, None, self.offset, why, self.files[-1].name)

    def ends(self) -> Bad | None:
        """The end of the log against what the auditor noted, and what agentd has signed."""
        self.signatures.look_at(self.signed_head)
        found = self.signatures.finish(self.link)
        if found is not None:
            place, why = found
            if place == "start":
                return Bad(1, self.signatures.start.seq + 1, 0, why, self.files[0].name)
            return self.here(why) if place == "end" else Bad(place[1], place[2], place[3], why, place[0])
        if self.head is not None and self.head_seq is None:
            return self.here(f"the expected head {self.head} is not in the log: its end was cut off, or another log")
        if self.count is not None and self.records < self.count:
            return self.here(f"{self.records} records where at least {self.count} were expected: its end was cut off")
        if self.signatures.changes or segments.head_of(self.path).exists():
            why = self.signatures.check_head(self.signed_head, self.hash_at, self.link)
            if why:
                return self.here(why)
        unsigned = self.link.seq - self.signatures.covered if self.signatures.signed else 0
        if unsigned > 0 and abs(seconds_since(self.last_time, self.now)) > RECENT:
            return self.here(
                f"the last {unsigned} records are not signed: agentd did not write them, or ended before it could "
                "sign them and was not started again"
            )
        return None

    def notes(self, unsigned: int) -> tuple[str, ...]:
        notes = ["checked: every record's hash, its link to the record before, the numbering, the start of the chain"]
        if self.strict:
            notes.append("checked: every record is canonical JSON (RFC 8785) with all its members")
        if self.head_seq is not None:
            notes.append(
                f"checked: the expected head is record {self.head_seq}; {self.link.seq - self.head_seq} after it"
            )
        if self.count is not None and self.records >= self.count:
            notes.append(f"checked: at least {self.count} records")
        notes += self.signature_notes(unsigned)
        for what, (number, first) in (("losses", self.gaps), ("repairs after a crash", self.repairs)):
            if number:
                notes.append(f"to look at: {what} that agentd itself recorded: {number}, the first is record {first}")
        if self.head is None and self.count is None and not self.signatures.changes:
            notes.append(
                "NOT checked: records cut off at the end (a chain alone can't show it; note the head, and give it "
                "next time with --head)"
            )
        return tuple(notes)

    def signature_notes(self, unsigned: int) -> list[str]:
        """What the signatures prove, and what they don't."""
        signatures = self.signatures
        if signatures.only_head:
            return ["NOT checked: who wrote the log (it has just begun: its head is signed, its records are not yet)"]
        if not signatures.changes:
            return ["NOT checked: who wrote the log (nothing in it is signed)"]
        names = ", ".join(key.kid[:16] for _, key in signatures.changes)
        notes = [
            f"checked: {signatures.roots} signed roots, recomputed from the records ({signatures.computed} signatures "
            f"computed, each of which covers all before it), up to record {signatures.covered}; signed by {names}",
            "checked: the signed head beside the log, so where it ends",
        ]
        if self.strict:
            notes.append(f"checked: {signatures.receipts} receipts of single records")
            if signatures.unreceipted:
                notes.append(
                    f"to look at: {signatures.unreceipted} denials, holds or answers have no receipt of their own"
                )
        if signatures.start.seq:
            notes.append(f"to look at: records 1 to {signatures.start.seq} were removed, as signed records say")
        if not signatures.pins:
            notes.append("NOT checked: whose key that is (give the host's signing.pub, kept elsewhere, with --key)")
        if unsigned:
            notes.append(
                f"NOT signed yet: the last {unsigned} records; agentd signs every few seconds, and when it starts"
            )
        return notes


def rest(log: BinaryIO, limit: int) -> bytes:
    """The rest of a last line that a live writer is just writing, if it comes."""
    found = b""
    for _ in range(_TORN_WAIT[0]):
        time.sleep(_TORN_WAIT[1])
        found += log.readline(limit - len(found))
        if found[-1:] == b"\n":
            break
    return found


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
