"""Straightforward matchers and a textbook minimisation: slow, short, and sharing no code with agentd.

They say once more, from the definitions, what globs mean and what a minimal automaton is, for tests to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache


def glob_matches(text: str, data: bytes, *, paths: bool) -> bool:
    """Dialect AGENTD (paths) or ARGUMENT: a recursion over the pattern's own bytes."""
    pattern = text.encode("utf-8", "surrogateescape")
    slash = ord("/")

    def element(p: int) -> tuple[Callable[[int], bool], int]:
        """The test for one byte at pattern[p], and where the pattern goes on."""
        char = pattern[p]
        if char == ord("\\"):
            return (lambda byte: byte == pattern[p + 1]), p + 2
        if char == ord("?"):
            return (lambda byte: not (paths and byte == slash)), p + 1
        if char != ord("["):
            return (lambda byte: byte == char), p + 1
        p += 1
        negated = pattern[p] == ord("!")
        p += negated
        allowed: set[int] = set()
        begin = p
        while pattern[p] != ord("]") or p == begin:
            p += pattern[p] == ord("\\")
            low = high = pattern[p]
            p += 1
            if pattern[p] == ord("-") and pattern[p + 1] != ord("]"):
                p += 1
                p += pattern[p] == ord("\\")
                high = pattern[p]
                p += 1
            allowed |= set(range(low, high + 1))
        return (lambda byte: (byte in allowed) != negated and not (paths and byte == slash)), p + 1

    @cache
    def at(p: int, d: int) -> bool:
        if p == len(pattern):
            return d == len(data)
        if pattern[p] == ord("*"):
            if paths and pattern[p : p + 2] == b"**":
                if p + 2 == len(pattern):
                    return p == 0 or d < len(data)
                return at(p + 3, d) or any(data[i] == slash and at(p + 3, i + 1) for i in range(d, len(data)))
            if at(p + 1, d):
                return True
            return d < len(data) and not (paths and data[d] == slash) and at(p, d + 1)
        accepts, after = element(p)
        return d < len(data) and accepts(data[d]) and at(after, d + 1)

    return at(0, 0)


def count_states(payload_of: Callable[[int], Hashable], step: Callable[[int, int], int], start: int) -> int:
    """Moore's algorithm: how many states the minimal automaton has that is equal to the given one."""
    reachable = [start]
    seen = {start}
    for state in reachable:
        for byte in range(256):
            following = step(state, byte)
            if following not in seen:
                seen.add(following)
                reachable.append(following)
    rows = {state: [step(state, byte) for byte in range(256)] for state in reachable}
    part: dict[int, Hashable] = {state: payload_of(state) for state in reachable}
    while True:
        names: dict[Hashable, int] = {}
        finer: dict[int, Hashable] = {}
        for state in reachable:
            key = (part[state], tuple(part[following] for following in rows[state]))
            finer[state] = names.setdefault(key, len(names))
        if len(names) == len(set(part.values())):
            return len(names)
        part = finer
