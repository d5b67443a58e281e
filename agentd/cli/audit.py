"""`agentd audit`: verify the log, look at its end, show one record.

Everything a record says may come from a workload, so nothing of it reaches a terminal unescaped. On a terminal the
output is a table; in a pipe it is one record a line, members separated by tabs; with --json one JSON object a line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from agentd.audit import chain, keys, rawbytes, reader, verify
from agentd.audit.evidence.check import looks_like_one
from agentd.audit.reader import Filter, Shown
from agentd.audit.record import EVENTS, MEMBERS
from agentd.cli.audit_export import export_command, judge_bundle
from agentd.cli.audit_keys import key_command, rotate_command
from agentd.cli.audit_paths import DEFAULT_PATH
from agentd.cli.audit_words import in_words
from agentd.cli.progress import Bar
from agentd.errors import EXIT_FAILURE, EXIT_USAGE, AgentdError
from agentd.model import Decision

COLUMNS: Final = ("seq", "time", "event", "agent", "tool/operation", "what", "rule", "action", "guarantee")
NARROW: Final = ("seq", "time", "event", "tool/operation", "what")  # what fits a terminal narrower than WIDE
WIDE: Final = 130  # characters
FOLDED: Final = frozenset({"what", "rule"})
STYLES: Final = {
    "denied": "red",
    "approval_denied": "red",
    "approval_expired": "red",
    "approval_required": "yellow",
    "approved": "green",
    "gap": "bold red",
    "policy_rejected": "bold red",
    "enforcement_failed": "bold red",
    "log_repaired": "bold yellow",
}

_path = click.argument("path", required=False, default=DEFAULT_PATH, type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def audit() -> None:
    """Read, verify and hand out the audit log.

    PATH is a log or the directory it is in (default: /var/lib/agentd/audit). The log is signed with the key in
    /var/lib/agentd/keys: give its public half, signing.pub, to whoever will verify the log, before they need it.

    Example: agentd audit tail -f
    """


def _hash(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) != 64 or value.strip("0123456789abcdef")):
        raise click.BadParameter("a hash is 64 lower-case hexadecimal digits")
    return value


@audit.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", metavar="HASH", callback=_hash, help="A hash noted earlier, which the log must still contain.")
@click.option("--count", metavar="N", type=click.IntRange(min=0), help="The least number of records it must have.")
@click.option("--strict", is_flag=True, help="Also check every record's form, every signature and receipt; slower.")
@click.option("--key", "pins", metavar="PEM", multiple=True, type=click.Path(path_type=Path), help="The public key that has to have signed: the host's signing.pub, kept elsewhere.")  # fmt: skip  # noqa: E501
@_json
@click.pass_context
def verify_command(
    context: click.Context,
    path: Path,
    head: str | None,
    count: int | None,
    strict: bool,
    pins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check that nothing in a log, or an evidence bundle, was changed, removed, added or moved.

    Works offline, in constant memory, and names the first bad place. With --key only what that key has signed, or one
    that it has led to, passes; without it nobody knows whose signatures they are. A log that is not signed can lose its
    last records unnoticed: give --head or --count then, noted earlier. Exit status: 0 all good, 1 not, 2 bad usage.

    \b
    Examples:
      agentd audit verify /var/lib/agentd/audit --key host1.pub
      agentd audit verify copy/audit.jsonl --key host1.pub --strict --json
      agentd audit verify november.json --key host1.pub
    """
    log = verify.locate(path)
    trusted = [keys.read_pin(pin) for pin in pins]
    try:
        if log.is_file() and looks_like_one(log):
            context.exit(judge_bundle(log, trusted, as_json))
        with Bar() as bar:
            result = verify.verify(log, head=head, count=count, strict=strict, progress=bar.update, pins=trusted)
    except OSError as error:
        raise AgentdError("usage", str(log), error.strerror or str(error), exit_code=EXIT_USAGE) from None
    if as_json:
        shown = {**dataclasses.asdict(result), "ok": result.ok}
        click.echo(json.dumps(shown, sort_keys=True))
    else:
        for line in _verdict(result):
            click.echo(line)
    context.exit(0 if result.ok else EXIT_FAILURE)


audit.add_command(export_command)
audit.add_command(key_command)
audit.add_command(rotate_command)


