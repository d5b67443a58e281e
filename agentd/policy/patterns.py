"""Globs and host patterns: their syntax, their exact meaning, and the evaluator's own matcher.

A glob is read once into tokens (`parse`). Two independent things are made from the tokens: the regular expression that
`matches` runs (the Python evaluator) and the automaton that the kernel walks (`automaton`), so that each can be tested
against the other.

Everything is matched on bytes, because paths and arguments are bytes. Text is UTF-8 with surrogateescape. What counts
as one element for `?` and `[...]`:

* AGENTD and ARGUMENT: one byte. A character outside ASCII is several bytes: `?` does not match it (`??` or `*` does),
  and such a character inside `[...]` is an error rather than a class of its bytes.
* FNMATCH: one character, as in `fnmatch.fnmatchcase` on the decoded string. A byte that is no part of valid UTF-8 is
  matched by `*` and by itself, never by `?` or a class (paths of this dialect only ever allow, so this errs to deny).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from agentd.policy.hosts import HostPattern, host_key, host_matches, parse_host
from agentd.policy.utf8 import byte_sequences

__all__ = [
    "ALL",
    "MAX_GLOB_BYTES",
    "NOT_SLASH",
    "Dialect",
    "Directories",
    "Glob",
    "HostPattern",
    "OneChar",
    "OneOf",
    "Run",
    "Token",
    "host_key",
    "host_matches",
    "matches",
    "parse",
    "parse_host",
]

MAX_GLOB_BYTES: Final = 4096
ALL: Final = (1 << 256) - 1
NOT_SLASH: Final = ALL & ~(1 << ord("/"))


class Dialect(enum.Enum):
    """Which language a glob is written in."""

    AGENTD = "agentd"  # `*` and `?` stay inside a component, `**` crosses
    FNMATCH = "fnmatch"  # Python's fnmatch.fnmatchcase: `*` and `?` cross '/'
    ARGUMENT = "argument"  # one argument of a command: no byte is special but the wildcards


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern over a path or an argument. `text` carries raw bytes by surrogateescape."""

    text: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class OneOf:
    """One byte out of a set: bit b of `mask` is set when byte b is accepted."""

    mask: int


