"""Small files that are there whole or not at all, and how an error of the system reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def reason(error: OSError) -> str:
    """`No space left on device (ENOSPC)`."""
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{error.strerror or error} ({name})"


def sync_directory(directory: Path) -> None:
    """Makes what was created, renamed and removed there last. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A new file, on disk. Raises OSError, FileExistsError among them."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The file with this content, or as it was if that fails or the machine stops. Raises OSError."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    try:
        create(made, data, mode)
        os.replace(made, path)
    except OSError:
        made.unlink(missing_ok=True)
        raise
