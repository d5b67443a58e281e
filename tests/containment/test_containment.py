"""Every row of the containment catalogue, run once on this host; run.py is the same without pytest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containment import run
from tests.containment.suite import Finding

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def findings() -> Iterator[list[Finding]]:
    """What came of every probe."""
    yield run.run(set(run.ROWS))


@pytest.mark.parametrize("row", run.ROWS)
def test_row(findings: list[Finding], row: int) -> None:
    """Every probe of the row has its effect untagged, and tagged the outcome that is promised."""
    found = [finding for finding in findings if finding.row == row]
    assert len(found) == sum(probe.row == row for probe in run.PROBES)
    bad = [f"{finding.probe}: {finding.outcome}: {finding.problem}" for finding in found if finding.problem]
    assert not bad, "\n".join(bad)


def test_the_tables_are_what_the_status_says(findings: list[Finding]) -> None:
    """`agentd status` claims what the suite checks, and every known gap is one of its probes."""
    assert not [finding.problem for finding in findings if not finding.row]


def test_a_word_has_one_meaning() -> None:
    """The probe takes the first word of that name in any of its tables: a second one would never run."""
    tables = [file.read_text(encoding="utf-8") for file in sorted((Path(run.__file__).parent / "c").glob("*.c"))]
    words = [word for table in tables for word in re.findall(r'\{ "([a-z0-9-]+)", \d+, \w+_word \}', table)]
    assert len(words) > 50 and sorted({*words}) == sorted(words)


def test_rows_are_chosen_by_number() -> None:
    """`--rows` takes numbers and ranges."""
    assert run.chosen("1,3,40-42") == {1, 3, 40, 41, 42}
