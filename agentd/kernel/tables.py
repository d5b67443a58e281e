"""Puts compiled policies into the kernel: finds room in the arena, writes the new tables beside the old ones, flips.

A program that is running during the flip finishes with the tables it began with; their room is used again only after
every such program has ended.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.libbpf import wait_for_programs
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import write_mapped
from agentd.kernel.prepare import MIN_ARENA_WORDS, WORD
from agentd.model import Mode
from agentd.policy.tables import AgentTables, TablesHeader


@dataclass(frozen=True, slots=True)
class Installed:
    """Where one agent's policy stands in the kernel."""

    agent: int
    generation: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tables that are written and not in force: agent `agent`, table set `target`."""

    agent: int
    target: int
    flags: int
    fresh: bool


class PolicyTables:
    """The agents' slots and the arena of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        self._unrecorded = False
        self._slots = [
            loaded.agents.view(abi.Agent, index * ctypes.sizeof(abi.Agent)) for index in range(abi.MAX_AGENTS)
        ]

    def set_unrecorded(self, unrecorded: bool) -> None:
        """Can the log be written? While it can't, strict agents are denied everything."""
        self._unrecorded = unrecorded
        for slot in self._slots:
            if slot.flags & abi.AGENT_USED:
                slot.flags = slot.flags & ~abi.AGENT_UNRECORDED | (abi.AGENT_UNRECORDED if unrecorded else 0)

    def names(self) -> dict[str, int]:
        """Agent name -> slot, as the kernel has them (adopted ones too)."""
        return {slot.name.decode(): index for index, slot in enumerate(self._slots) if slot.flags & abi.AGENT_USED}

    def words_used(self) -> int:
        """Words of the arena that are taken."""
        return sum(length for _, length in self._taken())

    def next_generation(self) -> int:
        """One more than every generation in use."""
        return int(1 + max(max(slot.generation) for slot in self._slots))

    def install(self, name: str, tables: AgentTables, *, mode: Mode, strict: bool) -> Installed:
        """Makes `tables` the policy of agent `name`, in one step. Raises AgentdError `policy-too-large`."""
        return self.flip(self.prepare(name, tables, mode=mode, strict=strict))

    def prepare(self, name: str, tables: AgentTables, *, mode: Mode, strict: bool) -> Prepared:
        """Writes `tables` beside those in force, without effect. Raises AgentdError `policy-too-large`.

        An agent that is new has its slot from here on, with no table in force: it can't be named before flip().
        """
        index = self._slot(name)
        slot = self._slots[index]
        fresh = not slot.flags & abi.AGENT_USED
        target = 0 if fresh else 1 - (slot.active & 1)
        slot.tables[target].words = 0  # the set before the one in force: nobody reads it since the last flip
        base = self._room(name, len(tables.words))
        write_mapped(self._loaded.fds["arena"], base * WORD, memoryview(tables.words).cast("B"))
        _fill(slot.tables[target], tables.header, base)
        slot.generation[target] = self.next_generation()
        flags = abi.AGENT_USED
        flags |= abi.AGENT_MONITOR if mode is Mode.MONITOR else 0
        flags |= abi.AGENT_STRICT if strict else 0
        flags |= abi.AGENT_UNRECORDED if self._unrecorded else 0
        if fresh:
            slot.name = name.encode()
        return Prepared(index, target, flags, fresh)

    def flip(self, prepared: Prepared) -> Installed:
        """Puts prepared tables in force."""
        slot = self._slots[prepared.agent]
        slot.active = prepared.target
        slot.flags = prepared.flags
        wait_for_programs()
        if not prepared.fresh:
            slot.tables[1 - prepared.target].words = 0
        return Installed(prepared.agent, slot.generation[prepared.target])

    def give_up(self, prepared: Prepared) -> None:
        """Forgets prepared tables: those in force stay."""
        slot = self._slots[prepared.agent]
        slot.tables[prepared.target].words = 0
        if prepared.fresh:
            slot.name = b""

    def _slot(self, name: str) -> int:
        if len(name.encode()) >= abi.NAME_MAX:
            raise AgentdError(
                "policy-too-large", f"agent {name}", f"the name is over {abi.NAME_MAX - 1} bytes", "shorten it"
            )
        known = self.names()
        if name in known:
            return known[name]
        for index, slot in enumerate(self._slots):
            if not slot.flags & abi.AGENT_USED and slot.name in (b"", name.encode()):
                return index
        raise AgentdError(
            "policy-too-large", f"agent {name}", f"there are {abi.MAX_AGENTS} agents already", "remove some"
        )

    def _taken(self) -> list[tuple[int, int]]:
        regions = []
        for slot in self._slots:
            if slot.flags & abi.AGENT_USED or slot.name:
                regions += [(tables.base, tables.words) for tables in slot.tables if tables.words]
        return sorted(regions)

    def _room(self, name: str, words: int) -> int:
        """First fit."""
        end = 0
        for base, length in self._taken():
            if base - end >= words:
                return end
            end = base + length
        if self._loaded.arena_words - end >= words:
            return end
        raise AgentdError(
            "policy-too-large",
            f"agent {name}",
            f"its tables take {words} words, of {self._loaded.arena_words} in the arena {self.words_used()} are taken",
            "make the policy smaller, or raise arena_mib and start again",
            exit_code=EXIT_CANNOT_ENFORCE,
        )


def _fill(target: abi.Tables, header: TablesHeader, base: int) -> None:
    target.base = base
    for field in fields(header):
        value = getattr(header, field.name)
        if field.name == "unresolved":
            target.unresolved[:] = value
        elif field.name in ("path", "exec", "rules", "host", "args", "name", "call"):
            dfa = getattr(target, field.name)
            for part in fields(value):
                setattr(dfa, part.name, getattr(value, part.name))
        else:
            setattr(target, field.name, value)


def arena_words_for(words: int) -> int:
    """The arena's size in words for tables of `words`: a power of two, with room for a second set (a reload writes all
    of it before the first agent flips) that is twice the size.
    """
    size = MIN_ARENA_WORDS
    while size < 3 * words:
        size *= 2
    return size
