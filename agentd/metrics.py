"""What Prometheus sees: the registry, and the endpoint on the loopback address.

Every series that can exist is there from the start, at 0: the first denial of an agent must be an increase and not a
new series. Labels come from the policy, from agentd's own lists or from the names in its BPF objects, never from a
workload; what isn't declared is counted under `other` instead of growing the set.

Counters that live elsewhere (the kernel, the audit writer) are read when somebody scrapes, through the functions given
to the `read_*` methods. Those run in the endpoint's threads, so they must be safe to call from any thread; one that
fails leaves its last values standing and counts in agentd_metrics_read_errors_total.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agentd.errors import AgentdError
from agentd.model import Action, Decision

OTHER: Final = "other"
LOST_REASONS: Final = ("ring-full", "counts-full", "event-malformed", "audit-queue-full", OTHER)
RELOAD_RESULTS: Final = ("loaded", "rejected")
SINKS: Final = ("journald", "syslog", "otlp")
SINK_COUNTERS: Final = (
    ("sent", "Records that a sink has taken since the start.", "sent"),
    ("lost", "Records that a sink never got, because its queue was full or agentd ended.", "lost"),
)
SINK_GAUGES: Final = (
    ("queued", "Records that wait for a sink.", "queued"),
    ("failing", "The sink can't be reached (1).", "failed"),
)
SOURCES: Final = ("verdicts", "programs", "maps", "audit")
OUTCOMES: Final = ((Decision.ALLOW, Action.NONE), *product((Decision.REQUIRE_APPROVAL, Decision.DENY), Action))

APPROVAL_BUCKETS: Final = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600)  # seconds
VERDICT_BOUNDS: Final = tuple(2**power / 1e9 for power in range(7, 25))  # seconds: 128 ns to 17 ms

MAX_CONNECTIONS: Final = 16  # at once; any local process may connect, so their number and their patience are bounded
CONNECTION_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class VerdictTimes:
    """counts[i]: verdicts that took at most bounds[i] seconds (cumulative); counts[-1]: all of them; total: seconds.

    len(counts) == len(bounds) + 1.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Metrics:
    """All metrics of one daemon, in a registry of their own. Methods may be called from any thread."""

    def __init__(self, version: str) -> None:
        # A `_created` series for each counter would double the exposition; prometheus_client has one switch for all.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._toolops: set[tuple[str, str, str]] = set()
        self._agents: set[str] = set()
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
        self._scraped = _Scraped(self._read_errors)
        self.registry.register(self._scraped)

        self.declare_agent(OTHER, [])
        for reason in LOST_REASONS:
            self._lost.labels(reason)
        for result in RELOAD_RESULTS:
            self._reloads.labels(result)
        for source in SOURCES:
            self._read_errors.labels(source)
        self._policy_now = ""
        self._policy.labels("").set(0)

    def declare_agent(self, name: str, toolops: Iterable[tuple[str, str]]) -> None:
        """Make every series of an agent of the policy, at 0; toolops: the (tool, operation) it can be judged by."""
        with self._lock:
            self._agents.add(name)
            self._pending.labels(name)
            self._processes.labels(name)
            for tool, operation in (*toolops, (OTHER, OTHER)):
                self._toolops.add((name, tool, operation))
                for decision, action in OUTCOMES:
                    self._decisions.labels(name, tool, operation, decision.word, action.word)

    def decided(
        self, agent: str, tool: str, operation: str, decision: Decision, action: Action, count: int = 1
    ) -> None:
        """Count decisions."""
        if (agent, tool, operation) not in self._toolops:
            agent, tool, operation = self._agent(agent), OTHER, OTHER
        if (decision, action) not in OUTCOMES:
            action = Action.NONE
        self._decisions.labels(agent, tool, operation, decision.word, action.word).inc(count)

    def set_pending(self, agent: str, count: int) -> None:
        """How many operations of the agent are held."""
        self._pending.labels(self._agent(agent)).set(count)

    def answered(self, seconds: float) -> None:
        """A held operation was answered or expired after so many seconds."""
        self._wait.observe(seconds)

    def lost(self, reason: str, count: int = 1) -> None:
        """Count a loss; reason: one of LOST_REASONS."""
        self._lost.labels(reason if reason in LOST_REASONS else OTHER).inc(count)

    def set_processes(self, agent: str, count: int) -> None:
        """How many processes the agent's workloads have."""
        self._processes.labels(self._agent(agent)).set(count)

    def declare_enforcement(self, claims: Iterable[tuple[str, str, str]]) -> None:
        """Make the series of every (operation, point, guarantee) that is claimed on this host, at 0."""
        for operation, point, guarantee in claims:
            self._verified.labels(operation, point, guarantee).set(0)
            self._failures.labels(operation)

    def set_verified(self, operation: str, point: str, guarantee: str, verified: bool, failed: bool = False) -> None:
        """A probe has tried a declared claim. failed: and it does not hold."""
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

    def read_programs(self, names: Iterable[str], read: Callable[[], Mapping[str, float]]) -> None:
        """Where to read the seconds that each BPF program has run; names: all of them, at 0 until read."""
        self._scraped.programs = dict.fromkeys(names, 0.0)
        self._scraped.programs_from = read

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

    def exposition(self) -> str:
        """All metrics in the Prometheus text format."""
        return prometheus_client.generate_latest(self.registry).decode()

    def serve(self, port: int, address: str = "127.0.0.1") -> MetricsServer:
        """Start the endpoint; port 0 takes any free one. Raises AgentdError config-invalid."""
        return MetricsServer(self.registry, port, address)

    def _agent(self, name: str) -> str:
        return name if name in self._agents else OTHER


