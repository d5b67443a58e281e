"""`agentd run`: start a command as an agent."""

from __future__ import annotations

from pathlib import Path

import click

from agentd.cli.render import problem_line


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--agent", required=True, metavar="NAME", help="The agent of the policy that the command runs as.")
@click.option(
    "--policy", type=click.Path(path_type=Path), help="The policy file; without it the service's policy holds."
)
@click.option("--socket", type=click.Path(path_type=Path), help="The service's socket [/run/agentd/agentd.sock].")
@click.option("--state", type=click.Path(path_type=Path), help="Folder for the audit log [/var/lib/agentd/run-...].")
@click.option("--user", metavar="NAME", help="Run the command as this user.")
@click.option("--json-events", "events", type=click.Path(path_type=Path), help="Append every record to this file too.")
@click.option("--quiet", is_flag=True, help="Say nothing about held operations.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    agent: str,
    policy: Path | None,
    socket: Path | None,
    state: Path | None,
    user: str | None,
    events: Path | None,
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, and everything it starts, held to AGENT's policy by the kernel.

    With --policy, agentd carries the whole engine itself and ends it with the command; without, the service is asked.
    The exit code is the command's own; 128+N if signal N ended it; 125 if agentd could not enforce (then the command
    was not started); 126 or 127 if it could not be executed or found.

    Example: agentd run --agent coding_agent --policy coding-agent.yaml -- claude
    """
    preparation = None
    if policy is not None:
        from agentd.daemon.places import run_pins
        from agentd.kernel.prepare import Preparation

        preparation = Preparation(run_pins())  # the kernel verifies while Python imports and reads the policy
    from agentd.daemon.runner import RunRequest
    from agentd.daemon.runner import run as run_command

    def say(text: str) -> None:
        if not quiet:
            click.echo(problem_line(text), err=True)

    ctx.exit(run_command(RunRequest(agent, command, policy, state, user, events, socket), say, preparation))
