"""How full the kernel's maps are and how long its verdicts took, for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentd.kernel import abi
from agentd.kernel.foreign import ForeignFiles
from agentd.kernel.hits import Hits
from agentd.kernel.hosts import HostNames
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap
from agentd.kernel.tables import PolicyTables
from agentd.metrics import VerdictTimes


def of(
    loaded: LoadedObject, tables: PolicyTables, names: HostNames, foreign: ForeignFiles
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
        "doomed": loaded.doomed,
        "foreign": foreign.table,
    }
    capacities = {
        **{name: found.capacity for name, found in hashes.items()},
        "agents": abi.MAX_AGENTS,
        "arena": loaded.arena_words,
        "hits": abi.HITS,
    }

    def read() -> dict[str, int]:
        return {
            **{name: found.entries() for name, found in hashes.items()},
            "agents": len(tables.names()),
            "arena": tables.words_used(),
            "hits": Hits(loaded).used(),
        }

    return capacities, read


def verdict_times(stats: Sequence[int]) -> VerdictTimes:
    """The kernel's histogram."""
    counts, total = [], 0
    for number in range(abi.STAT_BUCKETS):
        total += stats[abi.STAT_BUCKET0 + number]
        counts.append(total)
    bounds = tuple(2 ** (8 + number) / 1e9 for number in range(abi.STAT_BUCKETS - 1))
    return VerdictTimes(bounds, tuple(counts), stats[abi.STAT_VERDICT_NS] / 1e9)
