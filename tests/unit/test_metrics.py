"""The metrics and their endpoint, scraped for real over the loopback address."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.errors import AgentdError
from agentd.metrics import (
    CONNECTION_SECONDS,
    LOST_REASONS,
    MAX_CONNECTIONS,
    MAX_RULES,
    OUTCOMES,
    Metrics,
    VerdictTimes,
)
from agentd.model import Action, Decision

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
NAMES = (
    *("agentd_decisions_total", "agentd_verdict_seconds_bucket", "agentd_approvals_pending"),
    *("agentd_approval_wait_seconds_count", "agentd_events_lost_total", "agentd_workload_processes"),
    *("agentd_policy_info", "agentd_policy_reloads_total", "agentd_audit_bytes_total", "agentd_audit_chain_head"),
    *("agentd_rule_hits_total", "agentd_approval_answers_total", "agentd_refused_object_operations"),
    *("agentd_approval_oldest_seconds", "agentd_start_time_seconds"),
    *("agentd_bpf_program_seconds_total", "agentd_map_entries", "agentd_map_capacity", "agentd_build_info"),
)


def parse(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return parse(metrics.exposition())[f"agentd_{name}", frozenset(labels.items())]


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of a daemon that has loaded a policy with one agent and hasn't seen anything yet."""
    made = Metrics("1.2.3")
    made.declare_agent("bot", [("shell", "rm"), ("email", "send")], ["bot/deny/0", "my-rule"])
    made.declare_approvers(["ann"])
    made.read_programs(["agentd_exec"], dict)
    made.read_maps({"agentd_tasks": 1000}, dict)
    return made


@pytest.fixture
def url(metrics: Metrics) -> Iterator[str]:
    """The metrics, served."""
    with metrics.serve(0) as server:
        yield f"http://127.0.0.1:{server.port}/metrics"


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
        return text


def test_every_series_is_there_from_the_start(url: str) -> None:
    """Before anything has happened every series exists, and all but the constants are 0."""
    found = parse(scrape(url))
    assert set(NAMES) <= {name for name, _ in found}
    constant = {"agentd_build_info", "agentd_map_capacity", "agentd_start_time_seconds"}
    assert {name for name, _ in found if found[name, _] != 0} == constant
    decisions = [labels for name, labels in found if name == "agentd_decisions_total" and ("agent", "bot") in labels]
    assert len(decisions) == 3 * len(OUTCOMES)
    assert {dict(labels)["reason"] for name, labels in found if name == "agentd_events_lost_total"} == {*LOST_REASONS}


def test_what_happens_is_counted_without_new_series(metrics: Metrics, url: str) -> None:
    """Events change values, never the set of series, also for names that nobody declared."""
    before = set(parse(scrape(url)))
    metrics.decided("bot", "shell", "rm", Decision.DENY, Action.KILL)
    metrics.decided("bot", "shell", "rm", Decision.DENY, Action.KILL, 4, rule="my-rule")
    metrics.decided("bot", "shell", "rm", Decision.DENY, Action.DENY, 2, rule="rule of an earlier policy")
    metrics.answered("approved", "ann", 1.0)
    metrics.answered("denied", "a stranger")
    metrics.set_oldest(3.5)
    metrics.set_ranks("bot", range(30, 0, -1))
    metrics.set_ranks("stranger", [5])
    metrics.decided("bot", "x" * 99, "y", Decision.DENY, Action.DENY)
    metrics.decided("stranger", "x", "y", Decision.ALLOW, Action.KILL)
    metrics.set_pending("bot", 2)
    metrics.set_pending("stranger", 1)
    metrics.set_processes("bot", 17)
    metrics.answered("expired", "nobody", 12.5)
    metrics.lost("ring-full", 3)
    metrics.lost("something new")
    metrics.policy_rejected()
    found = parse(scrape(url))
    assert set(found) == before
    labels = {"agent": "bot", "tool": "shell", "operation": "rm", "decision": "deny", "action": "kill"}
    assert value(metrics, "decisions_total", **labels) == 5
    labels.update(tool="other", operation="other", action="deny")
    assert value(metrics, "decisions_total", **labels) == 1
    labels.update(agent="other", decision="allow", action="none")
    assert value(metrics, "decisions_total", **labels) == 1
    assert value(metrics, "approvals_pending", agent="bot") == 2
    assert value(metrics, "workload_processes", agent="bot") == 17
    assert value(metrics, "approval_wait_seconds_sum") == 13.5
    assert value(metrics, "approval_answers_total", answer="approved", by="ann") == 1
    assert value(metrics, "approval_answers_total", answer="denied", by="other") == 1
    assert value(metrics, "approval_oldest_seconds") == 3.5
    assert value(metrics, "rule_hits_total", agent="bot", rule="my-rule") == 4
    assert value(metrics, "rule_hits_total", agent="bot", rule="other") == 2
    assert value(metrics, "rule_hits_total", agent="bot", rule="bot/deny/0") == 0
    assert [value(metrics, "refused_object_operations", agent="bot", rank=str(n)) for n in (1, 10)] == [30, 21]
    assert value(metrics, "events_lost_total", reason="ring-full") == 3
    assert value(metrics, "events_lost_total", reason="other") == 1
    assert value(metrics, "policy_reloads_total", result="rejected") == 1


def test_one_policy_is_in_force(metrics: Metrics) -> None:
    """policy_info names the policy loaded last and no other, also when the same one is loaded again."""
    for sha256 in ("a" * 64, "b" * 64, "b" * 64):
        metrics.policy_loaded(sha256)
    found = [labels for name, labels in parse(metrics.exposition()) if name == "agentd_policy_info"]
    assert found == [frozenset({("sha256", "b" * 64)})]
    assert value(metrics, "policy_reloads_total", result="loaded") == 3


