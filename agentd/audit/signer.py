"""Signs the log: a thread that follows the writer, so that neither a start nor a verdict waits for a signature.

Every second it looks whether there is something to sign. A denial, a hold or an answer is signed at once (its receipt,
and a root over everything up to it), the rest after `interval` seconds or MANY records. The root is sealed under the
writer's lock right after the last record that it covers, so that a verifier meets it there.

At the start it finds out from the log itself what is not signed yet: what a crash left is signed then. If the key was
changed meanwhile, the statements of that (keys.py) become records first. A key that nobody vouches for signs nothing.

`failed` says why nothing is signed; records go on being written.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agentd.audit import chain, files, keys, receipts, segments
from agentd.audit.canonical import Json
from agentd.audit.keys import SigningKey
from agentd.audit.merkle import Tree
from agentd.audit.record import Record, time_text
from agentd.audit.writer import AuditWriter, new_action_id
from agentd.errors import AgentdError

DELAY: Final = 1.0  # seconds from the start of the log to the import of the library: a start has better things to do
ROUND: Final = 1.0  # seconds between two looks
INTERVAL: Final = 10.0  # seconds after which records without a receipt are signed
MANY: Final = 8192  # records after which they are
RECEIPTS: Final = 1000  # receipts in one record
EARLY: Final = 100_000  # records that may wait for the key; after that they are read from the disk again
RATE: Final = 2000  # receipts signed in one round: in a flood of denials the engine needs the interpreter more
BACKLOG: Final = 50_000  # receipts that may wait; what comes on top is covered by the roots alone
_SIGNED: Final = b'"event":"signed"'
_OWN: Final = frozenset({"signed", "signing_key", "key_rotated"})


class _Unsaid(NamedTuple):
    """key: that signs; statements: how it came to be the one; missing: the log, or its last file, names no key."""

    key: SigningKey
    statements: list[keys.Statement]
    missing: bool


class LogSigner:
    """Signs one open log with the key in a folder. Make it before the first record, `start` it, the writer ends it."""

    def __init__(self, writer: AuditWriter, folder: Path, *, interval: float = INTERVAL, delay: float = DELAY) -> None:
        """Raises AgentdError audit-key when there is no key that could sign."""
        keys.ensure(folder)
        self.failed = ""
        self.receipts = self.roots = self.left_out = 0
        self._writer = writer
        self._folder = folder
        self._interval = interval
        self._delay = delay
        self._key: SigningKey | None = None
        self._signs = "", ""  # kid and PEM of the key that the log says signs: an older one until the change is said
        self._unsaid: _Unsaid | None = None  # what the log has to be told of the key before anything is signed
        self._bare = False  # a file was begun before that was said
        self._key_file: tuple[int, int] | None = None
        self._tree = Tree()
        self._first = 0  # seq of the tree's first leaf
        self._log = ""
        self._previous_root = ""
        self._opened_at = writer.end  # what was there before
        self._early: list[chain.Link] = []  # sealed before the key was there
        self._waiting: deque[tuple[int, receipts.Payload]] = deque()
        self._made: list[Json] = []  # receipts that are signed and not yet in the log
        self._worthy = 0  # records since the last root that are not the signer's own
        self._signed_at = time.monotonic()
        self._last = chain.Link()  # the last root's place
        self._headed = 0  # seq of the head file
        self._head_there = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._rounds = threading.Lock()
        writer.signer = self

    # -- the writer's side

    def sealed(self, link: chain.Link, body: Mapping[str, Json]) -> None:
        """One more record, in the order of the chain."""
        event = str(body["event"])
        if self._key is not None:
            self._leaf(link.hash)
        elif len(self._early) < EARLY:
            self._early.append(link)
        else:
            self._early.clear()
            self._waiting.clear()
            self._worthy = 0
            self._opened_at = link
            return
        if event not in _OWN:
            self._worthy += 1
        if event in receipts.RECEIPT_EVENTS:
            if len(self._waiting) < BACKLOG:
                self._waiting.append((link.seq, receipts.receipt(body, link.hash, str(body["prev_hash"]))))
            else:
                self.left_out += 1

    def introduction(self) -> dict[str, Json]:
        """Who signs, and how that key came to be the one."""
        if not self._signs[0]:
            self._bare = True
            return {}
        statements: list[Json] = [*keys.rotations(self._folder)]
        return {"key": self._signs[0], "pem": self._signs[1], "rotations": statements}

    def finish(self) -> None:
        """Signs what is left and says in the head file that the log ends there."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.round(last=True)

    # -- the thread

    def start(self) -> None:
        """Follows the writer from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="signer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = self._delay
        while not self._stop.wait(wait):
            self.round()
            wait = ROUND

    def status(self) -> dict[str, Json]:
        """For `agentd status` and the metrics."""
        return {
            "key": self.kid, "failed": self.failed, "unsigned": self._worthy, "roots": self.roots,
            "receipts": self.receipts, "left_out": self.left_out,
        }  # fmt: skip

    @property
    def unsigned(self) -> int:
        """Records that no root covers yet."""
        return self._worthy

    @property
    def kid(self) -> str:
        """The key that signs; empty before it is loaded."""
        return self._key.kid if self._key else ""

    def round(self, last: bool = False) -> None:
        """Signs what there is to sign; last: everything, and the end of the log. Says in `failed` why it can't."""
        with self._rounds:
            if self._writer.end.seq == 0:
                return
            try:
                if self._key is None:
                    self._begin()
                if not self._head_there:
                    # Before the first word about signatures: a signed log without a head would look cut.
                    if not segments.head_of(self._writer.path).exists():
                        self._write_head()
                    self._head_there = True
                self._introduce()
                self._change_key()
                self._round(last)
                self.failed = ""
            except (AgentdError, OSError, ValueError, ImportError) as error:
                self.failed = str(error)

    def _round(self, last: bool) -> None:
        if self._last.seq > self._headed:
            self._write_head()  # of the round before: by now that is on disk, and the root of this one won't be
        self._sign_receipts(BACKLOG if last else RATE)
        due = self._made or time.monotonic() - self._signed_at >= self._interval or self._worthy >= MANY
        if self._worthy and (due or last):
            self._root()
        while self._made:  # more than one record holds
            self._root()
        if last:
            self._writer.commit()
        if last or self._last.seq > self._headed:
            self._write_head(closed=last)

    def _sign_receipts(self, most: int = BACKLOG) -> None:
        key = self._current()
        while self._waiting and most:
            most -= 1
            seq, payload = self._waiting.popleft()
            self._made.append({"record": seq, "signature": key.sign(keys.canonical(payload))})
            self.receipts += 1

    def _root(self) -> None:
        made, self._made = self._made[:RECEIPTS], self._made[RECEIPTS:]

        def seal(end: chain.Link) -> Record:
            key, now = self._current(), self._writer.clock()
            payload = receipts.root(
                self._log, self._first, end, self._tree.root(), self._previous_root, time_text(now), key.kid
            )
            self._previous_root = payload["root"]
            self._first = end.seq + 1
            self._worthy = 0
            covered = end.seq + 1 - int(payload["from"])
            return Record(
                timestamp=now, event="signed", action_id=new_action_id(),
                reason=f"signed by key {key.kid[:16]}: the {covered} records {payload['from']} to {end.seq}",
                metadata={**payload, "signature": key.sign(keys.canonical(payload)), "receipts": made},
            )  # fmt: skip

        self._last = self._writer.append_made(seal)
        self._signed_at = time.monotonic()
        self.roots += 1

    def _leaf(self, digest: str) -> None:
        self._tree.add(digest.encode())

    def _current(self) -> SigningKey:
        assert self._key is not None
        return self._key

    # -- the head

    def _write_head(self, closed: bool = False) -> None:
        """The committed end of the log, signed, beside it."""
        end = self._writer.head
        if not closed and end.seq < self._last.seq:
            return  # not on disk yet: the next round
        key = self._current()
        if self._log:
            payload = receipts.head(self._log, end, closed, time_text(self._writer.clock()), key.kid)
            data = keys.canonical({**payload, "signature": key.sign(keys.canonical(payload))}) + b"\n"
            files.replace(segments.head_of(self._writer.path), data)
            self._headed = end.seq

    # -- the start

    def _begin(self) -> None:
        """Loads the key and finds out what the log has signed."""
        found = keys.load(self._folder)
        before = self._opened_at
        if self._writer.head.seq < before.seq:
            raise ValueError("not signed before it is on disk")
        state = _State(self._writer.path, before)
        statements: list[keys.Statement] = []
        if state.kid and state.kid != found.kid:
            between = keys.path_between(self._folder, state.kid, found.kid)
            if between is None:
                raise AgentdError(
                    "audit-key", str(self._folder),
                    f"the log is signed by key {state.kid[:16]}, and nothing says that {found.kid[:16]} follows it",
                    "restore the key, or move the log away to start a new one",
                )  # fmt: skip
            statements = between
        self._log, self._previous_root = state.log, state.previous_root
        with self._writer.holding():
            if self._opened_at != before:
                raise ValueError("more records than can be kept in mind came meanwhile")
            early, self._early = self._early, []
            for digest in state.leaves:
                self._leaf(digest)
            for link in early:
                self._leaf(link.hash)
            self._first = state.first
            self._log = self._log or (early[0].hash if early and early[0].seq == 1 else "")
            self._worthy += state.worthy
            self._waiting.extendleft(reversed(state.receipts))
            self._key = found
        self._key_file = self._key_identity()
        self._unsaid = _Unsaid(found, statements, not state.kid or _begins_bare(self._writer.path))

    def _introduce(self) -> None:
        """Says in the log who signs, if that isn't said yet."""
        if self._unsaid is None:
            return
        found, statements, missing = self._unsaid
        self._unsaid = None
        first = statements[0] if statements else {"from": found.kid, "from_pem": found.public.pem}
        self._signs = str(first["from"]), str(first["from_pem"])
        if missing or self._bare:
            # Or a log whose older files were removed would begin with signatures by nobody.
            self._append("signing_key", f"signed by key {self._signs[0][:16]} from here on", self.introduction())
        for statement in statements:
            self._rotated(statement)

    def _change_key(self) -> None:
        """Another key in the folder: its statements become records, and it signs from there on."""
        try:
            identity = self._key_identity()
        except FileNotFoundError:
            return  # somebody has removed it; this process has it still
        if identity == self._key_file:
            return
        found = keys.load(self._folder)
        if found.kid != self._current().kid:
            between = keys.path_between(self._folder, self._current().kid, found.kid)
            if between is None:
                why = f"key {found.kid[:16]} is there, and the one before has not signed it"
                raise AgentdError("audit-key", str(self._folder), why, "change keys with agentd audit rotate-key")
            self._sign_receipts()
            while self._made:
                self._root()
            with self._writer.holding():
                for statement in between:
                    self._rotated(statement)
                self._key = found
        self._key_file = identity

    def _rotated(self, statement: keys.Statement) -> None:
        reason = f"key {statement['to'][:16]} signs from here on, as key {statement['from'][:16]} has signed"
        self._append("key_rotated", reason, dict(statement))
        self._signs = str(statement["to"]), str(statement["to_pem"])

    def _append(self, event: str, reason: str, metadata: dict[str, Json]) -> None:
        self._worthy += 1
        self._writer.append_made(
            lambda _: Record(
                timestamp=self._writer.clock(), event=event, action_id=new_action_id(), reason=reason, metadata=metadata
            )
        )

    def _key_identity(self) -> tuple[int, int]:
        status = os.stat(self._folder / keys.PRIVATE)
        return status.st_ino, status.st_mtime_ns


