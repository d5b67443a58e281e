"""Files that a workload has open from before its policy: of what is marked while it runs, what a command is started
with, and of all when the policy changes.

What the policy doesn't allow is on record. Where the host has LSM hooks its use is judged from then on, as if the file
were opened at that moment (prevented, but for memory that was mapped before); elsewhere it is only seen. Standard
input, output and error are whoever's that started the program: what they are redirected to is theirs to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from agentd.audit.canonical import Json
from agentd.audit.rawbytes import printable
from agentd.audit.record import Record
from agentd.engine.records import note
from agentd.kernel.foreign import READS, WRITES, FileLine, ForeignFiles
from agentd.kernel.libbpf import KernelError
from agentd.kernel.tasks import TaskMarks
from agentd.model import Decision, Op
from agentd.policy.evaluate import decide
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads.descriptors import Descriptor, describe, mounts, numbers

STANDARD: Final = 3  # descriptors below this one are not judged
TOLD: Final = 100  # records of one look; the rest is one line


class Descriptors:
    """Of the workloads of one engine. agents: the kernel's numbers; agent: of the policy in force."""

    def __init__(
        self,
        files: ForeignFiles,
        marks: TaskMarks,
        agents: Callable[[], dict[int, str]],
        agent: Callable[[str], ResolvedAgent | None],
        record: Callable[[Record], None],
    ) -> None:
        self._files = files
        self._marks = marks
        self._agents = agents
        self._agent = agent
        self._record = record

    def started(self, pid: int, why: str, workload: int) -> None:
        """Before a marked process execs its command: what it will inherit. Raises KernelError: it must not."""
        here = mounts(pid)
        found = (describe(pid, pid, fd, here) for fd in numbers(pid) if fd >= STANDARD)
        if any(one and one.kept for one in found):
            self._judge(self._files.open_in(workload), why, [workload], exec_follows=True)

    def judge(self, why: str, workload: int = 0) -> None:
        """What runs already. workload: of this one only; 0: of all. If the kernel's map is full the workload ends."""
        lines = self._files.open_in(workload)
        for number in [workload] if workload else sorted({line.workload for line in lines}):
            try:
                self._judge([line for line in lines if line.workload == number], why, [number])
            except KernelError as error:
                self._marks.doom(number)
                self._record(note("enforcement_failed", f"{why}: {error}; its processes are ended"))

    def forget(self, live: Collection[int]) -> None:
        """Only these workloads are left."""
        self._files.forget(live)

    def _judge(self, lines: Iterable[FileLine], why: str, workloads: list[int], *, exec_follows: bool = False) -> None:
        agents = self._agents()
        reachable: dict[int, frozenset[int]] = {}
        unwanted: list[tuple[FileLine, Descriptor, list[Op]]] = []
        for line in lines:
            agent = self._agent(agents.get(line.agent, ""))
            if line.fd < STANDARD or agent is None:
                continue
            if line.pid not in reachable:
                reachable[line.pid] = mounts(line.pid)
            one = describe(line.pid, line.tid, line.fd, reachable[line.pid])
            if one is None or (exec_follows and not one.kept):
                continue
            ops = _unwanted(agent, line, one)
            if ops:
                unwanted.append((line, one, ops))
        for number in workloads:
            self._files.judge(number, [line for line, _, _ in unwanted])
        self._tell(unwanted, agents, why)

    def _tell(self, unwanted: list[tuple[FileLine, Descriptor, list[Op]]], agents: dict[int, str], why: str) -> None:
        how = "judged when it is used" if self._files.judged else "not judged on this host"
        for line, one, ops in unwanted[:TOLD]:
            words = " and ".join(op.word for op in ops)
            path = printable(one.path)
            said = f"descriptor {line.fd} of process {line.pid} is {path}, not allowed to {words}: {how}"
            metadata: dict[str, Json] = {
                "pid": line.pid, "descriptor": line.fd, "path": path, "operations": [op.word for op in ops],
                "workload": line.workload, "judged": self._files.judged, "why": why,
            }  # fmt: skip
            self._record(note("descriptor_found", said, agent=agents.get(line.agent), metadata=metadata))
        if len(unwanted) > TOLD:
            left = len(unwanted) - TOLD
            said = f"{left} more descriptors of files that the policy does not allow: {how}"
            self._record(note("descriptor_found", said, metadata={"count": left, "why": why}))


def _unwanted(agent: ResolvedAgent, line: FileLine, one: Descriptor) -> list[Op]:
    """What it could be used for, and is not allowed. What is in another tree of mounts only the kernel can judge."""
    wanted = [op for bit, op in ((READS, Op.READ), (WRITES, Op.WRITE)) if line.mode & bit]
    return [op for op in wanted if not one.inside or decide(agent, op, one.path).decision is not Decision.ALLOW]
