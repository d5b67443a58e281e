"""Storms of SIGCONT on what is held after its effect (exec, open): it never runs on without an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import state, untagged

pytestmark = pytest.mark.root

STORM = 2000  # signals, from each of two senders
ROUNDS = 10
ALLOWED = 32  # CONTINUES_ALLOWED of bpf/task.bpf.c

# The programs are detached after seconds without a workload, and attached again for the next one.
REATTACHED = pytest.mark.leaves("descriptors", reason="links that are attached again have other numbers")

APART = 0.005  # seconds; two in one millisecond are a storm already

# Its very first instructions make the file `mark` in its directory: mkdir("mark", 0600); _exit(0).
AT_ONCE = r"""
__asm__(".globl _start\n_start: lea name(%rip), %rdi; mov $83, %eax; mov $0600, %esi; syscall;"
	"mov $60, %eax; xor %edi, %edi; syscall\nname: .asciz \"mark\"");
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that must be asked for, whose effect is its first system call."""
    made = tmp_path_factory.mktemp("ask") / "at-once"
    subprocess.run(["gcc", "-static", "-nostdlib", "-x", "c", "-o", made, "-"], input=AT_ONCE.encode(), check=True)
    return made


@pytest.fixture(scope="module")
def live(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` must ask for the program."""
    tools = {"asked": {"run": [{"exec": [str(program)]}]}}
    with harness.enforcing(
        tmp_path_factory.mktemp("storms"), {"bot": harness.agent(ask=[{"tool": "asked"}])}, tools
    ) as host:
        yield host


def at_rest(host: Host, pid: int, states: str) -> None:
    """The process comes to one of these states."""
    host.until(lambda: state(pid) in states, f"state {states}")


def test_a_few_change_nothing(live: Host, program: Path, tmp_path: Path) -> None:
    """As many SIGCONTs as mistakes may send, one by one, leave a held program held; then the answer counts."""
    workload = live.start(["/usr/bin/env", program], cwd=tmp_path)
    asked = live.held(workload)
    for _ in range(ALLOWED):
        at_rest(live, workload.pid, "T")
        time.sleep(APART)
        os.kill(workload.pid, signal.SIGCONT)
    at_rest(live, workload.pid, "T")
    assert not (tmp_path / "mark").exists() and len(live.pending()) == 1
    live.answer(asked, True)
    assert workload.wait().status == 0 and (tmp_path / "mark").exists()


@REATTACHED
def test_a_storm_from_before_ends_what_would_be_held(live: Host, program: Path, tmp_path: Path) -> None:
    """What is in a storm already when it has to ask gets no effect either: it ends, held or denied."""
    assert untagged([program], cwd=tmp_path).status == 0 and (tmp_path / "mark").exists()
    (tmp_path / "mark").rmdir()
    shout = "import os, sys\nwhile True: os.kill(int(sys.argv[1]), 18)"  # as long as there is somebody to hear it
    for _ in range(ROUNDS):
        (tmp_path / "go").unlink(missing_ok=True)
        workload = live.start(["/bin/sh", "-c", 'until [ -e go ]; do :; done; exec "$0"', program], cwd=tmp_path)
        others = [
            subprocess.Popen([probes.PYTHON, "-I", "-S", "-c", shout, str(workload.pid)], stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        try:
            time.sleep(0.01)
            (tmp_path / "go").touch()
            run = workload.wait()
        finally:
            for other in others:
                other.kill()
                other.wait()
        assert run.killed and not (tmp_path / "mark").exists(), run
        assert run.denials or "approval_required" in [record["event"] for record in run.records]


@REATTACHED
def test_a_storm_ends_what_is_held(live: Host, program: Path, tmp_path: Path) -> None:
    """A storm from outside the workload gets no effect: the held program ends, and a record names who sent it."""
    assert untagged([program], cwd=tmp_path).status == 0 and (tmp_path / "mark").exists()
    (tmp_path / "mark").rmdir()
    shout = f"import os, sys\nfor _ in range({STORM}): os.kill(int(sys.argv[1]), 18)"
    for _ in range(ROUNDS):
        workload = live.start(["/usr/bin/env", program], cwd=tmp_path)
        live.held(workload)
        at_rest(live, workload.pid, "T")
        other = subprocess.Popen([probes.PYTHON, "-I", "-S", "-c", shout, str(workload.pid)], stderr=subprocess.DEVNULL)
        for _ in range(STORM):
            os.kill(workload.pid, signal.SIGCONT)
        other.wait()
        run = workload.wait()
        assert run.killed and not (tmp_path / "mark").exists(), run
        ended = [record for record in live.records() if record["event"] == "ended"]
        assert ended[-1]["metadata"]["workload"] == workload.number
        assert ended[-1]["process"]["pid"] in (os.getpid(), other.pid)
        assert "approval_expired" in [record["event"] for record in run.records]
