"""Marking processes: what makes them a workload of an agent, and is on record as such."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from agentd.audit.canonical import Json
from agentd.audit.record import Record
from agentd.engine.calls import LibraryCalls
from agentd.engine.census import Census, Workload
from agentd.engine.connections import Connections
from agentd.engine.descriptors import Descriptors
from agentd.engine.minimum import Minimum
from agentd.engine.policies import PolicySet
from agentd.engine.reasons import Reasons
from agentd.engine.records import note
from agentd.engine.supervision import Supervision
from agentd.kernel.tasks import TaskMarks
from agentd.workloads.descriptors import process_of


class Tagging:
    """Of one engine."""

    def __init__(
        self,
        marks: TaskMarks,
        policies: PolicySet,
        workloads: Census,
        minimum: Minimum,
        supervision: Supervision,
        reasons: Reasons,
        calls: LibraryCalls,
        connections: Connections,
        descriptors: Descriptors,
        record: Callable[[Record], None],
    ) -> None:
        self._marks = marks
        self._policies = policies
        self._workloads = workloads
        self._minimum = minimum
        self._supervision = supervision
        self._reasons = reasons
        self._calls = calls
        self._connections = connections
        self._descriptors = descriptors
        self._record = record

    def _new(self, agent: str, origin: str, *, started: bool = False, runs: bool = False) -> tuple[Workload, int]:
        """(A workload without processes, the agent's number in the kernel). runs: it runs already and can't be refused;
        below its minimum it is handled at once. Raises AgentdError `unknown-agent`, and what minimum.require() does.
        """
        slot = self._policies.slot(agent)
        if (resolved := self._policies.agent(agent)) and not runs:
            self._minimum.require(resolved, started=started)
        self._supervision.retagged |= not started  # some process may have been another agent's
        return self._workloads.new(agent, origin, launched=started), slot

    def started(self, pidfd: int, agent: str, origin: str, command: list[str], *, supervised: bool = False) -> Workload:
        """Marks a process that waits to exec its command: the root of a workload. supervised: supervise() follows.
        Raises KernelError, and what _new() does: it must not exec then.
        """
        workload, slot = self._new(agent, origin, started=True)
        with self._unless_nothing(workload):
            self._marks.mark_process(pidfd, slot, workload.number, root_exec=True, supervised=supervised)
        self.tell("workload_started", workload, {"command": [*command]})
        self._descriptors.started(process_of(pidfd), origin, workload.number)
        self._reasons.begin(workload.number, agent)
        return workload

    def tree(self, pid: int, agent: str, origin: str, *, runs: bool = False) -> tuple[Workload, int]:
        """Marks a running process and everything below it; (workload, threads marked). runs: see _new()."""
        workload, slot = self._new(agent, origin, runs=runs)
        with self._unless_nothing(workload):
            threads = self._marks.mark_tree(pid, slot, workload.number)
        return self._tagged(workload, threads, {"pid": pid})

    def cgroup(self, path: Path, agent: str, origin: str) -> tuple[Workload, int]:
        """Marks everything in a cgroup; (workload, threads marked)."""
        workload, slot = self._new(agent, origin)
        with self._unless_nothing(workload):
            threads = self._marks.mark_cgroup(path, slot, workload.number)
        return self._tagged(workload, threads, {"cgroup": str(path)})

    @contextlib.contextmanager
    def _unless_nothing(self, workload: Workload) -> Iterator[None]:
        """Around the marking: when it fails and nothing is marked, there was no workload that could end."""
        try:
            yield
        except BaseException:
            if not self.live(workload.number):
                self._workloads.workloads.pop(workload.number, None)
            raise

    def _tagged(self, workload: Workload, threads: int, what: dict[str, Json]) -> tuple[Workload, int]:
        if self._calls.judging:
            self._calls.look(self.live(workload.number))
        self.tell("tagged", workload, {**what, "threads": threads, "io_uring": self._marks.rings_found()})
        self._connections.judge(workload.origin, workload.number)
        self._descriptors.judge(workload.origin, workload.number)
        return workload, threads

    def live(self, workload: int) -> set[int]:
        """Process ids of a workload."""
        return {line.pid for line in self._marks.list() if line.workload == workload}

    def tell(self, event: str, workload: Workload, metadata: dict[str, Json]) -> None:
        """Records what happened to a workload."""
        said: dict[str, Json] = {"workload": workload.number, **metadata}
        self._record(note(event, workload.origin, agent=workload.agent, metadata=said))
