"""Which running processes are an agent by the rules of `match:`: what the kernel decides for programs that begin, for
those that had begun before it was told, or that came to where a rule names them without beginning a program.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from agentd.policy.recognise import Looks, Recognition, first
from agentd.workloads.processes import cgroup_path, exe_path

LabelsOf = Callable[[bytes | None], Mapping[str, str] | None]  # of the container of a cgroup; see Looks


def unlabelled(cgroup: bytes | None) -> Mapping[str, str] | None:
    """Where no rule is about labels."""
    return {}


def find_roots(
    rules: Sequence[Recognition], skip: Collection[int], labels: LabelsOf = unlabelled
) -> Iterator[tuple[int, Recognition]]:
    """(pid, rule) of each process that a rule recognises. skip: processes that are known."""
    if not rules:
        return
    for pid in psutil.pids():
        if pid not in skip and (rule := recognise(rules, pid, labels)) is not None:
            yield pid, rule


def recognise(rules: Sequence[Recognition], pid: int, labels: LabelsOf = unlabelled) -> Recognition | None:
    """The rule by which a process is an agent, or may not run; None: neither, or not known yet, or it is gone, or the
    kernel's.
    """
    exe = exe_path(pid)
    if exe is None:
        return None
    try:
        uid = psutil.Process(pid).uids().real
    except psutil.Error:
        return None
    cgroup = cgroup_path(pid)
    seen = Looks(cgroup, exe, uid, lambda: _environment(pid), lambda: _hosts_own(pid, exe), lambda: labels(cgroup))
    rule = first(rules, seen)
    return None if rule is None or rule.exempt else rule


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _hosts_own(pid: int, exe: bytes) -> bool:
    """Is what a process runs the very file that this name has here?"""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(exe))
    except OSError:
        return False


def uid_of(name: str) -> int | None:
    """The number of a user; None: there is none of that name."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
