"""Which running processes are an agent by its `match:` rules: looked up with psutil when the service starts or reloads.

A process that starts later is not seen here; it is marked by inheritance, by `agentd run` or by `agentd tag`.
"""

from __future__ import annotations

import fnmatch
import os
import pwd
from collections.abc import Collection, Iterator, Sequence

import psutil

from agentd.policy.ir import Match, MatchKind
from agentd.policy.patterns import Dialect, Glob, matches
from agentd.workloads.processes import cgroup_path


def find_roots(rules: Sequence[Match], skip: Collection[int]) -> Iterator[tuple[int, str]]:
    """(pid, why) of each process that a rule recognises; any one rule suffices."""
    if not rules:
        return
    for process in psutil.process_iter():
        if process.pid in skip:
            continue
        for rule in rules:
            if _recognises(rule, process):
                yield process.pid, f"match {rule.kind.value} {rule.text or dict(rule.env)}"
                break


def _recognises(rule: Match, process: psutil.Process) -> bool:
    try:
        if rule.kind is MatchKind.USER:
            return _uid(rule.text) == process.uids().real
        if rule.kind is MatchKind.EXE:
            exe = process.exe()
            return bool(exe) and matches(Glob(rule.text, Dialect.AGENTD), os.fsencode(exe))
        if rule.kind is MatchKind.ENV:
            environment = process.environ()
            return all(environment.get(name) == value for name, value in rule.env)
        cgroup = cgroup_path(process.pid)
        if cgroup is None:
            return False
        if rule.kind is MatchKind.CGROUP:
            return matches(Glob(rule.text, Dialect.AGENTD), cgroup)
        units = [part for part in os.fsdecode(cgroup).split("/") if part.endswith((".service", ".scope", ".slice"))]
        return any(fnmatch.fnmatchcase(unit, rule.text) for unit in units)
    except psutil.Error:
        return False  # gone, or not ours to see (we are root: gone)


def _uid(name: str) -> int | None:
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
