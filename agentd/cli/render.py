"""Output that every verb shares: tables on a terminal, tab-free plain columns in a pipe, JSON for programs.

Whatever came from a policy, a workload or the kernel goes through `printable` before it reaches a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from agentd.policy.reader import printable

__all__ = ["as_json", "on_terminal", "printable", "problem_line", "table"]


def on_terminal() -> bool:
    """Whether standard output is a terminal, where colours and boxes help."""
    return sys.stdout.isatty()


def as_json(value: Any) -> None:
    """Print `value` as one JSON document. Text that isn't UTF-8 stays readable as escaped surrogates."""
    click.echo(json.dumps(value, ensure_ascii=True, indent=2))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headers: with rich on a terminal, as aligned text in a pipe."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if on_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*headers, header_style="bold")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    for row in [list(headers), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def problem_line(text: str) -> str:
    """An error as one line of stderr."""
    return f"agentd: {printable(text)}"
