"""Copies of a library that programs bring along: their calls are judged like those of the host's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentd.workloads import modules
from tests.live import harness, probes
from tests.live.test_library_calls import SQLITE

pytestmark = pytest.mark.root


def test_a_copy_that_the_program_brings_along_is_found(tmp_path: Path) -> None:
    """A private copy of the library, mapped after the probes were set: judged as soon as it is found mapped, and its
    probes go when nobody maps it any more.
    """
    (library,) = modules.installed("sqlite3")
    copy = tmp_path / "libsqlite3.so.0"
    shutil.copy(library.path, copy)
    code = "ctypes.CDLL(sys.argv[3], mode=ctypes.RTLD_GLOBAL)\nsay('mapped')\ntime.sleep(5)\n" + SQLITE
    probe = probes.python(code, tmp_path / "a.db", "drop table kept", copy)
    agent = harness.agent(allow=[{"tool": "sqlite", "operations": ["query"]}], on_violation="kill")
    with harness.enforcing(tmp_path, {"bot": agent}) as host:
        workload = host.start(["env", f"LD_LIBRARY_PATH={tmp_path}", *probe])
        host.until(lambda: b"mapped" in workload.output or workload.ended, "the mapping")
        host.engine.tick()
        assert str(copy) in [seen.module.path for seen in host.engine.calls.files()]
        run = workload.wait()
        assert run.killed, run
        assert run.lines == ["mapped", "made 1", "attempt"]
        host.engine.tick()
        assert str(copy) not in [seen.module.path for seen in host.engine.calls.files()]
