"""minimum_guarantee while the service runs: what a policy demands of this host is asked again when the probes fail. And
`library_calls: required`: an agent whose library calls must be judged does nothing while a probe of theirs is lost.

A new workload below its agent's minimum is refused. Running ones, and running processes that a policy's match: rules
have made workloads, are handled as below_minimum says: paused until the probes pass again, or killed.

Paused is SIGSTOP to every process, and again at each look, once a second: no other mechanism reaches tasks in cgroups
that aren't ours. Whoever may send them SIGCONT wins up to a second. A workload that forks faster than it can be
stopped is doomed: the kernel ends it. What was stopped, and which workloads `agentd run` has started, is remembered
beside the log, for an agentd after this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentd.actions import signals
from agentd.audit.record import Record
from agentd.engine import coverage, records
from agentd.engine.census import PROBES, Census
from agentd.engine.policies import PolicySet
from agentd.engine.verify import Verification
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.tasks import TaskMarks
from agentd.model import Action, Op
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads import processes

FILE: Final = "minimum.json"
PASSES: Final = 20  # a workload that has made new processes in each of so many looks is doomed
Process = tuple[int, int]  # pid, start time in ticks


class Minimum:
    """For the workloads of one engine. folder: of the log."""

    def __init__(
        self,
        verification: Verification,
        marks: TaskMarks,
        policies: PolicySet,
        workloads: Census,
        folder: Path,
        record: Callable[[Record], None],
    ) -> None:
        self._verification = verification
        self._marks = marks
        self._policies = policies
        self._workloads = workloads
        self._path = folder / FILE
        self._record = record
        self._stopped, self._launched = _read(self._path)
        self._written = (set(self._stopped), set(self._launched))
        self._handled: dict[int, str] = {}  # workload -> why

    def require(self, agent: ResolvedAgent, *, started: bool) -> None:
        """Raises AgentdError `kernel-unsupported` where this host gives an agent less than its policy demands, and
        `enforcement-lost` while a probe says that it doesn't give what it should. started: by `agentd run`.
        """
        coverage.require(agent, self._verification.claims(started=started))
        if why := self._failing(agent):
            wants = f"wants everything {agent.minimum_guarantee.word}" if agent.minimum_guarantee else "requires probes"
            raise AgentdError(
                "enforcement-lost",
                f"agent {agent.name!r}",
                f"its policy {wants}, and a probe failed: {why}",
                "agentd doctor shows more; restart agentd, and if it fails again don't rely on this host",
                exit_code=EXIT_CANNOT_ENFORCE,
            )

    def follow_up(self, lines: list[abi.TaskLine]) -> None:
        """Handles what is below its minimum, and lets go what no longer is. lines: the marked threads."""
        if not self._stopped and not self._handled and not any(self._agents_with_minimum()):
            return
        below = self._below(lines)
        for number, why in below.items():
            if number not in self._handled:
                self._tell(number, why)
        if self._verification.checked:  # by this agentd: what one before it has stopped is not let go unproved
            self._resume(lines, below)
        self._handled = below
        seen: set[Process] = set()
        for _ in range(PASSES):
            fresh = {process_of(line): line for line in lines if line.workload in below and line.workload != PROBES}
            fresh = {process: line for process, line in fresh.items() if process not in seen}
            if not fresh:
                break
            for process, line in fresh.items():
                self._handle(process, line)
            seen |= fresh.keys()
            lines = self._marks.list()
        else:
            for number in {line.workload for line in lines if line.workload in below}:
                self._marks.doom(number)
        self._write()

    def status(self) -> list[dict[str, Any]]:
        """For `agentd status`: the workloads that are below their minimum now."""
        return [{"workload": number, "reason": why} for number, why in sorted(self._handled.items())]

    def _failing(self, agent: ResolvedAgent) -> str:
        """What the probes found and the agent's policy doesn't bear."""
        failing = [proof for proof in self._verification.failing if _matters(agent, proof.cover.kind.op)]
        more = f" and {len(failing) - 1} more" if failing[1:] else ""
        return f"{failing[0].cover.kind.op.word}: {failing[0].text}{more}" if failing else ""

    def _agents_with_minimum(self) -> list[ResolvedAgent]:
        policy = self._policies.current
        return [agent for agent in policy.agents.values() if _demands(agent)] if policy else []

    def _below(self, lines: list[abi.TaskLine]) -> dict[int, str]:
        """The workloads that are, and why."""
        names = self._policies.names()
        wanted = {agent.name: agent for agent in self._agents_with_minimum()}
        found: dict[int, str] = {}
        for number, index in {line.workload: line.agent for line in lines if line.workload != PROBES}.items():
            agent = wanted.get(names.get(index, ""))
            if agent is None:
                continue
            if failing := self._failing(agent):
                found[number] = f"a probe failed: {failing}"
                continue
            launched = self._workloads.launched(number)
            launched = number in self._launched if launched is None else launched
            if weak := coverage.below(agent, self._verification.claims(started=launched)):
                found[number] = f"not {agent.minimum_guarantee.word} on this host: {weak}"
        return found

    def _handle(self, process: Process, line: abi.TaskLine) -> None:
        agent = self._policies.agent(self._policies.names().get(line.agent, ""))
        if agent is not None and agent.below_minimum is Action.KILL:
            signals.send(*process, signal.SIGKILL, processes.start_ticks)
        elif signals.send(*process, signal.SIGSTOP, processes.start_ticks):
            self._stopped.add(process)

    def _resume(self, lines: list[abi.TaskLine], below: dict[int, str]) -> None:
        """A process with a thread that waits for an answer goes on when it has one."""
        held = {process_of(line) for line in lines if line.hold_id}
        low = {process_of(line) for line in lines if line.workload in below}
        going = self._stopped - low
        for number in {line.workload for line in lines if process_of(line) in going}:
            name, about = self._workloads.agent_of(number), {"workload": number}
            self._record(records.note("workload_resumed", "the probes pass again", agent=name, metadata={**about}))
        for process in going:
            self._stopped.discard(process)
            if process not in held:
                signals.send(*process, signal.SIGCONT, processes.start_ticks)

    def _tell(self, number: int, why: str) -> None:
        name = self._workloads.agent_of(number)
        agent = self._policies.agent(name)
        handled = agent.below_minimum.word if agent else Action.PAUSE.word
        self._record(records.note("below_minimum", why, agent=name, metadata={"workload": number, "handled": handled}))

    def _write(self) -> None:
        """What can't be written is only forgotten: it stays stopped."""
        known = self._workloads.workloads
        self._launched = {n for n, w in known.items() if w.launched or (w.launched is None and n in self._launched)}
        now = (set(self._stopped), set(self._launched))
        if now == self._written:
            return
        with contextlib.suppress(OSError):
            fresh = self._path.with_suffix(".new")
            text = json.dumps({"stopped": sorted(self._stopped), "launched": sorted(self._launched)})
            fresh.write_text(text, encoding="ascii")
            os.replace(fresh, self._path)
            self._written = now


def _demands(agent: ResolvedAgent) -> bool:
    return bool(agent.minimum_guarantee) or (agent.calls_required and bool(agent.calls))


def _matters(agent: ResolvedAgent, op: Op) -> bool:
    """Does the agent demand that the probe of an operation passes?"""
    if op is Op.CALL and not agent.calls:
        return False
    return bool(agent.minimum_guarantee) or (op is Op.CALL and agent.calls_required)


def process_of(line: abi.TaskLine) -> Process:
    """The process of a marked thread."""
    return line.pid, processes.ticks(line.start_time)


def _read(path: Path) -> tuple[set[Process], set[int]]:
    """(What was stopped, the workloads that `agentd run` had started)."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        return {(int(pid), int(start)) for pid, start in found["stopped"]}, set(map(int, found["launched"]))
    except (OSError, ValueError, TypeError, KeyError):
        return set(), set()
