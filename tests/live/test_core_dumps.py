"""A core dump is a file that the kernel writes for a process that crashes: no system call makes it. Where there are no
LSM hooks none is written for a workload; with them a dump is a file like any other (containment suite, row 20).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.kernel import lsm
from agentd.model import Point
from tests.live import harness
from tests.live.harness import Host
from tests.live.probes import PYTHON, Run, untagged

pytestmark = pytest.mark.root

PIPED = Path("/proc/sys/kernel/core_pattern").read_bytes().startswith(b"|")  # to a program, which may not take it

# What became of a child that crashes as argv[2] says, in argv[1]: its signal, and was a dump made of it?
CRASH = r"""
import os, resource, signal, sys, threading, time
folder, how = sys.argv[1:]
child = os.fork()
if not child:
    os.chdir(folder)
    limit = 0 if how == "without a dump" else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CORE, (limit, resource.RLIM_INFINITY))
    if how == "with a handler":
        signal.signal(signal.SIGABRT, lambda *_: os._exit(7))
    if how == "in a thread":
        threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGSEGV)).start()
        time.sleep(100)
    os.kill(os.getpid(), signal.SIGTERM if how == "by another signal" else signal.SIGABRT)
    while True:
        time.sleep(1)
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status), os.WCOREDUMP(status))
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An agent that may do anything, and one that is only watched."""
    if lsm.point() is not Point.NONE:
        pytest.skip("there are LSM hooks on this host: they judge it")
    agents = {
        "bot": harness.agent(),
        "asked": harness.agent(on_violation="pause"),
        "seen": harness.agent(mode="monitor"),
    }
    with harness.enforcing(tmp_path_factory.mktemp("dumps"), agents) as host:
        yield host


def crash(live: Host, folder: Path, how: str, agent: str = "", *, seccomp: bool = False) -> tuple[str, Run]:
    """What the program says of its child. agent: "" for no workload."""
    folder.mkdir(exist_ok=True)
    command = [PYTHON, "-I", "-S", "-c", CRASH, str(folder), how]
    run = live.run(command, agent, seccomp=seccomp) if agent else untagged(command)
    assert run.status == 0, run
    return run.out.decode().strip(), run


@pytest.mark.parametrize("seccomp", [False, True], ids=["tagged", "started by agentd run"])
@pytest.mark.parametrize("how", ["at once", "in a thread"])
def test_no_core_is_dumped_of_a_workload(live: Host, tmp_path: Path, how: str, seccomp: bool) -> None:
    """Who would leave a core dump is killed before it is begun, and on record; untagged it is dumped."""
    died, _ = crash(live, tmp_path / "untagged", how)
    assert died in (f"{-signal.SIGABRT} True", f"{-signal.SIGSEGV} True") or PIPED, "the control"
    for agent in ("bot", "asked"):
        died, run = crash(live, tmp_path / agent, how, agent, seccomp=seccomp)
        assert died == f"{-signal.SIGKILL} False", run
        assert not list((tmp_path / agent).iterdir())
        (record,) = run.denials
        assert (record["kernel_operation"], record["object"]) == ("create", None)
        assert (record["point"], record["guarantee"], record["action"]) == ("trace", "prevented", "kill")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("without a dump", f"{-signal.SIGABRT} False"),
        ("by another signal", f"{-signal.SIGTERM} False"),
        ("with a handler", "7 False"),
    ],
)
def test_who_leaves_no_dump_dies_as_ever(live: Host, tmp_path: Path, how: str, says: str) -> None:
    """With RLIMIT_CORE at 0, another signal or a handler, a workload's process ends as it does untagged."""
    for agent in ("", "bot"):
        died, run = crash(live, tmp_path, how, agent)
        assert died == says and not run.denials, run


def test_a_monitored_agent_dumps_its_core(live: Host, tmp_path: Path) -> None:
    """mode: monitor puts it on record and lets it happen."""
    died, run = crash(live, tmp_path, "at once", "seen")
    assert died == f"{-signal.SIGABRT} True" or PIPED, run
    (record,) = [record for record in run.records if record.get("kernel_operation") == "create"]
    assert record["object"] is None and record["action"] == "none", record
