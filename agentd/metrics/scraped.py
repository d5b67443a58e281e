"""The metrics that are read from elsewhere at each scrape: the kernel, and the writer of the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agentd.errors import AgentdError

SINKS: Final = ("journald", "syslog", "otlp")
SINK_COUNTERS: Final = (
    ("sent", "Records that a sink has taken since the start.", "sent"),
    ("lost", "Records that a sink never got, because its queue was full or agentd ended.", "lost"),
)
SINK_GAUGES: Final = (
    ("queued", "Records that wait for a sink.", "queued"),
    ("failing", "The sink can't be reached (1).", "failed"),
)
NOTIFIERS: Final = ("command", "webhook", "journald")
NOTICES: Final = (
    ("sent", "delivered"),
    ("failed", "failed_tries"),
    ("dropped", "lost"),
)  # result, and its name in status
SOURCES: Final = ("verdicts", "programs", "maps", "audit", "notifications")
VERDICT_BOUNDS: Final = tuple(2**power / 1e9 for power in range(7, 25))  # seconds: 128 ns to 17 ms


@dataclass(frozen=True, slots=True)
class VerdictTimes:
    """counts[i]: verdicts that took at most bounds[i] seconds (cumulative); counts[-1]: all of them; total: seconds.

    len(counts) == len(bounds) + 1.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Scraped(Collector):
    """The metrics that are read from elsewhere at each scrape."""

    def __init__(self, errors: Counter) -> None:
        self.errors = errors
        self.verdicts = VerdictTimes(VERDICT_BOUNDS, (0,) * (len(VERDICT_BOUNDS) + 1), 0.0)
        self.verdicts_from: Callable[[], VerdictTimes] | None = None
        self.programs: dict[str, float] = {}
        self.programs_from: Callable[[], Mapping[str, float]] | None = None
        self.skipped: dict[str, int] = {}
        self.skipped_from: Callable[[], Mapping[str, int]] | None = None
        self.capacities: dict[str, int] = {}
        self.entries: dict[str, int] = {}
        self.entries_from: Callable[[], Mapping[str, int]] | None = None
        self.audit = (0, 0)
        self.audit_from: Callable[[], tuple[int, int]] | None = None
        self.evidence: Mapping[str, Any] = {}
        self.evidence_from: Callable[[], Mapping[str, Any]] | None = None
        self.notices: Sequence[Mapping[str, Any]] = []
        self.notices_from: Callable[[], Sequence[Mapping[str, Any]]] | None = None

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
        skipped = self.read("programs", self.skipped_from) or {}
        self.skipped.update({name: value for name, value in skipped.items() if name in self.skipped})
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

        passed = CounterMetricFamily(
            "agentd_bpf_program_skipped",
            "Runs of a BPF program that the kernel left out, because it was under way on that processor.",
            labels=["program"],
        )
        for name, count in self.skipped.items():
            passed.add_metric([name], count)
        yield passed

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
        self.notices = self.read("notifications", self.notices_from) or self.notices
        yield from _notices(self.notices)


def _notices(sinks: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """What became of notices about approvals, by kind of sink."""
    text = "Notices about approvals: sent, failed tries, and dropped (given up, or the queue was full)."
    family = CounterMetricFamily("agentd_notifications", text, labels=["sink", "result"])
    waiting = GaugeMetricFamily("agentd_notifications_queued", "Notices that wait for a sink.", labels=["sink"])
    for kind in NOTIFIERS:
        mine = [sink for sink in sinks if sink["kind"] == kind]
        for result, member in NOTICES:
            family.add_metric([kind, result], sum(sink[member] for sink in mine))
        waiting.add_metric([kind], sum(sink["waiting"] for sink in mine))
    yield family
    yield waiting


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
