"""The one writer of the audit log: group commit, the hash chain, and no loss that isn't itself recorded.

    append(records)   seals them into the chain, in memory: cheap, never blocks on the disk
    commit()          one write and one fdatasync (per MiB); what it counts is on disk and there after a crash

The two may run in different threads (the daemon commits in a worker thread). Ways this can fail:

    disk full, I/O error   the records stay queued, whatever half line got out is cut, `failed` says why; the next
                           commit tries again, and the chain goes on as if nothing had happened
    queue full meanwhile   newer records are counted, and as soon as there is room again one `gap` record says how
                           many of what were lost, why, and between when and when
    torn tail at open      cut, and recorded (`log_repaired`); see repair.py
    second writer          AgentdError audit-locked: the log's directory is locked, for all of its files
    file changed by others `failed` for good: the bytes on disk are evidence and aren't touched

When the file is big or old enough the next record is `segment_started`, the first of a new file (segments.py), and the
chain goes through. Old files are removed only if the limits say so, after the record `pruned` is on disk.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from agentd.audit import chain, record, repair, segments
from agentd.audit.canonical import Json
from agentd.audit.files import reason, sync_directory
from agentd.audit.losses import Losses
from agentd.audit.record import Record
from agentd.audit.segments import Limits
from agentd.errors import AgentdError

FILE_NAME: Final = "audit.jsonl"
QUEUE_BYTES: Final = 8 << 20  # what may wait for the disk: about 8,000 denials
BATCH_BYTES: Final = 1 << 20  # what one write takes; a commit is one write and one fdatasync unless more is waiting


class Signer(Protocol):
    """What signs the log: told of every record in the order of the chain, under the writer's lock."""

    def sealed(self, link: chain.Link, body: Mapping[str, Json]) -> None:
        """`body` is the record `link`; it may not be on disk yet."""

    def introduction(self) -> dict[str, Json]:
        """What the first record of a file says about the key, so that the files before it may go."""

    def finish(self) -> None:
        """Sign what is left; the log is about to be closed."""

    def status(self) -> dict[str, Json]:
        """Which key, how much isn't signed yet, and why, if that is so."""


class Sinks(Protocol):
    """Where records go besides the file."""

    def offer(self, lines: Sequence[bytes]) -> None:
        """These lines are on disk; must neither block nor raise."""

    def close(self) -> None:
        """No more will come."""

    def status(self) -> dict[str, Json]:
        """How each of them is."""


class _Queued(NamedTuple):
    line: bytes
    link: chain.Link
    new_file: bool


