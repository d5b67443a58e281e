"""What Prometheus sees: the registry, and the endpoint on the loopback address.

Every series that can exist is there from the start, at 0: the first denial of an agent must be an increase and not a
new series. Labels come from the policy, from agentd's own lists or from the names in its BPF objects, never from a
workload; what isn't declared is counted under `other` instead of growing the set.

Counters that live elsewhere (the kernel, the audit writer) are read when somebody scrapes, through the functions given
to the `read_*` methods. Those run in the endpoint's threads, so they must be safe to call from any thread; one that
fails leaves its last values standing and counts in agentd_metrics_read_errors_total.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agentd.metrics.endpoint import CONNECTION_SECONDS, MAX_CONNECTIONS, MetricsServer
from agentd.metrics.scraped import SOURCES, Scraped, VerdictTimes
from agentd.model import Action, Decided, Decision

__all__ = ["CONNECTION_SECONDS", "MAX_CONNECTIONS", "Metrics", "MetricsServer", "VerdictTimes"]

OTHER: Final = "other"
LOST_REASONS: Final = ("ring-full", "counts-full", "event-malformed", "audit-queue-full", OTHER)
RELOAD_RESULTS: Final = ("loaded", "rejected")
NO_RULE: Final = ("default-deny", "unresolved", "guard", "above")  # what decides where no rule does
OUTCOMES: Final = ((Decision.ALLOW, Action.NONE), *product((Decision.REQUIRE_APPROVAL, Decision.DENY), Action))

APPROVAL_BUCKETS: Final = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600)  # seconds
ANSWERS: Final = ("approved", "denied", "expired")
NOBODY: Final = "nobody"  # a timeout, or the end of the process
STANDING: Final = "standing"  # an answer that was given earlier, for more than once
RANKS: Final = 10  # of the objects that an agent was refused most often
MAX_RULES: Final = 5000  # series of rules; those of a larger policy share one for each agent


class Metrics:
    """All metrics of one daemon, in a registry of their own. Methods may be called from any thread."""

    def __init__(self, version: str) -> None:
        # A `_created` series for each counter would double the exposition; prometheus_client has one switch for all.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._toolops: set[tuple[str, str, str]] = set()
        self._agents: set[str] = set()
        self._rule_names: set[tuple[str, str]] = set()
        self._approvers: set[str] = set()
        self._totals: defaultdict[str, dict[Decision, int]] = defaultdict(lambda: dict.fromkeys(Decision, 0))
        self._lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"agentd_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"agentd_{name}", text, labels, registry=self.registry)

        self._decisions = counter(
            "decisions_total", "Decisions about operations of workloads.",
            "agent", "tool", "operation", "decision", "action",
        )  # fmt: skip
        self._pending = gauge("approvals_pending", "Operations held until somebody answers.", "agent")
        self._wait = Histogram(
            "agentd_approval_wait_seconds", "Time from holding an operation to its answer or expiry.",
            buckets=APPROVAL_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._oldest = gauge("approval_oldest_seconds", "How long the oldest held operation has waited; 0 if none is.")
        self._answers = counter("approval_answers_total", "Ends of approvals, by who gave the answer.", "answer", "by")
        self._floods = counter(
            "approval_floods_total", "Operations denied without a question, because too many waited already.", "agent"
        )
        self._rules = counter("rule_hits_total", "Operations that a rule of the policy decided.", "agent", "rule")
        self._ranked = gauge(
            "refused_object_operations",
            "Operations on the object that the agent was refused most often (rank 1), second, ..., since the start.",
            "agent", "rank",
        )  # fmt: skip
        self._lost = counter("events_lost_total", "Events and records that were lost; each loss is a record.", "reason")
        self._processes = gauge("workload_processes", "Processes in workloads.", "agent")
        self._policy = gauge("policy_info", "The policy in force (1).", "sha256")
        self._reloads = counter("policy_reloads_total", "Policy loads by result.", "result")
        self._verified = gauge(
            "enforcement_verified", "1 after a probe has shown that the operation is held so on this host.",
            "operation", "point", "guarantee",
        )  # fmt: skip
        self._failures = counter("enforcement_failures_total", "Probes that showed a claim not to hold.", "operation")
        self._read_errors = counter(
            "metrics_read_errors_total", "Sources that could not be read for a scrape.", "source"
        )
        gauge("build_info", "The running agentd (1).", "version").labels(version).set(1)
        gauge("start_time_seconds", "When this agentd started, seconds since the epoch.").set(time.time())
        self._scraped = Scraped(self._read_errors)
        self.registry.register(self._scraped)

        self.declare_agent(OTHER, [])
        self.declare_approvers([NOBODY, STANDING, OTHER])
        for reason in LOST_REASONS:
            self._lost.labels(reason)
        for result in RELOAD_RESULTS:
            self._reloads.labels(result)
        for source in SOURCES:
            self._read_errors.labels(source)
        self._policy_now = ""
        self._policy.labels("").set(0)

    def declare_agent(self, name: str, toolops: Iterable[tuple[str, str]], rules: Iterable[str] = ()) -> None:
        """Make every series of an agent of the policy, at 0; toolops: the (tool, operation) it can be judged by."""
        with self._lock:
            for rule in (*rules, *NO_RULE, OTHER):
                if len(self._rule_names) < MAX_RULES or rule in NO_RULE or rule == OTHER:
                    self._rule_names.add((name, rule))
                    self._rules.labels(name, rule)
            for rank in range(1, RANKS + 1):
                self._ranked.labels(name, str(rank))
            self._agents.add(name)
            self._pending.labels(name)
            self._floods.labels(name)
            self._processes.labels(name)
            for tool, operation in (*toolops, (OTHER, OTHER)):
                self._toolops.add((name, tool, operation))
                for decision, action in OUTCOMES:
                    self._decisions.labels(name, tool, operation, decision.word, action.word)

    def declare_approvers(self, names: Iterable[str]) -> None:
        """Make the series of everybody who may answer, at 0; an answer of anybody else counts as `other`'s."""
        with self._lock:
            for name in names:
                self._approvers.add(name)
                for answer in ANSWERS:
                    self._answers.labels(answer, name)

    def decided(
        self,
        agent: str,
        tool: str,
        operation: str,
        decision: Decision,
        action: Action,
        count: int = 1,
        rule: str | None = None,
    ) -> None:
        """Count decisions. rule: the one that decided; None: it was counted for its rule before."""
        if rule is not None:
            known = rule if (agent, rule) in self._rule_names else OTHER
            self._rules.labels(self._agent(agent), known).inc(count)
        with self._lock:
            self._totals[self._agent(agent)][decision] += count
        if (agent, tool, operation) not in self._toolops:
            agent, tool, operation = self._agent(agent), OTHER, OTHER
        if (decision, action) not in OUTCOMES:
            action = Action.NONE
        self._decisions.labels(agent, tool, operation, decision.word, action.word).inc(count)

    def decided_all(self, counts: Mapping[Decided, int]) -> None:
        """Count many at once."""
        for (agent, tool, operation, decision, action, rule), count in counts.items():
            self.decided(agent, tool, operation, decision, action, count, rule)

    def totals(self) -> dict[str, dict[str, int]]:
        """Agent -> decision in a word -> how many, since the start."""
        with self._lock:
            return {
                agent: {decision.word: count for decision, count in counts.items()}
                for agent, counts in self._totals.items()
            }

    def set_pending(self, agent: str, count: int) -> None:
        """How many operations of the agent are held."""
        self._pending.labels(self._agent(agent)).set(count)

    def answered(self, answer: str, by: str, seconds: float | None = None) -> None:
        """A held operation was answered or expired after so many seconds; None: it never waited.

        answer: one of ANSWERS; by: somebody who was declared.
        """
        if seconds is not None:
            self._wait.observe(seconds)
        self._answers.labels(answer, by if by in self._approvers else OTHER).inc()

    def flooded(self, agent: str) -> None:
        """An operation was denied without a question, because too many wait."""
        self._floods.labels(self._agent(agent)).inc()

    def set_oldest(self, seconds: float) -> None:
        """How long the oldest held operation has waited; 0: none is held."""
        self._oldest.set(seconds)

    def set_ranks(self, agent: str, counts: Sequence[int]) -> None:
        """How often the agent was refused its most refused objects, most often first; at most RANKS are shown."""
        if agent in self._agents:
            for rank in range(RANKS):
                self._ranked.labels(agent, str(rank + 1)).set(counts[rank] if rank < len(counts) else 0)

    def lost(self, reason: str, count: int = 1) -> None:
        """Count a loss; reason: one of LOST_REASONS."""
        self._lost.labels(reason if reason in LOST_REASONS else OTHER).inc(count)

    def set_processes(self, agent: str, count: int) -> None:
        """How many processes the agent's workloads have."""
        self._processes.labels(self._agent(agent)).set(count)

    def declare_enforcement(self, claims: Iterable[tuple[str, str, str]]) -> None:
        """Make the series of every (operation, point, guarantee) that a probe is to try on this host, at 0."""
        for operation, point, guarantee in claims:
            self._verified.labels(operation, point, guarantee).set(0)
            self._failures.labels(operation)

    def set_verified(
        self, operation: str, point: str, guarantee: str, verified: bool | None, failed: bool = False
    ) -> None:
        """A probe has tried a declared claim. failed: and it does not hold. verified: None where there is nothing to
        try: a series that can only be 0 would be an alarm for ever.
        """
        if verified is None:
            with contextlib.suppress(KeyError):
                self._verified.remove(operation, point, guarantee)
            return
        self._verified.labels(operation, point, guarantee).set(int(verified))
        if failed:
            self._failures.labels(operation).inc()

    def policy_loaded(self, sha256: str) -> None:
        """A policy is in force (from now on, this one only)."""
        self._policy.labels(sha256).set(1)
        if sha256 != self._policy_now:
            self._policy.remove(self._policy_now)
        self._policy_now = sha256
        self._reloads.labels("loaded").inc()

    def policy_rejected(self) -> None:
        """A policy could not be loaded; the one before stays."""
        self._reloads.labels("rejected").inc()

    def read_verdicts(self, read: Callable[[], VerdictTimes]) -> None:
        """Where to read the kernel's histogram of verdict times."""
        self._scraped.verdicts_from = read

    def read_programs(
        self,
        names: Iterable[str],
        read: Callable[[], Mapping[str, float]],
        skipped: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """Where to read the seconds that each BPF program has run, and how often the kernel has skipped it. names: all
        of them, at 0 until read.
        """
        self._scraped.programs = dict.fromkeys(names, 0.0)
        self._scraped.programs_from = read
        self._scraped.skipped = dict.fromkeys(self._scraped.programs, 0)
        self._scraped.skipped_from = skipped

    def read_maps(self, capacities: Mapping[str, int], read: Callable[[], Mapping[str, int]]) -> None:
        """Where to read how many entries each BPF map has; capacities: all maps, with what they can hold."""
        self._scraped.capacities = dict(capacities)
        self._scraped.entries = dict.fromkeys(capacities, 0)
        self._scraped.entries_from = read

    def read_audit(
        self, read: Callable[[], tuple[int, int]], status: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        """Where to read (bytes committed to the audit log, seq of its last record), and how writing and signing go."""
        self._scraped.audit_from = read
        self._scraped.evidence_from = status

    def read_notices(self, read: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Where to read what became of notices: Dispatcher.status."""
        self._scraped.notices_from = read

    def exposition(self) -> str:
        """All metrics in the Prometheus text format."""
        return prometheus_client.generate_latest(self.registry).decode()

    def serve(self, port: int, address: str = "127.0.0.1") -> MetricsServer:
        """Start the endpoint; port 0 takes any free one. Raises AgentdError config-invalid."""
        return MetricsServer(self.registry, port, address)

    def _agent(self, name: str) -> str:
        return name if name in self._agents else OTHER
