"""Names to objects, as the caller's kernel would find them: from its working directory or a descriptor, in its root and
mount namespace, with its rights.

The kernel itself walks where it would walk the same for agentd. It would not through `self` of a proc file system,
which is whoever looks; through what only the caller may open there (/proc/self/fd/N); or below another root: there the
walk is made here, component by component. What is found is a descriptor, which no rename, link or mount changes any
more.

A path that is judged is the kernel's own for that descriptor, from the top of the mount namespace. It counts only if it
leads to the same object again there: not if the object lies in a mount of another namespace, or of none.
Sources: path_resolution(7), openat2(2), fs/namei.c.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from agentd.kernel.notify import raw
from agentd.kernel.notify.caller import Caller
from agentd.kernel.notify.identity import Actor

MAX_LINKS = 40  # MAXSYMLINKS of the kernel
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
DELETED = b" (deleted)"
_PSEUDO = {b"pipe:": b"anon:pipefs", b"socket:": b"anon:sockfs", b"anon_inode:": b"anon:anon_inodefs"}


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a directory: what mkdir, unlink and rename work on. name: with the slash that it was written with."""

    directory: int
    name: bytes
    path: bytes | None  # of the name, as it is judged; None: not to be told


@dataclass(frozen=True, slots=True)
class Found:
    """An object. status: of stat(2)."""

    fd: int
    path: bytes | None
    status: os.stat_result


def failed(code: int) -> OSError:
    """An errno as an error."""
    return OSError(code, os.strerror(code))


