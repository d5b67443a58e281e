"""A fork that the kernel has no memory to mark does not go free: child and parent end, and the log says so.

Marks are charged to the memory cgroup of the agentd that made the map (kernel/bpf/syscall.c, bpf_map_save_memcg), so a
limit on that makes marking fail while agentd and the workload have all the memory they want.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.service import PYTHON, Service, bot

pytestmark = pytest.mark.root

FORKS = 3000

POLICY = """\
version: 1
agents:
  bot:
    allow: [{tool: shell}, {tool: file_reader}, {tool: file_writer}]
"""

FORKER = """\
import os, sys, time
limited, ready, go, count = sys.argv[1:]
open(os.path.join(limited, "..", "cgroup.procs"), "w").write(str(os.getpid()))  # the workload itself is not limited
open(ready, "w").close()
while not os.path.exists(go):
    time.sleep(0.05)
for number in range(int(count)):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
print("all forked", flush=True)
time.sleep(600)
"""


class Memory:
    """A cgroup that can be limited to what it uses, v1 or v2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        v1 = (path / "memory.limit_in_bytes").exists()
        self._limit = path / ("memory.limit_in_bytes" if v1 else "memory.max")
        self._usage = path / ("memory.usage_in_bytes" if v1 else "memory.current")
        self._unlimited = "-1" if v1 else "max"

    def close_at(self, more: int) -> None:
        """Allows `more` bytes beyond what is used now."""
        self._limit.write_text(str(int(self._usage.read_text()) + more))

    def empty(self) -> None:
        """Moves every process out: the maps made here stay charged here, what the processes take from now on is not."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            (self.path.parent / "cgroup.procs").write_text(pid)

    def open(self) -> None:
        """No limit again."""
        self._limit.write_text(self._unlimited)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A memory cgroup of the test's own."""
    v1 = Path("/sys/fs/cgroup/memory")
    path = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"agentd-test-{os.getpid()}"
    path.mkdir()
    try:
        yield Memory(path)
    finally:
        path.rmdir()


def start(tmp_path: Path, memory: Memory, count: int) -> subprocess.Popen[bytes]:
    """`agentd run` in the limited cgroup, and its command outside, waiting for the file `go`."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "forker.py").write_text(FORKER)
    command = [
        *(sys.executable, "-m", "agentd", "run", "--agent", "bot", "--policy", tmp_path / "policy.yaml"),
        *("--state", tmp_path / "state", "--", "/usr/bin/python3", tmp_path / "forker.py"),
        *(memory.path, tmp_path / "ready", tmp_path / "go", str(count)),
    ]
    run = subprocess.Popen(
        ["sh", "-c", f'echo $$ > {memory.path}/cgroup.procs; exec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert run.poll() is None and time.monotonic() < deadline, "the command did not start"
        time.sleep(0.05)
    return run


def end(run: subprocess.Popen[bytes]) -> bytes:
    """Ends the command, then agentd; what was printed."""
    with run:
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=120)
    return out


def test_a_fork_that_can_not_be_marked_ends_parent_and_child(tmp_path: Path, memory: Memory) -> None:
    """With no memory for marks, forking ends in SIGKILL and a record, and every child that lived was marked."""
    run = start(tmp_path, memory, FORKS)
    try:
        memory.empty()
        memory.close_at(4096)
        (tmp_path / "go").touch()
        with run:
            out, _ = run.communicate(timeout=120)
    finally:
        memory.open()
    assert b"all forked" not in out
    assert run.returncode == 128 + signal.SIGKILL
    log = [json.loads(line) for line in (tmp_path / "state" / "audit.jsonl").read_text().splitlines()]
    assert [record for record in log if "could not be tracked" in record["reason"]]
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "forker.py")], capture_output=True, check=False)
    assert left.stdout == b""


def test_the_same_forks_are_fine_with_memory(tmp_path: Path, memory: Memory) -> None:
    """Positive control: without the limit every fork succeeds, and nothing is killed for it."""
    run = start(tmp_path, memory, 300)
    (tmp_path / "go").touch()
    assert run.stdout is not None
    assert run.stdout.readline() == b"all forked\n"
    end(run)
    log = (tmp_path / "state" / "audit.jsonl").read_text()
    assert "could not be tracked" not in log


CHURN = """\
import os
while True:
    for _ in range(50):
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    os.write(1, b"50\\n")
"""


def test_forking_while_it_is_tagged_is_no_failure() -> None:
    """The iterator of `agentd tag` and the fork's trace point may mark one child at once: both find it marked."""
    with Service({"bot": bot(allow=[{"tool": "shell"}])}) as service:
        for _ in range(25):
            with subprocess.Popen([PYTHON, "-I", "-S", "-c", CHURN], stdout=subprocess.PIPE) as churn:
                assert churn.stdout is not None
                try:
                    assert churn.stdout.readline() == b"50\n"
                    service.tag(churn.pid)
                    assert [churn.stdout.readline() for _ in range(3)] == [b"50\n"] * 3
                finally:
                    churn.kill()
        service.end()
        assert not [record for record in service.records() if "could not be tracked" in record["reason"]]
