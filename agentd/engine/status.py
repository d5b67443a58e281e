"""Everything `agentd status` shows of an engine, and what the metrics read of its counters."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from agentd.engine import coverage
from agentd.kernel import abi
from agentd.model import Decision, Point

if TYPE_CHECKING:
    from agentd.engine.core import Engine

# What the kernel counts as lost -> (the metric's reason, what was lost in words).
LOSSES: Final = (
    (abi.STAT_LOST_EVENTS, "ring-full", "denial or hold events"),
    (abi.STAT_LOST_COUNTS, "counts-full", "allowed operations"),
)

KILLED: Final = (
    (abi.STAT_UNTRACKED, "forks could not be tracked and were killed"),
    (abi.STAT_UNMATCHED, "programs were killed: it could not be told whether they are agents"),
)
MOST: Final = 200  # processes whose mappings are read for one question


def status_of(engine: Engine) -> dict[str, Any]:
    """The status as JSON; the census must be fresh."""
    stats = engine.loaded.stats.read()
    policy = engine.policies.current
    return {
        "policy": {"source": policy.source, "sha256": policy.sha256, "agents": sorted(policy.agents)}
        if policy
        else None,
        "workloads": [
            {
                "workload": w.number,
                "agent": w.agent,
                "origin": w.origin,
                "started": w.started,
                "processes": w.processes,
                "threads": w.threads,
                "denials": str(engine.reasons.path(w.number)),
            }
            for w in engine.workloads.workloads.values()
        ],
        "approvals_pending": len(engine.questions.book),
        "approvals": engine.questions.summary(),
        "enforcement": coverage.enforcement(Point(engine.loaded.control.point), engine.loaded.prevented),
        "verification": engine.verification.status(),
        "below_minimum": engine.minimum.status(),
        "verdicts": stats[abi.STAT_VERDICTS],
        "unresolved": stats[abi.STAT_UNRESOLVED],
        "lost": {reason: stats[stat] for stat, reason, _ in LOSSES},
        "audit": engine.audit.status(),
        "pins": str(engine.loaded.pins),
        "attached": engine.loaded.watching,
        "names": engine.resolvers.status(stats),
        "calls": engine.calls.status(),
    }


def top_of(engine: Engine) -> dict[str, Any]:
    """What `agentd top` shows: cheap enough for every second. Counts are totals since this agentd started; those of
    allowed operations are kept in the kernel and arrive every FLUSH_SECONDS (engine/core.py).
    """
    policy = engine.policies.current
    totals = engine.metrics.totals()
    pending = Counter(held.agent for held in engine.questions.book)
    workloads: Counter[str] = Counter()
    processes: Counter[str] = Counter()
    for workload in engine.workloads.workloads.values():
        workloads[workload.agent] += 1
        processes[workload.agent] += workload.processes
    names = {*(policy.agents if policy else ()), *totals, *workloads}
    return {
        "seconds": time.monotonic(),
        "policy": policy.sha256 if policy else "",
        "verdicts": engine.loaded.stats.read()[abi.STAT_VERDICTS],
        "agents": [
            {
                "agent": name,
                "workloads": workloads[name],
                "processes": processes[name],
                "pending": pending[name],
                "decisions": totals.get(name, dict.fromkeys((decision.word for decision in Decision), 0)),
            }
            for name in sorted(names)
        ],
    }


def calls_of(engine: Engine) -> list[dict[str, Any]]:
    """For `agentd doctor`: of each workload whose policy speaks of library calls where these are judged, and what of
    its files can't be. looked: processes that were looked at; it is MOST of a workload at most.
    """
    pids: dict[int, set[int]] = {}
    for line in engine.marks.list() if engine.calls.judging else ():
        pids.setdefault(line.workload, set()).add(line.pid)
    found: list[dict[str, Any]] = []
    for number, processes in sorted(pids.items()):
        name = engine.workloads.agent_of(number)
        agent = engine.policies.agent(name)
        if agent is not None and agent.calls:
            some = sorted(processes)[:MOST]
            about = {"workload": number, "agent": name, "processes": len(processes), "looked": len(some)}
            found.append({**about, **engine.calls.of(agent, some)})
    return found
