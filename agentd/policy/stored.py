"""A compiled automaton as bytes, and the key under which it may be used again.

An automaton depends on its patterns and on who uses them, not on what the rules decide; so those of the shipped
catalogue are the same for nearly every policy, and compiling them is most of the work of loading one. Pure: where the
bytes are kept, and whether they are to be trusted, is the store's business (engine/automata.py).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Protocol

from agentd.policy.automaton import Dfa
from agentd.policy.patterns import Glob

FREE: Final = 0xFFFFFFFF
_COLUMNS: Final = ("base", "default", "accept", "comb_check", "comb_next")


class Automata(Protocol):
    """Automata that were compiled before."""

    def get(self, key: str) -> Dfa | None:
        """The automaton that `put` was given with this key, if it is still there."""

    def put(self, key: str, dfa: Dfa) -> None:
        """Keeps an automaton whose payloads are integers and tuples of them."""


def automaton_key(name: str, globs: Sequence[Glob], users: Mapping[int, Sequence[int]], meaning: object) -> str:
    """Hex sha256 over everything that `globs` are compiled from.

    users: who uses a pattern, by its index; meaning: whatever else the payloads are made of, as plain values.
    """
    text = repr((name, [(glob.dialect.value, glob.text) for glob in globs], sorted(users.items()), meaning))
    return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()


def dump(dfa: Dfa) -> bytes:
    """A line of JSON, then the columns as little-endian 32-bit words."""
    columns = [getattr(dfa, name) for name in _COLUMNS]
    head = {
        "classes": dfa.classes.hex(),
        "start": dfa.start,
        "lengths": [len(column) for column in columns],
        "payloads": dfa.payloads,
    }
    return json.dumps(head).encode() + b"\n" + b"".join(column.tobytes() for column in columns)


def parse(data: bytes) -> Dfa:
    """What `dump` wrote. Raises ValueError for anything that the kernel could not walk."""
    head, _, words = data.partition(b"\n")
    found = json.loads(head)
    try:
        classes, start, payloads = bytes.fromhex(found["classes"]), found["start"], found["payloads"]
        lengths = [int(length) for length in found["lengths"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a stored automaton: {error}") from error
    columns = []
    for length in lengths:
        columns.append(array("I", words[: 4 * length]))
        words = words[4 * length :]
    if words or len(columns) != len(_COLUMNS) or any(len(c) != n for c, n in zip(columns, lengths, strict=True)):
        raise ValueError("not a stored automaton: its length is wrong")
    base, default, accept, check, following = columns
    states = len(base)
    inside = (
        len(classes) == 256
        and len(default) == len(accept) == states > start >= 0
        and len(check) == len(following)
        and max(default) < states
        and (max(accept) < len(payloads) or not payloads)
        and all(to < states for at, to in zip(check, following, strict=True) if at != FREE)
        and max(base) + max(classes) < len(check)
    )
    if not inside:
        raise ValueError("not a stored automaton: it leads out of itself")
    return Dfa(classes, states, start, base, default, accept, check, following, [_tuples(row) for row in payloads])


def _tuples(value: object) -> Hashable:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, int):
        return value
    raise ValueError(f"not a stored automaton: {value!r} is no payload")
