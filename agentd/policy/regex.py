"""Regular expressions over bytes as positions and edges: what `texts` makes one automaton of.

The syntax is that of Python's `re` on bytes, read by Python's own parser; what no automaton can do (back references,
look-around, possessive and atomic groups) is refused. A match may begin and end anywhere, as with `re.search`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from agentd.policy.patterns import ALL

# What an assertion such as `\b` can ask of a neighbour. EDGE: there is none, the text begins or ends.
EDGE: Final = 0
NEWLINE: Final = 1
DIGIT: Final = 2
WORD: Final = 3  # letters and `_`
OTHER: Final = 4
GAP: Final = 5  # one space or hyphen behind a digit; only as what is before a place
NEIGHBOURS: Final = (EDGE, NEWLINE, DIGIT, WORD, OTHER, GAP)

MAX_REGEX_BYTES: Final = 4096
MAX_POSITIONS: Final = 20_000

Assertion = frozenset[tuple[int, int]]
"""The pairs (neighbour before, neighbour behind) that it holds between."""


def neighbour(byte: int) -> int:
    """What `byte` is to an assertion."""
    if byte == 0x0A:
        return NEWLINE
    if 0x30 <= byte <= 0x39:
        return DIGIT
    return WORD if byte == 0x5F or bytes((byte,)).isalpha() else OTHER


def following(before: int, byte: int) -> int:
    """What is before the next place, when `byte` is read behind `before`."""
    return GAP if before == DIGIT and byte in b" -" else neighbour(byte)


@dataclass(slots=True)
class Fragment:
    """Positions from `start` to `accept`.
    Edges read one byte out of a mask; jumps read nothing, some under a condition.
    """

    edges: list[list[tuple[int, int]]] = field(default_factory=list)
    jumps: list[list[tuple[Assertion | None, int]]] = field(default_factory=list)
    start: int = 0
    accept: int = 0

    def position(self) -> int:
        """A new position. Raises ValueError when there are too many."""
        if len(self.edges) >= MAX_POSITIONS:
            raise ValueError(f"the pattern is too large: its repeats make more than {MAX_POSITIONS} positions")
        self.edges.append([])
        self.jumps.append([])
        return len(self.edges) - 1

    def read(self, at: int, mask: int) -> int:
        """A new position behind one byte out of `mask`."""
        behind = self.position()
        self.edges[at].append((mask, behind))
        return behind

    def jump(self, at: int, to: int, assertion: Assertion | None = None) -> None:
        self.jumps[at].append((assertion, to))


def between(holds: Callable[[int, int], bool]) -> Assertion:
    """The assertion that `holds(before, behind)` describes."""
    return frozenset((a, b) for a in NEIGHBOURS for b in NEIGHBOURS if holds(a, b))


_IN_WORD: Final = (DIGIT, WORD)
_BOUNDARY: Final = between(lambda a, b: (a in _IN_WORD) != (b in _IN_WORD))
_NO_BOUNDARY: Final = between(lambda a, b: (a in _IN_WORD) == (b in _IN_WORD))
_FIRST: Final = between(lambda a, b: a == EDGE)
_LAST: Final = between(lambda a, b: b == EDGE)
_LINE_FIRST: Final = between(lambda a, b: a in (EDGE, NEWLINE))
_LINE_LAST: Final = between(lambda a, b: b in (EDGE, NEWLINE))

_CATEGORIES: Final = {"DIGIT": rb"[0-9]", "SPACE": rb"[ \t\n\r\f\v]", "WORD": rb"[a-zA-Z0-9_]"}


@lru_cache(maxsize=4096)
def regex(text: str) -> Fragment:
    """The fragment of a regular expression. Raises ValueError with one sentence."""
    data = text.encode("utf-8", "surrogateescape")
    if not data:
        raise ValueError("an empty pattern matches everything; leave text out to mean that")
    if len(data) > MAX_REGEX_BYTES:
        raise ValueError(f"the pattern is {len(data)} bytes long; at most {MAX_REGEX_BYTES} are accepted")
    try:
        re.compile(data)
        parsed: Any = re._parser.parse(data)  # type: ignore[attr-defined]
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    builder = _Builder()
    out = builder.out
    out.start = out.position()
    out.accept = builder.sequence(parsed, out.start, parsed.state.flags)
    if builder.accepts_nothing():
        raise ValueError("it matches the empty text, and so everything; leave text out to mean that")
    return out


class _Builder:
    """Walks the tree of Python's parser. `flags` are those in force at the place."""

    def __init__(self) -> None:
        self.out = Fragment()

    def accepts_nothing(self) -> bool:
        """Does the pattern match without reading a byte, wherever it is tried?"""
        seen, todo = {self.out.start}, [self.out.start]
        while todo:
            for assertion, to in self.out.jumps[todo.pop()]:
                if assertion is None and to not in seen:
                    seen.add(to)
                    todo.append(to)
        return self.out.accept in seen

    def sequence(self, tree: Any, at: int, flags: int) -> int:
        for operator, argument in tree:
            at = self.one(str(operator), argument, at, flags)
        return at

    def one(self, operator: str, argument: Any, at: int, flags: int) -> int:
        out = self.out
        if operator in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return out.read(at, _mask(operator, argument, flags))
        if operator == "SUBPATTERN":
            _, added, removed, tree = argument
            return self.sequence(tree, at, (flags | added) & ~removed)
        if operator == "BRANCH":
            end = out.position()
            for tree in argument[1]:
                begin = out.position()
                out.jump(at, begin)
                out.jump(self.sequence(tree, begin, flags), end)
            return end
        if operator in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, tree = argument
            return self.repeat(least, most, tree, at, flags)
        if operator == "AT":
            behind = out.position()
            out.jump(at, behind, _assertion(str(argument), flags))
            if str(argument) == "AT_END" and not flags & re.MULTILINE:  # also before a newline that ends the text
                out.jump(out.read(at, 1 << 0x0A), behind, _LAST)
            return behind
        words = {"GROUPREF": "back references", "ASSERT": "look-ahead and look-behind", "ASSERT_NOT": "look-around"}
        raise ValueError(f"{words.get(operator, operator.lower().replace('_', ' '))} can't be judged byte by byte")

    def repeat(self, least: int, most: Any, tree: Any, at: int, flags: int) -> int:
        out = self.out
        for _ in range(least):
            at = self.sequence(tree, at, flags)
        if str(most) == "MAXREPEAT":
            loop = out.position()
            out.jump(at, loop)
            out.jump(self.sequence(tree, loop, flags), loop)
            return loop
        end = out.position()
        out.jump(at, end)
        for _ in range(int(most) - least):
            at = self.sequence(tree, at, flags)
            out.jump(at, end)
        return end


