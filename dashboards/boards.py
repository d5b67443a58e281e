# ruff: noqa: E501  # what a panel says and asks stands on one line
"""The four dashboards. Every query reads recording rules (agentd/monitoring/agentd-rules.yml) or series of which a host
has few, so that they work for one host and for a thousand.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.parts import AGENT, GREEN, HOST, LOG, RED, YELLOW, bars, board, lines, note, number, rows

SINCE = "Since each daemon started."
BAD = [(None, GREEN), (1, RED)]
AT_RULE = [("rule", "Its records", LOG + "?rule=${__data.fields.rule}&agent=${__data.fields.agent}")]


def total(decision: str) -> str:
    return f'sum(agentd:decisions:total{{{AGENT}, decision="{decision}"}}) or vector(0)'


def decisions() -> Dashboard:
    rate = f"agentd:decisions:rate5m{{{AGENT}}}"
    denied = f'agentd:decisions:rate5m{{{AGENT}, decision="deny"}}'
    counted = f"agentd:decisions:total{{{AGENT}}}"
    return (
        board("decisions", "agentd / Decisions", "What agents did and tried, and what was decided about it.")
        .with_panel(number("Denied", SINCE, total("deny"), steps=[(None, RED)]))
        .with_panel(number("Asked about", SINCE, total("require_approval"), steps=[(None, YELLOW)]))
        .with_panel(number("Allowed", SINCE, total("allow"), steps=[(None, GREEN)]))
        .with_panel(number("Processes", "In workloads, now.", f"sum(agentd_workload_processes{{{AGENT}}})"))
        .with_panel(
            number(
                "Agents at work",
                "With a process, now.",
                f"count(sum by (agent) (agentd_workload_processes{{{AGENT}}}) > 0) or vector(0)",
            )
        )
        .with_panel(number("Hosts", "That answer.", f"count(agentd_build_info{{{HOST}}})"))
        .with_panel(
            lines(
                "Decisions per second",
                "Allowed operations are counted in the kernel and arrive every ten seconds.",
                (f"sum by (decision) ({rate})", "{{decision}}"),
                unit="ops",
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Denials over time",
                "By tool and operation, the ten with most.",
                (f"topk(10, sum by (tool, operation) ({denied}))", "{{tool}}/{{operation}}"),
                unit="ops",
            )
        )
        .with_panel(
            bars("By agent", SINCE, f"topk(20, sum by (agent, decision) ({counted}))", "{{agent}} {{decision}}")
        )
        .with_panel(bars("By tool", SINCE, f"topk(20, sum by (tool) ({counted}))", "{{tool}}"))
        .with_panel(
            bars(
                "Denied, by host",
                SINCE,
                f'topk(20, sum by (instance) (agentd:decisions:total{{{AGENT}, decision="deny"}}))',
                "{{instance}}",
            )
        )
        .with_panel(
            rows(
                "By tool and operation",
                SINCE,
                f"topk(50, sum by (agent, tool, operation, decision) ({counted}))",
                ("agent", "tool", "operation", "decision"),
                links=[("tool", "Its records", LOG + "?tool=${__data.fields.tool}&agent=${__data.fields.agent}")],
            )
        )
        .with_panel(
            rows(
                "By rule",
                f"{SINCE} Rules that are missing have decided nothing: agentd policy report.",
                f"topk(50, sum by (agent, rule) (agentd:rule_hits:total{{{AGENT}}}))",
                ("agent", "rule"),
                links=AT_RULE,
            )
        )
        .with_panel(
            rows(
                "Top objects",
                "How often the most refused objects were refused. Names of objects are the agents' choice, so they are no label here: the link shows them in the host's console.",
                f"topk(20, max by (instance, agent, rank) (agentd:refused_object_operations{{{AGENT}}}))",
                ("instance", "agent", "rank"),
                links=[("rank", "Which object", LOG.replace("/log", "/top") + "?agent=${__data.fields.agent}")],
            )
        )
        .with_panel(
            note(
                "From a number to its records",
                "Links lead to the console of a host (`console:` in agentd.yaml), which listens on that host only: "
                "`ssh -L 9470:127.0.0.1:9470 HOST`, or set *Console* above. Without it: `agentd audit tail --agent NAME`, "
                "`agentd audit show SEQ`.",
                height=9,
            )
        )
    )


def approvals() -> Dashboard:
    waits = f"agentd:approval_wait_seconds:total{{{HOST}}}"
    answers = f"agentd:approval_answers:total{{{HOST}}}"
    return (
        board("approvals", "agentd / Approvals", "What waits for an answer, how long, and who answers.")
        .with_panel(
            number(
                "Waiting",
                "Held operations, now.",
                f"sum(agentd_approvals_pending{{{AGENT}}})",
                steps=[(None, GREEN), (1, YELLOW)],
            )
        )
        .with_panel(
            number(
                "Longest wait",
                "Of what is held now.",
                f"max(agentd_approval_oldest_seconds{{{HOST}}})",
                unit="s",
                steps=[(None, GREEN), (120, YELLOW), (600, RED)],
            )
        )
        .with_panel(
            number("Approved", SINCE, f'sum(agentd:approval_answers:total{{{HOST}, answer="approved"}}) or vector(0)')
        )
        .with_panel(
            number("Denied", SINCE, f'sum(agentd:approval_answers:total{{{HOST}, answer="denied"}}) or vector(0)')
        )
        .with_panel(
            number(
                "Expired",
                f"{SINCE} Nobody answered in time, or the process ended.",
                f'sum(agentd:approval_answers:total{{{HOST}, answer="expired"}}) or vector(0)',
            )
        )
        .with_panel(number("Median wait", SINCE, f"histogram_quantile(0.5, sum by (le) ({waits}))", unit="s"))
        .with_panel(
            lines(
                "Waiting",
                "By agent.",
                (f"sum by (agent) (agentd_approvals_pending{{{AGENT}}})", "{{agent}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Answers per second",
                "By answer.",
                (f"sum by (answer) (agentd:approval_answers:rate5m{{{HOST}}})", "{{answer}}"),
                unit="ops",
            )
        )
        .with_panel(
            bars(
                "How long answers took",
                f"{SINCE} So many took at most so long.",
                f"sum by (le) ({waits})",
                "{{le}} s",
                width=12,
            )
        )
        .with_panel(
            rows(
                "Answered by",
                f"{SINCE} The account that logged in, where there was one; `nobody`: a timeout or the end of the process; `standing`: an answer given earlier for more than once.",
                f"sum by (by, answer) ({answers})",
                ("by", "answer"),
                value="answers",
                links=[("by", "The answers", LOG + "?event=approved")],
            )
        )
    )


def enforcement() -> Dashboard:
    verified = f"agentd_enforcement_verified{{{HOST}}}"
    latency = f"sum by (le) (agentd:verdict_seconds:rate5m{{{HOST}}})"
    quantiles = [(f"histogram_quantile({q}, {latency})", f"p{q * 100:g}") for q in (0.5, 0.99, 0.999)]
    lost = f"agentd:events_lost:total{{{HOST}}}"
    return (
        board(
            "enforcement",
            "agentd / Enforcement health",
            "Is everything held, how fast, and is anything lost.",
            agents=False,
        )
        .with_panel(
            number(
                "Claims verified",
                "(operation, host) pairs that a probe has shown to be held as claimed.",
                f"sum({verified})",
            )
        )
        .with_panel(
            number(
                "Claims not verified",
                "No probe has shown them, or one has failed. After a start the probes take a while.",
                f"count({verified} == 0) or vector(0)",
                steps=[(None, GREEN), (1, YELLOW)],
            )
        )
        .with_panel(number("Failed probes", SINCE, f"sum(agentd_enforcement_failures_total{{{HOST}}})", steps=BAD))
        .with_panel(
            number(
                "Lost",
                f"{SINCE} Events and records; each loss is a record itself.",
                f"sum({lost}) or vector(0)",
                steps=BAD,
            )
        )
        .with_panel(number("Verdicts", f"{SINCE} Taken in the kernel.", f"sum(agentd_verdict_seconds_count{{{HOST}}})"))
        .with_panel(
            number(
                "Verdict, p99",
                "Over five minutes, measured in the kernel.",
                f"histogram_quantile(0.99, {latency})",
                unit="s",
            )
        )
        .with_panel(
            rows(
                "Guarantees",
                "How many hosts claim each guarantee of each operation, and so have shown it where `verified` is 1.",
                f'count by (operation, point, guarantee, verified) (label_replace({verified}, "verified", "no", "", "") == 0) or count by (operation, point, guarantee, verified) (label_replace({verified}, "verified", "yes", "", "") == 1)',
                ("operation", "point", "guarantee", "verified"),
                value="hosts",
            )
        )
        .with_panel(
            lines(
                "Verdict latency",
                "Quantiles over all hosts chosen. A bucket is a power of two, so a value is right to a factor of two.",
                *quantiles,
                unit="s",
            )
        )
        .with_panel(bars("Lost, by reason", SINCE, f"sum by (reason) ({lost})", "{{reason}}"))
        .with_panel(
            lines(
                "CPU of BPF programs",
                "The ten that take most, in CPUs. Needs `program_times: true` in agentd.yaml; without it there is nothing.",
                (f"topk(10, sum by (program) (agentd:program_seconds:rate5m{{{HOST}}}))", "{{program}}"),
                unit="percentunit",
                width=8,
            )
        )
        .with_panel(
            bars(
                "Map fill",
                "The fullest on any host. `names` forgets the oldest by design; `hits` is begun anew at three quarters; `arena` is sized for the policy and its reload.",
                f"max by (map) (agentd:map_fill:ratio{{{HOST}}})",
                "{{map}}",
                unit="percentunit",
            )
        )
        .with_panel(
            rows(
                "Policies in force",
                "How many hosts have which policy.",
                f"count by (sha256) (agentd_policy_info{{{HOST}}})",
                ("sha256",),
                value="hosts",
            )
        )
        .with_panel(
            rows(
                "Versions",
                "How many hosts run which agentd.",
                f"count by (version) (agentd_build_info{{{HOST}}})",
                ("version",),
                value="hosts",
                width=6,
            )
        )
        .with_panel(
            rows(
                "Policy loads",
                SINCE,
                f"sum by (result) (agentd_policy_reloads_total{{{HOST}}})",
                ("result",),
                value="loads",
                width=6,
            )
        )
    )


def audit() -> Dashboard:
    def gauge(name: str) -> str:
        return f"agentd_audit_{name}{{{HOST}}}"

    return (
        board(
            "audit",
            "agentd / Audit",
            "Does the log grow, is it signed, and does it reach where it should.",
            agents=False,
        )
        .with_panel(number("Records", "In all logs: the sum of their heads.", f"sum({gauge('chain_head')})"))
        .with_panel(number("Unsigned records", "No signature covers them yet.", f"sum({gauge('unsigned_records')})"))
        .with_panel(number("Signed roots", SINCE, f"sum({gauge('roots_total')})"))
        .with_panel(number("Receipts", SINCE, f"sum({gauge('receipts_total')})"))
        .with_panel(
            number("Can't write", "Hosts whose log can't be written now.", f"sum({gauge('write_failing')})", steps=BAD)
        )
        .with_panel(
            number(
                "Can't sign", "Hosts whose records are not signed now.", f"sum({gauge('signing_failing')})", steps=BAD
            )
        )
        .with_panel(
            lines(
                "Records per second",
                "How fast the heads move.",
                (f"sum(agentd:audit_records:rate5m{{{HOST}}})", "records"),
                unit="ops",
            )
        )
        .with_panel(
            lines("Written", "Bytes per second.", (f"sum(agentd:audit_bytes:rate5m{{{HOST}}})", "bytes"), unit="Bps")
        )
        .with_panel(
            rows(
                "Heads",
                "The last record of each log. The link shows it; `agentd audit verify` checks all of it.",
                f"topk(50, {gauge('chain_head')})",
                ("instance",),
                value="record",
                unit="none",
                links=[("record", "The record", "${console}/record/${__value.raw}")],
            )
        )
        .with_panel(rows("Files", "Of each log.", f"topk(50, {gauge('files')})", ("instance",), value="files"))
        .with_panel(
            rows(
                "Sent to sinks",
                SINCE,
                f"sum by (sink) ({gauge('sink_sent_total')})",
                ("sink",),
                value="records",
                width=6,
            )
        )
        .with_panel(
            rows(
                "Lost for sinks",
                f"{SINCE} The log itself has them.",
                f"sum by (sink) ({gauge('sink_lost_total')})",
                ("sink",),
                value="records",
                width=6,
            )
        )
        .with_panel(
            rows(
                "Waiting for sinks",
                "Now.",
                f"sum by (sink) ({gauge('sink_queued')})",
                ("sink",),
                value="records",
                width=6,
            )
        )
        .with_panel(
            rows(
                "Sinks that fail",
                "Hosts that can't reach it now.",
                f"sum by (sink) ({gauge('sink_failing')})",
                ("sink",),
                value="hosts",
                width=6,
            )
        )
    )


BOARDS = {"decisions": decisions, "approvals": approvals, "enforcement": enforcement, "audit": audit}
