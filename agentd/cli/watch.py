"""`agentd approvals watch`: what waits, live, with keys; or each change as a JSON line.

Everything that a workload chose (commands, paths) is shown as visible characters only. A key answers the question that
is marked, by its number and up to what is on the screen (`upto`): what joins it in that moment stays a question. When
the marked question goes away by itself the mark moves, and for a moment no key answers.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import click

from agentd.cli.approvals import details, everything, flood_lines, outcome, proposal_lines, span_of, waiting
from agentd.cli.screen import bold, cut, dim, reverse, screen
from agentd.errors import AgentdError

POLL_SECONDS: Final = 0.2
MOVED_SECONDS: Final = 0.8  # after the mark has moved by itself no key answers
HELP: Final = "a once  s session  p process  t time  r rule  d deny  enter show  j/k  q quit"
SCOPES: Final = {"a": "once", "p": "process", "s": "workload", "w": "workload"}  # a session is a workload, to its end
Row = dict[str, Any]


def follow(client: Any) -> None:
    """Prints a line for each question that comes or goes."""
    known: dict[str, Row] = {}
    version = -1
    while True:
        summary = client.call("approvals.wait", version=max(version, 0), seconds=30)
        if summary["version"] == version:
            continue
        version = summary["version"]
        rows = {row["id"]: row for row in everything(client)}
        for number, row in rows.items():
            if number not in known:
                click.echo(json.dumps({"event": "asked", **row}))
        for number in known.keys() - rows.keys():
            click.echo(json.dumps({"event": "closed", "id": number}))
        sys.stdout.flush()
        known = rows


class View:
    """What is on the screen. Pure: rows and keys come in, lines and answers go out."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.summary: dict[str, Any] = {"floods": [], "limit": 0, "standing": 0}
        self.marked = ""
        self.message = ""
        self.details: list[str] | None = None
        self.proposals: dict[str, Any] = {}
        self.prompt: tuple[str, str] | None = None  # (what for, what was typed so far)
        self._moved = float("-inf")

    def take(self, rows: list[Row], summary: dict[str, Any], now: float) -> None:
        """The list as it is now. now: seconds of any clock."""
        numbers = [row["id"] for row in rows]
        if self.marked not in numbers:
            if self.marked:
                self._moved = now
                self.details = None
                self.prompt = None
            place = next((at for at, row in enumerate(self.rows) if row["id"] == self.marked), 0)
            self.marked = numbers[min(place, len(numbers) - 1)] if numbers else ""
        self.rows, self.summary = rows, summary

    def row(self) -> Row | None:
        """The marked question."""
        return next((row for row in self.rows if row["id"] == self.marked), None)

    def key(self, key: str, now: float) -> tuple[str, dict[str, Any]] | None:
        """A key; (method, parameters) if it asks for something. `quit` is a method too."""
        if self.prompt is not None:
            return self._typed(key)
        if key in ("q", "\x03"):
            return ("quit", {})
        if key in ("j", "k"):
            self._move(1 if key == "j" else -1)
            return None
        if key == "\x1b":
            self.details = None
            return None
        row = self.row()
        if row is None:
            return None
        if key in ("\r", "\n", " "):
            if self.details is None:
                return ("approvals.show", {"id": row["id"]})
            self.details = None
            return None
        if key in "apswtd" and now - self._moved < MOVED_SECONDS:
            self.message = "the list has just changed: look again"
            return None
        if key in SCOPES:
            return ("approvals.approve", {**self._which(row), "scope": SCOPES[key]})
        if key == "r":
            return ("approvals.similar", {"id": row["id"]})
        if key == "t":
            self.prompt = ("for how long (30m, 2h)", "")
        elif key == "d":
            self.prompt = ("denied because", "")
        return None

    def _typed(self, key: str) -> tuple[str, dict[str, Any]] | None:
        assert self.prompt is not None
        title, text = self.prompt
        row = self.row()
        if key in ("\x1b", "\x03") or row is None:
            self.prompt = self.details = None
        elif key in ("\x7f", "\b"):
            self.prompt = (title, text[:-1])
        elif key in ("\r", "\n"):
            self.prompt = None
            if title.startswith("write"):
                self.details = None
                chosen = [one for one in self.proposals["proposals"] if str(one["number"]) == text]
                if chosen and self.proposals["id"] == row["id"]:
                    return ("approvals.confirm", {"id": row["id"], "digest": chosen[0]["digest"]})
                self.message = "nothing written"
                return None
            if title.startswith("denied"):
                return ("approvals.deny", {**self._which(row), "reason": text})
            try:
                return ("approvals.approve", {**self._which(row), **span_of(text or "1h")})
            except AgentdError as error:
                self.message = str(error)
        elif key.isprintable():
            self.prompt = (title, text + key)
        return None

    def _which(self, row: Row) -> dict[str, Any]:
        return {"id": row["id"], "upto": row["latest_hold"]}

    def _move(self, step: int) -> None:
        self.details = None
        numbers = [row["id"] for row in self.rows]
        if self.marked in numbers:
            self.marked = numbers[max(0, min(len(numbers) - 1, numbers.index(self.marked) + step))]

    def lines(self, width: int, height: int) -> list[str]:
        """The screen, `height` lines at most, each `width` characters at most, with ANSI attributes around them."""
        title = f"{len(self.rows)} waiting for approval, {self.summary['standing']} answers stand"
        top = [bold(cut(title, width))] + [cut(line, width) for line in flood_lines(self.summary)[:3]]
        foot = [cut(self.message, width), dim(cut(HELP, width))]
        if self.prompt is not None:
            foot = [cut(f"{self.prompt[0]}: {self.prompt[1]}_", width), dim(cut("enter sends, escape gives up", width))]
        room = height - len(top) - len(foot) - 1
        body = [cut(line, width) for line in self.details] if self.details is not None else self._list(width, room)
        body = body[: max(room, 0)]
        return [*top, "", *body, *[""] * (room - len(body)), *foot][:height]

    def _list(self, width: int, room: int) -> list[str]:
        if not self.rows:
            return ["nothing waits"]
        place = next((at for at, row in enumerate(self.rows) if row["id"] == self.marked), 0)
        first = max(0, min(place - room // 2, len(self.rows) - room))
        found = []
        for row in self.rows[first : first + max(room, 0)]:
            left = f"{row['seconds_left']:.0f} s"
            text = f"{row['id']:>5} {row['agent']:<14.14} {left:>7}  {row['words']}  [{row['tool']}/{row['operation']}"
            text = cut(f"{text}, {waiting(row)}]", width)
            found.append(reverse(text.ljust(width)) if row["id"] == self.marked else text)
        return found


def run(client: Any) -> None:
    """The live view, until q."""
    view = View()
    with screen("approvals watch") as terminal:
        version = None
        fetched = float("-inf")
        while True:
            now = time.monotonic()
            if now - fetched >= POLL_SECONDS:
                fetched = now
                summary = client.call("approvals.summary")
                if summary["version"] != version or view.rows:
                    view.take(everything(client), summary, now)
                    version = summary["version"]
            terminal.draw(view.lines(*terminal.size()))
            keys = terminal.keys(POLL_SECONDS)
            if keys is None:
                return
            for key in keys:
                if not _do(client, view, key):
                    return
                fetched = float("-inf")


def _do(client: Any, view: View, key: str) -> bool:
    """What a key asks for; False: to end."""
    view.message = ""
    wanted = view.key(key, time.monotonic())
    if wanted is None:
        return True
    method, params = wanted
    if method == "quit":
        return False
    try:
        result = client.call(method, **params)
    except AgentdError as error:
        if error.code == "service-unreachable":
            raise
        view.message = str(error)
        return True
    if method == "approvals.show":
        view.details = details(result)
    elif method == "approvals.similar":
        view.proposals, view.details = result, proposal_lines(result)
        view.prompt = ("write rule number", "")
    else:
        view.message = outcome(result)
    return True
