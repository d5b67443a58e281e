"""Which library calls are judged, and in which files: the probes that the policy in force asks for.

A library on the host, and a program that has one inside, has its probes before the policy is in force. A process that
maps any other file with code is stopped by the kernel (bpf/mapped.bpf.c) until the file has the probes it wants.

Whoever can't be given them is ended. What is in place and then goes is found by broken(), which is asked every ten
seconds and with each round of probes (verify.py); what becomes of workloads then says their policy (minimum.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from agentd.actions import signals
from agentd.audit.record import Record
from agentd.engine import records
from agentd.engine.probed import GoneError, Key, Probes, Seen
from agentd.engine.questions import Questions
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.holding import kept
from agentd.kernel.loader import LoadedObject
from agentd.kernel.pins import remove_calls
from agentd.model import Action, Op
from agentd.policy.ir import CallPoint
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads import modules
from agentd.workloads.modules import Module
from agentd.workloads.processes import start_ticks, ticks

UNKNOWN: Final = "code that nobody has looked at yet"
MANY: Final = 100  # processes, whose mappings aren't read each second
ROUNDS: Final = 60  # with more of them, of tick(), until they are


class LibraryCalls:
    """The probes of one loaded object."""

    def __init__(self, loaded: LoadedObject, questions: Questions, record: Callable[[Record], None]) -> None:
        """questions: what a process may wait for besides."""
        self._loaded = loaded
        self._questions = questions
        self._record = record
        self._probes: Probes | None = None
        self._starting = True  # no policy has been in force yet
        self._round = 0
        self._let_go: set[int] = set()  # threads, by the last tick

    @property
    def judging(self) -> bool:
        """Does the policy in force ask for any? Else nothing here costs anything."""
        return self._probes is not None

    def prepare(self, agents: Iterable[ResolvedAgent], pids: Callable[[], Collection[int]]) -> None:
        """Sets the probes that the agents' policies ask for, before any of them is in force. pids: of the workloads.

        Raises AgentdError (`kernel-unsupported`, `kernel-load`, `policy-too-large`); what stood before stands on.
        """
        agents = list(agents)
        if not kept(self._loaded):
            for agent in agents:
                _refuse_holds(agent)
        wanted = {one for agent in agents for point in agent.calls for one in (point, *point.closings)}
        before = self._probes.points if self._probes else ()
        if wanted <= set(before) and not self.broken():
            return
        self._check(wanted)
        words = {point.word for point in wanted}  # and what the policy in force asks for, should this one be refused
        wanted |= {point for point in before if point.word not in words}
        probes = Probes(self._loaded, wanted, starting=self._starting)
        try:
            probes.set_installed()
            self._look(probes, pids())
            probes.programs.take_charge()
        except BaseException:
            probes.programs.close()
            raise
        if self._probes:
            self._probes.programs.close()
        self._probes = probes

    def settle(self, agents: Iterable[ResolvedAgent]) -> None:
        """The policy of these agents is in force now. When it names no library call, nobody pays for probes."""
        self._starting = False
        if any(agent.calls for agent in agents):
            return
        self.close()
        if self._loaded.pinned:
            remove_calls(self._loaded.pins)

    def close(self) -> None:
        """Lets go of the probes; what is pinned stays."""
        if self._probes:
            self._probes.programs.close()
            self._probes = None

    def broken(self) -> str | None:
        """What of the probes is not as it was set up; empty: nothing; None: the policy asks for none."""
        if self._probes is None:
            return None
        try:
            return self._probes.broken()
        except AgentdError as error:
            return f"the kernel doesn't tell: {error.what}: {error.why}"

    def tick(self, lines: Collection[abi.TaskLine]) -> None:
        """Once a second: processes that nobody has let go on since they were stopped, and copies that nobody maps any
        more. lines: all marked threads.
        """
        stopped = {line.tid: line for line in lines if line.flags & abi.TAG_LOOKED_AT}
        for tid, line in stopped.items():
            if self._probes is not None or tid not in self._let_go:  # without programs nobody takes the flag off
                self.look_at(line.pid, line.start_time)
        self._let_go = set(stopped)
        self._forget_gone({line.pid for line in lines})

    def look_at(self, pid: int, start_time: int) -> None:
        """This process has mapped a file with code that nobody has looked at, and is stopped. start_time: ns."""
        if self._probes is not None:
            self._probes.programs.looked_at(pid, {_as_kernel(module) for module in self._look(self._probes, [pid])})
        self._questions.answers.wake(pid, ticks(start_time), self._questions.book)

    def look(self, pids: Iterable[int]) -> None:
        """Sets the probes that the files want which these processes have mapped."""
        if self._probes is not None:
            self._look(self._probes, pids)

    def _look(self, probes: Probes, pids: Iterable[int]) -> list[Module]:
        """The files that were looked at. What has gone meanwhile is not among them, and stops the next who maps it."""
        looked = []
        for pid in pids:
            start = start_ticks(pid)
            for module, program in modules.mapped([pid]):
                try:
                    seen = probes.set(module)
                    self._tell_unseen(probes, seen, program=program)
                except GoneError:
                    continue
                except (AgentdError, OSError) as error:  # it is no library, or can't be read; or the compiler ended
                    probes.unset(module)
                    if start is not None:
                        signals.send(pid, start, signal.SIGKILL, start_ticks)
                    said = f"process {pid} was ended: it has mapped a file that can't be probed"
                    self._record(records.note("enforcement_failed", f"{said}: {error}"))
                    continue
                looked.append(module)
        return looked

    def _tell_unseen(self, probes: Probes, seen: Seen, *, program: bool) -> None:
        """Once for each file: what no probe can see of it. Raises GoneError, OSError."""
        if seen.unseen is not None:
            return
        libraries = {point.library for point in probes.points}
        has = {point.library for point in probes.points if point.function in seen.functions}
        try:
            seen.unseen = modules.unseen(seen.module, libraries, has=has, program=program)
        except OSError as error:
            if not os.path.lexists(seen.module.opens):
                raise GoneError from error
            raise
        if seen.unseen:
            said = f"{seen.module.path} has {seen.unseen}: no library call shows what it does"
            self._record(records.note("calls_unseen", said))

    def _forget_gone(self, pids: Collection[int]) -> None:
        """Takes the probes off copies that no process of a workload maps any more: a workload can make any number.

        Files are looked at again from then on, before the probes go: who maps such a copy meanwhile gets them anew.
        """
        self._round += 1
        probes = self._probes
        if probes is None or (len(pids) > MANY and self._round % ROUNDS):
            return
        brought = [key for key, seen in probes.seen.items() if seen.functions and key not in probes.installed]
        if brought and self._unmapped(brought, pids):
            probes.programs.forget_known()
            self._look(probes, pids)  # a file that was touched is another one by its key, and has its probes anew
            for key in self._unmapped([key for key in brought if key in probes.seen], pids):
                probes.unset(probes.seen[key].module)
        if len(probes.seen) > abi.KNOWN_CODE:
            kept_on = {key: seen for key, seen in probes.seen.items() if seen.functions or key in probes.installed}
            probes.seen = kept_on

    def _unmapped(self, keys: Iterable[Key], pids: Collection[int]) -> list[Key]:
        mapped = {module.key for module, _ in modules.mapped(pids)}
        return [key for key in keys if key not in mapped]

    def files(self) -> list[Seen]:
        """The files that have probes."""
        return [seen for seen in self._probes.seen.values() if seen.functions] if self._probes else []

    def status(self) -> dict[str, list[dict[str, Any]]]:
        """What `agentd status` shows of library calls."""
        everything = self._probes.seen.values() if self._probes else ()
        return {
            "probed": [{"file": seen.module.path, "functions": sorted(seen.functions)} for seen in self.files()],
            "unseen": [{"file": seen.module.path, "has": seen.unseen} for seen in everything if seen.unseen],
        }

    def of(self, agent: ResolvedAgent, pids: Collection[int]) -> dict[str, list[dict[str, Any]]]:
        """For a workload of an agent what `agentd doctor` shows: each function that its policy speaks of, with the
        files in which its processes have it now; and the files of which a part can't be seen.
        """
        judged: dict[str, list[str]] = {point.word: [] for point in sorted(agent.calls, key=lambda one: one.word)}
        unseen = []
        for module, _ in modules.mapped(pids) if self._probes and judged else ():
            assert self._probes is not None
            seen = self._probes.seen.get(module.key)
            if seen is None:
                unseen.append({"file": module.path, "has": modules.narrow(module) or UNKNOWN})
                continue
            if seen.unseen:
                unseen.append({"file": module.path, "has": seen.unseen})
            for function in seen.functions:
                word = self._probes.word(function, module.path)
                if word in judged:
                    judged[word].append(module.path)
        return {"calls": [{"call": word, "files": files} for word, files in judged.items()], "unseen": unseen}

    def _check(self, wanted: Collection[CallPoint]) -> None:
        if len(wanted) >= abi.MAX_CALLS:
            raise AgentdError(
                "policy-too-large",
                "library calls",
                f"the policy names {len(wanted)} functions; the kernel side tells {abi.MAX_CALLS - 1} apart",
                "name fewer, or fewer tools that stand for library calls",
            )
        words: dict[str, CallPoint] = {}
        for point in wanted:
            if words.setdefault(point.word, point) != point:
                raise AgentdError(
                    "policy-invalid",
                    point.word,
                    "two agents describe this function in two ways",
                    "write the same argument, as, length and language for both",
                )


def _refuse_holds(agent: ResolvedAgent) -> None:
    """Raises AgentdError `kernel-unsupported` for a policy that would hold a library call.

    A call has no second try: on a kernel that can't keep it stopped, whoever sends SIGCONT would let it go on.
    """
    for entry in agent.entries if agent.calls else ():
        if entry.op is Op.CALL and agent.judge(entry, frozenset()).action is Action.PAUSE:
            raise AgentdError(
                "kernel-unsupported",
                f"agent {agent.name!r}",
                f"{entry.tool}/{entry.operation} is a library call, and this kernel can't keep one held",
                "deny it instead of asking, or boot Linux 6.18, or one with bpf in lsm= and preempt=voluntary",
                exit_code=EXIT_CANNOT_ENFORCE,
            )


def _as_kernel(module: Module) -> tuple[int, int]:
    """The (inode, change time) by which the kernel side knows a file. An overlay and btrfs have devices, and overlays
    inodes, for stat(2) only: there it is the time alone.
    """
    return (module.inode if os.major(module.device) else 0), module.changed
