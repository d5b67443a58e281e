"""Opening a log for writing: one writer at a time, what a crash left repaired, the chain's end known."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from agentd.audit import repair, segments
from agentd.audit.files import reason, sync_directory
from agentd.audit.record import Record
from agentd.audit.segments import Limits
from agentd.audit.writer import QUEUE_BYTES, AuditWriter, new_action_id
from agentd.errors import AgentdError


def open_log(
    path: Path, *, host: str, boot_id: str, clock: Callable[[], int] = time.time_ns, queue_bytes: int = QUEUE_BYTES,
    limits: Limits | None = None,
) -> AuditWriter:  # fmt: skip
    """Open or create the log for writing: 0600, its directory 0700, one writer at a time.

    Raises AgentdError audit-locked, audit-unwritable, audit-corrupt.
    """
    with contextlib.ExitStack() as undo:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in path.parent.glob(f".{path.stem}.*"):
                left.unlink(missing_ok=True)  # a crash came before it got its name
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            undo.callback(os.close, fd)
        except BlockingIOError:
            hint = "stop the other agentd, or give this one another audit directory"
            raise AgentdError("audit-locked", str(path), "another process is writing this log", hint) from None
        except OSError as error:
            raise _unwritable(path, error) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AgentdError("audit-unwritable", str(path), "not a regular file")
        tail = repair.inspect(fd, str(path))
        before = segments.closed(path)
        if tail.size == 0 and before:
            tail = tail.after(repair.end_of(before[-1]))
        try:
            os.fchmod(fd, 0o600)
            copy = repair.cut(fd, str(path), tail) if tail.cut else ""
            repair.write_again(path, tail.size)
            os.fsync(fd)
            sync_directory(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from None
        writer = AuditWriter(
            fd, lock, path, tail, host=host, boot_id=boot_id, clock=clock, queue_bytes=queue_bytes,
            limits=limits or Limits(),
        )  # fmt: skip
        if tail.cut:
            writer.append([_repaired(tail, copy, clock())])
        undo.pop_all()
        return writer


def _unwritable(path: Path, error: OSError) -> AgentdError:
    """EROFS is mostly the sandbox of the service, which writes in few folders: systemd.exec(5), ProtectSystem=."""
    hint = f"the service: make {path.parent}, and a drop-in of its unit with ReadWritePaths={path.parent}"
    return AgentdError("audit-unwritable", str(path), reason(error), hint if error.errno == errno.EROFS else "")


def _repaired(tail: repair.Tail, copy: str, now: int) -> Record:
    return Record(
        timestamp=now,
        event="log_repaired",
        action_id=new_action_id(),
        reason=f"{tail.cut} bytes after the last whole record were cut: a write that a crash interrupted",
        metadata={"bytes": tail.cut, "sha256": tail.cut_sha256, "offset": tail.size, "copy": copy or None},
    )
