"""`agentd why`: inside a workload, what was denied last, and what would be allowed instead."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import click

from agentd.cli import render
from agentd.errors import AgentdError

VARIABLE: Final = "AGENTD_DENIALS"  # as agentd/engine/reasons.py sets it


@click.command()
@click.option("--file", type=click.Path(path_type=Path), help=f"The workload's file of denials [${VARIABLE}].")
@click.option("--all", "every", is_flag=True, help="All denials that are kept, oldest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def why(file: Path | None, every: bool, as_json: bool) -> None:
    """Inside a workload: what was denied last, by which rule, and what would be allowed instead, in two lines.

    Example: agentd why
    """
    denials = read(file)
    if not every:
        denials = denials[-1:]
    if as_json:
        render.as_json(denials if every else (denials[0] if denials else None))
        return
    if not denials:
        click.echo("nothing was denied")
    for denial in denials:
        tool = f"{denial['tool']}/{denial['operation']}"
        click.echo(render.printable(f"denied: {denial['what']} ({tool}), by rule {denial['rule']}: {denial['reason']}"))
        click.echo(render.printable(f"allowed instead: {denial['instead']}"))


def read(file: Path | None) -> list[dict[str, Any]]:
    """The denials, oldest first. Raises AgentdError `usage` when there is no file to read."""
    chosen = str(file) if file else os.environ.get(VARIABLE, "")
    if not chosen:
        hint = "for a tagged process, its file is in `agentd status --json`; give it with --file"
        raise AgentdError("usage", "agentd why", f"{VARIABLE} is not set: `agentd run` did not start this", hint)
    try:
        made = json.loads(Path(chosen).read_text(encoding="utf-8"))
        return list(made["denials"])
    except OSError as error:
        raise AgentdError("usage", chosen, (error.strerror or str(error)).lower(), "has its agentd ended?") from None
    except (ValueError, KeyError, TypeError):
        raise AgentdError("usage", chosen, "not a file of denials", "give the one that agentd wrote") from None
