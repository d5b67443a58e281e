"""Looking at a program's file while it waits changes nothing about its question."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.test_holds import Server, server

__all__ = ["server"]  # the fixture

pytestmark = pytest.mark.root


def test_a_stat_of_the_program_is_no_change(server: Server, tmp_path: Path) -> None:
    """Since Linux 6.13 stat() marks the change time of an inode as seen: the approved action is still the same one."""
    program = tmp_path / "python"
    shutil.copy(probes.PYTHON, program)  # nobody has looked at its time yet
    ask = [{"tool": "network", "hosts": [f"127.0.0.1:{server.port}"]}]
    with harness.enforcing(tmp_path, {"bot": harness.agent(ask=ask)}) as host:
        command = probes.python(f"s = socket.socket(); attempt(lambda: s.connect(('127.0.0.1', {server.port})))")
        workload = host.start([program, *command[1:]])
        asked = host.held(workload)
        os.stat(program)
        host.answer(asked, True)
        run = workload.wait()
        assert run.lines == ["attempt", "ok None"], run
        assert [record["event"] for record in run.records] == ["approval_required", "approved", "allowed"]