def _assertion(word: str, flags: int) -> Assertion:
    multiline = bool(flags & re.MULTILINE)
    found = {
        "AT_BEGINNING": _LINE_FIRST if multiline else _FIRST,
        "AT_BEGINNING_STRING": _FIRST,
        "AT_END": _LINE_LAST if multiline else _LAST,
        "AT_END_STRING": _LAST,
        "AT_BOUNDARY": _BOUNDARY,
        "AT_NON_BOUNDARY": _NO_BOUNDARY,
    }.get(word)
    if found is None:
        raise ValueError(f"{word.lower()} is not supported")
    return found


def _mask(operator: str, argument: Any, flags: int) -> int:
    """The bytes that one element reads."""
    if operator == "ANY":
        return ALL if flags & re.DOTALL else ALL & ~(1 << 0x0A)
    if operator == "IN":
        return _set_mask(argument, flags)
    mask = _folded(1 << argument, flags)
    return ALL & ~mask if operator == "NOT_LITERAL" else mask


def _set_mask(members: Any, flags: int) -> int:
    mask, negated = 0, False
    for operator, argument in members:
        word = str(operator)
        if word == "NEGATE":
            negated = True
        elif word == "LITERAL":
            mask |= 1 << argument
        elif word == "RANGE":
            mask |= (1 << (argument[1] + 1)) - (1 << argument[0])
        elif word == "CATEGORY":
            mask |= _category(str(argument))
        else:
            raise ValueError(f"{word.lower()} in a class is not supported")
    mask = _folded(mask, flags)
    return ALL & ~mask if negated else mask


def _category(word: str) -> int:
    name = word.removeprefix("CATEGORY_")
    mask = sum(1 << byte for byte in _matched(_CATEGORIES[name.removeprefix("NOT_")]))
    return ALL & ~mask if name.startswith("NOT_") else mask


def _matched(pattern: bytes) -> Iterator[int]:
    compiled = re.compile(pattern)
    return (byte for byte in range(256) if compiled.fullmatch(bytes((byte,))))


def _folded(mask: int, flags: int) -> int:
    """With (?i), a letter is both of its cases. ASCII only, as `re` does with bytes."""
    if not flags & re.IGNORECASE:
        return mask
    for lower in range(0x61, 0x7B):
        pair = 1 << lower | 1 << (lower - 32)
        if mask & pair:
            mask |= pair
    return mask
