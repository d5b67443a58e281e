"""Many token sequences as one nondeterministic automaton: a trie whose only cycles are self-loops.

Sequences are inserted in sorted order, so that a position's first child is the position behind it and the long literal
stretches of real policies cost two bytes a character: `plain[p]` says that p has one edge, the byte `lits[p]` to p + 1.
Everything else about a position stands in dictionaries that only the others are in.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.policy.patterns import ALL, Directories, OneChar, OneOf, Run, Token

Closure = tuple[int, ...]
"""Positions, ascending, that are entered together."""

_DIRECTORIES: Final = 256  # into a position that loops on everything
_DIRECTORIES_END: Final = 257  # from there on a slash; also taken for nothing on entry
_FIRST_FREE: Final = 258
_REACH_LIMIT: Final = 64  # positions leading to more accepting ones than this are not examined for pruning


@dataclass(frozen=True, slots=True)
class Moves:
    """What leaves one position. `narrow`: byte and what it enters. `wide`: sets of more than half of all bytes."""

    narrow: tuple[tuple[int, Closure], ...]
    wide: tuple[tuple[int, Closure], ...]


class Nfa:
    """Built once from (tokens, pattern index) pairs; position 0 is the root."""

    def __init__(self, sequences: Iterable[tuple[Sequence[Token], int]], labels: Sequence[int] | None = None) -> None:
        """labels[i]: patterns with one label are interchangeable (default: every pattern for itself)."""
        self.lits = bytearray(1)
        self.plain = bytearray(1)
        self._edges: dict[int, list[tuple[int, int]]] = {}
        self._loops: dict[int, int] = {}
        self.accepts: dict[int, list[int]] = {}
        self._tokens: list[Token] = []
        self._ends = array("I", (0,))  # end of each position's subtree
        self._owners: dict[int, int] = {}  # positions inside a character -> the position behind it
        self._closures: dict[int, Closure] = {}
        self._moves: dict[int, Moves] = {}
        self._labels = labels
        self._build(sequences)
        self._accepting = sorted(self.accepts)
        self._reach: dict[int, frozenset[int] | None] = {}
        self._same = self._find_same() if labels is not None and len(set(labels)) < len(labels) else {}
        self._absorbing = self._find_absorbing()

    def closure(self, position: int) -> Closure:
        """`position` and what is entered with it without reading a byte."""
        if self.plain[position]:
            return (position,)
        position = self._same.get(position, position)
        known = self._closures.get(position)
        if known is None:
            found = {position}
            for token, child in self._edges.get(position, ()):
                if token == _DIRECTORIES:
                    found.add(child)
                    found.update(self.closure(self._edges[child][0][1]))
                elif token >= _FIRST_FREE and isinstance(self._tokens[token - _FIRST_FREE], Run):
                    found.update(self.closure(child))
            known = self._closures[position] = tuple(sorted(found))
        return known

    def moves(self, position: int) -> Moves:
        """What leaves `position`, which must not be plain."""
        known = self._moves.get(position)
        if known is None:
            known = self._compute_moves(position)
            if position in self._loops:  # the others are in few states, most in one
                self._moves[position] = known
        return known

    def pruned(self, members: Closure) -> Closure:
        """`members` without what can only lead to labels that some member accepts for ever."""
        absorbing = self._absorbing
        if not absorbing:
            return members
        covered: frozenset[int] = frozenset()
        kept: set[int] = set()
        for position in members:
            held = absorbing.get(position)
            if held is not None and not held[1] <= covered:
                covered |= held[1]
                kept.add(held[0])
        if not kept:
            return members
        for position in members:
            if position not in absorbing:
                reach = self._labels_behind(position)
                if reach is None or not reach <= covered:
                    kept.add(position)
        return tuple(sorted(kept))

    # -- building

    def _build(self, sequences: Iterable[tuple[Sequence[Token], int]]) -> None:
        numbers: dict[Token, int] = {}
        rows = sorted((self._numbered(tokens, numbers), pattern) for tokens, pattern in sequences)
        path = [0]
        previous: tuple[int, ...] = ()
        for row, pattern in rows:
            common = 0
            for left, right in zip(previous, row, strict=False):
                if left != right:
                    break
                common += 1
            self._close(path, common)
            if common < len(row):
                first = self._append(path[common], row[common:])
                path.extend(range(first, len(self.lits)))
            self._accept(path[-1], pattern)
            previous = row
        self._close(path, -1)

    def _close(self, path: list[int], common: int) -> None:
        for position in path[common + 1 :]:
            self._ends[position] = len(self.lits)
        del path[common + 1 :]

    def _numbered(self, tokens: Sequence[Token], numbers: dict[Token, int]) -> tuple[int, ...]:
        row: list[int] = []
        for token in tokens:
            if isinstance(token, int):
                row.append(token)
            elif isinstance(token, Directories):
                row += (_DIRECTORIES, _DIRECTORIES_END)
            elif isinstance(token, OneOf) and token.mask.bit_count() == 1:
                row.append(token.mask.bit_length() - 1)
            else:
                number = numbers.get(token)
                if number is None:
                    number = numbers[token] = _FIRST_FREE + len(self._tokens)
                    self._tokens.append(token)
                row.append(number)
        return tuple(row)

    def _append(self, parent: int, row: tuple[int, ...]) -> int:
        """Append the positions for `row` below `parent`; the first of them is returned."""
        first = len(self.lits)
        self._edge(parent, row[0], first)
        self.lits += bytes(token if token < 256 else 0 for token in row[1:]) + b"\0"
        self.plain += b"\1" * (len(row) - 1) + b"\0"
        self._ends.extend([0] * len(row))
        for i, token in enumerate(row):
            if token < 256:
                continue
            position = first + i
            if i:
                self.plain[position - 1] = 0
                if position - 1 not in self._edges:
                    self._edges[position - 1] = [(token, position)]
            mask = self._loop_mask(token)
            if mask:
                self._loops[position] = mask
                self.plain[position] = 0
                if i + 1 < len(row):
                    self._edges[position] = [(row[i + 1], position + 1)]
        return first

    def _loop_mask(self, token: int) -> int:
        if token == _DIRECTORIES:
            return ALL
        if token == _DIRECTORIES_END:
            return 0
        kind = self._tokens[token - _FIRST_FREE]
        return kind.mask if isinstance(kind, Run) else 0

    def _edge(self, parent: int, token: int, child: int) -> None:
        if self.plain[parent]:
            self.plain[parent] = 0
            self._edges[parent] = [(self.lits[parent], parent + 1)]
        self._edges.setdefault(parent, []).append((token, child))

    def _accept(self, position: int, pattern: int) -> None:
        if self.plain[position]:
            self.plain[position] = 0
            self._edges[position] = [(self.lits[position], position + 1)]
        self.accepts.setdefault(position, []).append(pattern)

    def _find_same(self) -> dict[int, int]:
        """Positions from which the same follows, by labels, as from the one they are mapped to; children first."""
        first: dict[Hashable, int] = {}
        same: dict[int, int] = {}
        for position in sorted(self._edges.keys() | self.accepts.keys(), reverse=True):
            key = (
                self._loops.get(position, 0),
                self._label(self.accepts.get(position, ())),
                tuple((token, self._what_follows(child, same)) for token, child in self._edges.get(position, ())),
            )
            found = first.setdefault(key, position)
            if found != position:
                same[position] = found
        return same

    def _what_follows(self, position: int, same: dict[int, int]) -> Hashable:
        end = self.plain.find(0, position)
        return bytes(self.lits[position:end]), same.get(end, end)

    # -- moving

    def _compute_moves(self, position: int) -> Moves:
        narrow: list[tuple[int, Closure]] = []
        wide: list[tuple[int, Closure]] = []

        def add(mask: int, target: Closure) -> None:
            if mask.bit_count() > 128:
                wide.append((mask, target))
            else:
                narrow.extend((byte, target) for byte in range(256) if mask >> byte & 1)

        loop = self._loops.get(position)
        if loop:
            wide.append((loop, self.closure(position)))
        for token, child in self._edges.get(position, ()):
            if token < 256:
                narrow.append((token, self.closure(child)))
            elif token == _DIRECTORIES_END:
                narrow.append((ord("/"), self.closure(child)))
            elif token != _DIRECTORIES:
                kind = self._tokens[token - _FIRST_FREE]
                if isinstance(kind, OneOf):
                    add(kind.mask, self.closure(child))
                elif isinstance(kind, OneChar):
                    for sequence in kind.sequences:
                        target = self.closure(child)
                        for mask in sequence[:0:-1]:
                            target = (self._inside_character(child, mask, target),)
                        add(sequence[0], target)
        return Moves(tuple(narrow), tuple(wide))

    def _inside_character(self, owner: int, mask: int, target: Closure) -> int:
        """A new position in the middle of a character."""
        position = len(self.lits)
        self.lits.append(0)
        self.plain.append(0)
        self._owners[position] = owner
        bytes_of = [byte for byte in range(256) if mask >> byte & 1]  # continuation bytes: never wide
        self._moves[position] = Moves(tuple((byte, target) for byte in bytes_of), ())
        self._closures[position] = (position,)
        return position

    # -- pruning

    def _label(self, patterns: Iterable[int]) -> frozenset[int]:
        return frozenset(patterns if self._labels is None else (self._labels[i] for i in patterns))

    def _find_absorbing(self) -> dict[int, tuple[int, frozenset[int]]]:
        """Positions that accept whatever follows: which position stands for them, and their labels."""
        found: dict[int, tuple[int, frozenset[int]]] = {}
        first: dict[frozenset[int], int] = {}
        for position in self._accepting:
            if self._loops.get(position) == ALL:
                labels = self._label(self.accepts[position])
                if self._labels_behind(position) != labels:
                    continue
                found[position] = (first.setdefault(labels, position), labels)
        return found

    def _labels_behind(self, position: int) -> frozenset[int] | None:
        position = self._owners.get(position, position)
        if position in self._reach:
            return self._reach[position]
        low = bisect_left(self._accepting, position)
        high = bisect_left(self._accepting, self._ends[position])
        labels: frozenset[int] | None = None
        if high - low <= _REACH_LIMIT:
            labels = self._label(i for p in self._accepting[low:high] for i in self.accepts[p])
        self._reach[position] = labels
        return labels
