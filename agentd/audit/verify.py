"""Verify a log offline: one pass over all its files, constant memory, and the first bad place by name.

Found by the chain of hashes: any changed byte, records missing, inserted, repeated or moved, two logs spliced, a torn
end. Found by the signatures (signatures.py), with the key of the host pinned: a log that somebody else made or changed
and chained anew, a replaced key, an altered root, and, by the signed head beside the log, records cut off the end. A
start that was cut off is found unless a signed record says that those files were removed.

Without a pinned key whoever made the log may have signed it; without signatures and a head noted before (`head`,
`count`), records cut off the end can't be seen. `Result.notes` says what was checked and what was not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from agentd.audit import chain, chunks, reader, receipts, segments
from agentd.audit.chunks import Seen, Task
from agentd.audit.crew import Crew, processors
from agentd.audit.form import check_form, claimed_seq, rest
from agentd.audit.keys import PublicKey
from agentd.audit.signatures import MARKS, RECENT, Signatures, read_head, seconds_since
from agentd.errors import EXIT_USAGE, AgentdError

PROGRESS_EVERY: Final = 20_000  # records between two calls of the progress callback
_RECEIPTS: Final = frozenset(event.encode() for event in receipts.RECEIPT_EVENTS)
_FOLD: Final = 1024
_FIRST: Final = 64 << 10  # bytes at the start of a file that are read record by record: most changes stand there
SPREAD: Final = 16 << 20  # bytes from which on it is worth to have several processes


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
    jobs: int | None = None, part: int = chunks.SIZE, first: int = _FIRST,
) -> Result:  # fmt: skip
    """Verify the log `path`, with the closed files beside it.

    head: a hash that the log must contain; count: the least number of records; strict: also parse every record, check
    that it is canonical JSON with all members, and compute every signature and receipt (several times slower);
    progress(bytes done, bytes in all); pins: the keys that may have signed; now: seconds since the epoch; jobs: how
    many processes check parts of `part` bytes (None: as many as there are processors, if the log is big), after `first`
    bytes of each file; 0: none, and every record is read here. The result is the same. Raises OSError if a file can't
    be read.
    """
    while True:
        run = _Run(path, head, count, strict, progress, tuple(pins), time.time() if now is None else now)
        run.jobs, run.part, run.first = 0 if strict else jobs, part, first
        result = run.result()
        # A live log may have got its first signed head while it was read: from the start, then, with that head.
        if result.bad is None or run.signed_head is not None or read_head(path) is None:
            return result


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
        self.signatures = Signatures(pins, strict, reader.Onward(path).find)
        self.signed_head = read_head(path)
        self.noted = self.signatures.noted = self.signed_head[0]["record"] if self.signed_head else 0
        self.hash_at: dict[int, str] = {}
        self.last_time = b""
        self.jobs: int | None = 0
        self.part, self.first = chunks.SIZE, _FIRST

    def result(self) -> Result:
        bad: Bad | None = None
        self.files, last = segments.opened(self.path)
        self.total = sum(file.stat().st_size for file in self.files)
        with last, self.crew() as crew:
            for file in self.files[:-1]:
                with file.open("rb", buffering=1 << 18) as log:
                    bad = bad or self.file(log, file, crew)
                    self.size += self.offset
            bad = bad or self.file(last, self.files[-1], crew)
        bad = bad or self.ends()
        signatures = self.signatures
        unsigned = max(0, self.link.seq - signatures.covered) if signatures.signed else 0
        return Result(
            str(self.path), self.records, self.size + self.offset, self.link.seq, self.link.hash, self.gaps[0],
            self.repairs[0], bad, self.notes(unsigned), min(signatures.covered, self.link.seq), unsigned,
            tuple(key.kid for _, key in signatures.changes), signatures.log, len(self.files),
        )  # fmt: skip

    def crew(self) -> Crew:
        jobs = self.jobs
        if jobs is None:
            jobs = processors() if self.total >= SPREAD else 1
        self.jobs = jobs
        return Crew(jobs)

    def file(self, log: BinaryIO, path: Path, crew: Crew) -> Bad | None:
        """One file: its start record by record, then part by part what is plainly good, then the rest."""
        self.line = self.offset = 0
        before = self.link.seq
        size = os.fstat(log.fileno()).st_size
        bad = self.scan(log, path.name, 1) or self.name(path, before) or self.scan(log, path.name, self.first)
        if bad is not None:
            return bad
        if self.jobs and size > 2 * self.first:
            status = os.fstat(log.fileno())
            parts = crew.parts(
                functools.partial(self.task, path, status, at, min(at + self.part, size))
                for at in range(self.offset, size, self.part)
            )
            with contextlib.closing(parts):
                for task, seen in parts:
                    bad = None if seen and self.take(task, seen, path.name) else self.scan(log, path.name, task.end)
                    if bad is not None:
                        return bad
                    self.tell()
        return self.scan(log, path.name)

    def name(self, path: Path, before: int) -> Bad | None:
        """A closed file is called by its first record, so that none can be put in another's place."""
        first = (before or self.signatures.start.seq) + 1
        if path == self.path or segments.first_of(path) == first:
            return None
        return Bad(1, first, 0, f"the file is called by another record than its first one, {first}", path.name)

    def task(self, path: Path, status: os.stat_result, begin: int, end: int) -> Task:
        key = self.signatures.key
        kid, pem = (key.kid, key.pem) if key else ("", "")
        head = self.head or ""
        return Task(
            str(path), status.st_dev, status.st_ino, begin, end, kid, pem, self.signatures.log, head, self.noted
        )  # fmt: skip

    def take(self, task: Task, seen: Seen, name: str) -> bool:
        """Takes a part as good, if it follows what was read before. False: nothing has changed, it has to be read."""
        signatures, link = self.signatures, self.link
        if seen.begin != self.offset or (seen.first, seen.prev) != (link.seq + 1, link.hash):
            return False
        place, key = None, signatures.key
        if seen.mark is not None:
            if key is None or not task.log or (key.kid, signatures.log) != (task.kid, task.log):
                return False
            place = (name, self.line + seen.mark.index + 1, seen.mark.seq, seen.mark.offset)
        before = signatures.copy()
        try:
            good = signatures.join(seen, place)
        except chain.Damage:
            good = False
        if not good:
            self.signatures = before
            return False
        for found, counted in ((seen.gaps, self.gaps), (seen.repairs, self.repairs)):
            if found:
                counted[:] = [counted[0] + len(found), counted[1] or found[0]]
        if seen.head_seq is not None:
            self.head_seq = seen.head_seq
        if seen.noted is not None:
            self.hash_at[self.noted] = seen.noted
        self.link, self.offset = chain.Link(seen.seq, seen.hash), seen.end
        self.line += seen.records
        self.records += seen.records
        return True

    def tell(self) -> None:
        if self.progress is not None:
            self.progress(self.size + self.offset, max(self.total, self.size + self.offset))

    def scan(self, log: BinaryIO, name: str, until: int | None = None) -> Bad | None:
        """Reads record by record, from where it is in this file: to the end, or all that start before `until`."""
        seq, previous = self.link.seq, self.link.hash
        offset, line_number, records = self.offset, self.line, 0
        log.seek(offset)
        stop = until if until is not None else 1 << 63
        read, expected_head, strict, noted = chain.read, self.head, self.strict, self.noted
        signatures, tree = self.signatures, self.signatures.tree
        add, waiting = tree.waiting.append, tree.waiting
        begun = self.records > 0
        earlier: Any = None
        bad: Bad | None = None
        while offset < stop and (line := log.readline(chain.MAX_LINE)):
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
                record = check_form(line) if strict else None
                at = line.find(b'"event":"') + 9
                kind = line[at : line.find(b'"', at)]
                if kind in MARKS:
                    earlier = signatures.take(
                        kind, line, number, prev, (name, line_number + records + 1, number, offset)
                    )
                    if earlier is not None:
                        break
                elif kind == b"gap":
                    self.gaps[:] = [self.gaps[0] + 1, self.gaps[1] or number]
                elif kind == b"log_repaired":
                    self.repairs[:] = [self.repairs[0] + 1, self.repairs[1] or number]
                elif record is not None and kind in _RECEIPTS:
                    signatures.receipt_due(record, digest, prev, number)
            except chain.Damage as damage:
                number = number if number is not None else claimed_seq(line)
                bad = Bad(line_number + records + 1, number, offset, str(damage), name)
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
        self.link, self.offset = chain.Link(seq, previous), offset
        self.tell()
        self.records += records
        self.line += records
        if self.line and until is None:
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
            why = why or (self.signatures.late_head() if read_head(self.path) == self.signed_head else "")
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
