"""Which automata look through a text: one for all groups where that stays small, else one for each part of them.

Two things that are looked for at once need the product of their states in the worst case (a card's number inside a list
of addresses); two automata need their sum and one more step a byte.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentd.policy.automaton import Dfa, StateLimit
from agentd.policy.resolved import ResolvedAgent
from agentd.policy.stored import Automata, automaton_key
from agentd.policy.texts import compile_texts

TOGETHER: Final = 2048  # states that several patterns may need in one automaton
ALONE: Final = 60_000  # and one pattern

_NO_WORD: Final = array("I", [0])
# Stands for one that is too large: no state of a real one is without a payload.
_TOO_LARGE: Final = Dfa(bytes(256), 1, 0, _NO_WORD, _NO_WORD, _NO_WORD, _NO_WORD, _NO_WORD, [])

Wanted = tuple[tuple[int, str], ...]
"""(text group, pattern of it)."""


def text_parts(agent: ResolvedAgent, groups: Sequence[int], automata: Automata | None) -> list[TextPart]:
    """The automata that find the text groups `groups`. Raises StateLimit for one pattern too large by itself."""
    made: list[tuple[Wanted, Dfa]] = []
    for piece, dfa in _split(tuple((group, text) for group in groups for text in agent.text_groups[group]), automata):
        if made and len(made[-1][1].accept) + len(dfa.accept) <= TOGETHER:  # halves of two that didn't fit
            both = made[-1][0] + piece
            joined = _stored(_numbered(both), automata)
            if joined is not None:
                made[-1] = both, joined
                continue
        made.append((piece, dfa))
    return [TextPart(dfa, _groups(piece)) for piece, dfa in made]


@dataclass(frozen=True, slots=True)
class TextPart:
    """An automaton, and what its payloads call 0, 1, ...: the same automaton serves agents that count otherwise."""

    dfa: Dfa
    groups: tuple[int, ...]


def _groups(wanted: Wanted) -> tuple[int, ...]:
    return tuple(dict.fromkeys(group for group, _ in wanted))


def _numbered(wanted: Wanted) -> Wanted:
    """With its groups counted from 0."""
    groups = _groups(wanted)
    return tuple((groups.index(group), text) for group, text in wanted)


def _split(wanted: Wanted, automata: Automata | None) -> list[tuple[Wanted, Dfa]]:
    if not wanted:
        return []
    dfa = _stored(_numbered(wanted), automata)
    if dfa is not None:
        return [(wanted, dfa)]
    half = len(wanted) // 2
    return _split(wanted[:half], automata) + _split(wanted[half:], automata)


def _stored(wanted: Wanted, automata: Automata | None) -> Dfa | None:
    """One automaton for all of `wanted`; None: too large, which takes as long to find out, and is kept as well."""
    key = automaton_key("text", (), {}, (TOGETHER, wanted))
    found = automata.get(key) if automata else None
    if found is not None and not found.payloads:
        return None
    if found is None:
        try:
            found = compile_texts(wanted, max_states=ALONE if len(wanted) == 1 else TOGETHER)
        except StateLimit:
            if len(wanted) == 1:
                raise
            if automata:
                automata.put(key, _TOO_LARGE)
            return None
        if automata:
            automata.put(key, found)
    return found
