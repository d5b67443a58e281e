"""`agentd approvals`: the held operations, and their answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from agentd.cli import render
from agentd.errors import AgentdError

_SOCKET = click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FOR = click.option(
    "--for", "span", default="once", metavar="WHAT",
    help="once, process, session (until the workload ends), or a time such as 30m or 2h [once].",
)  # fmt: skip
PAGE: Final = 1000
_DURATION = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@click.group()
def approvals() -> None:
    """Answer operations that are held for approval.

    Example: agentd approvals watch
    """


@approvals.command("list")
@_SOCKET
@_JSON
def list_command(socket: Path | None, as_json: bool) -> None:
    """Show what waits for an answer.

    Example: agentd approvals list --json
    """
    with connect(socket) as client:
        found = everything(client)
        summary = client.call("approvals.summary")
    if as_json:
        render.as_json(found)
        return
    if not found:
        click.echo("nothing waits for approval")
    else:
        render.table(
            ("id", "agent", "tool/operation", "what", "waiting", "left", "by"),
            [
                (
                    held["id"],
                    held["agent"],
                    f"{held['tool']}/{held['operation']}",
                    held["words"],
                    f"{held['seconds_waiting']:.0f} s",
                    f"{held['seconds_left']:.0f} s",
                    waiting(held),
                )
                for held in found
            ],
        )
    for line in flood_lines(summary):
        click.echo(line)


def everything(client: Any) -> list[dict[str, Any]]:
    """The whole list, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = client.call("approvals.list", limit=PAGE, **({"after": found[-1]["id"]} if found else {}))
        found += page
        if len(page) < PAGE:
            return found


def waiting(held: dict[str, Any]) -> str:
    """Who waits, and who has said yes so far."""
    count = held["waiting_processes"]
    text = f"pid {held['processes'][0]}" if count == 1 and held["processes"] else f"{count} processes"
    if held["approvers"] > 1:
        text += f", {len(held['approved_by'])} of {held['approvers']} approvals"
    return text


def flood_lines(summary: dict[str, Any]) -> list[str]:
    """What was denied without a question, a line for each agent."""
    return [
        f"flood: {flood['denied']} operations of {flood['agent']} were denied unasked, because {summary['limit']} "
        f"waited already; the latest {flood['seconds_since_last']:.0f} s ago"
        for flood in summary["floods"]
    ]


@approvals.command("show")
@click.argument("number", metavar="ID")
@_SOCKET
@_JSON
def show(number: str, socket: Path | None, as_json: bool) -> None:
    """Show one held operation in full: who asks, what for, which rule, and what was answered before.

    Example: agentd approvals show 3
    """
    with connect(socket) as client:
        held = client.call("approvals.show", id=number)
    if as_json:
        render.as_json(held)
        return
    for line in details(held):
        click.echo(line)


def details(held: dict[str, Any]) -> list[str]:
    """An approval in full, as lines."""
    argv = " ".join(held["argv"])
    rule = held["rule"] + (f" at {held['rule_at']}" if held.get("rule_at") else "")
    people = f"{held['approvers']} people must" + (
        f"; so far: {', '.join(held['approved_by'])}" if held["approved_by"] else "; nobody has yet"
    )
    rows = [
        ("approval", held["id"]),
        ("agent", held["agent"]),
        ("wants to", f"{held['words']}  ({held['tool']}/{held['operation']}, risk {held['risk']})"),
        ("command", argv),
        ("program", held["exe"]),
        ("in", held["cwd"]),
        ("user", f"{held['user']} (uid {held['uid']})"),
        ("process", f"{', '.join(map(str, held['processes']))} ({held['waiting_threads']} threads wait)"),
        ("below", " < ".join(f"{a['name']} ({a['pid']})" for a in held["ancestors"])),
        ("started by", held["started_by"]),
        ("rule", rule),
        ("", held.get("rule_text") or ""),
        ("held at", f"{held['point']} ({held['guarantee']})"),
        (
            "time",
            f"waiting {held['seconds_waiting']:.0f} s, denied in {held['seconds_left']:.0f} s ({held['expires']})",
        ),
    ]
    if held["approvers"] > 1:
        rows.append(("approvers", people))
    same = held.get("same_before", {})
    if any(same.values()):
        rows.append(
            ("before", "this very action: " + ", ".join(f"{count} {word}" for word, count in same.items() if count))
        )
    for place, past in enumerate(held.get("history", ())):
        text = f"{past['time'][:19]} {past['answer']}: {past['summary']}" + (f", by {past['by']}" if past["by"] else "")
        rows.append(("earlier" if not place else "", text))
    return [f"{name:<11} {render.printable(str(value))}".rstrip() for name, value in rows if value or name]


@approvals.command("approve")
@click.argument("number", metavar="ID")
@_FOR
@click.option("--reason", default="", help="Why; it goes into the record.")
@_SOCKET
@_JSON
def approve(number: str, span: str, reason: str, socket: Path | None, as_json: bool) -> None:
    """Let a held operation go on.

    Example: agentd approvals approve 3 --for workload
    """
    _answer("approve", number, span, reason, socket, as_json)


@approvals.command("deny")
@click.argument("number", metavar="ID")
@_FOR
@click.option("--reason", default="", help="Why; it goes into the record, and to the agent.")
@_SOCKET
@_JSON
def deny(number: str, span: str, reason: str, socket: Path | None, as_json: bool) -> None:
    """Refuse a held operation: it fails with EPERM, a held program ends.

    Example: agentd approvals deny 3 --reason "not to customers"
    """
    _answer("deny", number, span, reason, socket, as_json)


