"""`agentd console`: who may use the page that the service can show."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(epilog="Example: agentd console token ann")
def console() -> None:
    """The service's page: live decisions, held operations, the log.

    It is off until agentd.yaml has `console: {}`; then it listens on 127.0.0.1:9470. From elsewhere:
    ssh -L 9470:127.0.0.1:9470 HOST.
    """


@console.command("token", epilog="Example: agentd console token ann --read-only")
@click.argument("name")
@click.option("--read-only", is_flag=True, help="It may look and not answer.")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
def token(name: str, read_only: bool, config: Path | None) -> None:
    """Make a token for an account of this host, and print it once.

    Answers given with it are recorded as that account's. Only its digest is kept, in the file of tokens: to take a
    token back, remove its line; that takes effect at once.
    """
    from agentd.daemon.config import read_config
    from agentd.daemon.console.settings import ConsoleSettings, add_token

    settings = read_config(config).console or ConsoleSettings()
    click.echo(add_token(settings.tokens, name, read_only=read_only))


@console.command("tokens", epilog="Example: agentd console tokens")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
def tokens(config: Path | None) -> None:
    """List who has a token, by the first digits of its digest."""
    from agentd.cli.render import table
    from agentd.daemon.config import read_config
    from agentd.daemon.console.settings import ConsoleSettings, read_tokens

    settings = read_config(config).console or ConsoleSettings()
    found = read_tokens(settings.tokens)
    table(("account", "digest", "may"), [(t.name, t.digest[:12], "look" if t.read_only else "answer") for t in found])