class _State:
    """What a log says about its signatures up to `end`, read backwards; a line that was changed raises ValueError."""

    def __init__(self, path: Path, end: chain.Link) -> None:
        self.log = self.kid = self.previous_root = ""
        self.first = 1
        self.leaves: list[str] = []
        self.receipts: list[tuple[int, receipts.Payload]] = []
        self.worthy = 0
        below = end.seq
        for line in _backwards(path):
            try:
                seq, prev, digest = chain.read(line)
            except chain.Damage as damage:
                raise ValueError(f"{path}: not signed any further: record {below}: {damage}") from None
            if seq > end.seq:
                continue
            if not self.leaves and end.seq and digest != end.hash:
                raise ValueError(f"{path}: not signed any further: its end was changed")
            self.leaves.append(digest)
            self.first = seq
            if _SIGNED in line:
                said = json.loads(line)["metadata"]
                self.log, self.previous_root = str(said["log"]), str(said["root"])
                self.kid = self.kid or str(said["key"])
                break
            event = line.partition(b'"event":"')[2].partition(b'"')[0].decode()
            if event == "key_rotated" and not self.kid:
                self.kid = str(json.loads(line)["metadata"]["to"])
            elif event == "signing_key" and not self.kid:
                self.kid = str(json.loads(line)["metadata"]["key"])
            self.worthy += event not in _OWN
            if event in receipts.RECEIPT_EVENTS and len(self.receipts) < BACKLOG:
                self.receipts.append((seq, receipts.receipt(json.loads(line), digest, prev)))
            if seq == 1:
                self.log = digest
        self.receipts.reverse()
        self.leaves.reverse()
        if not self.leaves:
            self.first = end.seq + 1


def _begins_bare(path: Path) -> bool:
    """Does this file of the log begin without saying who signs? (One that an agentd began and was killed.)"""
    with path.open("rb") as log:
        line = log.readline(chain.MAX_LINE)
    return b'"event":"segment_started"' in line and b'"metadata":{"key":' not in line


def _backwards(path: Path) -> Iterator[bytes]:
    """The lines of all files of a log, the last one first."""
    for file in reversed(segments.all_of(path)):
        with file.open("rb") as log, contextlib.ExitStack() as stack:
            if log.seek(0, 2) == 0:
                continue
            lines = stack.enter_context(mmap.mmap(log.fileno(), 0, prot=mmap.PROT_READ))
            at = lines.rfind(b"\n") + 1
            while at > 0:
                start = lines.rfind(b"\n", 0, at - 1) + 1
                yield lines[max(start, at - chain.MAX_LINE) : at]
                at = start