@approvals.command("similar")
@click.argument("number", metavar="ID")
@click.option("--choose", type=int, metavar="N", help="Write this proposal to the overlay, and approve.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option("--reason", default="", help="Why; it goes into the record.")
@_SOCKET
@_JSON
def similar(number: str, choose: int | None, yes: bool, reason: str, socket: Path | None, as_json: bool) -> None:
    """Propose rules for operations like this one, with what each would have matched; write one when it is confirmed.

    Example: agentd approvals similar 3 --choose 2
    """
    with connect(socket) as client:
        found = client.call("approvals.similar", id=number)
        if choose is None:
            if as_json:
                render.as_json(found)
            else:
                for line in proposal_lines(found):
                    click.echo(line)
            return
        chosen = next((one for one in found["proposals"] if one["number"] == choose), None)
        if chosen is None:
            raise AgentdError(
                "usage", f"--choose {choose}", "there is no such proposal", f"see agentd approvals similar {number}"
            )
        if not yes:
            for line in proposal_lines({**found, "proposals": [chosen]}):
                click.echo(line, err=as_json)
            click.confirm("Allow this from now on?", abort=True, err=as_json)
        result = client.call("approvals.confirm", id=number, digest=chosen["digest"], reason=reason)
    if as_json:
        render.as_json(result)
    else:
        click.echo(f"{outcome(result)}; the rule stands in {render.printable(result['overlay'])}")


def proposal_lines(found: dict[str, Any]) -> list[str]:
    """Proposals, two lines each."""
    lines = []
    for one in found["proposals"]:
        counts = one["would_have_matched"]
        past = ", ".join(f"{counts[word]} {word}" for word in ("asked", "denied", "allowed") if counts.get(word))
        where = ", ".join(one["rule"].get("paths") or one["rule"].get("hosts") or ())
        rule = f"{one['rule']['tool']}/{', '.join(one['rule']['operations'])} {where}"
        lines.append(render.printable(f"{one['number']}  {one['words']}: {rule}"))
        lines.append(f"   of the last {found['records_read']} records it would have matched {past or 'nothing'}")
    return lines


@approvals.command("standing")
@_SOCKET
@_JSON
def standing(socket: Path | None, as_json: bool) -> None:
    """Show the answers that stand: for a process, a workload or a time.

    Example: agentd approvals standing
    """
    with connect(socket) as client:
        found = client.call("approvals.standing")
    if as_json:
        render.as_json(found)
    elif not found:
        click.echo("no answer stands")
    else:
        render.table(
            ("id", "agent", "answer", "for", "what", "used", "left", "by"),
            [
                (
                    one["id"],
                    one["agent"],
                    "approved" if one["allow"] else "denied",
                    {"process": f"process {one['pid']}", "workload": f"workload {one['workload']}"}.get(
                        one["scope"], "a time"
                    ),
                    one["summary"],
                    f"{one['uses']} times",
                    "" if one["seconds_left"] is None else f"{one['seconds_left']:.0f} s",
                    one["by"],
                )
                for one in found
            ],
        )


@approvals.command("revoke")
@click.argument("name", metavar="ID")
@click.option("--reason", default="", help="Why; it goes into the record.")
@_SOCKET
@_JSON
def revoke(name: str, reason: str, socket: Path | None, as_json: bool) -> None:
    """Take an answer back that stands: the next such operation is asked about again.

    Example: agentd approvals revoke s2
    """
    with connect(socket) as client:
        result = client.call("approvals.revoke", id=name, reason=reason)
    if as_json:
        render.as_json(result)
    else:
        click.echo(f"standing answer {result['standing']}: revoked; it was used {result['uses']} times")


@approvals.command("watch")
@_SOCKET
@_JSON
def watch(socket: Path | None, as_json: bool) -> None:
    """Show what waits, live, and answer with keys; --json (or a pipe) prints each change as a line.

    Example: agentd approvals watch
    """
    from agentd.cli.watch import follow, run

    with connect(socket) as client:
        if as_json or not render.on_terminal():
            follow(client)
        else:
            run(client)


def span_of(text: str) -> dict[str, Any]:
    """`--for` as parameters of the socket. Raises AgentdError `usage`."""
    text = "workload" if text == "session" else text
    if text in ("once", "process", "workload"):
        return {"scope": text}
    found = _DURATION.fullmatch(text)
    seconds = 0
    if found:
        seconds = sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    if not seconds:
        raise AgentdError(
            "usage", f"--for {text}", "neither once, process, session nor a time", "write for example 30m"
        )
    return {"scope": "time", "seconds": seconds}


def outcome(result: dict[str, Any]) -> str:
    """What came of an answer, as a line."""
    if result["answer"] == "waiting":
        return f"approval {result['id']}: approved by {result['by']}; {result['missing']} more must approve it"
    text = f"approval {result['id']}: {result['answer']}"
    if result["standing"]:
        text += f"; it stands as {', '.join(result['standing'])} (agentd approvals revoke ends it)"
    return text


def _answer(verb: str, number: str, span: str, reason: str, socket: Path | None, as_json: bool) -> None:
    params = span_of(span)
    with connect(socket) as client:
        result = client.call(f"approvals.{verb}", id=number, reason=reason, **params)
    if as_json:
        render.as_json(result)
    else:
        click.echo(outcome(result))


def connect(socket: Path | None) -> Any:
    """A connection to the agentd that is asked."""
    from agentd.daemon.client import Client, find_socket

    return Client(find_socket(socket))
