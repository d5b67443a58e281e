"""Compiled automata in files, so that a start does not compile the catalogue again.

Two places are looked in: the folder that ships beside the BPF objects (`./dev build` makes it, for the shipped
catalogue), and a folder of this host, written when a policy brings a catalogue of its own.

A wrong automaton would be a wrong verdict, so a file of the host's folder counts only if nobody but root can have
written it; and any file only if it carries the hash of its own content, was made by this very code, and leads nowhere
outside of itself. Whatever fails one of these is compiled again: a store can make a start slow, never a policy wrong.

    python -m agentd.engine.automata FOLDER      writes those of the shipped catalogue
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentd.policy import stored
from agentd.policy.automaton import Dfa
from agentd.resources import automata_dir

HOST_DIR: Final = Path("/var/cache/agentd/automata")
KEPT: Final = 64  # files of the host's folder; the oldest go
MAX_BYTES: Final = 512 << 20
MAGIC: Final = b"agentd-automaton 1 "
# What makes an automaton out of patterns: a change in any of these makes every file another one's.
_CODE: Final = (
    "automaton", "cards", "comb", "hosts", "minimise", "nfa", "patterns", "regex", "stored", "subset", "tables",
    "textparts", "texts", "utf8",
)  # fmt: skip


class FileAutomata:
    """Looks in `shipped`, then in `own`; writes to `own` only. None: not there."""

    def __init__(self, shipped: Path | None, own: Path | None) -> None:
        self._shipped = shipped
        self._own = own
        self._code = code_fingerprint()

    def get(self, key: str) -> Dfa | None:
        for folder, private in ((self._shipped, False), (self._own, True)):
            if folder is not None and self._code is not None:
                dfa = _read(folder / self._name(key), private=private)
                if dfa is not None:
                    return dfa
        return None

    def put(self, key: str, dfa: Dfa) -> None:
        """Keeps it if it can: a full disk or a read-only host only means compiling again."""
        if self._own is None or self._code is None:
            return
        body = stored.dump(dfa)
        name = self._name(key)
        fresh = self._own / f".{name}.{os.getpid()}"
        try:
            self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _private(os.lstat(self._own)):
                return
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.rename(fresh, self._own / name)  # whole or not at all; a file cut by a crash fails its hash
            self._forget_old()
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _name(self, key: str) -> str:
        return f"{self._code}-{key}"

    def _forget_old(self) -> None:
        assert self._own is not None
        files = sorted(self._own.iterdir(), key=lambda path: path.lstat().st_mtime_ns)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)


def for_this_host() -> FileAutomata:
    """The shipped automata, and for root the host's folder."""
    return FileAutomata(automata_dir(), HOST_DIR if os.geteuid() == 0 else None)


@functools.cache
def code_fingerprint() -> str | None:
    """Which code compiles here; None where the sources aren't installed, and nothing is kept then."""
    digest = hashlib.sha256()
    folder = Path(stored.__file__).parent
    try:
        for name in _CODE:
            digest.update((folder / f"{name}.py").read_bytes() + b"\0")
    except OSError:
        return None
    return digest.hexdigest()[:16]


def _private(status: os.stat_result) -> bool:
    """Only root can have written it, and it is what it seems to be."""
    return status.st_uid == 0 and not status.st_mode & 0o022 and (stat.S_ISDIR(status.st_mode) or _file(status))


def _file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES


def _read(path: Path, *, private: bool) -> Dfa | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not _file(status) or (private and not (_private(status) and _private(os.lstat(path.parent)))):
            return None
        head, _, body = file.read().partition(b"\n")
    if head != MAGIC + hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        return stored.parse(body)
    except ValueError:
        return None


def precompile(folder: Path) -> None:
    """Writes the automata of the shipped catalogue to `folder`, in place of what is there."""
    from agentd.catalogue.shipped import caller, nobody
    from agentd.policy.tables import build

    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    folder.chmod(0o755)
    for agent in (nobody(), caller()):
        build(agent, max_words=1 << 30, automata=FileAutomata(None, folder))
    for path in folder.iterdir():
        path.chmod(0o644)


def main(arguments: Sequence[str]) -> None:
    (folder,) = arguments
    precompile(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
