"""What a test tells of a probe that doesn't end."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from tests.live import probes


def test_a_probe_that_stays_is_told_of_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has failed, with where it waits, although its output stays open: as when the kernel doesn't let it go."""
    monkeypatch.setattr(probes, "PATIENCE", 0.5)
    monkeypatch.setattr(probes, "GRACE", 0.1, raising=False)
    left = tmp_path / "pid"
    try:
        with pytest.raises(AssertionError, match=r"not done after .* state S"):
            probes.untagged(["sh", "-c", f"sleep 1000 & echo $! >{left}; wait"])
    finally:
        pid = int(left.read_text())
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)


def test_a_probe_that_ends_is_what_it_was() -> None:
    """The control: its status and what it printed."""
    run = probes.untagged(["sh", "-c", "echo done; exit 3"])
    assert (run.status, run.out) == (3, b"done\n")
