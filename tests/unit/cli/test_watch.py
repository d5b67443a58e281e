"""The live view of approvals: which key asks for what, and that nothing a workload chose reaches the terminal raw."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.cli.approvals import span_of
from agentd.cli.screen import keys_of
from agentd.cli.watch import HELP, View
from agentd.errors import AgentdError


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": str(number), "agent": "bot", "tool": "network", "operation": "connect", "words": f"connect to {number}",
        "seconds_left": 60.0, "waiting_processes": 1, "processes": [number], "approvers": 1, "approved_by": [],
        "latest_hold": number + 100, **more,
    }  # fmt: skip


def view(*rows: dict[str, Any], now: float = 0.0) -> View:
    made = View()
    made.take(list(rows), {"floods": [], "limit": 9, "standing": 0}, now)
    return made


def test_keys_answer_what_is_marked_and_shown() -> None:
    """a, p and s (or w) approve the marked question, up to the latest hold on the screen; r proposes a rule."""
    made = view(row(1), row(2))
    assert made.key("a", 9) == ("approvals.approve", {"id": "1", "upto": 101, "scope": "once"})
    made.key("j", 9)
    assert made.key("p", 9) == ("approvals.approve", {"id": "2", "upto": 102, "scope": "process"})
    made.key("j", 9)
    for session in "sw":
        assert made.key(session, 9) == ("approvals.approve", {"id": "2", "upto": 102, "scope": "workload"})
    assert made.key("r", 9) == ("approvals.similar", {"id": "2"})
    assert len(HELP) <= 79 and "s session" in HELP
    made.key("k", 9)
    assert made.key("\r", 9) == ("approvals.show", {"id": "1"})
    assert made.key("q", 9) == ("quit", {}) and made.key("z", 9) is None


def test_a_reason_and_a_time_are_typed() -> None:
    """d asks why, t asks how long; escape gives up, a mistake is shown."""
    made = view(row(1))
    for key in ("d", "n", "o", "x", "\x7f", "q"):
        assert made.key(key, 9) is None
    assert made.key("\r", 9) == ("approvals.deny", {"id": "1", "upto": 101, "reason": "noq"})
    for key in "t2h":
        made.key(key, 9)
    assert made.key("\r", 9) == ("approvals.approve", {"id": "1", "upto": 101, "scope": "time", "seconds": 7200})
    made.key("t", 9)
    assert made.key("\x1b", 9) is None and made.prompt is None
    for key in "tx":
        made.key(key, 9)
    assert made.key("\r", 9) is None and "neither once" in made.message


def test_no_key_answers_what_came_under_it() -> None:
    """When the marked question goes away, the mark moves, and for a moment no key answers."""
    made = view(row(1), row(2))
    made.take([row(2)], made.summary, 10.0)
    assert made.marked == "2" and made.key("a", 10.1) is None and "just changed" in made.message
    assert made.key("a", 11.0) is not None
    for key in "dxy":
        made.key(key, 11.0)
    made.take([row(3)], made.summary, 12.0)
    assert made.prompt is None  # what was being typed was about another question
    made.take([], made.summary, 13.0)
    assert made.row() is None and made.key("a", 20.0) is None


def test_what_a_workload_chose_is_shown_as_characters() -> None:
    """No escape sequence of a command line, and no line longer than the screen, is written."""
    bad = "run \x1b[2Jx\x07\r\n" + "y" * 500
    made = view(row(1, words=bad, agent="\x1b]0;t\x07"), row(2))
    made.key("j", 9)
    lines = made.lines(40, 8)
    assert len(lines) == 8
    for line in lines:
        plain = line
        for code in ("\x1b[1m", "\x1b[2m", "\x1b[7m", "\x1b[0m"):
            plain = plain.replace(code, "")
        assert plain.isprintable() and len(plain) <= 40
    assert made.lines(5, 3) and view().lines(80, 24)[2] == "nothing waits"


def test_ten_thousand_rows_fit_a_screen() -> None:
    """Only what fits is drawn, and the mark is among it."""
    made = view(*(row(number) for number in range(1, 10_001)))
    for _ in range(5000):
        made.key("j", 9)
    lines = made.lines(100, 24)
    assert len(lines) == 24 and any("\x1b[7m" in line and " 5001 " in line for line in lines)


def test_keys() -> None:
    """Arrows move, other sequences are nothing, text is its characters."""
    assert keys_of(b"\x1b[A") == ["k"] and keys_of(b"\x1b[B") == ["j"] and keys_of(b"\x1b[5~") == []
    assert keys_of("aé".encode()) == ["a", "é"] and keys_of(b"\x1b") == ["\x1b"]


def test_for() -> None:
    """--for takes a scope or a time, and nothing else."""
    assert span_of("workload") == {"scope": "workload"} and span_of("1h30m") == {"scope": "time", "seconds": 5400}
    for text in ("", "0s", "soon", "5", "h", "time"):
        with pytest.raises(AgentdError, match="neither once"):
            span_of(text)
