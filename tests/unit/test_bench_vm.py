"""The pure parts of ./dev bench --vm: what is made of the guest's figures, and what of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.model import Decision
from agentd.policy import resolve
from tests.bench.vm import __main__ as command
from tests.bench.vm import arms, figures


def run(**tagged: int) -> dict[str, Any]:
    """Two rounds, in which an operation takes 1,000 and 1,010 bare, and so much more when tagged."""
    reports: list[dict[str, Any]] = [{"kind": "service", "resident": 1}, {"kind": "program", "program": "x"}]
    for number, base in enumerate((1000, 1010)):
        for name, more in tagged.items():
            name = name.replace("_", "-")
            for arm, cost in (("bare", base), ("bystander", base), ("tagged", base + more), ("many", base + more)):
                entry = {"kind": "figure", "round": number, "arm": arm, "operation": name, "inline": cost}
                reports.append({**entry, "whole": cost + 7})
    return figures.document(reports, commit="abc", kernel="6.12", point="lsm", rounds=2)


def test_what_is_added_is_counted_round_by_round() -> None:
    """An arm is compared with the bare arm of its own round; the spread is of the rounds themselves."""
    found = run(open3=500)
    assert figures.added(found, "open3", "tagged") == 500
    assert figures.added(found, "open3", "bystander") == 0
    assert figures.added(found, "open3", "run") is None
    assert figures.spread(found, "open3") == 10


def test_what_is_above_its_target_stands_in_brackets() -> None:
    """501 instructions for an open that may take 500 are marked, 500 are not."""
    assert "[501]" in figures.table(run(open3=501))
    assert "[" not in figures.table(run(open3=500))


def test_a_first_meeting_has_its_own_target() -> None:
    """An open of something new may take 4,000."""
    assert "[" not in figures.table(run(open3_first=4000))
    assert "[4,001]" in figures.table(run(open3_first=4001))


def test_every_operation_has_a_figure_of_each_other_system() -> None:
    """A row of the others' figures is as long as the list of operations, and every operation has a target."""
    assert {len(cells) for cells in figures.PEERS.values()} == {len(arms.OPERATIONS)}
    assert {operation.name for operation in arms.OPERATIONS} == figures.TARGETS.keys()
    assert "AegisBPF" in figures.render(run(open3=1))


def test_two_runs_are_shown_side_by_side() -> None:
    """The difference is what the second one adds more."""
    shown = figures.compare(run(open3=900), run(open3=450))
    assert "-450" in shown
    assert "A: abc, 6.12 (lsm)" in shown


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """One line says so, and how to make one."""
    (tmp_path / "x").write_text(json.dumps({"figures": {}}))
    for name in ("x", "missing"):
        with pytest.raises(SystemExit, match=r"not a kept run.*--json FILE"):
            command.load(tmp_path / name)


def test_the_agents_have_as_many_rules_as_they_are_named_for(tmp_path: Path) -> None:
    """10 and 10,000 rules that deny, and the shipped tools are allowed."""
    arms.write_policy(tmp_path / "policy.yaml")
    agents = resolve.load(tmp_path / "policy.yaml", workspace="/").agents
    refusing = {
        name: [rule for rule in agent.rules if rule.decision is Decision.DENY] for name, agent in agents.items()
    }
    assert {name: len(rules) for name, rules in refusing.items()} == {"few": 10, "many": 10_000}
