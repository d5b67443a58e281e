"""What a proposed rule would have matched: looked up in the log, through all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.audit import segments
from agentd.audit.segments import Limits
from agentd.daemon import similar
from agentd.model import Op
from agentd.policy.similar import proposals
from tests.unit.audit.samples import denied, opened


def test_a_preview_goes_through_closed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of closed files count like those of the newest, other agents' don't, and there is an end to it."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path, limits=Limits(file_bytes=20_000))
    for number in range(90):
        agent = "research_bot" if number % 3 else "other"
        writer.append([denied(number, agent_id=agent, object=b"/srv/x/%d" % number, operation="read")])
        writer.commit()
    writer.close()
    assert len(segments.closed(path)) > 2
    made = proposals(Op.READ, "shell", "read", b"/srv/x/1")
    counts, read = similar._matched(path, "research_bot", made)
    assert read == 60
    assert max(count["denied"] for count in counts) == 60
    monkeypatch.setattr(similar, "PAST_BYTES", 1)
    assert 0 < similar._matched(path, "research_bot", made)[1] < 20  # the newest file with something in it
