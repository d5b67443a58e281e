"""Marks what runs and that a rule of `match:` recognises: what had begun before the kernel had the rules, and what came
to where a rule names it without beginning a program (moved to another cgroup, or with another user).
"""

from __future__ import annotations

import os
import signal
from typing import Final

from agentd.actions import signals
from agentd.engine.core import Engine
from agentd.engine.records import note
from agentd.errors import AgentdError
from agentd.workloads.match import LabelsOf, find_roots, unlabelled
from agentd.workloads.processes import start_ticks

ROUNDS: Final = 10  # a crowd that forks faster than it can be looked at is left to the next sweep


def tag_all_running(engine: Engine, labels: LabelsOf = unlabelled) -> None:
    """Marks them until there is none: who was forked by one of them, and left it, between the list of the processes and
    the parent's mark is in the next list, and its own children have the mark from their parent.
    """
    for _ in range(ROUNDS):
        if not tag_running(engine, labels):
            return


def tag_running(engine: Engine, labels: LabelsOf = unlabelled) -> int:
    """Marks them, with all they have started; how many were found. What begins from now on the kernel recognises."""
    found = 0
    if not engine.recognisers.rules:
        return found
    marked = {line.pid for line in engine.marks.list()}
    for pid, rule in find_roots(engine.recognisers.rules, marked | {os.getpid(), 1}, labels):
        if rule.refuse:
            found += 1
            _refuse(engine, pid, rule.why)
            continue
        try:
            if not engine.marks.carries(pid):  # meanwhile, by the kernel
                found += 1
                engine.tagging.tree(pid, rule.agent, rule.why, runs=True)
        except AgentdError as error:
            if error.code != "no-such-process":  # it ended meanwhile
                _refuse(engine, pid, f"{rule.why}: {error}")
    return found


def _refuse(engine: Engine, pid: int, why: str) -> None:
    """Ends a process that may not run as the agent it would be."""
    start = start_ticks(pid)
    if start is not None and signals.send(pid, start, signal.SIGKILL, start_ticks):
        engine.audit.append([note("denied", f"process {pid} may not run and was killed: {why}")])
