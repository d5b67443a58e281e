"""One loaded set of probes for library calls: the functions, and in which files they are.

Everything that can fail does so before the set is in charge (LibraryCalls.prepare), or for the one process that has
brought a file (LibraryCalls.look).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from agentd.calls import fetchers, places
from agentd.calls.fetchers import Fetch
from agentd.calls.places import Place
from agentd.kernel import abi
from agentd.kernel.libbpf import KernelError
from agentd.kernel.loader import LoadedObject
from agentd.kernel.uprobes import CallPrograms
from agentd.policy.ir import CallPoint
from agentd.workloads import modules
from agentd.workloads.modules import Module

Key = tuple[int, int, int]  # of a Module


@dataclass(slots=True)
class Seen:
    """A file that was looked at. functions: those that it has and that are probed now. unseen: what it has that no
    probe can be set in; None: nobody has asked, because no workload has mapped it.
    """

    module: Module
    functions: list[str] = field(default_factory=list)
    unseen: str | None = None


class GoneError(Exception):
    """The file, or the process that has mapped it, went away while it was looked at."""


class Probes:
    """Of one set of programs. points: the functions it judges."""

    def __init__(self, loaded: LoadedObject, points: Iterable[CallPoint], *, starting: bool = False) -> None:
        """starting: nobody waits for this agentd yet. Raises AgentdError `kernel-load`."""
        self._starting = starting
        self.points: Final = tuple(sorted(points, key=lambda point: point.word))
        self.programs = CallPrograms(loaded)
        self.seen: dict[Key, Seen] = {}
        self.installed: frozenset[Key] = frozenset()  # the host's own files
        self._numbers: dict[Fetch, int] = {}

    def set_installed(self) -> None:
        """Probes the host's own files. Raises AgentdError, KernelError."""
        found: list[tuple[Seen, dict[CallPoint, list[Place]]]] = []
        libraries = {point.library for point in self.points}
        wanted = [(module, False) for library in libraries for module in modules.installed(library)]
        wanted += [(module, True) for module in modules.programs()]
        for module, inside in wanted:
            entry = Seen(module)
            try:
                found.append((entry, self._find(module, inside=inside)))
            except GoneError:
                continue
        fetches = {(point, "") for point in self.points if not point.usdt}
        fetches |= {fetch for _, has in found for fetch in _fetches(has)}
        self._compile(fetches)
        for entry, has in found:
            self._attach(self.seen.setdefault(entry.module.key, entry), has)
        self.installed = frozenset(self.seen)
        self._starting = False

    def set(self, module: Module) -> Seen:
        """Probes a file that a process has mapped. Raises GoneError; KernelError, and then it has no probe."""
        known = self.seen.get(module.key)
        if known is not None:
            return known
        has = self._find(module, inside=True)
        entry = Seen(module)
        try:
            self._compile({fetch for fetch in _fetches(has) if fetch not in self._numbers})
            self._attach(entry, has)
        except BaseException:
            self.unset(module)
            raise
        older = [other for other in self.seen.values() if _same_file(other.module, module)]
        self.seen[module.key] = entry
        for other in older:  # it was touched, or written; two probes at one place would judge twice
            if other.module.key in self.installed:
                self.installed = self.installed - {other.module.key} | {module.key}
            self.unset(other.module)
        return entry

    def unset(self, module: Module) -> None:
        """Takes the probes off a file, and forgets it."""
        suffix = _suffix(module)
        self.programs.detach([name for name in self.programs.attached() if name.endswith(suffix)])
        self.seen.pop(module.key, None)

    def broken(self) -> str:
        """See CallPrograms.broken()."""
        return self.programs.broken(self._numbers.values())

    def word(self, function: str, path: str) -> str:
        """What records call a function that a file has."""
        named = [point for point in self.points if point.function == function]
        return min(named, key=lambda point: not modules.is_library(path, point.library)).word

    def _find(self, module: Module, *, inside: bool) -> dict[CallPoint, list[Place]]:
        """Where a file has what is asked for. inside: it may have any library in it. Raises GoneError, KernelError."""
        wanted: dict[str, CallPoint] = {}
        limit = places.STARTING if self._starting else places.SECONDS
        try:
            named = modules.mentioned(module, {point.function for point in self.points}) if inside else frozenset()
            for point in sorted(self.points, key=lambda one: not modules.is_library(module.path, one.library)):
                if point.function in named or modules.is_library(module.path, point.library):
                    wanted.setdefault(point.function, point)  # two libraries may have this name
            found = places.places(module.opens, wanted, limit) if wanted else {}
        except (OSError, ValueError) as error:
            if not os.path.lexists(module.opens):
                raise GoneError from error
            raise KernelError("kernel-load", f"{module.path} ({error})", errno.ENOEXEC) from error
        return {point: found[name] for name, point in wanted.items() if found[name]}

    def _compile(self, fetches: Collection[Fetch]) -> None:
        fresh = dict(enumerate(sorted(fetches, key=lambda fetch: (fetch[0].word, fetch[1])), len(self._numbers) + 1))
        if not fresh:
            return
        if max(fresh) >= abi.MAX_CALLS:
            raise KernelError("kernel-load", "one more kind of USDT probe", errno.ENOSPC)
        try:
            limit = fetchers.STARTING if self._starting else fetchers.SECONDS
            fetchers.compile_fetchers(fresh, self.programs.fetchers, self.programs.called, limit)
        except ValueError as error:
            raise KernelError("kernel-load", str(error), errno.ENOEXEC) from error
        for number, (point, _) in fresh.items():
            self.programs.describe(number, point)
        self._numbers |= {fetch: number for number, fetch in fresh.items()}

    def _attach(self, entry: Seen, has: dict[CallPoint, list[Place]]) -> None:
        for point, found in has.items():
            if point.function in entry.functions:
                continue
            for place in found:
                number = self._numbers[point, place.arguments if point.usdt else ""]
                name = f"{number}-{place.at:x}{_suffix(entry.module)}"
                file = entry.module.opens
                self.programs.attach(name, file, place.at, number, counter=place.counter, size=place.size)
            entry.functions.append(point.function)


def _fetches(has: dict[CallPoint, list[Place]]) -> set[Fetch]:
    return {(point, place.arguments if point.usdt else "") for point, where in has.items() for place in where}


def _same_file(one: Module, other: Module) -> bool:
    return (one.device, one.inode) == (other.device, other.inode)


def _suffix(module: Module) -> str:
    """What the names of all probes of a file end in."""
    return f"-{module.device:x}-{module.inode:x}-{module.changed:x}"
