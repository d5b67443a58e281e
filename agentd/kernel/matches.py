"""The map `matches`: what the numbers of rules of `match:` mean (bpf/match.bpf.c)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

from agentd.kernel import abi
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import write_mapped


class Meaning(NamedTuple):
    """Of one number. agent: its slot; flags: abi.MATCH_*; variables: bits of those that must be seen; bit: of one."""

    agent: int
    flags: int
    variables: int = 0
    bit: int = 0


def write_matches(loaded: LoadedObject, target: int, meanings: Sequence[Meaning]) -> None:
    """Writes a whole set, that of the tables of set `target`; nobody reads it before these are in force."""
    entries = (abi.Match * abi.MATCHES)()
    for number, meaning in enumerate(meanings):
        entries[number] = abi.Match(meaning.agent, meaning.flags, meaning.variables, meaning.bit)
    write_mapped(loaded.fds["matches"], target * ctypes.sizeof(entries), bytes(entries))
