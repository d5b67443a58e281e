"""`agentd approvals`: the held operations, and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agentd.cli import render

_SOCKET = click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def approvals() -> None:
    """Answer operations that are held for approval.

    Example: agentd approvals list
    """


@approvals.command("list")
@_SOCKET
@_JSON
def list_command(socket: Path | None, as_json: bool) -> None:
    """Show what waits for an answer.

    Example: agentd approvals list --json
    """
    found = _call(socket, "approvals.list")
    if as_json:
        render.as_json(found)
    elif not found:
        click.echo("nothing waits for approval")
    else:
        render.table(
            ("id", "agent", "tool/operation", "what", "waiting", "left"),
            [
                (
                    held["id"],
                    held["agent"],
                    f"{held['tool']}/{held['operation']}",
                    held["summary"],
                    f"{held['seconds_waiting']:.0f} s",
                    f"{held['seconds_left']:.0f} s",
                )
                for held in found
            ],
        )


@approvals.command("show")
@click.argument("number", metavar="ID")
@_SOCKET
@_JSON
def show(number: str, socket: Path | None, as_json: bool) -> None:
    """Show one held operation in full.

    Example: agentd approvals show 3
    """
    held = _call(socket, "approvals.show", id=number)
    if as_json:
        render.as_json(held)
        return
    for name, value in (
        ("approval", held["id"]),
        ("agent", held["agent"]),
        ("wants", f"{held['tool']}/{held['operation']}: {held['summary']}"),
        ("command", " ".join(held["argv"])),
        ("program", held["exe"]),
        ("in", held["cwd"]),
        ("user", f"uid {held['uid']}"),
        ("process", ", ".join(map(str, held["processes"])) + f" ({held['waiting_threads']} threads wait)"),
        ("below", " < ".join(f"{a['name']} ({a['pid']})" for a in held["ancestors"])),
        ("started by", held["started_by"]),
        ("rule", held["rule"]),
        ("held at", f"{held['point']} ({held['guarantee']})"),
        ("time", f"waiting {held['seconds_waiting']:.0f} s, denied in {held['seconds_left']:.0f} s"),
    ):
        click.echo(f"{name:<11} {render.printable(str(value))}")


@approvals.command("approve")
@click.argument("number", metavar="ID")
@_SOCKET
@_JSON
def approve(number: str, socket: Path | None, as_json: bool) -> None:
    """Let a held operation go on, once.

    Example: agentd approvals approve 3
    """
    _answer("approve", number, "", socket, as_json)


@approvals.command("deny")
@click.argument("number", metavar="ID")
@click.option("--reason", default="", help="Why; it goes into the record.")
@_SOCKET
@_JSON
def deny(number: str, reason: str, socket: Path | None, as_json: bool) -> None:
    """Refuse a held operation: it fails with EPERM, a held program ends.

    Example: agentd approvals deny 3 --reason "not to customers"
    """
    _answer("deny", number, reason, socket, as_json)


def _answer(verb: str, number: str, reason: str, socket: Path | None, as_json: bool) -> None:
    result = _call(socket, f"approvals.{verb}", id=number, reason=reason)
    if as_json:
        render.as_json(result)
    else:
        click.echo(f"approval {result['id']}: {result['answer']}")


def _call(socket: Path | None, method: str, **params: Any) -> Any:
    from agentd.daemon.client import Client, find_socket

    with Client(find_socket(socket)) as client:
        return client.call(method, **params)
