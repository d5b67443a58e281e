"""`agentd status`: what is held, by what, and how well."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from agentd.cli import render


@click.command()
@click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(socket: Path | None, as_json: bool) -> None:
    """Show workloads, the policy in force, enforcement points and counters.

    Example: agentd status --json | jq .workloads
    """
    from agentd.daemon.client import Client, find_socket

    with Client(find_socket(socket)) as client:
        found = client.call("status")
    if as_json:
        render.as_json(found)
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    policy, audit = found["policy"], found["audit"]
    click.echo(f"policy     {render.printable(policy['source'])} (sha256 {policy['sha256'][:12]})")
    click.echo(f"agents     {', '.join(policy['agents'])}")
    click.echo(f"audit      {render.printable(audit['path'])}: {audit['records']} records, head {audit['head'][:12]}")
    if audit["failed"]:
        click.echo(f"           NOT WRITING: {render.printable(audit['failed'])}")
    signing = audit.get("signing")
    if signing and signing["failed"]:
        click.echo(f"           NOT SIGNING: {render.printable(signing['failed'])}")
    elif signing and signing["key"]:
        click.echo(f"           signed by key {signing['key'][:16]}, {signing['unsigned']} records wait for it")
    for name, sink in audit.get("sinks", {}).items():
        failed = f", FAILING: {render.printable(sink['failed'])}" if sink["failed"] else ""
        click.echo(f"           {name}: {sink['sent']} sent, {sink['queued']} waiting, {sink['lost']} lost{failed}")
    if audit.get("trouble"):
        click.echo(f"           {render.printable(audit['trouble'])}")
    lost = ", ".join(f"{reason} {count}" for reason, count in found["lost"].items() if count) or "nothing"
    click.echo(f"verdicts   {found['verdicts']} in the kernel, {found['unresolved']} unresolved; lost: {lost}")
    click.echo(f"approvals  {found['approvals_pending']} pending")
    click.echo(f"probes     {_probes(found['verification'])}")
    calls = found.get("calls", {"probed": [], "unseen": []})  # an older agentd has none
    if calls["probed"]:
        click.echo(f"calls      judged in {', '.join(render.printable(one['file']) for one in calls['probed'])}")
    for one in calls["unseen"]:
        click.echo(f"           NOT SEEN: {render.printable(one['file'])} has {one['has']}")
    for low in found["below_minimum"]:
        click.echo(f"           workload {low['workload']} IS BELOW ITS MINIMUM: {render.printable(low['reason'])}")
    click.echo("")
    now = time.time()
    rows = [
        (
            str(w["workload"]),
            w["agent"],
            str(w["processes"]),
            str(w["threads"]),
            f"{now - w['started']:.0f} s",
            w["origin"],
        )
        for w in found["workloads"]
    ]
    if rows:
        render.table(("workload", "agent", "processes", "threads", "age", "started by"), rows)
    else:
        click.echo("no workloads")
    click.echo("")
    render.table(
        ("kernel operation", "point", "guarantee"),
        [(row["operation"], row["point"], row["guarantee"]) for row in found["enforcement"]],
    )


def _probes(verification: dict[str, Any]) -> str:
    if not verification["checked"]:
        return "none yet"
    failed = [row["operation"] for row in verification["operations"] if row["tried"] and not row["verified"]]
    verified = sum(row["verified"] for row in verification["operations"])
    ago = max(0.0, time.time() - verification["checked"])
    text = f"{verified} operations verified {ago:.0f} s ago"
    return f"{text}, FAILED: {', '.join(failed)}; see agentd doctor" if failed else text