class _Scraped(Collector):
    """The metrics that are read from elsewhere at each scrape."""

    def __init__(self, errors: Counter) -> None:
        self.errors = errors
        self.verdicts = VerdictTimes(VERDICT_BOUNDS, (0,) * (len(VERDICT_BOUNDS) + 1), 0.0)
        self.verdicts_from: Callable[[], VerdictTimes] | None = None
        self.programs: dict[str, float] = {}
        self.programs_from: Callable[[], Mapping[str, float]] | None = None
        self.capacities: dict[str, int] = {}
        self.entries: dict[str, int] = {}
        self.entries_from: Callable[[], Mapping[str, int]] | None = None
        self.audit = (0, 0)
        self.audit_from: Callable[[], tuple[int, int]] | None = None
        self.evidence: Mapping[str, Any] = {}
        self.evidence_from: Callable[[], Mapping[str, Any]] | None = None

    def read(self, source: str, function: Callable[[], Any] | None) -> Any:
        """What the function returns, or None (counted) if it fails in one of the ways reading can fail."""
        if function is None:
            return None
        try:
            return function()
        except (AgentdError, OSError, ValueError):
            self.errors.labels(source).inc()
            return None

    def collect(self) -> Iterator[Metric]:
        self.verdicts = self.read("verdicts", self.verdicts_from) or self.verdicts
        # Only names declared at the start: a source can't add series.
        seconds = self.read("programs", self.programs_from) or {}
        self.programs.update({name: value for name, value in seconds.items() if name in self.programs})
        entries = self.read("maps", self.entries_from) or {}
        self.entries.update({name: value for name, value in entries.items() if name in self.entries})
        self.audit = self.read("audit", self.audit_from) or self.audit

        times = self.verdicts
        bounds = [*(repr(bound) for bound in times.bounds), "+Inf"]
        verdicts = HistogramMetricFamily("agentd_verdict_seconds", "Time that a verdict took, measured in the kernel.")
        verdicts.add_metric([], list(zip(bounds, map(float, times.counts), strict=True)), times.total)
        yield verdicts

        programs = CounterMetricFamily(
            "agentd_bpf_program_seconds", "Time that a BPF program has run.", labels=["program"]
        )
        for name, value in self.programs.items():
            programs.add_metric([name], value)
        yield programs

        used = GaugeMetricFamily("agentd_map_entries", "Entries in a BPF map.", labels=["map"])
        capacity = GaugeMetricFamily("agentd_map_capacity", "Entries that a BPF map can hold.", labels=["map"])
        for name, most in self.capacities.items():
            used.add_metric([name], self.entries[name])
            capacity.add_metric([name], most)
        yield used
        yield capacity

        size, head = self.audit
        yield CounterMetricFamily("agentd_audit_bytes", "Bytes committed to the audit log since the start.", value=size)
        yield GaugeMetricFamily("agentd_audit_chain_head", "Number (seq) of the last committed record.", value=head)
        self.evidence = self.read("audit", self.evidence_from) or self.evidence
        yield from _evidence(self.evidence)


def _evidence(status: Mapping[str, Any]) -> Iterator[Metric]:
    """The log's files and signatures; all 0 before anything is known."""
    signing = status.get("signing") or {}

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"agentd_audit_{name}", text, value=value)

    def counter(name: str, text: str, value: float) -> Metric:
        return CounterMetricFamily(f"agentd_audit_{name}", text, value=value)

    yield gauge("files", "Files that the audit log has.", status.get("files", 0))
    yield gauge("write_failing", "The last records could not be written (1).", bool(status.get("failed")))
    yield gauge("signing_failing", "Records are not being signed (1).", bool(signing.get("failed")))
    yield gauge("unsigned_records", "Records that no signature covers yet.", signing.get("unsigned", 0))
    yield counter("roots", "Signed roots written since the start.", signing.get("roots", 0))
    yield counter("receipts", "Receipts of single records signed since the start.", signing.get("receipts", 0))
    sinks = status.get("sinks") or {}
    for name, text, member in SINK_COUNTERS:
        family = CounterMetricFamily(f"agentd_audit_sink_{name}", text, labels=["sink"])
        for sink in SINKS:
            family.add_metric([sink], (sinks.get(sink) or {}).get(member, 0))
        yield family
    for name, text, member in SINK_GAUGES:
        gauges = GaugeMetricFamily(f"agentd_audit_sink_{name}", text, labels=["sink"])
        for sink in SINKS:
            value = (sinks.get(sink) or {}).get(member, 0)
            gauges.add_metric([sink], float(bool(value) if member == "failed" else value))
        yield gauges
    yield counter("receipts_left_out", "Records left without a receipt in a flood.", signing.get("left_out", 0))


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes aren't news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow isn't news either."""


class MetricsServer:
    """The HTTP endpoint. `port`: the one it listens on. Close it, or use it as a context manager."""

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        where = f"metrics endpoint {address}:{port}"
        try:
            loopback = ipaddress.IPv4Address(address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            hint = "use 127.0.0.1, and a proxy of your own if others are to see it"
            raise AgentdError("config-invalid", where, "not an IPv4 loopback address", hint)
        try:
            self._server = _Server((address, port))
        except (OSError, OverflowError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise AgentdError("config-invalid", where, why, "choose another port") from None
        self._server.set_app(prometheus_client.make_wsgi_app(registry))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Returns when the socket is closed."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
