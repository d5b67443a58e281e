"""Which library calls are judged, and in which files: the probes that the policy in force asks for.

A library on the host, and a program that has one inside, has its probes before the policy is in force. A copy that a
process brings along has them once it is found mapped: looked for once a second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from agentd.calls.fetchers import compile_fetchers
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.holding import kept
from agentd.kernel.loader import LoadedObject
from agentd.kernel.pins import remove_calls
from agentd.kernel.uprobes import CallPrograms
from agentd.model import Action, Op
from agentd.policy.ir import CallPoint
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads import modules
from agentd.workloads.modules import Module

LOOKED_AT: Final = 100  # processes whose mappings are read in one go


@dataclass(slots=True)
class Seen:
    """A file that was looked at. functions: those that it has and that are probed now."""

    module: Module
    functions: list[str] = field(default_factory=list)


class LibraryCalls:
    """The probes of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded
        self._programs: CallPrograms | None = None
        self._points: dict[int, CallPoint] = {}
        self._seen: dict[tuple[int, int, int], Seen] = {}
        self._installed: set[tuple[int, int, int]] = set()  # of the host's own files
        self._looked: set[int] = set()

    def prepare(self, agents: Iterable[ResolvedAgent]) -> None:
        """Sets the probes that the agents' policies ask for, before any of them is in force.

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
            seen: dict[tuple[int, int, int], Seen] = {}
            for library in {point.library for point in wanted}:
                for module in modules.installed(library):
                    _probe(programs, points, seen, module, program=False)
            for module in modules.programs():
                _probe(programs, points, seen, module, program=True)
            installed = set(seen)
            for old in self._seen.values():  # what processes have brought along
                _probe(programs, points, seen, old.module, program=True)
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

    def scan(self, pids: Collection[int]) -> list[Seen]:
        """Looks for copies of the libraries that processes have mapped since; those that were found and probed now.

        Each process once in a while: reading the mappings of a thousand takes longer than a second has room for.
        """
        found: list[Seen] = []
        if self._programs is None:
            return found
        known = sorted(set(pids))
        turn = [pid for pid in known if pid not in self._looked] + [pid for pid in known if pid in self._looked]
        turn = turn[:LOOKED_AT]
        self._looked = (self._looked & set(known)) | set(turn) if len(turn) < len(known) else set()
        mapped = list(modules.mapped(turn))
        if len(turn) == len(known):
            self._forget_gone({module.key for module, _ in mapped})
        for module, program in mapped:
            if module.key not in self._seen:
                seen = _probe(self._programs, self._points, self._seen, module, program=program)
                if seen.functions:
                    found.append(seen)
        return found

    def _forget_gone(self, mapped: Collection[tuple[int, int, int]]) -> None:
        """Takes the probes off copies that no process of a workload maps any more: a workload can make any number."""
        assert self._programs is not None
        for key in [key for key in self._seen if key not in mapped and key not in self._installed]:
            gone = self._seen.pop(key)
            self._programs.detach(
                name for name in list(self._programs.attached()) if name.endswith(_suffix(gone.module))
            )

    def files(self) -> list[Seen]:
        """The files that have probes."""
        return [seen for seen in self._seen.values() if seen.functions]

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


def _probe(
    programs: CallPrograms,
    points: dict[int, CallPoint],
    seen: dict[tuple[int, int, int], Seen],
    module: Module,
    *,
    program: bool,
) -> Seen:
    """Probes the functions of a file that are asked for. A program may have any library inside it."""
    entry = seen.setdefault(module.key, Seen(module))
    inside = modules.mentioned(module, {point.function for point in points.values()}) if program else frozenset()
    for number, point in points.items():
        if point.function in entry.functions:
            continue
        if point.function not in inside and not modules.is_library(module.path, point.library):
            continue
        name = f"{number}{_suffix(module)}"
        if programs.attach(name, module.opens, point.function, number):
            entry.functions.append(point.function)
    return entry
