"""`agentd config`: the service's configuration as it is in force."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agentd.cli.render import as_json, table


@click.group(epilog="Example: agentd config show")
def config() -> None:
    """Show and check the service's configuration."""


@config.command("show", epilog="Example: agentd config show --json")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Configuration file [/etc/agentd/agentd.yaml].")
@click.option("--json", "want_json", is_flag=True, help="Print JSON.")
def show(file: Path | None, want_json: bool) -> None:
    """Every setting that is in force when the service starts, and the file and line that it comes from.

    agentd.yaml comes first, then agentd.yaml.d/*.yaml in the order of their names, then those of
    agentd.yaml.d/ENVIRONMENT/. The policy's files are listed too. A mistake anywhere is an error, as for the service.
    """
    from agentd.daemon.config import read_config, settings
    from agentd.policy.source import files_of

    found = settings(file)
    made = read_config(file)
    files = [str(path) for path, _ in files_of(made.policy, made.environment)] if made.policy.exists() else []
    if want_json:
        rows = [{"key": one.key, "value": one.value, "from": one.origin or None} for one in found]
        as_json({"settings": rows, "policy_files": files})
        return
    table(("key", "value", "from"), [(one.key, _text(one.value), one.origin or "default") for one in found])
    click.echo(f"policy files: {', '.join(files) or 'none'}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