class Lookup:
    """The names of one call. Every method raises OSError with the errno that the caller is to get."""

    def __init__(self, caller: Caller, actor: Actor) -> None:
        self._caller = caller
        self._actor = actor
        self._links = 0
        self._sure: set[int] = set()  # reached from the top of agentd's own namespace, which is the caller's

    # -- what calls ask for

    def place(self, dirfd: int, name: bytes) -> Place:
        """The directory that the last component of `name` stands in; it is not followed."""
        directory, last = self._split(dirfd, name)
        return Place(directory, last, self._below(directory, last))

    def found(self, dirfd: int, name: bytes, *, follow: bool, resolve: int = 0) -> Found:
        """The object of a name that exists. resolve: RESOLVE_* of openat2(2)."""
        if resolve:
            return self._restricted(dirfd, name, follow, resolve)
        directory, last = self._split(dirfd, name)
        slash = last.endswith(b"/")
        fd = self._caller.keep(raw.openat2(directory, last.rstrip(b"/"), os.O_PATH | os.O_NOFOLLOW))
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode) and (follow or slash):
            return self.of(self._walk(dirfd, name, directory=slash))
        if slash and not stat.S_ISDIR(status.st_mode):
            raise failed(errno.ENOTDIR)
        return Found(fd, self._below(directory, last) if last not in (b".", b"..") else self.path(fd), status)

    def _restricted(self, dirfd: int, name: bytes, follow: bool, resolve: int) -> Found:
        """By the kernel, or not at all: whoever asks for RESOLVE_* has another way where there is no openat2."""
        if not self._caller.plain:
            raise failed(errno.ENOSYS)
        fd = raw.openat2(dirfd, name, os.O_PATH | (0 if follow else os.O_NOFOLLOW), resolve | raw.RESOLVE_NO_MAGICLINKS)
        if raw.on_procfs(self._caller.keep(fd)):
            raise failed(errno.ENOSYS)
        return self.of(fd)

    def _split(self, dirfd: int, name: bytes) -> tuple[int, bytes]:
        """(The directory of the last component, that component with the slash that it was written with)."""
        if not name:
            raise failed(errno.ENOENT)
        bare = name.rstrip(b"/")
        if not bare:  # the root
            return self._start(name, dirfd), b"."
        head, slash, last = bare.rpartition(b"/")
        directory = self._directory(dirfd, head or b"/") if slash else dirfd
        return directory, last + b"/" if len(bare) != len(name) else last

    def _below(self, directory: int, last: bytes) -> bytes | None:
        path = self.path(directory)
        component = last.rstrip(b"/")
        if path is None or component in (b".", b".."):
            return path
        return (b"" if path == b"/" else path) + b"/" + component

    def of(self, fd: int) -> Found:
        """The object of a descriptor."""
        return Found(fd, self.path(fd), os.fstat(fd))

    def missing(self, dirfd: int, name: bytes) -> Place:
        """Where a file that is to be created will stand: links at the end of `name` are followed."""
        directory, rest = dirfd, name
        while True:
            place = self.place(directory, rest)
            last = place.name
            if last.endswith(b"/") or last in (b".", b".."):
                raise failed(errno.EISDIR)
            try:
                text = os.readlink(last, dir_fd=place.directory)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINVAL):  # not there, or no link: since when, openat will say
                    return place
                raise
            self._count_link()
            directory, rest = place.directory, text

    def path(self, fd: int) -> bytes | None:
        """The path of an object in the caller's mount namespace; None: it has none that can be relied on.

        `anon:...` for what lies in no mount namespace: pipes, memfds.
        """
        try:
            text = os.readlink(b"self/fd/%d" % fd)
        except OSError:
            return None  # over a page
        if not text.startswith(b"/"):
            return next((word for start, word in _PSEUDO.items() if text.startswith(start)), None)
        if text.endswith(DELETED) and not os.fstat(fd).st_nlink:
            bare = text.removesuffix(DELETED)
            if bare.startswith(b"/memfd:"):
                return b"anon:tmpfs" + bare
            directory, _, name = bare.rpartition(b"/")
            return bare if name and self._leads(directory or b"/", None) else None
        return text if fd in self._sure or self._leads(text, fd) else None

    def _leads(self, path: bytes, fd: int | None) -> bool:
        """Does a path lead to the object of `fd` (None: anything), from the top of the namespace, without a link?"""
        return self._actor.rested(lambda: self._reaches(path, fd))

    def _reaches(self, path: bytes, fd: int | None) -> bool:
        try:
            again = raw.openat2(
                self._caller.namespace_root(),
                path.lstrip(b"/") or b".",
                os.O_PATH | os.O_NOFOLLOW,
                raw.RESOLVE_NO_SYMLINKS,
            )
        except OSError:
            return False
        try:
            return fd is None or os.path.sameopenfile(again, fd)
        finally:
            os.close(again)

    # -- walking

    def _start(self, name: bytes, dirfd: int) -> int:
        if name.startswith(b"/"):
            return self._caller.namespace_root() if self._caller.plain else self._caller.root()
        return dirfd

    def _directory(self, dirfd: int, name: bytes) -> int:
        """By the kernel where it walks for us as it would for the caller."""
        if self._caller.plain:
            try:
                fd = self._caller.keep(raw.openat2(dirfd, name, _DIRECTORY, raw.RESOLVE_NO_MAGICLINKS))
            except OSError:
                return self._walk(dirfd, name, directory=True)  # through procfs it may be there for the caller
            if not raw.on_procfs(fd):
                if name.startswith(b"/"):
                    self._sure.add(fd)
                return fd
        return self._walk(dirfd, name, directory=True)

    def _walk(self, dirfd: int, name: bytes, *, directory: bool) -> int:
        root = self._caller.root()
        at = root if name.startswith(b"/") else dirfd
        parts = [part for part in reversed(name.split(b"/")) if part]
        while parts:
            part = parts.pop()
            if part == b".":
                continue
            if part == b"..":
                if raw.identity_of(at) != raw.identity_of(root):
                    at = self._caller.keep(raw.openat2(at, b"..", _DIRECTORY))
                continue
            fd = self._caller.keep(raw.openat2(at, part, os.O_PATH | os.O_NOFOLLOW))
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                at = fd
                continue
            self._count_link()
            text = self._link(at, part, fd)
            if isinstance(text, int):
                at = text
                continue
            if text.startswith(b"/"):
                at = root
            parts += [piece for piece in reversed(text.split(b"/")) if piece]
        if directory and not stat.S_ISDIR(os.fstat(at).st_mode):
            raise failed(errno.ENOTDIR)
        return at

    def _link(self, at: int, name: bytes, fd: int) -> bytes | int:
        """What a link says, or what it leads to if it is one of those that procfs makes up."""
        text = os.readlink(b"", dir_fd=fd)
        if not raw.on_procfs(fd):
            return text
        facts = self._caller.facts
        if name in (b"self", b"thread-self"):
            mine = text.split(b"/")[0] == b"%d" % os.getpid()  # an instance that numbers as agentd does
            tgid, tid = (facts.tgid, self._caller.tid) if mine else (facts.inner_tgid, facts.inner_tid)
            return b"%d/task/%d" % (tgid, tid) if name == b"thread-self" else b"%d" % tgid
        if name in (b"mounts", b"net") and text.startswith(b"self/"):
            return text
        # Opened by agentd if it is the caller's own: rights over itself need none.
        own = os.readlink(b"self/fd/%d" % at).startswith(b"/proc/%d/" % self._caller.tgid)
        if own and self._caller.plain:
            return self._actor.rested(lambda: self._caller.keep(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=at)))
        return self._caller.keep(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=at))

    def _count_link(self) -> None:
        self._links += 1
        if self._links > MAX_LINKS:
            raise failed(errno.ELOOP)
