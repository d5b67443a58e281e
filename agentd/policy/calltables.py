"""The part of an agent's tables that judges library calls by their text (bpf/abi.h, struct agentd_tables)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, cast

from agentd.model import Op
from agentd.policy.automaton import Dfa
from agentd.policy.resolved import ResolvedAgent
from agentd.policy.stored import Automata
from agentd.policy.textparts import text_parts

ARG_WORDS: Final = 8
NO_GROUP: Final = 0xFFFFFFFF
MAX_GROUPS: Final = 32 * ARG_WORDS
TEXT_WORDS: Final = 5  # of an automaton over texts, in the list of a class of calls
MAX_TEXTS: Final = 8  # automata that look through one text
NOT_ASKED: Final = 0xFFFFFFFF

Candidates = tuple[tuple[int, int], ...]
"""(argument or text group, or NO_GROUP; outcome index), in the order they are tried."""

Kinds = tuple[tuple[int, int], ...]
"""(argument or text group, or NO_GROUP; kind), as Candidates; a kind is an entry's number, or UNRESOLVED."""


@dataclass(frozen=True, slots=True)
class DfaHeader:
    """struct agentd_dfa; offsets are in words from the region's base."""

    classes: int
    states: int
    comb: int
    start: int
    n_states: int
    n_comb: int


class Region(Protocol):
    """What is being built: the builder of tables.py."""

    agent: ResolvedAgent
    automata: Automata | None

    def place(self, what: str, count: int, compile_: Callable[[int], Dfa]) -> tuple[DfaHeader, list[Hashable]]:
        """Appends an automaton; its header and payloads."""

    def append(self, values: Sequence[int]) -> int:
        """Appends words; their offset."""

    def candidates(self, kinds: Kinds, op: Op) -> Candidates:
        """The outcomes of kinds."""

    def refuse(self, why: str) -> NoReturn:
        """Raises AgentdError `policy-too-large`."""


def place_calls(region: Region, rows: Sequence[Kinds], catch_all: int) -> list[int]:
    """For each class of calls the offset of {automata, (classes, states, comb, start, masks) * automata, count,
    (group, outcome) * count}; of a class that is nothing but `catch_all`, which no rule speaks of, of {NOT_ASKED,
    outcome}, where the outcome is for who reads the tables: the kernel side goes on its way.
    """
    groups = region.agent.text_groups
    if len(groups) > MAX_GROUPS:
        region.refuse(f"it looks for {len(groups)} different texts; the kernel tells {MAX_GROUPS} apart")
    placed: dict[tuple[int, ...], list[int]] = {}
    offsets: list[int] = []
    for kinds in rows:
        if kinds == ((NO_GROUP, catch_all),):
            offsets.append(region.append([NOT_ASKED, region.candidates(kinds, Op.CALL)[0][1]]))
            continue
        found = region.candidates(kinds, Op.CALL)
        wanted = tuple(sorted({group for group, _ in found if group != NO_GROUP}))
        if wanted not in placed:
            placed[wanted] = _place_texts(region, wanted)
        automata = placed[wanted]
        pairs = [word for pair in found for word in pair]
        offsets.append(region.append([len(automata) // TEXT_WORDS, *automata, len(found), *pairs]))
    return offsets


def _place_texts(region: Region, groups: tuple[int, ...]) -> list[int]:
    """The automata that look for `groups`, TEXT_WORDS words each."""
    found: list[int] = []
    for part in text_parts(region.agent, groups, region.automata):

        def compiled(most: int, dfa: Dfa = part.dfa) -> Dfa:
            return dfa

        header, payloads = region.place("texts", len(groups), compiled)
        rows = cast("list[tuple[tuple[int, ...], tuple[int, ...]]]", payloads)
        sides = [[part.groups[number] for number in side] for row in rows for side in row]
        masks = region.append([word for side in sides for word in mask_words(side)])
        found += (header.classes, header.states, header.comb, header.start, masks)
    if len(found) > MAX_TEXTS * TEXT_WORDS:
        region.refuse(f"one call is looked through by {len(found) // TEXT_WORDS} automata; at most {MAX_TEXTS}")
    return found


def mask_words(groups: Sequence[int]) -> list[int]:
    """The bits of `groups`, ARG_WORDS words."""
    words = [0] * ARG_WORDS
    for group in groups:
        words[group // 32] |= 1 << group % 32
    return words
