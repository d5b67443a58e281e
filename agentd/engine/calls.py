"""Which library calls are judged, and in which files: the probes that the policy in force asks for.

A library on the host, and a program that has one inside, has its probes before the policy is in force. A process that
maps any other file with code is stopped by the kernel (bpf/mapped.bpf.c) until the file has the probes it wants.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from agentd.actions import signals
from agentd.audit.record import Record
from agentd.calls.fetchers import compile_fetchers
from agentd.calls.places import places
from agentd.engine import records
from agentd.engine.questions import Questions
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.holding import kept
from agentd.kernel.libbpf import KernelError
from agentd.kernel.loader import LoadedObject
from agentd.kernel.pins import remove_calls
from agentd.kernel.uprobes import CallPrograms
from agentd.model import Action, Op
from agentd.policy.ir import CallPoint
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads import modules
from agentd.workloads.modules import Module
from agentd.workloads.processes import start_ticks, ticks

TLS: Final = ("ssl", "gnutls")
MANY: Final = 100  # processes, whose mappings aren't read each second
ROUNDS: Final = 60  # with more of them, of tick(), until they are

Key = tuple[int, int, int]  # of a Module
Points = dict[int, CallPoint]


@dataclass(slots=True)
class Seen:
    """A file that was looked at. functions: those that it has and that are probed now. unseen: what it has instead."""

    module: Module
    functions: list[str] = field(default_factory=list)
    unseen: str = ""


class LibraryCalls:
    """The probes of one loaded object."""

    def __init__(self, loaded: LoadedObject, questions: Questions, record: Callable[[Record], None]) -> None:
        """questions: what a process may wait for besides."""
        self._loaded = loaded
        self._questions = questions
        self._record = record
        self._programs: CallPrograms | None = None
        self._points: Points = {}
        self._seen: dict[Key, Seen] = {}
        self._installed: set[Key] = set()  # of the host's own files
        self._round = 0
        self._let_go: set[int] = set()  # threads, by the last tick

    def prepare(self, agents: Iterable[ResolvedAgent], pids: Collection[int]) -> None:
        """Sets the probes that the agents' policies ask for, before any of them is in force. pids: of the workloads.

        Raises AgentdError (`kernel-unsupported`, `kernel-load`, `policy-too-large`); what stood before stands on.
        """
        agents = list(agents)
        if not kept():
            for agent in agents:
                _refuse_holds(agent)
        wanted = {point for agent in agents for point in agent.calls}
        if wanted <= set(self._points.values()):
            return
        self._check(wanted)
        words = {point.word for point in wanted}  # and what the policy in force asks for, should this one be refused
        wanted |= {point for point in self._points.values() if point.word not in words}
        points = dict(enumerate(sorted(wanted, key=lambda point: point.word), 1))
        programs = CallPrograms(self._loaded)
        try:
            compile_fetchers(points, programs.fetchers, programs.called)
            for number, point in points.items():
                programs.describe(number, point)
            seen: dict[Key, Seen] = {}
            for library in {point.library for point in wanted}:
                for module in modules.installed(library):
                    _probe(programs, points, seen, module, inside=False)
            for module in modules.programs():
                _probe(programs, points, seen, module, inside=True)
            installed = set(seen)
            self._look(programs, points, seen, pids)
            programs.take_charge()
        except BaseException:
            programs.close()
            raise
        if self._programs:
            self._programs.close()
        self._programs, self._points, self._seen, self._installed = programs, points, seen, installed

    def settle(self, agents: Iterable[ResolvedAgent]) -> None:
        """The policy of these agents is in force now. When it names no library call, nobody pays for probes."""
        if any(agent.calls for agent in agents):
            return
        self.close()
        if self._loaded.pinned:
            remove_calls(self._loaded.pins)
        self._points, self._seen = {}, {}

    def close(self) -> None:
        """Lets go of the probes; what is pinned stays."""
        if self._programs:
            self._programs.close()
            self._programs = None

    def tick(self, lines: Collection[abi.TaskLine]) -> None:
        """Once a second: processes that nobody has let go on since they were stopped, and copies that nobody maps any
        more. lines: all marked threads.
        """
        stopped = {line.tid: line for line in lines if line.flags & abi.TAG_LOOKED_AT}
        for tid, line in stopped.items():
            if self._programs is not None or tid not in self._let_go:  # without programs nobody takes the flag off
                self.look_at(line.pid, line.start_time)
        self._let_go = set(stopped)
        self._forget_gone([line.pid for line in lines])

    def look_at(self, pid: int, start_time: int) -> None:
        """This process has mapped a file with code that nobody has looked at, and is stopped. start_time: ns."""
        self.look([pid])
        if self._programs is not None:
            self._programs.looked_at(pid)
        self._questions.answers.wake(pid, ticks(start_time), self._questions.book)

    def look(self, pids: Iterable[int]) -> None:
        """Sets the probes that the files want which these processes have mapped."""
        if self._programs is not None:
            self._look(self._programs, self._points, self._seen, pids)

    def _look(self, programs: CallPrograms, points: Points, seen: dict[Key, Seen], pids: Iterable[int]) -> None:
        for pid in pids:
            start = start_ticks(pid)
            for module, program in modules.mapped([pid]):
                if module.key in seen:
                    continue
                try:
                    _probe(programs, points, seen, module, inside=True)
                except KernelError as error:  # it has the name of a library, or of its functions, and is none
                    seen.pop(module.key, None)
                    _unprobe(programs, module)
                    if start is not None:
                        signals.send(pid, start, signal.SIGKILL, start_ticks)
                    said = f"process {pid} was ended: it has mapped a file that can't be probed"
                    self._record(records.note("enforcement_failed", f"{said}: {error}"))
                    continue
                if program and any(point.library in TLS for point in points.values()):
                    self._tell_unseen(seen[module.key])

    def _tell_unseen(self, seen: Seen) -> None:
        seen.unseen = modules.own_tls(seen.module)
        if seen.unseen:
            said = f"{seen.module.path} has {seen.unseen}: no library call shows what it sends"
            self._record(records.note("calls_unseen", said))

    def _forget_gone(self, pids: Collection[int]) -> None:
        """Takes the probes off copies that no process of a workload maps any more: a workload can make any number.

        Files are looked at again from then on, before the probes go: who maps such a copy meanwhile gets them anew.
        """
        self._round += 1
        if self._programs is None or (len(pids) > MANY and self._round % ROUNDS):
            return
        brought = [key for key, seen in self._seen.items() if seen.functions and key not in self._installed]
        if brought and self._unmapped(brought, pids):
            self._programs.forget_known()
            for key in self._unmapped(brought, pids):
                _unprobe(self._programs, self._seen.pop(key).module)
        if len(self._seen) > abi.KNOWN_CODE:
            self._seen = {key: seen for key, seen in self._seen.items() if seen.functions or key in self._installed}

    def _unmapped(self, keys: Iterable[Key], pids: Collection[int]) -> list[Key]:
        mapped = {module.key for module, _ in modules.mapped(pids)}
        return [key for key in keys if key not in mapped]

    def files(self) -> list[Seen]:
        """The files that have probes."""
        return [seen for seen in self._seen.values() if seen.functions]

    def status(self) -> dict[str, list[dict[str, Any]]]:
        """What `agentd status` shows of library calls."""
        return {
            "probed": [{"file": seen.module.path, "functions": sorted(seen.functions)} for seen in self.files()],
            "unseen": [
                {"file": seen.module.path, "has": seen.unseen} for seen in self._seen.values() if seen.unseen
            ],
        }  # fmt: skip

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
                "deny it instead of asking, or boot Linux 6.18 or newer",
                exit_code=EXIT_CANNOT_ENFORCE,
            )


def _suffix(module: Module) -> str:
    """What the names of all probes of a file end in."""
    return f"-{module.device:x}-{module.inode:x}-{module.changed:x}"


def _unprobe(programs: CallPrograms, module: Module) -> None:
    programs.detach(name for name in [*programs.attached()] if name.endswith(_suffix(module)))


def _probe(
    programs: CallPrograms,
    points: Points,
    seen: dict[Key, Seen],
    module: Module,
    *,
    inside: bool,
) -> Seen:
    """Probes the functions of a file that are asked for. inside: it may have any library in it. Raises KernelError."""
    entry = seen.setdefault(module.key, Seen(module))
    named = modules.mentioned(module, {point.function for point in points.values()}) if inside else frozenset()
    wanted: dict[int, CallPoint] = {}
    for number, point in sorted(points.items(), key=lambda one: not modules.is_library(module.path, one[1].library)):
        taken = {*entry.functions, *(other.function for other in wanted.values())}  # two libraries may have this name
        if point.function not in taken and (point.function in named or modules.is_library(module.path, point.library)):
            wanted[number] = point
    if not wanted:
        return entry
    try:
        found = places(module.opens, {point.function for point in wanted.values()})
    except ValueError as error:
        raise KernelError("kernel-load", f"{module.path} ({error})", errno.ENOEXEC) from error
    for number, point in wanted.items():
        for place in found[point.function]:
            programs.attach(f"{number}-{place:x}{_suffix(module)}", module.opens, place, number)
        if found[point.function]:
            entry.functions.append(point.function)
    return entry
