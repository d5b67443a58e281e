"""`agentd policy diff` and `report`: policies against what the audit log says happened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agentd.audit import segments
from agentd.audit.export import Selection, select, utc
from agentd.cli.audit_paths import DEFAULT_PATH
from agentd.cli.render import as_json, printable, table
from agentd.engine import replay
from agentd.errors import EXIT_USAGE, AgentdError
from agentd.policy import resolve
from agentd.policy.resolve import ResolvedPolicy

SHOWN = 50  # lines of a table; --json has all

LOG = click.option(
    "--log",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    help=f"The audit log, or its folder [{DEFAULT_PATH}].",
)
SINCE = click.option("--since", metavar="TIME", help="Only records from then on: 2026-11-25, or RFC 3339.")
ENVIRONMENT = click.option("--environment", metavar="NAME", default="", help="With the files of this environment.")
WORKSPACE = click.option("--workspace", metavar="DIR", help="What anchors relative paths [the current directory].")
JSON = click.option("--json", "want_json", is_flag=True, help="Print JSON.")


@click.command("diff", epilog="Example: agentd policy diff /etc/agentd/policies new/ --since 2026-11-01")
@click.argument("old")
@click.argument("new")
@LOG
@SINCE
@ENVIRONMENT
@WORKSPACE
@JSON
@click.pass_context
def diff_command(
    ctx: click.Context, old: str, new: str, log: Path, since: str | None, environment: str, workspace: str | None,
    want_json: bool,
) -> None:  # fmt: skip
    """Which operations of the audit log NEW would decide otherwise than OLD. Both are files or folders.

    Each operation counts as often as it is in the log. Programs that were only counted have no arguments there: they
    are judged as the tool and operation that they were then. What was never tried can't be seen here: write cases.

    Exit: 0 nothing changes, 1 something does, 2 a file can't be read.
    """
    anchor = os.path.abspath(workspace) if workspace else os.getcwd()
    before, after = (resolve.load(file, workspace=anchor, environment=environment) for file in (old, new))
    seen = replay.operations(read_log(log, since))
    found = sorted(replay.changes(before, after, seen), key=lambda change: -change[1].count)
    if want_json:
        as_json({"operations": len(seen), "changes": [_change(*change) for change in found]})
    else:
        _print_changes(found, seen)
    ctx.exit(1 if found else 0)


Change = tuple[replay.Operation, replay.Seen, replay.Verdict, replay.Verdict]


def _change(
    operation: replay.Operation, seen: replay.Seen, was: replay.Verdict, will: replay.Verdict
) -> dict[str, Any]:
    return {
        "agent": operation.agent,
        "kernel_operation": operation.op.word,
        "summary": seen.summary,
        "count": seen.count,
        "first_seq": seen.first,
        "last_seq": seen.last,
        "recorded": sorted(seen.recorded),
        "old": {"decision": was.decision, "rule": was.rule, "tool": was.tool, "operation": was.operation},
        "new": {"decision": will.decision, "rule": will.rule, "tool": will.tool, "operation": will.operation},
    }


def _print_changes(found: list[Change], seen: dict[replay.Operation, replay.Seen]) -> None:
    total = sum(times.count for times in seen.values())
    if not found:
        click.echo(f"nothing changes for the {total} operations ({len(seen)} different) of the log")
        return
    rows = [
        (str(times.count), str(times.last), op.agent, times.summary, was.decision, will.decision, will.rule)
        for op, times, was, will in found[:SHOWN]
    ]
    table(("times", "seq", "agent", "what", "old", "new", "by rule"), rows)
    if len(found) > SHOWN:
        click.echo(f"and {len(found) - SHOWN} more; --json has all")
    changed = sum(times.count for _, times, _, _ in found)
    click.echo(
        f"{changed} of {total} operations ({len(found)} of {len(seen)} different ones) would be decided otherwise"
    )


@click.command("report", epilog="Example: agentd policy report --since 2026-11-01")
@click.option("--policy", "policy_file", metavar="FILE", help="The policy, or its folder [what agentd.yaml says].")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
@click.option("--log", type=click.Path(path_type=Path), help="The audit log, or its folder [what agentd.yaml says].")
@SINCE
@JSON
def report_command(
    policy_file: str | None, config: Path | None, log: Path | None, since: str | None, want_json: bool
) -> None:
    """How often each rule has decided, by the audit log, and which never did.

    Example: a rule that nothing has met for months is one to remove, or one that is written wrong. The operations that
    no rule covers stand at `default-deny`.
    """
    from agentd.daemon.config import read_config
    from agentd.daemon.similar import read_overlay

    settings = read_config(config)
    loaded = resolve.load(
        policy_file or settings.policy,
        workspace=settings.workspace,
        environment="" if policy_file else settings.environment,
        overlay=None if policy_file else read_overlay(settings.overlay_file),
    )
    path = log or settings.audit_dir
    hits = replay.hits(read_log(path, since))
    rows = list(_report(loaded, hits))
    never = sum(not row["count"] and row["where"] is not None for row in rows)
    if want_json:
        as_json({"policy": loaded.source, "sha256": loaded.sha256, "log": str(path), "since": since, "rules": rows})
        return
    shown = [
        (
            str(row["count"]),
            str(row["last_seq"] or "-"),
            row["agent"],
            row["rule"],
            row["decision"],
            row["where"] or "-",
        )
        for row in rows
    ]
    table(("times", "last seq", "agent", "rule", "decision", "where"), shown)
    click.echo(f"{never} of {sum(row['where'] is not None for row in rows)} rules were never met")


def _report(policy: ResolvedPolicy, hits: dict[tuple[str, str], replay.Seen]) -> Iterator[dict[str, Any]]:
    """The rules in the order they are judged, then what else decided: no rule, the guard, rules that are gone."""
    left = dict(hits)
    for agent in policy.agents.values():
        for rule in agent.rules:
            yield _row(agent.name, rule.id, rule.decision.word, rule.where, left.pop((agent.name, rule.id), None))
        for (name, rule_id), seen in sorted(left.items()):
            if name == agent.name:
                del left[name, rule_id]
                yield _row(name, rule_id, "/".join(sorted(seen.recorded)), None, seen)
    for (name, rule_id), seen in sorted(left.items()):
        yield _row(name, rule_id, "/".join(sorted(seen.recorded)), None, seen)


def _row(agent: str, rule: str, decision: str, where: str | None, seen: replay.Seen | None) -> dict[str, Any]:
    count, last = (seen.count, seen.last) if seen else (0, 0)
    return {"agent": agent, "rule": rule, "decision": decision, "where": where, "count": count, "last_seq": last}


def read_log(path: Path, since: str | None) -> Iterator[dict[str, Any]]:
    """The records of a log or of the folder that it is in. Raises AgentdError `usage`."""
    file = path / DEFAULT_PATH.name if path.is_dir() else path
    if not segments.all_of(file):
        why = "there is no audit log"
        raise AgentdError("usage", str(file), why, "name it with --log", exit_code=EXIT_USAGE)
    try:
        wanted = Selection(since=utc(since) if since else "")
        for _, record in select(file, wanted):
            yield record
    except ValueError as error:
        raise AgentdError("usage", printable(str(file)), str(error), exit_code=EXIT_USAGE) from None
