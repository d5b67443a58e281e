"""The named detectors of policies/detectors.yaml: a word for patterns that nobody wants to write twice."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agentd.policy import source
from agentd.policy.problem import Problems
from agentd.policy.reader import Reader
from agentd.policy.texts import fragment
from agentd.resources import policies_dir

FILE: Final = "detectors.yaml"
_PART: Final = re.compile(r"<<([a-z]+)>>")


@dataclass(frozen=True, slots=True)
class Detector:
    """`what` it finds, in words; one of `patterns` must be in the text."""

    what: str
    patterns: tuple[str, ...]


def read_detectors(data: bytes, file: str) -> Mapping[str, Detector]:
    """The detectors of a document. Raises PolicyError with every mistake."""
    problems = Problems(file)
    node = source.parse(data, problems)
    problems.raise_errors()
    assert node is not None
    keys = Reader(node, "", problems).keys(("version", "parts", "detectors")) or {}
    parts: dict[str, str] = {}
    for name, reader in keys["parts"].names("the name of a part") if "parts" in keys else ():
        parts[name] = _expanded(reader, reader.text() or "", parts)
    found: dict[str, Detector] = {}
    for name, reader in keys["detectors"].names("the name of a detector") if "detectors" in keys else ():
        inner = reader.keys(("what", "not_behind", "together", "patterns")) or {}
        what = inner["what"].text() if "what" in inner else None
        texts = inner["patterns"].texts() if "patterns" in inner else None
        if what is None or texts is None:
            reader.error("a detector says what it finds, and its patterns", "write {what: ..., patterns: [...]}")
            continue
        patterns = tuple(_expanded(reader, text.text, parts) for text in texts)
        if "together" in inner:  # one of several would go to an automaton of its own
            patterns = (f"(?:{'|'.join(patterns)})",)
        if "not_behind" in inner:
            behind = not_behind([text.text for text in inner["not_behind"].texts() or ()])
            patterns = (f"{behind}(?:{'|'.join(patterns)})",)
        for pattern in patterns:
            _check(reader, pattern)
        found[name] = Detector(what, patterns)
    problems.raise_errors()
    return MappingProxyType(found)


def not_behind(words: Collection[str]) -> str:
    """A pattern's beginning: not behind one of these words, in any case; whole words where they begin with a letter."""
    return "".join(f"(?<!(?i:{chr(92) + 'b' if word[0].isalnum() else ''}{re.escape(word)}))" for word in words)


def _expanded(reader: Reader, text: str, parts: Mapping[str, str]) -> str:
    for name in _PART.findall(text):
        if name not in parts:
            reader.error(f"no part before it is called {name}", f"there are {', '.join(parts) or 'none'}")
    return _PART.sub(lambda match: parts.get(match[1], ""), text)


def _check(reader: Reader, pattern: str) -> None:
    try:
        fragment(pattern)
    except ValueError as error:
        reader.error(str(error))


@functools.cache
def shipped_detectors() -> Mapping[str, Detector]:
    """The detectors of policies/detectors.yaml. Read by whoever asks first: checking their patterns takes a third of a
    second, and most policies name none. Raises PolicyError."""
    return read_detectors(source.read_file(policies_dir() / FILE), FILE)
