"""`agentd audit rotate-key` and `agentd audit key`: the key that signs the log."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from agentd.audit import keys
from agentd.audit.record import time_text

_folder = click.option(
    "--keys-dir", "folder", default=keys.FOLDER, show_default=True, type=click.Path(path_type=Path), help="Where it is."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("key")
@_folder
@_json
def key_command(folder: Path, as_json: bool) -> None:
    """Show the public key that signs the log, made at the first use: what an auditor gives to verify --key.

    Example: agentd audit key > host1.pub
    """
    public = keys.load(folder).public
    if as_json:
        click.echo(json.dumps({"key": public.kid, "pem": public.pem}, sort_keys=True))
        return
    click.echo(public.pem, nl=False)
    click.echo(f"fingerprint {public.kid}", err=True)


@click.command("rotate-key")
@_folder
@_json
def rotate_command(folder: Path, as_json: bool) -> None:
    """Replace the key that signs the log by a new one, which the old one signs; the old one is destroyed.

    A running agentd takes the new key within a second or two and says so in the log. Who has the old public key can go
    on verifying with it; give them the new one when you can.

    Example: agentd audit rotate-key
    """
    old, new = keys.rotate(folder, time_text(time.time_ns()))
    if as_json:
        click.echo(json.dumps({"old": old.kid, "new": new.kid, "pem": new.pem}, sort_keys=True))
        return
    click.echo(f"old key  {old.kid}")
    click.echo(f"new key  {new.kid}")
    click.echo(f"public   {folder / keys.PUBLIC}")
