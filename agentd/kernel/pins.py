"""The files that a set of programs has in bpffs: maps/, links/ and tasks. What they keep alive outlives its agentd."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from agentd.kernel import abi
from agentd.kernel.libbpf import library, obj_pin


def close_all(fds: dict[str, int]) -> None:
    """Closes the descriptors of pinned maps that were opened."""
    for fd in fds.values():
        os.close(fd)


def pin_links(pins: Path, links: dict[str, int], epoch: int) -> None:
    """Pins libbpf's links, by program. Their names have the epoch, so that those of the set in charge stay until the
    flip: a crash at any moment leaves one whole set that is in charge.
    """
    for name, link in links.items():
        obj_pin(library().bpf_link__fd(link), pins / "links" / f"{name}-{epoch}")


def drop_stale_links(pins: Path, epoch: int) -> None:
    """Links of the set that was in charge before, and of attempts that a crash interrupted."""
    for entry in (pins / "links").iterdir():
        if not entry.name.endswith(f"-{epoch}"):
            entry.unlink()


def unpin_links(pins: Path, epoch: int) -> None:
    """Takes back the pins of a set: one that never took charge, or one that nobody needs for now."""
    with contextlib.suppress(FileNotFoundError):
        for entry in (pins / "links").iterdir():
            if entry.name.endswith(f"-{epoch}"):
                entry.unlink()


def remove_pins(pins: Path) -> None:
    """Unpins a whole set: its programs detach as soon as nobody holds them open."""
    for folder in (pins / "links", pins / "maps", pins):
        with contextlib.suppress(FileNotFoundError):
            for entry in folder.iterdir():
                if not entry.is_dir():
                    entry.unlink()
            folder.rmdir()


def read_tasks(data: bytes) -> Iterator[abi.TaskLine]:
    """The lines that the list_tasks iterator writes."""
    size = ctypes.sizeof(abi.TaskLine)
    for offset in range(0, len(data) - size + 1, size):
        yield abi.TaskLine.from_buffer_copy(data, offset)


def pinned_tasks(pins: Path) -> list[abi.TaskLine]:
    """The marked tasks of a pinned set, without loading anything."""
    return list(read_tasks((pins / "tasks").read_bytes()))