class AuditWriter:
    """An open log. Use opening.open_log. `path`: the file; `bytes_written`: committed since it was opened.

    signer, sinks: set them before the first record; the writer closes both.
    """

    def __init__(
        self, fd: int, lock: int, path: Path, tail: repair.Tail, *, host: str, boot_id: str, clock: Callable[[], int],
        queue_bytes: int, limits: Limits,
    ) -> None:  # fmt: skip
        self.path = path
        self.bytes_written = 0
        self.signer: Signer | None = None
        self.sinks: Sinks | None = None
        self.limits = limits
        self.trouble = ""  # with old files; the records are safe
        self.files = 1 + len(segments.closed(path))
        self._fd = fd
        self._directory = lock
        self._host = host
        self._boot_id = boot_id
        self._clock = clock
        self._size = tail.size  # of the file, as far as committed
        self._first = tail.first or tail.link.seq + 1  # seq of the file's first record
        self._begun = tail.begun or clock()  # when that was, ns
        self._planned = tail.size  # what the file will hold with what is queued for it
        self._torn = False  # bytes of an attempt that failed may stand after _size
        self._failed = ""
        self._changed = False
        self._head = tail.link  # committed
        self._end = tail.link  # queued
        self._queue: deque[_Queued] = deque()
        self._queued = 0
        self._room = queue_bytes
        self._lost = Losses()
        self._lock = threading.RLock()  # the queue, the end of the chain, what was lost
        self._committing = threading.Lock()  # the file

    @property
    def head(self) -> chain.Link:
        """The last record on disk: (0, genesis) in an empty log."""
        return self._head

    def status(self) -> dict[str, Json]:
        """What `agentd status` shows."""
        return {
            "path": str(self.path), "head": self._head.hash, "records": self._head.seq, "failed": self._failed,
            "files": self.files, "trouble": self.trouble, "signing": self.signer.status() if self.signer else None,
            "sinks": self.sinks.status() if self.sinks else {},
        }  # fmt: skip

    @property
    def end(self) -> chain.Link:
        """The last record of the chain, on disk or not."""
        return self._end

    def clock(self) -> int:
        """Now, in ns since the epoch, by the clock that the writer was given."""
        return self._clock()

    def holding(self) -> AbstractContextManager[bool]:
        """Nothing else is chained meanwhile."""
        return self._lock

    @property
    def failed(self) -> str:
        """Why the last commit could not write everything; empty when all is well."""
        return self._failed

    @property
    def pending(self) -> int:
        """Records appended and not yet on disk."""
        return len(self._queue)

    @property
    def crowded(self) -> bool:
        """Is a quarter of the queue used? Who has more commits first, or a flood overruns it."""
        return self._queued >= self._room // 4

    @property
    def lost(self) -> int:
        """Records that didn't fit the queue, since the log was opened."""
        return self._lost.ever

    def append(self, records: Iterable[Record]) -> None:
        """Chain `records` for the next commit. Raises ValueError for one that has no canonical form (a bug)."""
        with self._lock:
            for item in records:
                if self._queued >= self._room:
                    self._lost.add(item)
                    continue
                if self._lost:
                    self._enqueue(self._lost.told(self._clock(), new_action_id()))
                self._enqueue(item)

    def append_made(self, make: Callable[[chain.Link], Record]) -> chain.Link:
        """Chain the record that `make` returns for the end of the chain as it stands, whatever room there is; where."""
        with self._lock:
            if self._planned >= self.limits.file_bytes:
                self._begin_file()  # or its first record would come between the end that `make` is told and this one
            self._enqueue(make(self._end))
            return self._end

    def commit(self) -> int:
        """Put what was appended before this call on disk, return how many records that was; less than all: `failed`."""
        with self._committing:
            done = 0
            until = self._end.seq
            while self._head.seq < until:
                batch = self._batch()
                count = self._write(batch)
                with self._lock:
                    for _ in range(count):
                        line, self._head, _ = self._queue.popleft()
                        self._queued -= len(line)
                        self.bytes_written += len(line)
                    if count and self._lost and self._queued < self._room:
                        self._enqueue(self._lost.told(self._clock(), new_action_id()))
                        until = self._end.seq
                done += count
                if count and self.sinks:
                    self.sinks.offer(batch[:count])
                if count < len(batch):
                    break
            return done

    def _batch(self) -> list[bytes]:
        """The next lines to write, of about BATCH_BYTES and for one file, which is there then unless `failed`."""
        lines: list[bytes] = []
        size = 0
        with self._lock:
            new_file = bool(self._queue) and self._queue[0].new_file
            for line, _, starts in self._queue:
                if starts and lines:
                    break
                lines.append(line)
                size += len(line)
                if size >= BATCH_BYTES:
                    break
        return lines if not new_file or self._next_file() else []

    def maintain(self) -> None:
        """Starts a new file when this one is old enough, and removes files that needn't be kept. Call now and then."""
        with self._lock:
            age = self._clock() - self._begun
            if self._planned and self.limits.file_seconds and age >= self.limits.file_seconds * 1_000_000_000:
                self._begin_file()
        try:
            for file, why in self.limits.surplus(segments.closed(self.path), self._clock()):
                if not self._prune(file, why):
                    break
        except (OSError, AgentdError) as error:
            self.trouble = f"an old file could not be removed: {error}"

    def _prune(self, file: Path, why: str) -> bool:
        """Says on disk that the oldest file goes, then removes it."""
        end, size, first = repair.end_of(file), file.stat().st_size, segments.first_of(file)
        metadata: dict[str, Json] = {
            "file": file.name, "from": first, "through": end.seq, "head": end.hash, "bytes": size, "why": why,
        }  # fmt: skip
        gone = f"the records {first} to {end.seq} were removed: {why}"
        said = self.append_made(
            lambda _: Record(
                timestamp=self._clock(), event="pruned", action_id=new_action_id(), reason=gone, metadata=metadata
            )
        )
        self.commit()
        if self._head.seq < said.seq:
            return False
        file.unlink()
        self.files -= 1
        sync_directory(self.path.parent)
        return True

    def _begin_file(self) -> None:
        """Queues the first record of a new file."""
        self._begun = self._clock()
        self._planned = 0
        metadata = self.signer.introduction() if self.signer else {}
        self._enqueue(
            Record(
                timestamp=self._begun, event="segment_started", action_id=new_action_id(),
                reason="the log goes on in a new file", metadata=metadata,
            ),
            new_file=True,
        )  # fmt: skip

    def _next_file(self) -> bool:
        """Closes the file under its number and starts a new one; may be tried again after an error."""
        if self._size == 0:
            return True  # the new one is there
        old, new = segments.closed_name(self.path, self._first), self.path.with_name(f".{self.path.name}.new")
        try:
            if not self._clear():
                return False
            fd = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if not old.exists():
                    os.rename(self.path, old)
                os.rename(new, self.path)
                sync_directory(self.path.parent)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            self._failed = reason(error)
            return False
        os.close(self._fd)
        self._fd, self._size, self._torn = fd, 0, False
        self._first = self._head.seq + 1
        self.files += 1
        return True

    def close(self) -> None:
        """Sign, commit and release the log. Raises AgentdError audit-unwritable if records had to be given up."""
        if self._fd < 0:
            return
        self.commit()
        if self.signer:
            self.signer.finish()
        if self.sinks:
            self.sinks.close()
        os.close(self._fd)
        os.close(self._directory)
        self._fd = -1
        if self._queue or self._lost:
            left = len(self._queue) + self._lost.untold
            raise AgentdError("audit-unwritable", str(self.path), f"{self._failed}; {left} records were not written")

    def _enqueue(self, item: Record, new_file: bool = False) -> None:
        if self._planned >= self.limits.file_bytes:
            self._begin_file()
        body = record.body(item, self._host, self._boot_id)
        line, self._end = chain.seal(body, self._end)
        self._queue.append(_Queued(line, self._end, new_file))
        self._queued += len(line)
        self._planned += len(line)
        if self.signer:
            self.signer.sealed(self._end, body)

    def _write(self, lines: list[bytes]) -> int:
        """Write as many whole lines as the disk takes; the count is durable when this returns."""
        if not self._clear():
            return 0
        data = b"".join(lines)
        view = memoryview(data)
        written = 0
        failure = ""
        self._torn = True
        try:
            while written < len(data):
                written += os.write(self._fd, view[written:])
        except OSError as error:
            failure = reason(error)
        kept = count = 0
        for line in lines:
            if kept + len(line) > written:
                break
            kept += len(line)
            count += 1
        try:
            if kept < written:
                os.ftruncate(self._fd, self._size + kept)
            if kept:
                os.fdatasync(self._fd)
        except OSError as error:
            # After a failed fdatasync nobody knows what is on disk, and the kernel may have dropped the dirty pages:
            # nothing counts, and the next attempt writes all of it again.
            self._failed = reason(error)
            return 0
        self._size += kept
        self._torn = False
        self._failed = failure
        return count

    def _clear(self) -> bool:
        """Cut what an attempt that failed left behind; False if the file can't be written now."""
        try:
            status = os.fstat(self._fd)
            if status.st_nlink == 0 or status.st_size < self._size or (status.st_size > self._size and not self._torn):
                self._changed = True
            if self._changed:
                self._failed = f"the file was changed by somebody else ({self._size} bytes expected)"
                return False
            if self._torn:
                os.ftruncate(self._fd, self._size)
                self._torn = False
        except OSError as error:
            self._failed = reason(error)
            return False
        return True


def new_action_id() -> str:
    """A fresh identifier for a record that no kernel event gave one."""
    return str(uuid.uuid4())
