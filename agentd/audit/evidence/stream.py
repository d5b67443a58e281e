"""A JSON object with one long list in it, read a value at a time: what it takes of memory depends on no list's length.

`outer` reads everything but the items of that list, `items` hands these out. Whoever made the file may be hostile: no
value bigger than LARGEST is taken, nothing nested deeper than the parser can go, no member named twice, no fraction.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

Json = dict[str, Any]
Told = Callable[[int], object]  # bytes read so far

LARGEST: Final = 8 << 20  # characters of one value: a record of the log has a MiB, and is a good half of its row
_STEP: Final = 1 << 18  # bytes that are read at once
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_PLAIN: Final = frozenset("0123456789-+.eEtrufalsn")  # of a value that might go on behind what was read


class Refused(ValueError):
    """A bundle that isn't what a holder of the key made; the message says where and why."""


def outer(file: BinaryIO, name: str, told: Told) -> tuple[Json, int | None]:
    """The object in `file` without the items of the list `name`, and how many these are; None if it is no list.

    Raises ValueError, OSError, RecursionError.
    """
    found: Json = {}
    count: int | None = None
    text = _Text(file, told)
    for member in text.members():
        if member in found:
            raise Refused("an object names a member twice")
        if member == name and text.peek() == "[":
            found[member], count = [], sum(1 for _ in text.items())
        else:
            found[member] = text.value()
    text.end()
    return found, count


def items(file: BinaryIO, name: str, told: Told) -> Iterator[Any]:
    """The items of the list `name`, of a file that `outer` has read. Raises as `outer` does."""
    text = _Text(file, told)
    for member in text.members():
        if member == name:
            yield from text.items()
            return
        text.value()


def parse(text: str) -> Any:
    """A small text of its own, as strictly. Raises ValueError."""
    return json.loads(text, object_pairs_hook=_once, parse_float=_number, parse_constant=_number)


def _once(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused("an object names a member twice")
    return made


def _number(text: str) -> Any:
    raise Refused(f"{text} is a number that no bundle holds")


_read = json.JSONDecoder(object_pairs_hook=_once, parse_float=_number, parse_constant=_number).raw_decode


class _Text:
    """What of the file was read and not yet taken."""

    def __init__(self, file: BinaryIO, told: Told) -> None:
        file.seek(0)
        self.file = file
        self.told = told
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.held = ""
        self.at = 0
        self.bytes = 0
        self.ended = False

    def more(self) -> bool:
        """Reads on, twice as much as is waiting; False at the end."""
        if self.ended:
            return False
        data = self.file.read(max(_STEP, len(self.held) - self.at))
        self.ended = not data
        self.bytes += len(data)
        self.held = self.held[self.at :] + self.decode(data, self.ended)
        self.at = 0
        self.told(self.bytes)
        return True

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.held, self.at).end()  # type: ignore[union-attr]  # matches anything
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which is one of these."""
        found = self.peek()
        if not found or found not in expected:
            what = f"{found!r} stands" if found else "it ends"
            raise ValueError(f"{what} where {' or '.join(map(repr, expected))} should, around byte {self.bytes}")
        self.at += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = _read(self.held, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise ValueError(f"{error.msg}, around byte {self.bytes}") from None
            else:
                if self.ended or end < len(self.held) or self.held[end - 1] not in _PLAIN:
                    self.at = end
                    return value
            if len(self.held) - self.at > LARGEST:
                raise Refused(f"a value of more than {LARGEST} characters, around byte {self.bytes}, or none at all")
            self.more()

    def members(self) -> Iterator[str]:
        """The names in the object; whoever asks takes each one's value before the next."""
        if self.peek() != "{":
            self.value()
            raise Refused("the bundle is not an object")
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            name = self.value()
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """The items of the list that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def end(self) -> None:
        """Nothing comes behind the object."""
        if self.peek():
            raise ValueError(f"something stands behind the bundle's end, around byte {self.bytes}")
