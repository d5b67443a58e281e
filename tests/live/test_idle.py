"""Without a workload the programs are detached; no mark ever exists while they are."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from agentd.engine.upkeep import IDLE_TICKS
from tests.live.harness import Host, agent, enforcing

pytestmark = pytest.mark.root

CONNECT = """
import errno, socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", %d))
except OSError as error:
    print(errno.errorcode[error.errno])
else:
    print("done")
"""
# One process at a time, each the parent of the next and gone at once.
CHAIN = """
import os, sys
for _ in range(4000):
    if os.fork():
        os._exit(0)
open(sys.argv[1], "w").close()
"""


def held(folder: Path) -> AbstractContextManager[Host]:
    """An engine whose agent may connect to port 9 and not to port 10."""
    return enforcing(folder, {"bot": agent(deny=[{"tool": "network", "hosts": ["127.0.0.1:10"]}])})


def rest(host: Host) -> None:
    for _ in range(IDLE_TICKS + 1):
        host.engine.tick()


def pinned(host: Host) -> set[str]:
    return {path.name for path in (host.engine.loaded.pins / "links").iterdir()}


def test_programs_are_detached_while_nothing_is_marked(tmp_path: Path) -> None:
    """A few ticks without a workload detach and unpin every program; a mark attaches and pins them first."""
    with held(tmp_path) as host:
        before = pinned(host)
        assert host.engine.loaded.watching and before
        rest(host)
        assert not host.engine.loaded.watching and not pinned(host)
        assert host.run([sys.executable, "-c", CONNECT % 10]).out == b"EPERM\n"
        assert host.run([sys.executable, "-c", CONNECT % 9]).out == b"done\n"
        assert host.engine.loaded.watching and pinned(host) == before


def test_a_workload_keeps_the_programs_attached(tmp_path: Path) -> None:
    """However many ticks pass, a process that sleeps stays watched."""
    with held(tmp_path) as host:
        workload = host.start(["/bin/sleep", "60"])
        rest(host)
        assert host.engine.loaded.watching
        workload.kill()
        workload.wait()
        rest(host)
        assert not host.engine.loaded.watching


def test_a_short_workload_begins_the_wait_again(tmp_path: Path) -> None:
    """One that came and went between two ticks keeps the programs for as long as one that was seen."""
    with held(tmp_path) as host:
        rest(host)
        assert not host.engine.loaded.watching
        workload = host.start(["/bin/true"])
        os.waitid(os.P_PID, workload.pid, os.WEXITED | os.WNOWAIT)  # no tick sees it alive
        host.engine.tick()
        assert host.engine.loaded.watching
        workload.wait()
        rest(host)
        assert not host.engine.loaded.watching


def test_a_chain_of_short_lives_is_never_taken_for_nothing(tmp_path: Path) -> None:
    """While each process of a workload lives only to make the next, no look at it says that nothing is marked."""
    done = tmp_path / "done"
    looks = 0
    with held(tmp_path) as host:
        workload = host.start([sys.executable, "-c", CHAIN, str(done)])
        while not done.exists():
            assert not host.engine.marks.none_left() or done.exists()
            host.engine.pump()
            looks += 1
        assert looks > 10
        workload.wait()
        assert host.engine.marks.none_left()
