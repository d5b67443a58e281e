"""Every panel's query on a real Prometheus that scrapes a real service under load, against what the audit log says."""

from __future__ import annotations

import json
import math
import pwd
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.engine.replay import CARRIED_OUT
from agentd.metrics import APPROVAL_BUCKETS, RANKS
from tests.live.prometheus import Labels, Panel, Prometheus, panels, promtool
from tests.live.service import Service, Sleeper, bot, listening, until

pytestmark = pytest.mark.root

HOSTS = 1000
SERIES_OF_A_HOST = 120  # that one panel may read
ENDS = {"approved": "approved", "approval_denied": "denied", "approval_expired": "expired"}
Values = Mapping[Labels, float]


class Truth:
    """What the log and the service itself say at one moment."""

    def __init__(self, service: Service) -> None:
        self.records = service.records()
        self.status = service.call("status")
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        self.samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    def decisions(self, *labels: str, only: str = "") -> Values:
        """How many, by these members of a record."""
        members = {"agent": "agent_id", "tool": "tool_name"}
        found: Counter[Labels] = Counter()
        for record in self.records:
            if record["event"] in ("allowed", "denied", "approval_required") and only in ("", record["decision"]):
                # A held operation that is approved is a decision of its own when it is carried out.
                decision = {"allowed": "allow"}.get(record["event"], record["decision"])
                row = {**record, "decision": decision}
                found[frozenset((name, row[members.get(name, name)]) for name in labels)] += record.get("count") or 1
        return found

    def decided(self, decision: str) -> Values:
        by = self.decisions("decision")
        return {frozenset(): by.get(frozenset({("decision", decision)}), 0)}

    def rules(self) -> Values:
        found: Counter[Labels] = Counter()
        for record in self.records:
            if record["event"] in ("allowed", "denied", "approval_required") and record["reason"] != CARRIED_OUT:
                key = frozenset({("agent", record["agent_id"]), ("rule", record["rule"])})
                found[key] += record.get("count") or 1
        return found

    def objects(self) -> Values:
        """The ranks of what was refused."""
        found: dict[str, Counter[str]] = {}
        for record in self.records:
            if record["event"] in ("denied", "approval_required"):
                key = json.dumps([record["kernel_operation"], record["object"], record["rule"]])
                found.setdefault(record["agent_id"], Counter())[key] += 1
        return {
            frozenset({("agent", agent), ("rank", str(rank))}): count
            for agent, counts in found.items()
            for rank, (_, count) in enumerate(counts.most_common(RANKS), 1)
        }

    def answers(self, *labels: str, only: str = "") -> Values:
        found: Counter[Labels] = Counter()
        for record in self.records:
            answer = ENDS.get(record["event"], "")
            if answer and only in ("", answer):
                row = {"answer": answer, "by": who(record["metadata"])}
                found[frozenset((name, row[name]) for name in labels)] += 1
        return found or {frozenset(): 0}

    def waits(self) -> Values:
        seconds = [record["metadata"]["waited_ms"] / 1000 for record in self.records if record["event"] in ENDS]
        bounds = [*map(float, APPROVAL_BUCKETS), math.inf]
        return {
            frozenset({("le", "+Inf" if math.isinf(bound) else str(bound))}): sum(s <= bound for s in seconds)
            for bound in bounds
        }

    def latency(self, quantile: float) -> Values:
        buckets = {float(dict(labels)["le"]): n for labels, n in self.samples["agentd_verdict_seconds_bucket"].items()}
        return {frozenset(): quantile_of(buckets, quantile)}

    def own(self, name: str, *labels: str, keep: Callable[[float], bool] = lambda value: True) -> Values:
        """The service's own series, summed by labels."""
        found: Counter[Labels] = Counter()
        for key, value in self.samples[f"agentd_{name}"].items():
            if keep(value):
                found[frozenset((k, v) for k, v in key if k in labels)] += value
        return found

    def count(self, name: str, *labels: str) -> Values:
        """How many there are of each, which is how many hosts."""
        return dict.fromkeys(self.own(name, *labels), 1.0)

    def guarantees(self) -> Values:
        return {
            labels | {("verified", "yes" if value else "no")}: 1.0
            for labels, value in self.samples["agentd_enforcement_verified"].items()
        }

    def fill(self) -> Values:
        most = self.samples["agentd_map_capacity"]
        return {labels: value / most[labels] for labels, value in self.samples["agentd_map_entries"].items()}


