"""`agentd audit export`: records for people, programs and auditors; and what `audit verify` says about a bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import click

from agentd.audit import export, keys, rawbytes, verify
from agentd.audit.evidence import bundle, check
from agentd.audit.evidence.order import Ordered
from agentd.audit.evidence.rows import FRAMEWORKS
from agentd.audit.export import Selection
from agentd.audit.record import time_text
from agentd.cli.audit_paths import DEFAULT_PATH
from agentd.cli.progress import Bar
from agentd.errors import EXIT_FAILURE, EXIT_USAGE, AgentdError
from agentd.model import Decision

SPILL: Final = Path("/var/tmp")  # where records are sorted if the bundle goes to standard output; /tmp may be memory
FORMATS: Final = ("jsonl", "csv", "aevf")


def _moment(end: bool) -> object:
    def read(_: click.Context, __: click.Parameter, value: str | None) -> str:
        try:
            return export.utc(value, end) if value else ""
        except ValueError as error:
            raise click.BadParameter(f"{error}; write 2026-11-25 or 2026-11-25T12:00:00Z") from None

    return read


@click.command("export")
@click.argument("path", required=False, default=DEFAULT_PATH, type=click.Path(path_type=Path))
@click.option("--format", "form", default="jsonl", show_default=True, type=click.Choice(FORMATS), help="aevf: an Aegis evidence bundle.")  # fmt: skip  # noqa: E501
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file, made readable by its owner only [standard output].")  # fmt: skip  # noqa: E501
@click.option("--agent", default="", help="Only this agent.")
@click.option("--tool", default="", help="Only this tool.")
@click.option("--decision", default="", type=click.Choice(["", *(item.word for item in Decision)]), metavar="DECISION", help="Only allow, require_approval or deny.")  # fmt: skip  # noqa: E501
@click.option("--since", metavar="TIME", callback=_moment(False), help="From this day or moment on.")
@click.option("--until", metavar="TIME", callback=_moment(True), help="Up to and with this day or moment.")
@click.option("--framework", default=FRAMEWORKS[0], show_default=True, type=click.Choice(FRAMEWORKS), help="Whom a bundle is for.")  # fmt: skip  # noqa: E501
@click.option("--retention-days", type=click.IntRange(min=1), help="What a bundle says about how long records are kept [without limit].")  # fmt: skip  # noqa: E501
@click.option("--keys-dir", "folder", default=keys.FOLDER, show_default=True, type=click.Path(path_type=Path), help="The key that signs a bundle.")  # fmt: skip  # noqa: E501
def export_command(
    path: Path,
    form: str,
    output: Path | None,
    agent: str,
    tool: str,
    decision: str,
    since: str,
    until: str,
    framework: str,
    retention_days: int | None,
    folder: Path,
) -> None:
    """Write records of the log: jsonl (as they stand), csv (for a spreadsheet) or aevf (an evidence bundle).

    A bundle is signed with the host's key, so it is made on the host, of a log that verifies. The published verifier
    (pip install aegis-aevf) passes it; `agentd audit verify BUNDLE --key PEM` is stricter. A filter leaves records out,
    and the bundle says which filter it was.

    \b
    Examples:
      agentd audit export --format csv --decision deny --since 2026-11-01 > denials.csv
      agentd audit export --format aevf --since 2026-11-01 --until 2026-11-30 -o november.json
    """
    log = verify.locate(path)
    wanted = Selection(agent, decision, tool, since, until)
    try:
        if form == "aevf":
            _bundle(log, wanted, framework, retention_days, folder, output)
            return
        with _output(output) as out:
            if form == "csv":
                out.write(export.csv_header())
            for line, record in export.select(log, wanted):
                out.write(export.csv_rows(record) if form == "csv" else line.decode())
    except ValueError as error:
        hint = f"look at it with agentd audit verify {log}"
        raise AgentdError("audit-corrupt", str(log), f"it holds what is no record: {error}", hint) from None


def _bundle(
    log: Path, wanted: Selection, framework: str, retention_days: int | None, folder: Path, output: Path | None
) -> None:  # fmt: skip
    key = keys.load(folder)
    result = verify.verify(log, pins=[key.public])
    if not result.ok:
        why = f"it doesn't verify with this host's key: {result.bad.why if result.bad else ''}"
        raise AgentdError("audit-corrupt", str(log), why, f"look with agentd audit verify {log}")
    # What is not signed in the log must not be signed here.
    found = (item for item in export.select(log, wanted) if item[1]["seq"] <= result.signed)
    beside = output.parent if output is not None else SPILL
    try:
        with Ordered(found, beside) as records:
            bundle.tenant_of(records)  # before an older file is overwritten
            with _output(output) as out:
                bundle.write(
                    out, records, key, framework=framework, period=(wanted.since or None, wanted.until or None),
                    generated_at=time_text(time.time_ns()), log=result.log, selected=wanted.filters(),
                    rotations=keys.rotations(folder), retention_days=retention_days,
                )  # fmt: skip
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise AgentdError("usage", str(output or beside), why, "it needs twice the room of the bundle", exit_code=EXIT_USAGE) from None  # fmt: skip  # noqa: E501


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    try:
        path.touch(mode=0o600)
        with path.open("w", encoding="utf-8", newline="\n") as out:
            yield out
    except OSError as error:
        raise AgentdError("usage", str(path), error.strerror or str(error), exit_code=EXIT_USAGE) from None


def judge_bundle(path: Path, pins: Sequence[keys.PublicKey], as_json: bool) -> int:
    """Prints what becomes of a bundle; the exit status."""
    if not pins:
        why = "a bundle brings its key along, so without a key from elsewhere anybody can have made it"
        raise AgentdError("usage", str(path), why, "give the host's signing.pub with --key", exit_code=EXIT_USAGE)
    with Bar() as bar:
        result = check.check_file(path, pins, time.time(), bar.update)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(result), "ok": result.ok}, sort_keys=True))
        return 0 if result.ok else EXIT_FAILURE
    click.echo(f"{rawbytes.printable(str(path))}: {'ok' if result.ok else 'BAD'}")
    if not result.ok:
        click.echo(f"  first bad place: {rawbytes.printable(result.bad)}")
        return EXIT_FAILURE
    click.echo(
        f"  holds:   {result.records} records of {rawbytes.printable(result.tenant)}, {result.roots} daily roots"
    )
    click.echo(f"  period:  {result.start} to {result.end}")
    click.echo(f"  from:    log {result.log[:16]}, records {result.first} to {result.through}")
    if result.selected:
        click.echo(
            f"  to look at: not everything of that period, but what was selected: {rawbytes.printable(result.selected)}"
        )
    click.echo(
        "  checked: every row against the record that it carries, every hash and receipt, the chain of each shard"
    )
    click.echo(
        "  checked: every root rebuilt from the rows, each signed text against what stands beside it, the period"
    )
    click.echo(f"  checked: all of it is signed by key {result.kid[:16]}, which is pinned or follows a pinned one")
    click.echo("  NOT checked: that the log holds just that (agentd audit verify on the log itself)")
    return 0
