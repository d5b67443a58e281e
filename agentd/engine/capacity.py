"""How full the kernel's maps are, for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentd.kernel import abi
from agentd.kernel.hosts import HostNames
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap
from agentd.kernel.tables import PolicyTables


def of(
    loaded: LoadedObject, tables: PolicyTables, names: HostNames
) -> tuple[Mapping[str, int], Callable[[], Mapping[str, int]]]:
    """(What each map can hold, a function that says how much it holds). The arena is counted in words.

    The function may be called from any thread; it raises KernelError when a map can't be read.
    """
    hashes: dict[str, HashMap[Any, Any]] = {
        "grants": loaded.grants,
        "answers": loaded.answers,
        "names": names.table,
        "counts0": loaded.counts[0],
        "counts1": loaded.counts[1],
    }
    capacities = {
        **{name: found.capacity for name, found in hashes.items()},
        "agents": abi.MAX_AGENTS,
        "arena": loaded.arena_words,
    }

    def read() -> dict[str, int]:
        return {
            **{name: found.entries() for name, found in hashes.items()},
            "agents": len(tables.names()),
            "arena": tables.words_used(),
        }

    return capacities, read
