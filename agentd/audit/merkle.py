"""Merkle trees as in RFC 6962, section 2.1: one hash that stands for many, and can't be made from fewer or others.

    leaf     SHA-256 of 0x00 and the data
    node     SHA-256 of 0x01 and both children
    an odd node goes up a level as it is; the empty tree is SHA-256 of nothing

`Tree` takes leaves one by one and keeps one hash for each level, whatever their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

EMPTY: Final = hashlib.sha256(b"").hexdigest()
_FOLD: Final = 1024  # leaves that are hashed together in one tight loop


class Tree:
    """The tree over what was added since it was made, or since `root` was asked for."""

    __slots__ = ("_done", "count", "waiting")

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.count = 0  # leaves that don't wait any more
        self._done: list[tuple[int, bytes]] = []  # (leaves below, hash): perfect trees, the biggest first

    def copy(self) -> Tree:
        """The same tree, which grows by itself."""
        other = Tree()
        other.waiting, other.count, other._done = self.waiting[:], self.count, self._done[:]
        return other

    def add(self, data: bytes) -> None:
        """One more leaf."""
        self.waiting.append(data)
        if len(self.waiting) >= _FOLD:
            self.fold()

    def extend(self, items: Iterable[bytes]) -> None:
        """More leaves, in their order."""
        for data in items:
            self.add(data)

    def fold(self) -> None:
        """Hashes what waits together, as far as it makes whole blocks."""
        while len(self.waiting) >= _FOLD:
            self._take(_FOLD)

    def _take(self, size: int) -> None:
        self._push(size, _perfect(self.waiting[:size]))
        del self.waiting[:size]
        self.count += size

    def _push(self, size: int, digest: bytes) -> None:
        while self._done and self._done[-1][0] == size:
            left = self._done.pop()[1]
            digest = hashlib.sha256(b"\1" + left + digest).digest()
            size *= 2
        self._done.append((size, digest))

    def root(self) -> str:
        """The root, in hex; afterwards the tree is empty again."""
        while self.waiting:
            self._take(min(_FOLD, 1 << (len(self.waiting).bit_length() - 1)))
        done, self._done, self.count = self._done, [], 0
        if not done:
            return EMPTY
        digest = done.pop()[1]
        while done:
            digest = hashlib.sha256(b"\1" + done.pop()[1] + digest).digest()
        return digest.hex()


def root_of(items: Iterable[bytes]) -> str:
    """The root over these leaves, in hex."""
    if isinstance(items, list) and 0 < len(items) <= _FOLD:
        return _small(items).hex()
    tree = Tree()
    tree.extend(items)
    return tree.root()


def _perfect(items: list[bytes]) -> bytes:
    """The root of a number of leaves that is a power of two."""
    sha = hashlib.sha256
    level = [sha(b"\0" + data).digest() for data in items]
    while len(level) > 1:
        level = [sha(b"\1" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)]
    return level[0]


def _small(items: list[bytes]) -> bytes:
    """The root of any number of leaves, all of them at once."""
    sha = hashlib.sha256
    level = [sha(b"\0" + data).digest() for data in items]
    while (count := len(level)) > 1:
        up = [sha(b"\1" + level[at] + level[at + 1]).digest() for at in range(0, count - 1, 2)]
        if count & 1:
            up.append(level[-1])
        level = up
    return level[0]
