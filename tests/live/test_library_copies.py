"""Copies of a library that programs bring along: their calls are judged like those of the host's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from agentd.workloads import modules
from agentd.workloads.modules import Module
from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import untagged
from tests.live.test_library_calls import SQLITE

pytestmark = pytest.mark.root

# Argument 3: a file that is mapped as code, by the loader or by the program itself.
MAP_CODE = "libc.mmap.restype = ctypes.c_void_p\nfd = os.open(sys.argv[3], os.O_RDONLY)\n" + (
    "say('mapped' if libc.mmap(None, ctypes.c_size_t(4096), 5, 2, fd, ctypes.c_long(0)) else 'no')\ntime.sleep(0.1)\n"
)
LOAD = "ctypes.CDLL(sys.argv[3], mode=ctypes.RTLD_GLOBAL)\nsay('mapped')\n"


def querying(folder: Path) -> contextlib.AbstractContextManager[Host]:
    """`bot` may query and not destroy."""
    agent = harness.agent(allow=[{"tool": "sqlite", "operations": ["query"]}], on_violation="kill")
    return harness.enforcing(folder, {"bot": agent})


def test_a_copy_that_the_program_brings_along_is_judged(tmp_path: Path) -> None:
    """A private copy of the library, mapped after the probes were set, has its own before the program runs on with it;
    they go when nobody maps it any more, and come back for the next who does.
    """
    with querying(tmp_path) as live:
        (library,) = modules.installed("sqlite3")
        copy = tmp_path / "libsqlite3.so.0"
        shutil.copy(library.path, copy)
        for attempt in ("a.db", "b.db"):
            probe = [
                "env",
                f"LD_LIBRARY_PATH={tmp_path}",
                *probes.python(LOAD + SQLITE, tmp_path / attempt, "drop table kept", copy),
            ]
            run = live.run(probe)
            assert run.killed, run
            assert run.lines == ["mapped", "made 1", "attempt"]
            assert str(copy) in [seen.module.path for seen in live.engine.calls.files()]
            live.engine.tick()
            assert str(copy) not in [seen.module.path for seen in live.engine.calls.files()]
        assert untagged(probe).value == "0"


def test_a_copy_that_is_touched_stays_judged(tmp_path: Path) -> None:
    """A file whose times and mode are changed while it is mapped is another one by its key: its probes stay."""
    with querying(tmp_path) as live:
        copy, go = tmp_path / "libsqlite3.so.0", tmp_path / "go"
        shutil.copy(modules.installed("sqlite3")[0].path, copy)
        touch = (
            LOAD
            + "os.utime(sys.argv[3]); os.chmod(sys.argv[3], 0o700)\nsay('touched')\n"
            + ("while not os.path.exists(sys.argv[4]):\n    time.sleep(0.01)\n")
        )
        code = probes.python(touch + SQLITE, tmp_path / "a.db", "drop table kept", copy, go)
        probe = ["env", f"LD_LIBRARY_PATH={tmp_path}", *code]
        workload = live.start(probe)
        live.until(lambda: b"touched" in workload.output, "the touch")
        for _ in range(2):
            live.engine.tick()
        go.touch()
        run = workload.wait()
        assert run.killed and run.lines == ["mapped", "touched", "made 1", "attempt"], run
        assert untagged(probe).value == "0"


def test_a_process_that_ends_while_it_is_looked_at_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file isn't taken for one that was looked at: the next process that maps it has its probes."""
    with querying(tmp_path) as live:
        copy = tmp_path / "libsqlite3.so.0"
        shutil.copy(modules.installed("sqlite3")[0].path, copy)
        look, ended = modules.mentioned, []

        def ending(module: Module, names: Collection[str]) -> frozenset[str]:
            if module.path == str(copy) and not ended:
                ended.append(int(module.opens.split("/")[2]))
                os.kill(ended[0], signal.SIGKILL)
                while os.path.lexists(module.opens):
                    time.sleep(0.001)
            return look(module, names)

        code = probes.python(LOAD + SQLITE, tmp_path / "a.db", "drop table kept", copy)
        probe = ["env", f"LD_LIBRARY_PATH={tmp_path}", *code]
        with monkeypatch.context() as patch:
            patch.setattr(modules, "mentioned", ending)
            run = live.run(probe)
        assert ended and "mapped" not in run.lines
        run = live.run(probe)
        assert run.killed and run.lines == ["mapped", "made 1", "attempt"], run


