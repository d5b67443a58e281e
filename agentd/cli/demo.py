"""`agentd demo`: the story of agentd/demo, told on a terminal or in a pipe."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import click

from agentd.cli import render

# What the table shows besides everything that was refused, held or answered.
ALLOWED_TOOLS: Final = ("web_search", "email")
COLOURS: Final = {"kernel": "yellow", "policy": "yellow", "pending": "cyan", "answer": "cyan"}


class Teller:
    """Prints the steps; colours only on a terminal."""

    def step(self, text: str) -> None:
        """A new attempt."""
        click.echo("")
        click.secho(render.printable(text), bold=True)

    def line(self, label: str, text: str, good: bool | None = None) -> None:
        """One fact."""
        mark = {True: click.style("ok ", fg="green"), False: click.style("BAD", fg="red", bold=True), None: "   "}[good]
        click.echo(f"  {mark} {click.style(f'{label:<8}', fg=COLOURS.get(label))} {render.printable(text)}")


@click.command()
@click.option("--state", type=click.Path(path_type=Path), help="Folder for the audit log [/var/lib/agentd/demo-...].")
@click.pass_context
def demo(ctx: click.Context, state: Path | None) -> None:
    """Play the whole story on this host: what an agent may do, must ask for, and is kept from.

    The agent is an ordinary script in a temporary folder, its servers are on free ports of 127.0.0.1, and everything
    but the audit log is gone afterwards. Exit status: 0 if each step went as it should, 1 if not. Needs root.

    Example: agentd demo
    """
    from agentd.demo.servers import Servers
    from agentd.demo.stage import Stage
    from agentd.demo.story import AGENT_PYTHON, Run, Story
    from agentd.errors import AgentdError
    from agentd.kernel.features import require_host

    require_host()
    if not os.access(AGENT_PYTHON, os.X_OK):
        raise AgentdError("command-not-found", AGENT_PYTHON, "the demo's agent needs it", "apt-get install python3")
    begun = time.monotonic()
    state = (state or Path(f"/var/lib/agentd/demo-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")).absolute()
    with Servers() as servers, Stage() as stage:
        click.echo(f"agent     {AGENT_PYTHON} agent.py: plain Python, imports nothing of agentd")
        click.echo(f"policy    {stage.policy}, the rules of aegize's README")
        with Run(stage, servers, state, _ask) as run:
            good = Story(stage, servers, run, Teller()).play()
            rows = run.records()
        good &= _trail(rows, run.log, stage.folder)
    took = f"{time.monotonic() - begun:.1f} s"
    click.echo("")
    if good:
        click.secho(f"Everything went as it should, in {took}.", fg="green", bold=True)
    else:
        click.secho(f"NOT everything went as it should ({took}): see the lines marked BAD.", fg="red", bold=True)
    ctx.exit(0 if good else 1)


def _ask(pid: int, method: str, params: dict[str, Any]) -> Any:
    from agentd.daemon.client import SERVICE_SOCKET, Client

    with Client(SERVICE_SOCKET.parent / f"run-{pid}.sock") as client:
        return client.call(method, **params)


def _trail(rows: list[dict[str, Any]], log: Path, folder: Path) -> bool:
    """The audit trail as a table, and whether it verifies, and a changed copy doesn't."""
    from agentd.audit import keys, verify
    from agentd.demo.story import tampered

    teller = Teller()
    teller.step("The audit trail")
    told = [row for row in rows if row["event"] != "allowed" or row["tool_name"] in ALLOWED_TOOLS]
    render.table(
        ("seq", "event", "tool/operation", "what", "rule", "action", "guarantee"),
        [
            (
                str(row["seq"]),
                row["event"],
                f"{row['tool_name']}/{row['operation']}" if row["tool_name"] else "-",
                row["input_summary"] or row["reason"],
                row["rule"] or "-",
                row["action"] or "-",
                row["guarantee"] or "-",
            )
            for row in told
        ],
    )
    counted = sum(row["count"] or 0 for row in rows if row["event"] == "allowed" and row not in told)
    click.echo(f"and {len(rows) - len(told)} summaries of {counted} other operations that were allowed")
    click.echo("")
    key = keys.load(keys.FOLDER).public
    result, changed = verify.verify(log, pins=[key]), tampered(log, folder)
    whole = result.ok and result.records == len(rows) and result.unsigned == 0
    teller.line("verify", f"{result.records} records, signed by key {key.kid[:16]}, head {result.head}", whole)
    bad = f"line {changed.bad.line}: {changed.bad.why.partition(':')[0]}" if changed.bad else "not found"
    teller.line("verify", f"a copy with one decision rewritten is refused: {bad}", not changed.ok)
    click.echo(f"  log: {render.printable(str(log))}; look with: agentd audit tail {render.printable(str(log))}")
    return whole and not changed.ok
