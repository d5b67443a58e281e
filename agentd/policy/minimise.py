"""The minimal automaton of a `subset.Graph`.

Most of a policy's automaton has no cycle but through a few states (the start, a directory boundary, accept-the-rest).
So states are taken in an order where only edges to those few, the anchors, point backwards, and are merged by equal
rows in one pass. Edges to anchors, and to every state that could still be equal to one, count by a first, coarse
partition; the pass is repeated with its own result in place of it until the anchors' partition no longer changes.

Why this is exact: the first partition (payload; distance to the nearest payload, and which; number of live bytes) never
separates equal states, and a pass keeps that so; a partition that a pass leaves unchanged is a congruence; the coarsest
congruence is the minimal automaton.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from agentd.policy.subset import CHAIN, DEAD, Graph, StateLimit

NOT_UNARY: Final = 256
_INFINITE: Final = 1 << 62
_STEP: Final = 1 << 32

Row = tuple[int, int, bytes, tuple[int, ...]]
"""payload, default, labels, targets (classes; in a pass, negative numbers are classes of the partition before)."""


class ChainInCycle(Exception):
    """A state with one live byte lies on a cycle: the graph must be built again without chain edges."""


class Classes:
    """One pass. A class with payload 0 and one live byte, the rest dead, is unary: two numbers. Others have a Row."""

    def __init__(self) -> None:
        self.unary_byte = array("H")
        self.unary_next = array("i")
        self.rows: dict[int, Row] = {}
        self._numbers: dict[Row, int] = {}
        # Reverse index of unary classes: the first that leads to class t, and its byte; the others.
        self._up = array("i")
        self._up_byte = array("H")
        self._more: dict[int, int] = {}
        self.dead = self.row((0, 0, b"", ()))

    def __len__(self) -> int:
        return len(self.unary_byte)

    def row(self, row: Row) -> int:
        number = self._numbers.get(row)
        if number is None:
            number = self._numbers[row] = len(self)
            self.rows[number] = row
            self.unary_byte.append(NOT_UNARY)
            self.unary_next.append(0)
            self._up.append(0)
            self._up_byte.append(NOT_UNARY)
        return number

    def chain(self, label: bytes, target: int) -> int:
        """The class that reads `label` and goes on as `target`."""
        left = len(label)
        while left:
            known = self._unary(label[left - 1], target)
            if known < 0:
                break
            target = known
            left -= 1
        if not left:
            return target
        first = len(self)
        fresh = label[left - 1 :: -1]
        self._register(fresh[0], target, first)
        self.unary_byte.extend(fresh)
        self.unary_next.append(target)
        self.unary_next.extend(range(first, first + left - 1))
        self._up.extend(range(first + 1, first + left))
        self._up.append(0)
        self._up_byte.extend(fresh[1:])
        self._up_byte.append(NOT_UNARY)
        return first + left - 1

    def _unary(self, byte: int, target: int) -> int:
        if target >= 0 and self._up_byte[target] == byte:
            return self._up[target]
        return self._more.get(target << 8 | byte, -1)

    def _register(self, byte: int, target: int, number: int) -> None:
        if target >= 0 and self._up_byte[target] == NOT_UNARY:
            self._up[target] = number
            self._up_byte[target] = byte
        else:
            self._more[target << 8 | byte] = number

    def release(self) -> None:
        """Drop what only merging needs."""
        self._numbers = {}
        self._up = array("i")
        self._up_byte = array("H")
        self._more = {}


class Minimal:
    """The result: classes without negative numbers, and the class to start in. `dead_used`: class 0 is reachable."""

    def __init__(self, classes: Classes, start: int, dead_used: bool) -> None:
        self.classes = classes
        self.start = start
        self.dead_used = dead_used


def minimise(graph: Graph, *, patterns: int, max_states: int) -> Minimal:
    """Merge all equal states of `graph`.

    Raises StateLimit when more than `max_states` remain; ChainInCycle when chain edges can't be kept.
    """
    order, anchors = _order(graph)
    distance = _distances(graph, order)
    anchors = [s for s in anchors if distance[s] < _INFINITE]
    kinds: dict[tuple[int, int, int], int] = {}
    partition = [-1] * len(graph.labels)
    chains = False
    for s in order:
        if distance[s] < _INFINITE:
            live = _live_bytes(graph, s, distance)
            chains = chains or graph.default[s] == CHAIN
            partition[s] = kinds.setdefault((graph.payload[s], distance[s], live), len(kinds))
    if chains and any(graph.payload[s] == 0 and _live_bytes(graph, s, distance) == 1 for s in anchors):
        raise ChainInCycle
    while True:
        held = {partition[s] for s in anchors}
        anchor_like = [s for s in order if partition[s] in held]
        token = [0] * len(partition)
        for s in anchor_like:
            token[s] = -1 - partition[s]
        classes, numbers = _pass(graph, order, distance, token, patterns, max_states)
        pairs = {(partition[s], numbers[s]) for s in anchor_like}
        if len(pairs) == len({old for old, _ in pairs}):
            break
        partition = numbers
    dead_used = any(distance[s] == _INFINITE for s in order) or any(byte != NOT_UNARY for byte in classes.unary_byte)
    classes.release()
    _resolve(classes, {-1 - old: new for old, new in pairs})
    return Minimal(classes, numbers[graph.start], dead_used)


def _order(graph: Graph) -> tuple[list[int], list[int]]:
    """Reachable states, targets before sources but for edges to anchors; and the anchors."""
    white, grey, black = 0, 1, 2
    colour = bytearray(len(graph.labels))
    order: list[int] = []
    anchors: set[int] = set()
    stack: list[tuple[int, Iterable[int]]] = []

    def enter(s: int) -> None:
        colour[s] = grey
        default = graph.default[s]
        stack.append((s, iter(graph.targets[s] if default == CHAIN else (*graph.targets[s], default))))

    enter(graph.start)
    while stack:
        s, targets = stack[-1]
        for t in targets:
            if colour[t] == white:
                enter(t)
                break
            if colour[t] == grey:
                anchors.add(t)
        else:
            colour[s] = black
            order.append(s)
            stack.pop()
    return order, sorted(anchors)


def _distances(graph: Graph, order: list[int]) -> list[int]:
    """How many bytes, times _STEP, at least to a payload other than that of no match, plus the least such payload.

    _INFINITE: there is none, the state is dead.
    """
    distance = [_INFINITE] * len(graph.labels)
    changed = True
    while changed:
        changed = False
        for s in order:
            if graph.payload[s]:
                found = graph.payload[s]
            elif graph.default[s] == CHAIN:
                found = distance[graph.targets[s][0]] + len(graph.labels[s]) * _STEP
            else:
                found = distance[graph.default[s]] + _STEP
                for t in graph.targets[s]:
                    if distance[t] + _STEP < found:
                        found = distance[t] + _STEP
            if found < distance[s]:
                distance[s] = found
                changed = True
    return distance


def _live_bytes(graph: Graph, s: int, distance: list[int]) -> int:
    """0, 1 or 2 for more: how many bytes don't lead to a dead state."""
    if graph.default[s] == CHAIN:
        return 1
    live = 0 if distance[graph.default[s]] == _INFINITE else 256 - len(graph.labels[s])
    for t in graph.targets[s]:
        if live > 1:
            break
        live += distance[t] < _INFINITE
    return min(live, 2)


