"""What `agentd top` makes of the looks that it takes: rates, an order, a screen."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentd.cli import top

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def look(seconds: float, verdicts: int = 0, **agents: tuple[int, int]) -> dict[str, Any]:
    """agents: name -> (allowed, denied) so far."""
    return {
        "seconds": seconds, "policy": "0" * 64, "verdicts": verdicts,
        "agents": [
            {"agent": name, "workloads": 1, "processes": 2, "pending": 0,
             "decisions": {"allow": allowed, "deny": denied, "require_approval": 0}}
            for name, (allowed, denied) in agents.items()
        ],
    }  # fmt: skip


def held(number: int, left: float = 9.0, words: str = "connect to a") -> dict[str, Any]:
    return {"id": str(number), "agent": "bot", "seconds_left": left, "words": words, "tool": "n", "operation": "c"}


def rates(*looks: dict[str, Any]) -> top.Rates:
    made = top.Rates()
    for one in looks:
        made.take(one)
    return made


def test_rates_are_a_mean_over_ten_seconds() -> None:
    """Looks that are older no longer count, but for the last one before."""
    made = rates(look(0, 0, bot=(0, 0)), look(1, 50, bot=(30, 2)))
    assert made.verdicts() == 50 and made.agents()[0]["rates"] == {"allow": 30, "deny": 2, "require_approval": 0}
    for second in range(2, 31):
        made.take(look(second, 50, bot=(30, 2)))
    assert made.verdicts() == 0 and made.agents()[0]["rates"]["allow"] == 0
    assert made.agents()[0]["decisions"]["allow"] == 30


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_one_moment_has_no_rate(seconds: float) -> None:
    """A single look, and two of the same moment, give 0 and no error."""
    assert rates(look(seconds, 9)).verdicts() == 0
    assert rates(look(seconds, 9), look(seconds, 20)).verdicts() == 0


def test_a_service_that_began_anew_counts_from_there() -> None:
    """Smaller totals are those of another agentd: no negative rate, and none from before."""
    made = rates(look(0, 900, bot=(900, 0)), look(1, 10, bot=(5, 0)), look(2, 30, bot=(15, 0)))
    assert made.verdicts() == 20 and made.agents()[0]["rates"]["allow"] == 10


def test_an_agent_that_comes_and_one_that_goes() -> None:
    """What wasn't there at the first look began at 0; what isn't there any more isn't shown."""
    made = rates(look(0, 0, old=(9, 9)), look(1, 0, new=(3, 0)))
    assert [(row["agent"], row["rates"]["allow"]) for row in made.agents()] == [("new", 3)]


def test_the_busiest_stands_first() -> None:
    """Held operations before rates before processes before names."""
    first, second = look(0, 0, a=(0, 0), b=(0, 0), c=(0, 0)), look(1, 0, a=(0, 0), b=(0, 0), c=(5, 0))
    second["agents"][1]["pending"] = 1
    assert [row["agent"] for row in rates(first, second).agents()] == ["b", "c", "a"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (30, 8), (20, 3), (200, 60)])
def test_the_screen_fits(width: int, height: int) -> None:
    """Never more lines or characters than there is room for, whatever a workload has put into its words."""
    agents = {f"agent{number}": (number, 0) for number in range(30)}
    rows = [held(number, 100.0 - number, "exec \x1b[2J\n" + "x" * 300) for number in range(50)]
    drawn = top.lines(rates(look(0, 0, **agents), look(1, 0, **agents)), rows, width, height)
    plain = [ANSI.sub("", line) for line in drawn]
    assert len(drawn) <= height and max(map(len, plain)) <= width
    assert all(line.isprintable() for line in plain)
    if height > 10:
        assert any(line.startswith("agent0 ") for line in plain)
        first = next(line for line in plain if line.startswith("held"))
        assert first.startswith("held    49"), "the one that ends first"
