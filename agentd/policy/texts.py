"""What a library call is told, judged by content: groups of patterns as one automaton, and the evaluator's own matcher.

A group is what one catalogue entry lists under `text:`; it matches when any of its patterns is found anywhere in the
text. The kernel walks the automaton over the whole text and gathers the groups that it passes, so that no state has to
remember what was seen: a state says which groups have a match that ends here, and which would if the text ended here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

from agentd.policy.automaton import Dfa, pack
from agentd.policy.cards import CARD, card_found, card_fragment
from agentd.policy.regex import EDGE, GAPS, Fragment, following, neighbour, regex
from agentd.policy.subset import Graph, StateLimit

__all__ = ["CARD", "Seen", "compile_texts", "fragment", "matches_text"]

Group = tuple[str, ...]
"""Patterns; each a regular expression, or the name of what no regular expression describes (CARD)."""


class Seen(NamedTuple):
    """The payload of a state: groups with a match that ends here, and groups with one if the text does."""

    here: tuple[int, ...] = ()
    at_end: tuple[int, ...] = ()


def fragment(pattern: str) -> Fragment:
    """The positions of one pattern. Raises ValueError with one sentence."""
    return card_fragment() if pattern == CARD else regex(pattern)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode("utf-8", "surrogateescape"))


def matches_text(group: Group, text: bytes) -> bool:
    """Whether some pattern of the group is found in `text` (of SQL: in its skeleton)."""
    return any(card_found(text) if one == CARD else _compiled(one).search(text) is not None for one in group)


def compile_texts(wanted: Sequence[tuple[int, str]], *, max_states: int) -> Dfa:
    """The automaton that finds (group, pattern of it); its payloads are `Seen`.

    Raises ValueError for a malformed pattern, StateLimit.
    """
    patterns = [(fragment(pattern), group) for group, pattern in wanted]
    graph = _Construction(patterns, max_states).run()
    return pack(graph, patterns=len(patterns), max_states=max_states)


class _Union:
    """All patterns as one set of positions. first[p]: where each pattern begins."""

    def __init__(self, patterns: Sequence[tuple[Fragment, int]]) -> None:
        self.edges: list[list[tuple[int, int]]] = []
        self.jumps: list[list[tuple[frozenset[tuple[int, int]] | None, int]]] = []
        self.accepts: dict[int, int] = {}
        self.first: list[int] = []
        for part, group in patterns:
            shift = len(self.edges)
            self.edges += [[(mask, to + shift) for mask, to in edges] for edges in part.edges]
            self.jumps += [[(condition, to + shift) for condition, to in jumps] for jumps in part.jumps]
            self.accepts[part.accept + shift] = group
            self.first.append(part.start + shift)


Members = frozenset[int]


class _Construction:
    """The subset construction. A state is (the neighbour before, positions, groups whose match ended before the byte
    that led here); conditions on what is behind a place are looked at when that byte is read.
    """

    def __init__(self, patterns: Sequence[tuple[Fragment, int]], max_states: int) -> None:
        self.nfa = _Union(patterns)
        self.count = len(patterns)
        self.max_states = max_states
        self.classes = _byte_classes(self.nfa)
        self.numbers: dict[tuple[int, Members, Members], int] = {}
        self.states: list[tuple[int, Members, Members]] = []
        self._entered: dict[tuple[int, int, int], Members] = {}
        self._closed: dict[tuple[Members, int, int], Members] = {}
        self._leaving: dict[Members, tuple[list[tuple[int, Members]], Members]] = {}
        self._payloads: dict[Hashable, int] = {Seen(): 0}

    def run(self) -> Graph:
        graph = Graph()
        graph.labels.append(b"")  # state 0 is dead; nothing that is searched for dies, but the shape wants one
        graph.targets.append(())
        graph.default.append(0)
        graph.payload.append(0)
        graph.start = self.number(EDGE, frozenset(), frozenset())
        state = 0
        while state < len(self.states):
            self.expand(graph, state)
            state += 1
        graph.payloads = list(self._payloads)
        return graph

    def number(self, before: int, members: Members, ended: Members) -> int:
        key = (before, members | frozenset(self.nfa.first), ended)
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.states) + 1
            self.states.append(key)
            if found > self.max_states:
                raise StateLimit(self.max_states, found, self.count)
        return found

    def expand(self, graph: Graph, state: int) -> None:
        before, members, ended = self.states[state]
        row: list[int] = [0] * 256
        for representative, owned in self.classes:
            behind = neighbour(representative)
            edges, groups = self.leaving(self.close(members, before, behind))
            moved: Members = frozenset().union(*(to for mask, to in edges if mask >> representative & 1))
            target = self.number(following(before, representative), moved, groups)
            for byte in owned:
                row[byte] = target
        ((default, _),) = Counter(row).most_common(1)
        labels = bytes(byte for byte in range(256) if row[byte] != default)
        graph.labels.append(labels)
        graph.targets.append(tuple(row[byte] for byte in labels))
        graph.default.append(default)
        seen = Seen(tuple(sorted(ended)), tuple(sorted(self.groups(self.close(members, before, EDGE)))))
        graph.payload.append(self._payloads.setdefault(seen, len(self._payloads)))

    def leaving(self, closed: Members) -> tuple[list[tuple[int, Members]], Members]:
        """Where each mask of bytes leads to, and the groups whose match ends: the same for most bytes of a state."""
        found = self._leaving.get(closed)
        if found is None:
            masks: dict[int, set[int]] = {}
            for position in closed:
                for mask, to in self.nfa.edges[position]:
                    masks.setdefault(mask, set()).add(to)
            edges = [(mask, frozenset(to)) for mask, to in masks.items()]
            found = self._leaving[closed] = edges, self.groups(closed)
        return found

    def groups(self, members: Members) -> Members:
        accepts = self.nfa.accepts
        return frozenset(accepts[position] for position in members if position in accepts)

    def close(self, members: Members, before: int, behind: int) -> Members:
        """`members` and what is entered from them without reading, between these neighbours."""
        key = (members, before, behind)
        found = self._closed.get(key)
        if found is None:
            found = frozenset().union(*(self.entered(position, before, behind) for position in members))
            self._closed[key] = found
        return found

    def entered(self, position: int, before: int, behind: int) -> Members:
        key = (position, before, behind)
        found = self._entered.get(key)
        if found is None:
            seen, todo = {position}, [position]
            while todo:
                for condition, to in self.nfa.jumps[todo.pop()]:
                    if to not in seen and (condition is None or (before, behind) in condition):
                        seen.add(to)
                        todo.append(to)
            found = self._entered[key] = frozenset(seen)
        return found


def _byte_classes(nfa: _Union) -> list[tuple[int, list[int]]]:
    """Bytes that no edge and no condition tells apart: (one of them, all of them)."""
    masks = sorted({mask for edges in nfa.edges for mask, _ in edges})
    groups: dict[tuple[int, ...], list[int]] = {}
    for byte in range(256):
        groups.setdefault((neighbour(byte), byte in GAPS, *(mask >> byte & 1 for mask in masks)), []).append(byte)
    return [(owned[0], owned) for owned in groups.values()]