def test_the_kernel_is_read_at_each_scrape(metrics: Metrics) -> None:
    """Verdict times, program times, map entries and the log come from their sources, limited to known names."""
    metrics.read_verdicts(lambda: VerdictTimes((1e-6, 1e-5), (3, 5, 6), 0.25))
    metrics.read_programs(["agentd_exec"], lambda: {"agentd_exec": 1.5, "unknown": 1.0})
    metrics.read_maps({"agentd_tasks": 10}, lambda: {"agentd_tasks": 4, "unknown": 1})
    metrics.read_audit(lambda: (4096, 7))
    assert value(metrics, "verdict_seconds_bucket", le="1e-05") == 5
    assert value(metrics, "verdict_seconds_bucket", le="+Inf") == 6
    assert value(metrics, "verdict_seconds_count") == 6
    assert value(metrics, "verdict_seconds_sum") == 0.25
    assert value(metrics, "bpf_program_seconds_total", program="agentd_exec") == 1.5
    assert value(metrics, "map_entries", map="agentd_tasks") == 4
    assert value(metrics, "map_capacity", map="agentd_tasks") == 10
    assert value(metrics, "audit_bytes_total") == 4096
    assert value(metrics, "audit_chain_head") == 7
    assert "unknown" not in metrics.exposition()


def test_a_source_that_fails_is_counted(metrics: Metrics) -> None:
    """When a source can't be read its last values stand, the failure is counted and the rest is still served."""
    answers = iter([(100, 3)])

    def read() -> tuple[int, int]:
        try:
            return next(answers)
        except StopIteration:
            raise AgentdError("kernel-map", "map", "gone") from None

    metrics.read_audit(read)
    assert value(metrics, "audit_chain_head") == 3
    assert value(metrics, "audit_chain_head") == 3
    assert value(metrics, "metrics_read_errors_total", source="audit") >= 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "é\u202e", 'x"} 1\nagentd_forged{y="'])
def test_label_values_are_escaped(name: str) -> None:
    """An agent with an odd name is one series with that name, and can't forge another."""
    metrics = Metrics("1")
    metrics.declare_agent(name, [])
    found = parse(metrics.exposition())
    assert ("agentd_workload_processes", frozenset({("agent", name)})) in found
    assert not any(metric == "agentd_forged" for metric, _ in found)


def test_two_daemons_do_not_share_metrics(metrics: Metrics) -> None:
    """Every Metrics has a registry of its own."""
    metrics.lost("ring-full")
    assert value(Metrics("1"), "events_lost_total", reason="ring-full") == 0


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "localhost", "::", ""])
def test_only_the_loopback_address_is_served(metrics: Metrics, address: str) -> None:
    """Any other address is a configuration error; 127.0.0.1 is not."""
    with pytest.raises(AgentdError) as caught:
        metrics.serve(0, address)
    assert caught.value.code == "config-invalid"
    metrics.serve(0, "127.0.0.1").close()


@pytest.mark.parametrize("port", ["taken", 70000])
def test_a_port_that_cannot_be_had_is_an_error(metrics: Metrics, port: str | int) -> None:
    """A port in use or out of range is one clear error."""
    with metrics.serve(0) as server, pytest.raises(AgentdError) as caught:
        metrics.serve(server.port if port == "taken" else int(port))
    assert caught.value.code == "config-invalid"


def test_after_closing_nobody_answers(metrics: Metrics) -> None:
    """A closed endpoint has left its port."""
    server = metrics.serve(0)
    scrape(f"http://127.0.0.1:{server.port}/metrics")
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_silent_clients_do_not_pile_up(metrics: Metrics) -> None:
    """Connections beyond the bound are closed at once, and scrapes work again when the silent ones have gone."""
    with metrics.serve(0) as server:
        where = ("127.0.0.1", server.port)
        held = [socket.create_connection(where, timeout=2 * CONNECTION_SECONDS) for _ in range(MAX_CONNECTIONS)]
        with socket.create_connection(where, timeout=2 * CONNECTION_SECONDS) as extra:
            assert extra.recv(1) == b""
        for connection in held:
            assert connection.recv(1) == b""  # given up after CONNECTION_SECONDS
            connection.close()
        for _ in range(50):  # the last threads may just be ending
            with socket.create_connection(where, timeout=10) as again:
                again.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                try:
                    if again.recv(12) == b"HTTP/1.0 200":
                        return
                except ConnectionResetError:
                    continue
        pytest.fail("no scrape succeeded")


def test_promtool_has_nothing_to_say(metrics: Metrics) -> None:
    """Prometheus's own linter accepts the exposition."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    metrics.policy_loaded("a" * 64)
    command = [promtool, "check", "metrics"]
    done = subprocess.run(command, input=metrics.exposition(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wrong = "# TYPE a_total gauge\na_total 1\n"
    assert subprocess.run(command, input=wrong, capture_output=True, text=True, check=False).returncode != 0


def test_a_huge_policy_has_a_bounded_number_of_series() -> None:
    """Rules beyond the bound are counted together, and what decides without a rule still by name."""
    metrics = Metrics("1")
    metrics.declare_agent("bot", [], (f"r{number}" for number in range(MAX_RULES + 100)))
    metrics.declare_agent("late", [], ["its-rule"])
    assert len([name for name, _ in parse(metrics.exposition()) if name == "agentd_rule_hits_total"]) < MAX_RULES + 20
    metrics.decided("late", "x", "y", Decision.DENY, Action.DENY, rule="its-rule")
    metrics.decided("late", "x", "y", Decision.DENY, Action.DENY, rule="default-deny")
    assert value(metrics, "rule_hits_total", agent="late", rule="other") == 1
    assert value(metrics, "rule_hits_total", agent="late", rule="default-deny") == 1
