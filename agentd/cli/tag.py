"""`agentd tag`: make running processes an agent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import click

from agentd.cli import render
from agentd.errors import AgentdError


@click.command()
@click.option("--agent", required=True, metavar="NAME", help="The agent of the service's policy.")
@click.option("--pid", type=click.IntRange(2), help="A process, with its threads and everything below it.")
@click.option("--cgroup", type=click.Path(path_type=Path), help="A cgroup2 folder and everything in and below it.")
@click.option("--unit", metavar="UNIT", help="A running systemd unit.")
@click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
@click.option("--try", "only_try", is_flag=True, help="Tag nothing: show what a tag would give, and if it is refused.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def tag(
    ctx: click.Context,
    agent: str,
    pid: int | None,
    cgroup: Path | None,
    unit: str | None,
    socket: Path | None,
    only_try: bool,
    as_json: bool,
) -> None:
    """Hold running processes to AGENT's policy, from now on.

    What they have open already stays open. Everything they start later is held too. Shows how well each
    kernel operation is held, and how well it would be had `agentd run` started them: a seccomp filter can't be put on
    a process from outside. --try shows it before anything is tagged (exit 1 if the tag would be refused). Where that is
    less than the minimum_guarantee of AGENT's policy, or a probe fails, nothing is tagged.

    Example: agentd tag --agent research_bot --try && agentd tag --agent research_bot --pid 4711
    """
    from agentd.daemon.client import Client, find_socket

    if only_try:
        with Client(find_socket(socket)) as client:
            found = client.call("tag.try", agent=agent)
        if as_json:
            render.as_json(found)
        else:
            _print(found["enforcement"])
            click.echo("")
            click.echo(f"refused    {found['refused']}" if found["refused"] else "a tag would not be refused")
        ctx.exit(1 if found["refused"] else 0)
    if sum(given is not None for given in (pid, cgroup, unit)) != 1:
        raise click.UsageError("give exactly one of --pid, --cgroup and --unit")
    if unit is not None:
        cgroup = _unit_cgroup(unit)
    with Client(find_socket(socket)) as client:
        if pid is not None:
            result = client.call("tag", agent=agent, pid=pid)
        else:
            result = client.call("tag", agent=agent, cgroup=str(cgroup))
    if as_json:
        render.as_json(result)
    else:
        click.echo(f"workload {result['workload']}: {result['threads']} threads are held to {agent}'s policy")
        if result["io_uring"]:
            click.echo(f"agentd: {result['io_uring']} of them have an io_uring: its requests are not judged", err=True)
        click.echo("")
        _print(result["enforcement"])


def _print(rows: list[dict[str, Any]]) -> None:
    render.table(
        ("kernel operation", "point", "guarantee", "verified", "if agentd run had started it"),
        [
            (
                row["operation"],
                row["point"],
                row["guarantee"],
                {True: "yes", False: "FAILED", None: "-"}[row["verified"]],
                "the same" if row["started"] == row["guarantee"] else f"{row['started']} by {row['started_point']}",
            )
            for row in rows
        ],
    )
    weaker = [row["operation"] for row in rows if row["weaker"]]
    click.echo("")
    click.echo(f"weaker than under agentd run: {', '.join(weaker) or 'nothing'}")


def _unit_cgroup(unit: str) -> Path:
    from agentd.kernel.features import cgroup2_root

    try:
        asked = subprocess.run(
            ["systemctl", "show", "--property=ControlGroup", "--value", "--", unit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise AgentdError("no-such-process", f"unit {unit}", "there is no systemctl here", "use --cgroup") from exc
    path = asked.stdout.strip()
    if asked.returncode or not path:
        raise AgentdError("no-such-process", f"unit {unit}", "it is not running", "start it first")
    return cgroup2_root() / path.lstrip("/")