def test_a_program_goes_on_with_code_that_is_no_library(tmp_path: Path) -> None:
    """Whoever maps a file that no probe is wanted in is let go on, by name and by content."""
    with querying(tmp_path) as live:
        other = tmp_path / "libother.so"
        other.write_bytes(b"\x7fELF" + bytes(8192))
        probe = probes.python(MAP_CODE + SQLITE, tmp_path / "a.db", "select 1", other)
        assert live.run(probe).value == "1"


def test_a_copy_that_can_not_be_read_ends_who_maps_it(tmp_path: Path) -> None:
    """A file that has the library's name and is broken: agentd goes on, the process does not."""
    with querying(tmp_path) as live:
        broken = tmp_path / "libsqlite3.so.0"
        broken.write_bytes(b"\x7fELF" + bytes(8192))
        probe = probes.python(MAP_CODE + SQLITE, tmp_path / "a.db", "select 1", broken)
        run = live.run(probe)
        assert run.killed and "made 1" not in run.lines, run
        assert [r for r in live.records() if r["event"] == "enforcement_failed" and str(broken) in r["reason"]]
        assert live.run(probes.python(SQLITE, tmp_path / "b.db", "select 1")).value == "1"


EMBEDDED = """
#include <stdio.h>
int sqlite3_exec(void *db, const char *text, void *a, void *b, void *c) { return printf("%p ran %s\\n", db, text) > 0; }
int main(int argc, char **argv) { return !sqlite3_exec(0, argv[1], 0, 0, 0); }
"""


def test_a_library_inside_of_another_file_is_found(tmp_path: Path) -> None:
    """A module or a program that has the functions of a library in it, whatever it is called and wherever it is linked
    to: its calls are judged.
    """
    (tmp_path / "a.c").write_text(EMBEDDED)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "plugin.so", tmp_path / "a.c"], check=True)
    call = "plugin = ctypes.CDLL(sys.argv[1])\nsay('attempt')\n" + (
        "say('ok ' + str(plugin.sqlite3_exec(None, sys.argv[2].encode(), None, None, None)))\n"
    )
    with querying(tmp_path) as live:
        assert live.run(probes.python(call, tmp_path / "plugin.so", "select 1")).value == "1"
        run = live.run(probes.python(call, tmp_path / "plugin.so", "drop table kept"))
        assert run.killed and run.lines == ["attempt"], run
        for how in ("-no-pie", "-static"):
            subprocess.run(["gcc", how, "-o", tmp_path / f"program{how}", tmp_path / "a.c"], check=True)
            assert live.run([tmp_path / f"program{how}", "select 1"]).out.endswith(b"ran select 1\n")
            run = live.run([tmp_path / f"program{how}", "drop table kept"])
            assert run.killed and not run.out, run
    assert untagged(probes.python(call, tmp_path / "plugin.so", "drop table kept")).value == "1"


@pytest.mark.parametrize("known", [False, True])
def test_a_program_with_tls_of_its_own_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """What no probe can see is in the log and in the status: a program that carries the names of Go's TLS; also one of
    the host's large programs, which were looked at before anybody ran them.
    """
    if known:
        monkeypatch.setattr(modules, "PROGRAM_DIRS", (str(tmp_path),))
        monkeypatch.setattr(modules, "LARGE", 1)
    agent = harness.agent(allow=[{"tool": "tls", "operations": ["send"]}], on_violation="kill")
    (tmp_path / "go.c").write_text(
        'const char name[] = "crypto/tls.(*Conn).Write";\nint main(void) { return !name[0]; }\n'
    )
    subprocess.run(["gcc", "-no-pie", "-o", tmp_path / "go", tmp_path / "go.c"], check=True)
    with harness.enforcing(tmp_path, {"bot": agent}) as live:
        assert live.run(["/bin/true"]).status == 0
        assert live.engine.status()["calls"]["unseen"] == []
        for _ in range(2):
            assert live.run([tmp_path / "go"]).status == 0
        assert live.engine.status()["calls"]["unseen"] == [{"file": str(tmp_path / "go"), "has": "Go's crypto/tls"}]
        (told,) = [record for record in live.records() if record["event"] == "calls_unseen"]
        assert str(tmp_path / "go") in told["reason"]
