"""The maps of bpf/match.bpf.c: `matches`, what the numbers of rules of `match:` mean; `containers`, what labels say."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from typing import NamedTuple

from agentd.kernel import abi
from agentd.kernel.libbpf import KernelError
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap, write_mapped


class Meaning(NamedTuple):
    """Of one number. agent: its slot; flags: abi.MATCH_*; variables: bits of those that must be seen; bit: of one."""

    agent: int
    flags: int
    variables: int = 0
    bit: int = 0


def write_container(loaded: LoadedObject, cgroup: int, generation: int, rule: int) -> None:
    """What the labels say of the processes in a cgroup. rule: abi.NO_MATCH if none matches. Raises KernelError.

    A full map is emptied: what isn't there is asked about again.
    """
    capacity = loaded.capacity("containers")
    table = HashMap(loaded.fds["containers"], ctypes.c_uint64, abi.Container, capacity, "containers")
    key, value = ctypes.c_uint64(cgroup), abi.Container(generation, rule)
    try:
        table.put(key, value)
    except KernelError as error:
        if error.errno != errno.E2BIG:
            raise
        for old in list(table.keys()):
            table.delete(old)
        table.put(key, value)


def write_matches(loaded: LoadedObject, target: int, meanings: Sequence[Meaning]) -> None:
    """Writes a whole set, that of the tables of set `target`; nobody reads it before these are in force."""
    entries = (abi.Match * abi.MATCHES)()
    for number, meaning in enumerate(meanings):
        entries[number] = abi.Match(meaning.agent, meaning.flags, meaning.variables, meaning.bit)
    write_mapped(loaded.fds["matches"], target * ctypes.sizeof(entries), bytes(entries))
