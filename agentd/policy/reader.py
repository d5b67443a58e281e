"""Typed reading of nodes: each function gives the value, or records one problem with its place and gives None."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Final, TypeVar

from agentd.policy.ir import At, TextAt
from agentd.policy.problem import Problems
from agentd.policy.source import Mapping, Node, Scalar, Sequence

MAX_NAME: Final = 255
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./@-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_DURATION_UNITS: Final = (86400, 3600, 60, 1)

Value = TypeVar("Value")


def join(path: str, key: str) -> str:
    """The path of `key` below `path`; a key that isn't a plain word is quoted, so a path has no control character."""
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{shown(key)}]"
    return f"{path}.{key}" if path else key


def shown(value: object) -> str:
    """`value` for a message: JSON, at most 60 characters, no control character."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = printable(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """`text` on one line of a terminal: control characters are escaped, everything else stays."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def suggestion(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean "paths"?`, or `otherwise` when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else otherwise


@dataclass(frozen=True, slots=True)
class Reader:
    """A node and where it stands."""

    node: Node
    path: str
    problems: Problems

    @property
    def at(self) -> At:
        return At(self.node.line, self.node.column, self.path)

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, Scalar) and self.node.value is None

    @property
    def is_false(self) -> bool:
        """Whether Python takes the value for false: null, false, 0, "", [] or {}."""
        return self.is_empty or (isinstance(self.node, Scalar) and not self.node.value)

    @property
    def is_empty(self) -> bool:
        """Whether it is a list or a mapping with nothing in it."""
        node = self.node
        return (isinstance(node, Sequence) and not node.items) or (isinstance(node, Mapping) and not node.entries)

    def error(self, message: str, hint: str = "") -> None:
        self.problems.error(self.node.line, self.node.column, self.path, message, hint)

    def warn(self, message: str, hint: str = "") -> None:
        self.problems.warn(self.node.line, self.node.column, self.path, message, hint)

    def expected(self, what: str, hint: str = "") -> None:
        got = self.node.kind
        got = "nothing" if got == "null" else got
        if isinstance(self.node, Scalar) and got == "a number" and what.startswith(got):
            got = self.node.text if len(self.node.text) <= 20 else f"{self.node.text[:20]}..."
        self.error(f"expected {what}, got {got}", hint)

    # -- mappings

    def mapping(self, hint: str = "") -> Mapping | None:
        if isinstance(self.node, Mapping):
            return self.node
        self.expected("a mapping", hint)
        return None

    def below(self, key: str, node: Node) -> Reader:
        return Reader(node, join(self.path, key), self.problems)

    def keys(self, known: Several[str], hints: dict[str, str] | None = None) -> dict[str, Reader] | None:
        """The children of a mapping whose keys are all among `known`; an unknown key is a problem of its own."""
        mapping = self.mapping()
        if mapping is None:
            return None
        found: dict[str, Reader] = {}
        for key, node in mapping.entries:
            name = key.text
            if key.kind == "a string" and name in known:
                found[name] = self.below(name, node)
                continue
            hint = (hints or {}).get(name) or suggestion(name, known, f"known keys: {', '.join(known)}")
            self.problems.error(key.line, key.column, join(self.path, name), "unknown key", hint)
        return found

    def names(self, what: str) -> list[tuple[str, Reader]]:
        """The children of a mapping whose keys are free names (agents, tools)."""
        mapping = self.mapping()
        found: list[tuple[str, Reader]] = []
        for key, node in mapping.entries if mapping else ():
            path = join(self.path, key.text)
            if key.kind != "a string":
                hint = f'write "{key.text}" in quotes' if key.text else "give it a name"
                self.problems.error(key.line, key.column, path, f"{what} must be a string, got {key.kind}", hint)
            elif (why := _bad_name(key.text)) is not None:
                self.problems.error(key.line, key.column, path, f"{what} {why}")
            else:
                found.append((key.text, Reader(node, path, self.problems)))
        return found

    # -- lists

    def items(self, hint: str = "") -> list[Reader] | None:
        if isinstance(self.node, Sequence):
            return [Reader(node, f"{self.path}[{index}]", self.problems) for index, node in enumerate(self.node.items)]
        self.expected("a list", hint)
        return None

    def texts(self) -> tuple[TextAt, ...] | None:
        """A list of non-empty strings; None if it isn't one, or if any item is bad."""
        hint = ""
        if isinstance(self.node, Scalar) and self.node.value is not None:
            hint = f"write [{shown(self.node.text)}]"
        items = self.items(hint)
        if items is None:
            return None
        read = [item.text_at() for item in items]
        return tuple(text for text in read if text is not None) if None not in read else None

    # -- scalars

    def text(self) -> str | None:
        """A non-empty string."""
        node = self.node
        if not isinstance(node, Scalar) or node.kind != "a string" or not isinstance(node.value, str):
            hint = f'write "{node.text}" in quotes' if isinstance(node, Scalar) and node.text else ""
            self.expected("a string", hint if _CONTROL.search(hint) is None else "")
            return None
        if not node.value:
            self.error("the string is empty", "remove it or fill it in")
            return None
        return node.value

    def text_at(self) -> TextAt | None:
        text = self.text()
        return None if text is None else TextAt(text, self.at)

    def name(self) -> str | None:
        """A non-empty string that may stand in records and on a terminal."""
        text = self.text()
        if text is not None and (why := _bad_name(text)) is not None:
            self.error(why)
            return None
        return text

    def choice(self, choices: dict[str, Value]) -> Value | None:
        node = self.node
        words = ", ".join(choices)
        if not isinstance(node, Scalar) or node.kind != "a string":
            self.expected(f"one of {words}")
            return None
        if node.text not in choices:
            self.error(f"{shown(node.text)} is not one of {words}", suggestion(node.text, choices))
            return None
        return choices[node.text]

    def duration(self, *, least: int, most: int) -> int | None:
        """Seconds, from a whole number of seconds or a text like `90s`, `5m`, `1h30m`, `2d`."""
        node = self.node
        seconds: int | None = None
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            seconds = node.value
        elif isinstance(node, Scalar) and node.kind == "a string" and node.text:
            match = _DURATION.fullmatch(node.text)
            if match:
                units = zip(match.groups(), _DURATION_UNITS, strict=True)
                seconds = sum(int(number) * unit for number, unit in units if number)
        if seconds is None:
            self.error("expected a duration", 'write seconds as a number, or a text like "5m" or "1h30m"')
            return None
        if not least <= seconds <= most:
            self.error(f"{seconds} seconds is not between {least} and {most}")
            return None
        return seconds

    def checked(self, check: Callable[[str], object]) -> str | None:
        """A string for which `check` raises no ValueError; its message becomes the problem."""
        text = self.text()
        if text is None:
            return None
        try:
            check(text)
        except ValueError as error:
            self.error(str(error))
            return None
        return text


def _bad_name(name: str) -> str | None:
    if not name:
        return "is empty"
    if _CONTROL.search(name):
        return f"{shown(name)} has a control character"
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    return None
