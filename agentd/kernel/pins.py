"""The files that a set of programs has in bpffs: maps/, links/ and tasks. What they keep alive outlives its agentd."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.libbpf import library, map_info, obj_get, obj_pin, wait_for_programs
from agentd.kernel.maps import MappedArray

# Maps that are pinned and adopted. The work buffers are not: they belong to one set of programs.
PINNED_MAPS: Final = (
    "tags",
    "agents",
    "arena",
    "control",
    "events",
    "seen",
    "counts0",
    "counts1",
    "hits",
    "grants",
    "answers",
    "doomed",
    "foreign",
    "matches",
    "containers",
    "resolvers",
    "asked",
    "names",
    "stats",
)
SHARED: Final = "+shared"  # bpffs has no names with dots


def close_all(fds: dict[str, int]) -> None:
    """Closes the descriptors of pinned maps that were opened."""
    for fd in fds.values():
        os.close(fd)


def adopt(pins: Path) -> dict[str, int]:
    """The pinned maps of a set that stands, all of them or none."""
    folder = pins / "maps"
    if not (folder / "control").exists():
        return {}
    fds: dict[str, int] = {}
    try:
        fds["control"] = obj_get(folder / "control")
        version = MappedArray(fds["control"], ctypes.sizeof(abi.Control)).view(abi.Control).abi
        if version != abi.ABI_VERSION:
            raise AgentdError(
                "kernel-load",
                str(pins),
                f"the pinned maps are of layout {version}, this agentd has {abi.ABI_VERSION}",
                "end the workloads and run agentd release with the old version",
                exit_code=EXIT_CANNOT_ENFORCE,
            )
        for name in PINNED_MAPS:
            if name != "control":  # the first: another layout may lack a map
                fds[name] = obj_get(folder / name)
    except BaseException:
        close_all(fds)
        raise
    return fds


def epoch_of(adopted: dict[str, int]) -> int:
    """The generation of programs that is in charge of adopted maps; 0: there are none."""
    size = ctypes.sizeof(abi.Control)
    return int(MappedArray(adopted["control"], size).view(abi.Control).epoch) if adopted else 0


def control_id(adopted: dict[str, int]) -> int:
    """The kernel's id of the adopted map `control`; 0: there is none."""
    return int(map_info(adopted["control"]).id) if adopted else 0


def pin_links(pins: Path, links: dict[str, int], epoch: int) -> None:
    """Pins libbpf's links, by program. Their names have the epoch, so that those of the set in charge stay until the
    flip: a crash at any moment leaves one whole set that is in charge.
    """
    for name, link in links.items():
        obj_pin(library().bpf_link__fd(link), pins / "links" / f"{name}-{epoch}")


def shared_pin(pins: Path, program: str, epoch: int) -> Path:
    """Where the link is pinned by which a hook has what the hooks share (shared.py)."""
    return pins / "links" / f"{program}{SHARED}-{epoch}"


def drop_stale_links(pins: Path, epoch: int) -> None:
    """Links of the set that was in charge before, and of attempts that a crash interrupted."""
    _unpin([entry for entry in (pins / "links").iterdir() if not entry.name.endswith(f"-{epoch}")])


def _unpin(links: Sequence[Path]) -> None:
    """The hooks first: one that is running without what it shares denies."""
    shared = [link for link in links if link.name.rpartition("-")[0].endswith(SHARED)]
    for link in links:
        if link not in shared:
            link.unlink()
    if shared and len(shared) < len(links):
        wait_for_programs()
    for link in shared:
        link.unlink()


def unpin_links(pins: Path, epoch: int, programs: Collection[str] | None = None) -> None:
    """Takes back the pins of a set: one that never took charge, or one that nobody needs for now.

    programs: only theirs, and not what they share.
    """
    with contextlib.suppress(FileNotFoundError):
        found = []
        for entry in (pins / "links").iterdir():
            name, _, number = entry.name.rpartition("-")
            if number == str(epoch) and (programs is None or name in programs):
                found.append(entry)
        _unpin(found)


def is_pinned(pins: Path, program: str) -> bool:
    """Is this program attached, in any of the pinned sets?"""
    return any((pins / "links").glob(f"{program}-*"))


def remove_pins(pins: Path) -> None:
    """Unpins a whole set: its programs detach as soon as nobody holds them open."""
    remove_calls(pins)
    with contextlib.suppress(FileNotFoundError):
        _unpin([*(pins / "links").iterdir()])
    for folder in (pins / "links", pins / "maps", pins):
        with contextlib.suppress(FileNotFoundError):
            for entry in folder.iterdir():
                if not entry.is_dir():
                    entry.unlink()
            try:
                folder.rmdir()
            except OSError as error:  # the unit's sandbox lets the service write in its folder, not take it away
                if folder != pins or error.errno not in (errno.EROFS, errno.EBUSY):
                    raise


def remove_calls(pins: Path, keep: str | None = None) -> None:
    """Unpins what judges library calls (uprobes.py), but for the map `call_epoch` and names that end in `keep`; None:
    all.
    """
    folder = pins / "calls"
    with contextlib.suppress(FileNotFoundError):
        for entry in [*(folder / "links").iterdir(), *folder.iterdir()]:
            if entry.is_dir() or (keep is not None and (entry.name.endswith(keep) or entry.name == "call_epoch")):
                continue
            entry.unlink()
        if keep is None:
            (folder / "links").rmdir()
            folder.rmdir()


def read_tasks(data: bytes) -> Iterator[abi.TaskLine]:
    """The lines that the list_tasks iterator writes."""
    size = ctypes.sizeof(abi.TaskLine)
    for offset in range(0, len(data) - size + 1, size):
        yield abi.TaskLine.from_buffer_copy(data, offset)


def pinned_tasks(pins: Path) -> list[abi.TaskLine]:
    """The marked tasks of a pinned set, without loading anything."""
    return list(read_tasks((pins / "tasks").read_bytes()))
