"""The workloads there are: which run of which agent, how it came to be, how many processes it has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agentd.kernel import abi

PROBES = 0xFFFFFFFF  # the number of the canary's processes: no workload of an agent
START_SECONDS = 5  # a workload without a process for so long after it was announced has none


NOTHING: Final[Mapping[int, tuple[str, str, float]]] = {}


@dataclass(slots=True)
class Workload:
    """One run of an agent: the processes that carry its number."""

    number: int
    agent: str
    origin: str  # how it came to be: `agentd run`, `agentd tag pid 4711`
    started: float  # seconds since the epoch
    processes: int = 0
    threads: int = 0
    seen: bool = False
    launched: bool | None = None  # by `agentd run`, not tagged later; None: not known, an agentd before this one did it


class Census:
    """All workloads of one engine, by number."""

    def __init__(self, lines: Iterable[abi.TaskLine], known: Mapping[int, tuple[str, str, float]] = NOTHING) -> None:
        """lines: the marked threads there are; their numbers are not given again. known: how these came to be: agent,
        origin, since when.
        """
        self.workloads: dict[int, Workload] = {}
        live = {line.workload for line in lines if line.workload != PROBES}
        self._next = 1 + max((number for number in live if number < abi.MATCHED), default=0)
        for number, (agent, origin, started) in known.items():
            if number in live:
                self.workloads[number] = Workload(number, agent, origin, started)

    def new(self, agent: str, origin: str, *, launched: bool = False) -> Workload:
        """A workload that has no process yet."""
        workload = Workload(self._next, agent, origin, time.time(), launched=launched)
        self._next += 1
        self.workloads[workload.number] = workload
        return workload

    def begun(self, number: int, agent: str, origin: str) -> Workload:
        """A workload that the kernel has begun; it may have been counted before it was told."""
        workload = self.workloads.setdefault(number, Workload(number, agent, origin, time.time()))
        workload.origin, workload.launched = origin, False
        return workload

    def origin(self, number: int) -> str:
        """How a workload came to be."""
        workload = self.workloads.get(number)
        return workload.origin if workload else "an agentd before this one"

    def agent_of(self, number: int) -> str:
        """The agent of a workload; empty if there is none such."""
        workload = self.workloads.get(number)
        return workload.agent if workload else ""

    def launched(self, number: int) -> bool | None:
        """Was it started by `agentd run`? None: not known."""
        workload = self.workloads.get(number)
        return workload.launched if workload else None

    def take(self, lines: list[abi.TaskLine], names: Mapping[int, str]) -> tuple[list[Workload], dict[str, int]]:
        """Counts the marked threads; (the workloads that have ended, the number of processes of each agent)."""
        lines = [line for line in lines if line.workload != PROBES]
        threads = Counter(line.workload for line in lines)
        pids: dict[int, set[int]] = {}
        agents: dict[int, set[int]] = {}
        for line in lines:
            pids.setdefault(line.workload, set()).add(line.pid)
            agents.setdefault(line.agent, set()).add(line.pid)
        for line in lines:
            if line.workload not in self.workloads:
                self.workloads[line.workload] = Workload(
                    line.workload, names.get(line.agent, ""), "an agentd before this one", time.time()
                )
        ended = []
        for number, workload in list(self.workloads.items()):
            workload.processes, workload.threads = len(pids.get(number, ())), threads[number]
            if workload.processes:
                workload.seen = True
            elif workload.seen or time.time() - workload.started > START_SECONDS:
                ended.append(self.workloads.pop(number))
        return ended, {name: len(agents.get(index, ())) for index, name in names.items()}
