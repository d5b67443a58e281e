"""The one writer of the audit log: group commit, the hash chain, and no loss that isn't itself recorded.

    append(records)   seals them into the chain, in memory: cheap, never blocks on the disk
    commit()          one write and one fdatasync (per MiB); what it counts is on disk and there after a crash

The two may run in different threads (the daemon commits in a worker thread). Ways this can fail:

    disk full, I/O error   the records stay queued, whatever half line got out is cut, `failed` says why; the next
                           commit tries again, and the chain goes on as if nothing had happened
    queue full meanwhile   newer records are counted, and as soon as there is room again one `gap` record says how
                           many of what were lost, why, and between when and when
    torn tail at open      cut, and recorded (`log_repaired`); see repair.py
    second writer          AgentdError audit-locked
    file changed by others `failed` for good: the bytes on disk are evidence and aren't touched
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from agentd.audit import chain, record, repair
from agentd.audit.record import Record
from agentd.errors import AgentdError

FILE_NAME: Final = "audit.jsonl"
QUEUE_BYTES: Final = 8 << 20  # what may wait for the disk: about 8,000 denials
BATCH_BYTES: Final = 1 << 20  # what one write takes; a commit is one write and one fdatasync unless more is waiting


class AuditWriter:
    """An open log. Use `open_log`. `path`: the file; `bytes_written`: committed since it was opened."""

    def __init__(
        self, fd: int, path: Path, tail: repair.Tail, *, host: str, boot_id: str, clock: Callable[[], int],
        queue_bytes: int,
    ) -> None:  # fmt: skip
        self.path = path
        self.bytes_written = 0
        self._fd = fd
        self._host = host
        self._boot_id = boot_id
        self._clock = clock
        self._size = tail.size  # of the file, as far as committed
        self._torn = False  # bytes of an attempt that failed may stand after _size
        self._failed = ""
        self._changed = False
        self._head = tail.link  # committed
        self._end = tail.link  # queued
        self._queue: deque[tuple[bytes, chain.Link]] = deque()
        self._queued = 0
        self._room = queue_bytes
        self._lost: Counter[str] = Counter()
        self._lost_operations = 0
        self._lost_first = self._lost_last = 0
        self._lost_ever = 0
        self._lock = threading.Lock()  # the queue, the end of the chain, what was lost
        self._committing = threading.Lock()  # the file

    @property
    def head(self) -> chain.Link:
        """The last record on disk: (0, genesis) in an empty log."""
        return self._head

    @property
    def failed(self) -> str:
        """Why the last commit could not write everything; empty when all is well."""
        return self._failed

    @property
    def pending(self) -> int:
        """Records appended and not yet on disk."""
        return len(self._queue)

    @property
    def lost(self) -> int:
        """Records that didn't fit the queue, since the log was opened."""
        return self._lost_ever

    def append(self, records: Iterable[Record]) -> None:
        """Chain `records` for the next commit. Raises ValueError for one that has no canonical form (a bug)."""
        with self._lock:
            for item in records:
                if self._queued >= self._room:
                    self._lose(item)
                    continue
                if self._lost:
                    self._queue_gap()
                self._enqueue(item)

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
                        line, self._head = self._queue.popleft()
                        self._queued -= len(line)
                        self.bytes_written += len(line)
                    if count and self._lost and self._queued < self._room:
                        self._queue_gap()
                        until = self._end.seq
                done += count
                if count < len(batch):
                    break
            return done

    def _batch(self) -> list[bytes]:
        """The next lines to write, of about BATCH_BYTES."""
        lines: list[bytes] = []
        size = 0
        with self._lock:
            for line, _ in self._queue:
                lines.append(line)
                size += len(line)
                if size >= BATCH_BYTES:
                    break
        return lines

    def close(self) -> None:
        """Commit and release the log. Raises AgentdError audit-unwritable if records had to be given up."""
        if self._fd < 0:
            return
        self.commit()
        os.close(self._fd)
        self._fd = -1
        if self._queue or self._lost:
            left = len(self._queue) + self._lost.total()
            raise AgentdError("audit-unwritable", str(self.path), f"{self._failed}; {left} records were not written")

    def _enqueue(self, item: Record) -> None:
        line, self._end = chain.seal(record.body(item, self._host, self._boot_id), self._end)
        self._queue.append((line, self._end))
        self._queued += len(line)

    def _lose(self, item: Record) -> None:
        self._lost_first = self._lost_first if self._lost else item.timestamp
        self._lost_last = item.timestamp
        self._lost[item.event] += 1
        self._lost_operations += item.count if item.event == "allowed" and item.count is not None else 1
        self._lost_ever += 1

    def _queue_gap(self) -> None:
        made = record.gap(
            self._clock(), new_action_id(), self._lost, "audit-queue-full", first=self._lost_first,
            last=self._lost_last, operations=self._lost_operations,
        )  # fmt: skip
        self._lost = Counter()
        self._lost_operations = 0
        self._enqueue(made)

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
            failure = _reason(error)
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
            self._failed = _reason(error)
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
            self._failed = _reason(error)
            return False
        return True


def open_log(
    path: Path, *, host: str, boot_id: str, clock: Callable[[], int] = time.time_ns, queue_bytes: int = QUEUE_BYTES
) -> AuditWriter:
    """Open or create the log for writing: 0600, its directory 0700, one writer at a time.

    Raises AgentdError audit-locked, audit-unwritable, audit-corrupt.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise AgentdError("audit-unwritable", str(path), _reason(error)) from None
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AgentdError("audit-unwritable", str(path), "not a regular file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "stop the other agentd, or give this one another audit directory"
            raise AgentdError("audit-locked", str(path), "another process is writing this log", hint) from None
        tail = repair.inspect(fd, str(path))
        try:
            os.fchmod(fd, 0o600)
            copy = repair.cut(fd, str(path), tail) if tail.cut else ""
            os.fsync(fd)
            _sync_directory(path.parent)
        except OSError as error:
            raise AgentdError("audit-unwritable", str(path), _reason(error)) from None
        writer = AuditWriter(fd, path, tail, host=host, boot_id=boot_id, clock=clock, queue_bytes=queue_bytes)
        if tail.cut:
            writer.append([_repaired(tail, copy, clock())])
        undo.pop_all()
        return writer


def new_action_id() -> str:
    """A fresh identifier for a record that no kernel event gave one."""
    return str(uuid.uuid4())


def _repaired(tail: repair.Tail, copy: str, now: int) -> Record:
    return Record(
        timestamp=now,
        event="log_repaired",
        action_id=new_action_id(),
        reason=f"{tail.cut} bytes after the last whole record were cut: a write that a crash interrupted",
        metadata={"bytes": tail.cut, "sha256": tail.cut_sha256, "offset": tail.size, "copy": copy or None},
    )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{error.strerror or error} ({name})"
