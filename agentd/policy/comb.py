"""Packing an automaton: byte classes, and rows of transitions slid into one another (row displacement)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from operator import sub
from typing import Final

from agentd.policy.minimise import NOT_UNARY, Minimal

FREE: Final = 0xFFFFFFFF
_TRIES: Final = 64  # places examined for one row before it goes to the end


def byte_classes(minimal: Minimal) -> bytes:
    """For each byte its class: bytes of one class go to the same state from every state."""
    group = [0] * 256
    fresh = 1
    for byte in sorted(set(minimal.classes.unary_byte) - {NOT_UNARY}):
        group[byte] = fresh
        fresh += 1
    for _, _, labels, targets in minimal.classes.rows.values():
        split: dict[tuple[int, int], int] = {}
        for byte, target in zip(labels, targets, strict=True):
            key = (group[byte], target)
            if key not in split:
                split[key] = fresh
                fresh += 1
            group[byte] = split[key]
    numbers: dict[int, int] = {}
    return bytes(numbers.setdefault(g, len(numbers)) for g in group)


class Packed:
    """Arrays as in bpf/abi.h: `i = base[s] + class; s = next[i] if check[i] == s else default[s]`. It starts in 0."""

    def __init__(self, minimal: Minimal, classes: bytes) -> None:
        self._classes = classes
        self._rows = minimal.classes.rows
        self._start = minimal.start
        self._shift = 0 if minimal.dead_used else 1
        count = len(minimal.classes) - self._shift
        self.n_states = count
        self._used = bytearray()
        self.base = array("I", bytes(4 * count))
        self.default = array("I", (self._number(0) if minimal.dead_used else 0,)) * count
        self.accept = array("I", bytes(4 * count))
        self.check = array("I")
        self.next = array("I")
        self._pack_rows()
        if minimal.dead_used:
            self._pack_unary(minimal.classes.unary_byte, minimal.classes.unary_next)
        # One step may look a class beyond any base.
        room = (max(self.base) if count else 0) + max(classes) + 1 - len(self.check)
        self._grow(max(0, room))
        if room < 0:
            del self.check[room:], self.next[room:]

    def _number(self, cls: int) -> int:
        """Classes in order, but that of the start changes places with the first."""
        cls -= self._shift
        start = self._start - self._shift
        return 0 if cls == start else start if cls == 0 else cls

    def _grow(self, by: int) -> None:
        self.check.extend(array("I", (FREE,)) * by)
        self.next.extend(array("I", bytes(4 * by)))
        self._used.extend(bytes(by))

    def _pack_rows(self) -> None:
        """First fit, long rows first; a row's search starts where the last one of its length began to fail."""
        width = max(self._classes) + 1
        entries: list[tuple[int, int, dict[int, int]]] = []
        for cls, (payload, default, labels, targets) in self._rows.items():
            if self._shift and cls == 0:
                continue
            state = self._number(cls)
            self.accept[state] = payload
            self.default[state] = self._number(default)
            row = {self._classes[byte]: self._number(target) for byte, target in zip(labels, targets, strict=True)}
            if row:
                entries.append((-len(row), state, row))
        entries.sort(key=lambda entry: entry[:2])
        # Slots only fill up: where a place for the same columns, or for as many, was last looked for in vain.
        by_columns: dict[bytes, int] = {}
        by_size: dict[int, int] = {}
        for size, state, row in entries:
            columns = bytes(sorted(row))
            slot, exhausted = self._place(columns, by_columns.get(columns, by_size.get(size, 0)), width)
            by_columns[columns] = slot + 1
            if exhausted:
                by_size[size] = slot - _TRIES // 2
            base = slot - columns[0]
            self.base[state] = base
            for column in columns:
                self._used[base + column] = 1
                self.check[base + column] = state
                self.next[base + column] = row[column]

    def _place(self, columns: bytes, slot: int, width: int) -> tuple[int, bool]:
        """The slot for the first column of a row, from `slot` on, and whether it had to be a long way off."""
        used = self._used
        first, others = columns[0], columns[1:]
        slot = max(slot, first)
        for _ in range(_TRIES):
            found = used.find(0, slot)
            slot = found if found >= 0 else max(slot, len(used))
            base = slot - first
            if base + width > len(used):
                self._grow(base + width - len(used) + 4096)
            for column in others:
                if used[base + column]:
                    break
            else:
                return slot, False
            slot += 1
        slot = max(slot, used.rfind(1) + 1)
        self._grow(max(0, slot + width - len(used)))
        return slot, True

    def _pack_unary(self, unary_byte: array[int], unary_next: array[int]) -> None:
        """Unary states take consecutive slots behind everything else."""
        total = len(unary_byte)
        column = bytes(byte & 0xFF for byte in unary_byte).translate(self._classes)
        used_up_to = self._used.rfind(1) + 1
        slot = max(used_up_to, max(self._classes) + 1)
        del self.check[slot:], self.next[slot:]
        if slot > len(self.check):
            self._grow(slot - len(self.check))
        for low, high in _runs(self._rows, total):
            self.base[low:high] = array("I", map(sub, range(slot, slot + high - low), column[low:high]))
            self.check.extend(range(low, high))
            self.next.frombytes(unary_next[low:high].tobytes())
            slot += high - low
        # The start and the dead class have changed places: put right what was written by class.
        start = self._start
        if start in self._rows:
            moved = -1
        else:
            moved = self.base[start] + column[start]
            self.base[0], self.base[start] = self.base[start], 0
            self.check[moved] = 0
            self.default[0] = start
        for i in range(used_up_to, len(self.next)) if start in unary_next else ():
            if self.next[i] == start and self.check[i] != FREE:
                self.next[i] = 0


def _runs(rows: Iterable[int], total: int) -> Iterable[tuple[int, int]]:
    """The stretches of classes that have no row."""
    low = 0
    for cls in sorted(rows):
        if cls > low:
            yield low, cls
        low = cls + 1
    if low < total:
        yield low, total
