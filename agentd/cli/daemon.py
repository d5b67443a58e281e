"""`agentd daemon`: the service."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
@click.option(
    "--check", "only_check", is_flag=True, help="Say whether it would start with this configuration and policy."
)
@click.pass_context
def daemon(ctx: click.Context, config: Path | None, only_check: bool) -> None:
    """Run the service: load the policy, enforce it, answer on the socket.

    SIGHUP loads the policy again; a bad one changes nothing. SIGTERM stops the daemon; enforcement goes on from the
    pinned programs unless the configuration says on_stop: release.

    Example: agentd daemon --config /etc/agentd/agentd.yaml
    """
    from agentd.daemon.config import read_config
    from agentd.daemon.service import check, serve

    if only_check:
        made = read_config(config)
        compiled, _ = check(made)
        click.echo(f"{made.policy}: a service would start with it (sha256 {compiled.policy.sha256[:12]})")
        return
    ctx.exit(serve(read_config(config, service=True), ctx.obj))


@click.command()
@click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
def reload(socket: Path | None) -> None:
    """Make the service load its configuration and policy again; a bad one changes nothing.

    Of agentd.yaml that is what concerns the policy; it says which other keys have changed and need a restart.

    Example: agentd reload
    """
    from agentd.daemon.client import Client, find_socket

    with Client(find_socket(socket)) as client:
        result = client.call("reload")
    click.echo(f"{result['policy']} is in force (sha256 {result['sha256'][:12]})")
    if result["restart"]:
        click.echo(f"changed, and in force after a restart: {', '.join(result['restart'])}")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
@click.option("--yes", is_flag=True, help="Don't ask.")
def release(config: Path | None, yes: bool) -> None:
    """End enforcement: remove every pinned program and map. Root only; running workloads are free afterwards.

    What waits for an answer is killed. Not while the service runs.

    Example: systemctl stop agentd && agentd release --yes
    """
    from agentd.daemon import host
    from agentd.daemon.config import pins_of

    pins = pins_of(config)
    if not yes:
        click.confirm("Workloads that still run will not be held to any policy. Go on?", abort=True)
    for folder in host.release_everything(pins):
        click.echo(f"released {folder}")
