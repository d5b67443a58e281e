"""Regular expressions over bytes as positions and edges: what `texts` makes one automaton of.

The syntax is that of Python's `re` on bytes, read by Python's own parser; what no automaton can do (back references,
look-around, possessive and atomic groups) is refused. A match may begin and end anywhere, as with `re.search`. At the
very beginning `(?<!...)` may say, once or several times, behind which words a match doesn't count.
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
GAP: Final = 5  # one of GAPS behind a digit; only as what is before a place
GAPS: Final = b" -.+"
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
    return GAP if before == DIGIT and byte in GAPS else neighbour(byte)


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
    flags = parsed.state.flags
    words, tree = _excluded(list(parsed), flags)
    out.start = begin = out.position()
    if words:
        begin = out.position()
        _unless_behind(out, words, begin)
    out.accept = builder.sequence(tree, begin, flags)
    if builder.accepts_nothing(begin):
        raise ValueError("it matches the empty text, and so everything; leave text out to mean that")
    return out


class _Builder:
    """Walks the tree of Python's parser. `flags` are those in force at the place."""

    def __init__(self) -> None:
        self.out = Fragment()

    def accepts_nothing(self, begin: int) -> bool:
        """Does the pattern match without reading a byte, wherever it is tried?"""
        seen, todo = {begin}, [begin]
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
        names = {"GROUPREF": "back references", "ASSERT": "look-ahead and look-behind", "ASSERT_NOT": "look-around"}
        raise ValueError(f"{names.get(operator, operator.lower().replace('_', ' '))} can't be judged byte by byte")

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


@dataclass(frozen=True, slots=True)
class _Word:
    """What a match may not stand behind. masks: of its bytes; whole: no letter, digit or `_` may be before it."""

    masks: tuple[int, ...]
    whole: bool


def _excluded(tree: list[Any], flags: int) -> tuple[list[_Word], list[Any]]:
    """The words of each `(?<!...)` that the pattern begins with, and the rest of it. Raises ValueError."""
    words = []
    while tree and str(tree[0][0]) == "ASSERT_NOT" and tree[0][1][0] < 0:
        (_, (_, inner)), *tree = tree
        masks: list[int] = []
        whole = _spell(inner, flags, masks)
        if not masks:
            raise ValueError("look-around can't be judged byte by byte, but for words in (?<!...) at the beginning")
        words.append(_Word(tuple(masks), whole))
    return words, tree


def _spell(tree: Any, flags: int, masks: list[int]) -> bool:
    """Appends the bytes of a word; does it begin with `\\b`? Raises ValueError."""
    whole = False
    for operator, argument in tree:
        word = str(operator)
        if word == "SUBPATTERN":
            _, added, removed, inner = argument
            whole |= _spell(inner, (flags | added) & ~removed, masks)
        elif word == "AT" and str(argument) == "AT_BOUNDARY" and not masks:
            whole = True
        elif word in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            masks.append(_mask(word, argument, flags))
        else:
            raise ValueError("look-around can't be judged byte by byte, but for words in (?<!...) at the beginning")
    if whole and masks and any(masks[0] >> byte & 1 and neighbour(byte) not in _IN_WORD for byte in range(256)):
        raise ValueError(r"\b in (?<!...) stands before a letter, a digit or `_`")
    return whole


def _unless_behind(out: Fragment, words: list[_Word], begin: int) -> None:
    """Leads to `begin` from every place of a text that stands behind none of the words.

    A deterministic part of its own, entered where the text begins and nowhere else: at each place it is in one state,
    (is a word's character before it; which words are begun, and how far), so that what is searched for multiplies with
    few.
    """
    classes: dict[tuple[bool, ...], list[int]] = {}
    for byte in range(256):
        of = (neighbour(byte) in _IN_WORD, *(bool(mask >> byte & 1) for word in words for mask in word.masks))
        classes.setdefault(of, []).append(byte)
    first = False, frozenset[tuple[int, int]]()
    places = {first: out.position()}
    out.jump(out.start, places[first], _FIRST)
    todo = [first]
    while todo:
        state = todo.pop()
        inside, begun = state
        at = places[state]
        if not any(count == len(words[number].masks) for number, count in begun):
            out.jump(at, begin)
        edges: dict[int, int] = {}
        for owned in classes.values():
            byte = owned[0]
            tried = {*begun, *((number, 0) for number, word in enumerate(words) if not (word.whole and inside))}
            after = (
                neighbour(byte) in _IN_WORD,
                frozenset(
                    (number, count + 1)
                    for number, count in tried
                    if count < len(words[number].masks) and words[number].masks[count] >> byte & 1
                ),
            )
            if after not in places:
                places[after] = out.position()
                todo.append(after)
            to = places[after]
            edges[to] = edges.get(to, 0) | sum(1 << one for one in owned)
        out.edges[at] += [(mask, to) for to, mask in edges.items()]


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
