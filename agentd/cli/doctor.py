"""`agentd doctor`: what this host can hold, and the proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agentd.cli import render


@click.command()
@click.option("--socket", type=click.Path(path_type=Path), help="The service to ask [the usual one, if it runs].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--table", is_flag=True, help="Print what agentd promises on any host, as Markdown, and try nothing.")
@click.pass_context
def doctor(ctx: click.Context, socket: Path | None, as_json: bool, table: bool) -> None:
    """Try every kernel operation in a canary workload: which point holds it here, how well, and what is weak.

    Each is tried untagged, where it must work, and tagged as an agent that may do nothing, where it must not. A service
    that runs makes the probes with its own programs; without one, agentd loads them for as long as this takes.

    Of running workloads it shows where the library calls are judged that their policy names, and which of their
    programs hide them: TLS of Go and rustls, static programs without symbols.

    Exit: 0 when everything is prevented or contained, 1 when something is only detected, 2 when this host can't enforce
    or a probe failed.

    Example: agentd doctor --json | jq '.weak[]'
    """
    if table:
        from agentd.engine.coverage import markdown

        click.echo(markdown(), nl=False)
        return
    from agentd.daemon.doctor import examine

    found = examine(socket)
    if as_json:
        render.as_json(found)
    else:
        _print(found)
    ctx.exit(found["exit"])


def _print(found: dict[str, Any]) -> None:
    click.echo(f"hooks      {found['hooks']}: {found['note']}")
    click.echo(f"remedy     {found['remedy']}")
    click.echo(f"proof      tried just now by {found['by']}: untagged it must work, tagged it must not")
    click.echo("")
    render.table(
        ("kernel operation", "point", "guarantee", "by agentd run", "verified", "proof", "untagged", "tagged"),
        [
            (
                row["operation"],
                row["point"],
                row["guarantee"],
                "the same" if row["started"] == row["guarantee"] else f"{row['started']} by {row['started_point']}",
                _verified(row["verified"], row["tried"]),
                row["proof"],
                _time(row["untagged_us"]),
                _time(row["tagged_us"]),
            )
            for row in found["operations"]
        ],
    )
    supervised = [row for row in found["operations"] if "started_proof" in row]
    if supervised:
        click.echo("")
        click.echo("and as agentd run starts it, with its seccomp filter:")
        render.table(
            ("kernel operation", "point", "verified", "proof", "untagged", "supervised"),
            [
                (
                    row["operation"],
                    row["started_point"],
                    _verified(row["started_verified"], row["started_tried"]),
                    row["started_proof"],
                    _time(row["started_untagged_us"]),
                    _time(row["started_tagged_us"]),
                )
                for row in supervised
            ],
        )
    for workload in found.get("calls", ()):  # an older agentd tells nothing of them
        _print_calls(workload)
    for spot in found["weak"]:
        click.echo("")
        click.echo(f"weak       {'; '.join(spot['kinds'])}")
        click.echo(f"  reason   {spot['reason']}")
        click.echo(f"  remedy   {spot['remedy']}")


def _print_calls(workload: dict[str, Any]) -> None:
    some = f"{workload['looked']} of " if workload["looked"] < workload["processes"] else ""
    click.echo("")
    whose = f"workload {workload['workload']} ({workload['agent']}), {some}{workload['processes']} processes"
    click.echo(f"library calls of {whose}:")
    render.table(
        ("call", "judged in"),
        [
            (one["call"], ", ".join(map(render.printable, one["files"])) or "- (not mapped)")
            for one in workload["calls"]
        ],
    )
    for one in workload["unseen"]:
        click.echo(f"NOT SEEN   {render.printable(one['file'])} has {one['has']}")


def _verified(verified: bool, tried: bool) -> str:
    return "yes" if verified else "FAILED" if tried else "-"


def _time(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds:.0f} us"