def who(metadata: dict[str, Any]) -> str:
    if "by" not in metadata:
        return "nobody"
    login = metadata["by_login_uid"]
    return str(metadata["by"].split(" ")[0] if login is None else pwd.getpwuid(login).pw_name)


def quantile_of(buckets: Mapping[float, float], quantile: float) -> float:
    """As histogram_quantile of Prometheus has it."""
    bounds = sorted(buckets)
    rank = quantile * buckets[math.inf]
    index = next(i for i, bound in enumerate(bounds) if buckets[bound] >= rank)
    if math.isinf(bounds[index]):
        return bounds[-2]
    low, below = (bounds[index - 1], buckets[bounds[index - 1]]) if index else (0.0, 0.0)
    return low + (bounds[index] - low) * (rank - below) / (buckets[bounds[index]] - below)


def per_second(values: Values) -> Callable[[Values], bool]:
    """A rate over five minutes is what was counted, extended by at most one scrape at each end."""

    def check(found: Values) -> bool:
        wanted = {labels: value for labels, value in values.items() if value}
        return set(found) == set(wanted) and all(
            0.98 * wanted[labels] <= value * 300 <= 1.3 * wanted[labels] for labels, value in found.items()
        )

    return check


def near(values: Values) -> Callable[[Values], bool]:
    return lambda found: (
        set(found) == set(values)
        and all(math.isclose(found[labels], value, rel_tol=1e-6, abs_tol=1e-9) for labels, value in values.items())
    )


def moving(found: Values) -> bool:
    """One value above 0: how fast something grows that grew."""
    return len(found) == 1 and next(iter(found.values())) > 0


