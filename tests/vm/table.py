"""What the guests reported, as tables: point x row over the arms, and what the verifier had to do for each program.

A report is a JSON object a line:
{"kind": "row", "row": NAME, "point": POINT, "result": WORD, "seconds": S, "detail": TEXT}
{"kind": "program", "object": FILE, "program": NAME, "instructions": N or null, "error": TEXT}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.vm.boot import Outcome


def parse(lines: str) -> list[dict[str, Any]]:
    """The reports; a line that a crash cut short is left out, the arm has failed anyway."""
    found = []
    for line in lines.splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            found.append(report)
    return found


def grid(corner: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Plain text, each column as wide as its widest cell."""
    cells = [[corner, *columns], *([name, *values] for name, values in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns) + 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def render(outcomes: Sequence[Outcome]) -> str:
    """Both tables, and a line about every arm."""
    arms = [outcome.arm.name for outcome in outcomes]
    reports = {outcome.arm.name: parse(outcome.reports) for outcome in outcomes}
    results: dict[str, dict[str, str]] = {}
    programs: dict[str, dict[str, str]] = {}
    for arm, found in reports.items():
        for report in found:
            if report.get("kind") == "row":
                results.setdefault(f"{report['point']}  {report['row']}", {})[arm] = str(report["result"])
            elif report.get("kind") == "program":
                count = report["instructions"]
                shown = "REFUSED" if count is None else f"{count:,}"
                programs.setdefault(f"{report['object']} {report['program']}", {})[arm] = shown
    parts = []
    if programs:
        parts.append("Instructions the verifier processed\n\n" + grid("program", arms, _filled(programs, arms)))
    if results:
        parts.append("Results\n\n" + grid("point  row", arms, _filled(results, arms)))
    ends = [
        (o.arm.name, ["ok" if o.passed else "FAILED", f"{o.seconds:.0f} s", str(len(o.problems))]) for o in outcomes
    ]
    parts.append(grid("arm", ["end", "time", "problems"], ends))
    return "\n" + "\n\n".join(parts)


def _filled(table: dict[str, dict[str, str]], arms: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [(name, [values.get(arm, "-") for arm in arms]) for name, values in table.items()]
