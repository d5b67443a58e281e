"""`agentd top`: agents, their decisions a second, and what is held, live.

Allowed operations are counted in the kernel and reach the service every ten seconds: their rate is a mean over the
looks of the last ten. What is denied or held is there at once.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from agentd.cli import render
from agentd.cli.screen import bold, cut, dim, screen

WINDOW: Final = 10.0  # seconds over which a rate is a mean: a round of the counts in the kernel
ROWS: Final = 1000  # held operations that are asked for
DECISIONS: Final = ("allow", "deny", "require_approval")
HEADERS: Final = ("agent", "workloads", "processes", "allowed/s", "denied/s", "asked/s", "allowed", "denied", "held")
Look = dict[str, Any]


class Rates:
    """What changed in the last WINDOW seconds. Pure: looks come in, each with the time it was made."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def take(self, look: Look) -> None:
        """One more look; those that are older than the window go, but for one. A service that has begun anew counts
        from 0, and so does this.
        """
        if self._looks and look["verdicts"] < self._looks[-1]["verdicts"]:
            self._looks.clear()
        self._looks.append(look)
        while len(self._looks) > 2 and self._looks[1]["seconds"] <= look["seconds"] - WINDOW:
            self._looks.popleft()

    def verdicts(self) -> float:
        """Verdicts of the kernel a second, for all agents."""
        return self._rate(self._looks[0]["verdicts"], self._looks[-1]["verdicts"])

    def agents(self) -> list[dict[str, Any]]:
        """The agents of the last look, each with `rates` a second by decision; the busiest first."""
        before = {row["agent"]: row["decisions"] for row in self._looks[0]["agents"]}
        made = []
        for row in self._looks[-1]["agents"]:
            was, now = before.get(row["agent"], {}), row["decisions"]
            rates = {word: self._rate(was.get(word, 0), now.get(word, 0)) for word in DECISIONS}
            made.append({**row, "rates": rates})
        made.sort(key=lambda row: (-row["pending"], -sum(row["rates"].values()), -row["processes"], row["agent"]))
        return made

    def _rate(self, before: int, now: int) -> float:
        seconds = self._looks[-1]["seconds"] - self._looks[0]["seconds"]
        return max(now - before, 0) / seconds if seconds > 0 else 0.0


@click.command()
@click.option("--socket", type=click.Path(path_type=Path), help="The socket to ask [the service's].")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds between two looks [1].")
@click.option("--count", type=click.IntRange(1), help="Looks before it ends [for ever; 1 if not on a terminal].")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line for each look.")
def top(socket: Path | None, interval: float, count: int | None, as_json: bool) -> None:
    """Show agents, their decisions a second and what is held, live. q ends it.

    Example: agentd top --json --count 60 | jq .agents
    """
    from agentd.daemon.client import Client, find_socket

    with Client(find_socket(socket)) as client:
        if as_json or not render.on_terminal():
            _print(client, interval, count or (None if as_json else 1), as_json)
        else:
            _live(client, interval, count)


def _looks(client: Any, interval: float, count: int | None) -> Iterator[tuple[Rates, list[dict[str, Any]]]]:
    """Rates and held operations, again and again. The first comes after two looks: one alone has no rates."""
    rates = Rates()
    rates.take(client.call("top"))
    for _ in range(count) if count else itertools.count():
        time.sleep(interval)
        yield _look(client, rates)


def _look(client: Any, rates: Rates) -> tuple[Rates, list[dict[str, Any]]]:
    rates.take(client.call("top"))
    held: list[dict[str, Any]] = client.call("approvals.list", limit=ROWS)
    return rates, held


def _print(client: Any, interval: float, count: int | None, as_json: bool) -> None:
    for rates, held in _looks(client, interval, count):
        if as_json:
            click.echo(json.dumps({"verdicts_per_second": rates.verdicts(), "agents": rates.agents(), "held": held}))
            continue
        click.echo(title(rates))
        render.table(HEADERS, [cells(row) for row in rates.agents()])
        for line in held_lines(held):
            click.echo(line)


def _live(client: Any, interval: float, count: int | None) -> None:
    rates = Rates()
    rates.take(client.call("top"))
    with screen("top") as terminal:
        for _ in range(count) if count else itertools.count():
            until = time.monotonic() + interval
            while (left := until - time.monotonic()) > 0:
                keys = terminal.keys(left)
                if keys is None or {"q", "\x03"} & {*keys}:
                    return
            _, held = _look(client, rates)
            terminal.draw(lines(rates, held, *terminal.size()))


def title(rates: Rates) -> str:
    """The first line."""
    agents = rates.agents()
    held = sum(row["pending"] for row in agents)
    running = sum(row["workloads"] for row in agents)
    return f"{running} workloads, {rates.verdicts():.0f} verdicts/s, {held} operations held"


def cells(row: dict[str, Any]) -> list[str]:
    """An agent as a row under HEADERS."""
    rates = [f"{row['rates'][word]:.1f}" for word in DECISIONS]
    totals = [str(row["decisions"].get(word, 0)) for word in DECISIONS[:2]]
    return [row["agent"], str(row["workloads"]), str(row["processes"]), *rates, *totals, str(row["pending"])]


def held_lines(held: list[dict[str, Any]]) -> list[str]:
    """What is held, the question that ends first at the top."""
    return [
        f"held {row['id']:>5} {row['agent']:<14.14} {row['seconds_left']:5.0f} s left  {row['words']}  "
        f"[{row['tool']}/{row['operation']}]"
        for row in sorted(held, key=lambda row: float(row["seconds_left"]))
    ]


def lines(rates: Rates, held: list[dict[str, Any]], width: int, height: int) -> list[str]:
    """The screen: `height` lines at most, each `width` characters at most, with ANSI attributes around them."""
    rows = [HEADERS, *(cells(row) for row in rates.agents())]
    widths = [max(len(render.printable(row[column])) for row in rows) for column in range(len(HEADERS))]
    shown = []
    for row in rows:
        first = render.printable(row[0]).ljust(widths[0])
        shown.append("  ".join([first, *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]))
    foot = dim(cut("q quit; answer what is held with agentd approvals watch", width))
    room = max(height - 4, 1)
    agents = shown[: max(room - min(len(held), room // 2), 2)]
    body = [bold(cut(agents[0], width)), *(cut(line, width) for line in agents[1:]), ""]
    body += [cut(line, width) for line in held_lines(held)[: max(room - len(agents), 0)]]
    body += [""] * (height - 2 - len(body))
    return [bold(cut(title(rates), width)), *body[: max(height - 2, 0)], foot][:height]