@audit.command("tail")
@_path
@click.option("-n", "--lines", "number", default=10, show_default=True, type=click.IntRange(min=0), help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records are written, until interrupted.")
@click.option("--agent", default="", help="Only this agent.")
@click.option("--event", default="", type=click.Choice(["", *EVENTS]), metavar="EVENT", help="Only this event.")
@click.option("--decision", default="", type=click.Choice(["", *(item.word for item in Decision)]), metavar="DECISION", help="Only allow, require_approval or deny.")  # fmt: skip  # noqa: E501
@click.option("--tool", default="", help="Only this tool.")
@_json
def tail_command(
    path: Path, number: int, follow: bool, agent: str, event: str, decision: str, tool: str, as_json: bool
) -> None:
    """Show the last records.

    Example: agentd audit tail -f --decision deny
    """
    log = verify.locate(path)
    wanted = Filter(agent, event, decision, tool)
    records, offset = reader.last(log, number, wanted)
    try:
        _print(records, as_json, table=not follow)
        while follow:
            for record in reader.follow(log, offset, wanted):
                _print([record], as_json, table=False)
                sys.stdout.flush()
            click.echo(f"agentd: {log}: replaced; following the new log", err=True)
            offset = 0
            while not log.exists():
                time.sleep(reader.POLL)
    except KeyboardInterrupt:
        return


@audit.command("show")
@click.argument("seq", type=click.IntRange(min=1))
@_path
@_json
def show_command(seq: int, path: Path, as_json: bool) -> None:
    """Show all of one record, by its number: in words, and then each member as it stands.

    Example: agentd audit show 42
    """
    log = verify.locate(path)
    record = reader.find(log, seq)
    if record is None:
        raise AgentdError("usage", str(log), f"there is no record {seq}", "`agentd audit tail` shows the last numbers")
    if as_json:
        _print([record], as_json=True, table=False)
        return
    known = [member for member in MEMBERS if member in record]
    rows = list(_flat({member: record[member] for member in (*known, *sorted(record.keys() - set(known)))}))
    if "unreadable" not in record:
        rows.insert(0, ("in words", in_words(record, text)))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
    if why := _damage(record):
        click.echo(f"agentd: record {seq}: {why}; run `agentd audit verify {log}`", err=True)


def text(value: Any) -> str:
    """One visible line for any value of a record, whatever it is."""
    if value is None or value == "":
        return "-"
    if isinstance(value, str):
        return rawbytes.printable(value)
    if isinstance(value, dict) and "b64" in value:
        try:
            return rawbytes.printable(rawbytes.decode(value))
        except ValueError:
            pass  # a damaged record: shown as the JSON it is
    return rawbytes.printable(json.dumps(value, ensure_ascii=False, sort_keys=True))


def row(record: Shown) -> tuple[str, ...]:
    """The cells of COLUMNS for one record."""
    if "unreadable" in record:
        return ("?", "-", "unreadable", "-", "-", text(record["unreadable"]), "-", "-", "-")
    tool, operation = record.get("tool_name"), record.get("operation")
    summary = record.get("input_summary")
    if isinstance(summary, str) and summary.isprintable() and summary:
        what = summary  # escaped when it was written: doing it again would double every backslash
    else:
        what = text(summary or record.get("reason"))
    count = record.get("count")
    return (
        text(record.get("seq")),
        text(record.get("timestamp")),
        text(record.get("event")),
        text(record.get("agent_id")),
        f"{text(tool)}/{text(operation)}" if tool or operation else "-",
        f"{what} (x{text(count)})" if count is not None else what,
        *(text(record.get(member)) for member in ("rule", "action", "guarantee")),
    )


def _print(records: Iterable[Shown], as_json: bool, *, table: bool) -> None:
    if as_json:
        for record in records:
            click.echo(json.dumps(record, sort_keys=True, separators=(",", ":")))
    elif not sys.stdout.isatty():
        for record in records:
            click.echo("\t".join(row(record)))
    elif table:
        _table(records)
    else:
        for record in records:
            cells = row(record)
            click.echo("  ".join([cells[0], cells[1], f"{cells[2]:<17}", *cells[3:]]))


def _table(records: Iterable[Shown]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    columns = COLUMNS if console.width >= WIDE else NARROW
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column, overflow="fold", no_wrap=column not in FOLDED, justify="right" if column == "seq" else "left"
        )
    for record in records:
        cells = dict(zip(COLUMNS, row(record), strict=True))
        cells["time"] = cells["time"][5:19].replace("T", " ")  # month to second; `show` has all of it
        table.add_row(*(Text(cells[column]) for column in columns), style=STYLES.get(cells["event"], ""))
    console.print(table)


def _flat(value: Shown, prefix: str = "") -> Iterable[tuple[str, str]]:
    """`process.exe` and the like, in the order given."""
    for name, inner in value.items():
        full = prefix + rawbytes.printable(str(name))
        if isinstance(inner, dict) and inner and "b64" not in inner:
            yield from _flat(inner, f"{full}.")
        elif full == "objects" and isinstance(inner, list):
            for number, row in enumerate(inner):
                yield f"{full}.{number}", text(row)
        elif isinstance(inner, list):
            yield full, "[" + ", ".join(text(item) for item in inner) + "]"
        else:
            yield full, text(inner)


def _damage(record: Shown) -> str:
    """Why a shown record can't be trusted as it stands; empty if its own hash fits."""
    try:
        body = {member: value for member, value in record.items() if member not in ("seq", "prev_hash", "hash")}
        _, link = chain.seal(body, chain.Link(record["seq"] - 1, record["prev_hash"]))
    except (ValueError, TypeError, KeyError):
        return "not a whole record"
    return "" if link.hash == record.get("hash") else "its hash doesn't fit what it says"


def _verdict(result: verify.Result) -> Iterable[str]:
    yield f"{rawbytes.printable(result.path)}: {'ok' if result.ok else 'BAD'}"
    if result.bad is not None:
        bad = result.bad
        where = f"{rawbytes.printable(bad.file)} line {bad.line}" + ("" if bad.seq is None else f", seq {bad.seq}")
        yield f"  first bad place: {where}, byte {bad.offset}: {bad.why}"
    yield f"  good:    {result.records} records, {result.size} bytes"
    yield f"  head:    {result.head}"
    for note in result.notes:
        yield f"  {note}"