NONE: Values = {}
ZERO: Values = {frozenset(): 0.0}
# For each panel what its queries must give, one for each query.
Check = Callable[[Values], bool]
EXPECTED: dict[tuple[str, str], Callable[[Truth], list[Values | Check]]] = {
    ("decisions", "Denied"): lambda t: [t.decided("deny")],
    ("decisions", "Asked about"): lambda t: [t.decided("require_approval")],
    ("decisions", "Allowed"): lambda t: [t.decided("allow")],
    ("decisions", "Processes"): lambda t: [t.own("workload_processes")],
    ("decisions", "Agents at work"): lambda t: [{frozenset(): float(len({w["agent"] for w in t.status["workloads"]}))}],
    ("decisions", "Hosts"): lambda t: [{frozenset(): 1.0}],
    ("decisions", "Decisions per second"): lambda t: [per_second(t.decisions("decision"))],
    ("decisions", "Denials over time"): lambda t: [per_second(t.decisions("tool", "operation", only="deny"))],
    ("decisions", "By agent"): lambda t: [t.decisions("agent", "decision")],
    ("decisions", "By tool"): lambda t: [t.decisions("tool")],
    ("decisions", "Denied, by host"): lambda t: [t.decided("deny")],
    ("decisions", "By tool and operation"): lambda t: [t.decisions("agent", "tool", "operation", "decision")],
    ("decisions", "By rule"): lambda t: [t.rules()],
    ("decisions", "Top objects"): lambda t: [t.objects()],
    ("approvals", "Waiting"): lambda t: [t.own("approvals_pending"), t.own("approvals_pending", "agent")],
    ("approvals", "Longest wait"): lambda t: [ZERO],
    ("approvals", "Approved"): lambda t: [t.answers(only="approved")],
    ("approvals", "Denied"): lambda t: [t.answers(only="denied")],
    ("approvals", "Expired"): lambda t: [t.answers(only="expired")],
    ("approvals", "Median wait"): lambda t: [
        {frozenset(): quantile_of({float(dict(k)["le"]): v for k, v in t.waits().items()}, 0.5)}
    ],
    ("approvals", "Answers per second"): lambda t: [per_second(t.answers("answer"))],
    ("approvals", "How long answers took"): lambda t: [t.waits()],
    ("approvals", "Answered by"): lambda t: [t.answers("by", "answer")],
    ("enforcement", "Claims verified"): lambda t: [t.own("enforcement_verified")],
    ("enforcement", "Claims not verified"): lambda t: [
        {frozenset(): sum(not value for value in t.samples["agentd_enforcement_verified"].values())}
    ],
    ("enforcement", "Failed probes"): lambda t: [t.own("enforcement_failures_total")],
    ("enforcement", "Lost"): lambda t: [{frozenset(): sum(r["count"] for r in t.records if r["event"] == "gap")}],
    ("enforcement", "Verdicts"): lambda t: [{frozenset(): t.status["verdicts"]}],
    ("enforcement", "Verdict, p99"): lambda t: [t.latency(0.99)],
    ("enforcement", "Guarantees"): lambda t: [t.guarantees()],
    ("enforcement", "Verdict latency"): lambda t: [t.latency(0.5), t.latency(0.99), t.latency(0.999)],
    ("enforcement", "Lost, by reason"): lambda t: [NONE],
    ("enforcement", "CPU of BPF programs"): lambda t: [
        lambda found: bool(found) and set(found) <= set(t.own("bpf_program_seconds_total", "program", keep=bool))
    ],
    ("enforcement", "Map fill"): lambda t: [t.fill()],
    ("enforcement", "Policies in force"): lambda t: [t.count("policy_info", "sha256")],
    ("enforcement", "Versions"): lambda t: [t.count("build_info", "version")],
    ("enforcement", "Policy loads"): lambda t: [
        {
            frozenset({("result", "loaded")}): sum(r["event"] == "policy_loaded" for r in t.records),
            frozenset({("result", "rejected")}): sum(r["event"] == "policy_rejected" for r in t.records),
        }
    ],
    ("audit", "Records"): lambda t: [{frozenset(): t.records[-1]["seq"]}],
    ("audit", "Unsigned records"): lambda t: [{frozenset(): t.status["audit"]["signing"]["unsigned"]}],
    ("audit", "Signed roots"): lambda t: [{frozenset(): t.status["audit"]["signing"]["roots"]}],
    ("audit", "Receipts"): lambda t: [{frozenset(): t.status["audit"]["signing"]["receipts"]}],
    ("audit", "Can't write"): lambda t: [ZERO],
    ("audit", "Can't sign"): lambda t: [ZERO],
    ("audit", "Records per second"): lambda t: [moving],
    ("audit", "Written"): lambda t: [moving],
    ("audit", "Heads"): lambda t: [{frozenset(): t.records[-1]["seq"]}],
    ("audit", "Files"): lambda t: [{frozenset(): 1.0}],
    ("audit", "Sent to sinks"): lambda t: [t.own("audit_sink_sent_total", "sink")],
    ("audit", "Lost for sinks"): lambda t: [t.own("audit_sink_lost_total", "sink")],
    ("audit", "Waiting for sinks"): lambda t: [t.own("audit_sink_queued", "sink")],
    ("audit", "Sinks that fail"): lambda t: [t.own("audit_sink_failing", "sink")],
}
AGENTS = {
    "bot": bot(
        allow=[{"tool": "shell", "operations": ["execute"]}, {"tool": "file_reader", "operations": ["read"]}],
        deny=[{"tool": "shell", "operations": ["rm"], "id": "no-rm"}, {"tool": "secrets"}],
        require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "2m"}],
    ),
    "hasty": bot(require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "1s"}]),
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Prometheus]]:
    """A service that has been at work, with Prometheus looking on since before it began."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Service(AGENTS, metrics=True, program_times=True) as service, Prometheus(folder, [service.port]) as prometheus:
        until(lambda: prometheus.query("agentd:audit_bytes:rate5m"), "the first scrapes")
        work(service)
        until(lambda: prometheus.query('agentd_decisions_total{decision="allow"} > 0'), "the counts")
        yield service, prometheus


def work(service: Service) -> None:
    """Something of everything: allowed, denied, approved, refused, expired."""
    data = service.folder / "data"
    data.write_text("x")
    service.run("/bin/sh", "-c", f"cat {data} {data}; /bin/rm {data}; /bin/rm {data}; exit 0")
    with Sleeper() as sleeper, Sleeper() as hasty, listening() as port:
        service.tag(sleeper.pid)
        service.tag(hasty.pid, "hasty")
        for verb, answer in (("approve", "ok"), ("deny", "errno 1")):
            sleeper.send("connect", str(port))
            service.call(f"approvals.{verb}", id=service.held()[0]["id"])
            assert sleeper.answer() == answer
        assert hasty.do("connect", str(port)) == "errno 1"


def wrong(prometheus: Prometheus, panel: Panel, wanted: list[Values | Check]) -> str:
    """Why a panel's queries don't give what they should; empty if they do."""
    for query, want in zip(panel.queries, wanted, strict=True):
        found = prometheus.query(query)
        good = want(found) if callable(want) else near(want)(found)
        if not good:
            return f"{panel.board} / {panel.title}: {query}\ngives {found}\nwanted {want}"
    return ""


@pytest.mark.leaves("children", "descriptors", reason="the service of the module starts in its first test")
def test_every_panel_says_what_the_log_says(watched: tuple[Service, Prometheus]) -> None:
    """Each query of each dashboard comes to exactly what the audit log, or the service itself, has."""
    service, prometheus = watched
    every = list(panels())
    by_name: dict[tuple[str, str], list[Panel]] = {}
    for panel in every:
        by_name.setdefault((panel.board, panel.title), []).append(panel)
    assert set(by_name) == set(EXPECTED)
    problems: list[str] = []

    def all_right() -> bool:
        """Everything at one moment: counts arrive every ten seconds, scrapes every second."""
        truth = Truth(service)
        problems.clear()
        for key, found in by_name.items():
            wanted = EXPECTED[key](truth)
            queries = tuple(query for panel in found for query in panel.queries)
            problems.append(wrong(prometheus, Panel(*key, "", queries), wanted))
        problems[:] = filter(None, problems)
        return not problems

    try:
        until(all_right, "every panel")
    except AssertionError:
        pytest.fail("\n\n".join(problems))
    truth = Truth(service)
    assert {"allow", "deny", "require_approval"} == {dict(k)["decision"] for k in truth.decisions("decision")}
    assert {dict(k)["answer"] for k in truth.answers("answer")} == {"approved", "denied", "expired"}


@pytest.mark.leaves("children", "descriptors", reason="the service of the module ends after its last test")
def test_a_thousand_hosts(watched: tuple[Service, Prometheus], tmp_path: Path) -> None:
    """With the series of a thousand hosts every query still works, and reads few series of each."""
    _, prometheus = watched
    now = int(time.time())
    names = {word for panel in panels() for query in panel.queries for word in metric_names(query)}
    lines: list[str] = []
    for name in sorted(names):
        found = prometheus.get("/api/v1/query", query=name)["data"]["result"]
        for row in found:
            labels = ",".join(f'{k}="{v}"' for k, v in row["metric"].items() if k not in ("__name__", "instance"))
            for host in range(HOSTS):
                lines.append(f'{name}{{instance="h{host}",{labels}}} {row["value"][1]} {now}')
    (tmp_path / "series").write_text("\n".join(lines) + "\n# EOF\n")
    promtool("tsdb", "create-blocks-from", "openmetrics", tmp_path / "series", tmp_path / "data")
    with Prometheus(tmp_path, [], tmp_path / "data") as fleet:
        for panel in panels():
            for query in panel.queries:
                made = fleet.get("/api/v1/query", query=query, time=str(now + 1), stats="all")["data"]
                assert made["stats"]["samples"]["totalQueryableSamples"] <= HOSTS * SERIES_OF_A_HOST, panel
                assert len(made["result"]) <= 200, (panel, len(made["result"]))
        hosts = fleet.query("count(agentd_build_info)", now + 1)
        assert hosts == {frozenset(): float(HOSTS)}
        denied = next(panel for panel in panels() if (panel.board, panel.title) == ("decisions", "Denied"))
        (one,) = prometheus.query(denied.queries[0]).values()
        assert fleet.query(denied.queries[0], now + 1) == {frozenset(): HOSTS * one}


def metric_names(query: str) -> list[str]:
    """The series that a query reads."""
    return re.findall(r"\bagentd[_:][a-z0-9_:]+", query)