def _pass(
    graph: Graph, order: list[int], distance: list[int], token: list[int], patterns: int, max_states: int
) -> tuple[Classes, list[int]]:
    """Merge by equal rows. token: what stands for a state in rows, negative for the anchor-like, else filled in."""
    classes = Classes()
    numbers = [-1] * len(token)
    for s in order:
        if distance[s] == _INFINITE:
            token[s] = numbers[s] = DEAD
            continue
        labels, default = graph.labels[s], graph.default[s]
        if default == CHAIN:
            number = classes.chain(labels, token[graph.targets[s][0]])
        else:
            base = token[default]
            targets = [token[t] for t in graph.targets[s]]
            if len(labels) >= 128:
                labels, targets, base = _canonical(labels, targets, base)
            elif base in targets:
                kept = [i for i, t in enumerate(targets) if t != base]
                labels, targets = bytes(labels[i] for i in kept), [targets[i] for i in kept]
            payload = graph.payload[s]
            if payload == 0 and base == DEAD and len(labels) == 1:
                number = classes.chain(labels, targets[0])
            else:
                number = classes.row((payload, base, labels, tuple(targets)))
        numbers[s] = number
        if token[s] >= 0:
            token[s] = number
        if len(classes) > max_states:
            raise StateLimit(max_states, len(classes), patterns)
    return classes, numbers


def _canonical(labels: bytes, targets: list[int], base: int) -> tuple[bytes, list[int], int]:
    """The same row with the most frequent target as its default (of equals, the smallest)."""
    full = [base] * 256
    for byte, target in zip(labels, targets, strict=True):
        full[byte] = target
    counts: dict[int, int] = {}
    for target in full:
        counts[target] = counts.get(target, 0) + 1
    base = min(counts, key=lambda target: (-counts[target], target))
    kept = [byte for byte in range(256) if full[byte] != base]
    return bytes(kept), [full[byte] for byte in kept], base


def _resolve(classes: Classes, final: dict[int, int]) -> None:
    """Replace the numbers of the partition before by classes."""
    for number, (payload, default, labels, targets) in classes.rows.items():
        if default < 0 or any(t < 0 for t in targets):
            targets = tuple(final[t] if t < 0 else t for t in targets)
            classes.rows[number] = (payload, final.get(default, default), labels, targets)
    if classes.unary_next and min(classes.unary_next) < 0:
        for number, target in enumerate(classes.unary_next):
            if target < 0:
                classes.unary_next[number] = final[target]