@dataclass(frozen=True, slots=True)
class OneChar:
    """One character: alternatives of byte sets in a row, none a prefix of another."""

    sequences: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Any number of bytes, also none, each out of `mask` (ALL or NOT_SLASH)."""

    mask: int


@dataclass(frozen=True, slots=True)
class Directories:
    """Nothing, or anything that ends in a slash: the `**/` of dialect AGENTD."""


Token = int | OneOf | OneChar | Run | Directories
"""An int is that very byte."""


def parse(glob: Glob) -> tuple[Token, ...]:
    """The tokens of `glob`. Raises ValueError (one sentence, without the glob itself) when it is malformed."""
    text = glob.text
    if not text:
        raise ValueError("an empty pattern matches nothing")
    if "\0" in text:
        raise ValueError("a pattern can't contain a NUL byte")
    try:
        size = len(_encode(text))
    except UnicodeEncodeError:
        raise ValueError("the pattern is not encodable as UTF-8") from None
    if size > MAX_GLOB_BYTES:
        raise ValueError(f"the pattern is {size} bytes long; at most {MAX_GLOB_BYTES} are accepted")
    if glob.dialect is Dialect.FNMATCH:
        return tuple(_merge(_parse_fnmatch(text)))
    return tuple(_merge(_parse_native(text, paths=glob.dialect is Dialect.AGENTD)))


@lru_cache(maxsize=16384)
def _compiled(glob: Glob) -> re.Pattern[bytes]:
    return re.compile(_regex(parse(glob)), re.DOTALL)


def matches(glob: Glob, data: bytes) -> bool:
    """Whether the whole of `data` matches. Raises ValueError when the glob is malformed (see `parse`)."""
    return _compiled(glob).fullmatch(data) is not None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _merge(tokens: Iterator[Token]) -> Iterator[Token]:
    """Drop what adds nothing: a run after the same run, directories after directories."""
    last: Token | None = None
    for token in tokens:
        if token.__class__ is not int and isinstance(token, (Run, Directories)) and token == last:
            continue
        last = token
        yield token


# -- dialects AGENTD and ARGUMENT


_PLAIN: Final = re.compile(r"[^\\?*\[]+")  # a whole stretch at once: a start parses a thousand globs


def _parse_native(text: str, *, paths: bool) -> Iterator[Token]:
    run = Run(NOT_SLASH if paths else ALL)
    one = OneOf(NOT_SLASH if paths else ALL)
    i = 0
    while i < len(text):
        char = text[i]
        if char == "\\":
            if i + 1 == len(text):
                raise ValueError("a backslash at the end escapes nothing")
            yield from _encode(text[i + 1])
            i += 2
        elif char == "?":
            yield one
            i += 1
        elif char == "[":
            mask, i = _native_class(text, i + 1, paths=paths)
            yield OneOf(mask)
        elif char == "*" and paths and text.startswith("**", i):
            end = i + 2
            if (i and text[i - 1] != "/") or (end < len(text) and text[end] != "/"):
                raise ValueError("`**` must be a whole path component; write `*` to stay inside one")
            if end == len(text):
                if i:  # strictly below: at least one byte after the slash
                    yield OneOf(ALL)
                yield Run(ALL)
            else:
                yield Directories()
            i = end + 1
        elif char == "*":
            yield run
            i += 1
        else:
            plain = _PLAIN.match(text, i)
            assert plain
            yield from _encode(plain[0])
            i = plain.end()


def _native_class(text: str, i: int, *, paths: bool) -> tuple[int, int]:
    """The mask of the class whose body starts at `i`, and the index behind its `]`."""
    negated = text.startswith("!", i)
    if text.startswith("^", i):
        raise ValueError("`[^` is not used here; write `[!` for the complement, `[\\^` for the character")
    i += negated
    members: list[tuple[int, int]] = []
    first = True
    while True:
        if i >= len(text):
            raise ValueError("`[` is not closed; write `\\[` for the character")
        if text[i] == "]" and not first:
            break
        low, i = _class_member(text, i, paths=paths)
        high = low
        if text.startswith("-", i) and i + 1 < len(text) and text[i + 1] != "]":
            high, i = _class_member(text, i + 1, paths=paths)
            if high < low:
                raise ValueError(f"the range `{chr(low)}-{chr(high)}` is reversed")
        members.append((low, high))
        first = False
    mask = 0
    for low, high in members:
        mask |= (1 << (high + 1)) - (1 << low)
    if negated:
        mask = ALL & ~mask
    if paths:
        mask &= NOT_SLASH
    if not mask:
        raise ValueError("the class matches nothing")
    return mask, i + 1


def _class_member(text: str, i: int, *, paths: bool) -> tuple[int, int]:
    char = text[i]
    if char == "[" and text[i + 1 : i + 2] in (":", ".", "="):
        raise ValueError("POSIX classes such as `[:alpha:]` are not supported; list the characters")
    if char == "\\":
        i += 1
        if i == len(text):
            raise ValueError("a backslash at the end escapes nothing")
        char = text[i]
    if char == "/" and paths:
        raise ValueError("a class never matches `/`; write it outside")
    if ord(char) > 0x7F:
        raise ValueError("a class holds ASCII characters only, because it matches one byte")
    return ord(char), i + 1


# -- dialect FNMATCH


def _parse_fnmatch(text: str) -> Iterator[Token]:
    i = 0
    while i < len(text):
        char = text[i]
        i += 1
        if char == "*":
            yield Run(ALL)
        elif char == "?":
            yield _characters([(0, 0x10FFFF)])
        elif char == "[":
            # As fnmatch.translate: `]` may stand first, and a class that isn't closed is a plain bracket.
            j = i + 1 if text.startswith("!", i) else i
            j = text.find("]", j + 1 if text.startswith("]", j) else j)
            if j < 0:
                yield ord("[")
            else:
                yield _characters(_fnmatch_class(text[i:j]))
                i = j + 1
        else:
            yield from _encode(char)


def _fnmatch_class(body: str) -> list[tuple[int, int]]:
    """The code point ranges of a class body; a reversed range is empty, as in fnmatch since Python 3.9."""
    negated = body.startswith("!")
    body = body[negated:]
    ranges: list[tuple[int, int]] = []
    i = 0
    while i < len(body):
        low = high = ord(body[i])
        if i + 2 < len(body) and body[i + 1] == "-":
            high = ord(body[i + 2])
            i += 2
        if low <= high:
            ranges.append((low, high))
        i += 1
    if not negated:
        return ranges
    gaps: list[tuple[int, int]] = []
    after = 0
    for low, high in sorted(ranges):
        if low > after:
            gaps.append((after, low - 1))
        after = max(after, high + 1)
    if after <= 0x10FFFF:
        gaps.append((after, 0x10FFFF))
    return gaps


def _characters(ranges: list[tuple[int, int]]) -> OneOf | OneChar:
    sequences = byte_sequences(ranges)
    if all(len(sequence) == 1 for sequence in sequences):
        mask = 0
        for (only,) in sequences:
            mask |= only
        return OneOf(mask)
    return OneChar(sequences)


# -- to a regular expression


def _regex(tokens: tuple[Token, ...]) -> bytes:
    """A regular expression for re.DOTALL and fullmatch that takes at most quadratic time.

    A piece between two runs that can both swallow it may be matched as early as possible and never reconsidered, which
    an atomic group says; only what follows the last such run is searched for. A piece that contains a slash behind a
    run that can't cross one has one possible place anyway.
    """
    wide = [i for i, token in enumerate(tokens) if token == Run(ALL) or isinstance(token, Directories)]
    bounds = [*wide, len(tokens)]
    parts = [_regex_block(tokens[: bounds[0]])]
    for start, end in pairwise(bounds):
        opening = b"(?:.*?/)??" if isinstance(tokens[start], Directories) else b".*?"
        block = opening + _regex_block(tokens[start + 1 : end])
        parts.append(block + rb"\Z" if end == len(tokens) else b"(?>" + block + b")")
    return b"".join(parts)


def _regex_block(tokens: tuple[Token, ...]) -> bytes:
    """The tokens between two runs over everything; the runs in it are over NOT_SLASH."""
    pieces: list[bytes] = [b""]
    for token in tokens:
        if isinstance(token, Run):
            pieces.append(_regex_token(token) + b"?")
        else:
            pieces[-1] += _regex_token(token)
    return pieces[0] + b"".join(b"(?>" + piece + b")" for piece in pieces[1:-1]) + b"".join(pieces[1:][-1:])


def _regex_token(token: Token) -> bytes:
    match token:
        case int():
            return re.escape(bytes((token,)))
        case OneOf(mask):
            return _regex_set(mask)
        case Run(mask):
            return _regex_set(mask) + b"*"
        case Directories():
            return b"(?:.*/)?"
        case OneChar(sequences):
            return b"(?:" + b"|".join(b"".join(map(_regex_set, sequence)) for sequence in sequences) + b")"


def _regex_set(mask: int) -> bytes:
    if mask == ALL:
        return b"."
    if not mask:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x" % byte for byte in range(256) if mask >> byte & 1) + b"]"
