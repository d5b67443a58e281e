"""A verdict on a library call that sleeps, because its text is in memory that somebody must fetch first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.daemon import host as composition
from tests.live import harness, probes
from tests.live.harness import Host, Workload

pytestmark = pytest.mark.root

# Arguments: how many calls sleep before it is said, and how many more follow; the file that lets their text come; the
# text. Each call has a page of its own that a userfaultfd holds back. Without a database sqlite3_prepare_v2 says 21.
SLEEPERS = """
import fcntl, mmap
first, more, go, text = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4].encode()
number, page = first + more, mmap.PAGESIZE
library = ctypes.CDLL("libsqlite3.so.0")
held = syscall(323, os.O_CLOEXEC)
fcntl.ioctl(held, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
pages = mmap.mmap(-1, page * number, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
begin = ctypes.addressof(ctypes.c_char.from_buffer(pages))
fcntl.ioctl(held, 0xC020AA00, struct.pack("QQQQ", begin, page * number, 1, 0))
made, asleep = [], set()
def call(which):
    statement = ctypes.c_void_p()
    at = ctypes.c_void_p(begin + page * which)
    made.append(library.sqlite3_prepare_v2(None, at, -1, ctypes.byref(statement), None))
threads = [threading.Thread(target=call, args=(which,)) for which in range(number)]
def start(which):
    for thread in threads[which]:
        thread.start()
def wait(until):
    while len(asleep) < until:
        asleep.add(struct.unpack_from("QQQ", os.read(held, 32))[2] // page)
    say(f"asleep {until}")
start(slice(first))
wait(first)
say("attempt")
start(slice(first, number))
wait(number)
while not os.path.exists(go):
    time.sleep(0.01)
source = ctypes.create_string_buffer(text, page)
for which in range(number):
    fcntl.ioctl(held, 0xC028AA03, struct.pack("QQQQq", begin + page * which, ctypes.addressof(source), page, 0, 0))
for thread in threads:
    thread.join()
say(f"ok {sorted(set(made))}, {len(made)} times")
"""
MOST, EACH = 32, 16  # SLEEPERS of all workloads, of each (bpf/lib/sleeper.bpf.h)
QUERY = [{"tool": "sqlite", "operations": ["query"]}]


def policy(host: Host, **agent: Any) -> None:
    """Loads another policy."""
    file = host.folder / "other.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": harness.agent(on_violation="kill", **agent)}}))
    host.engine.install(composition.read_policy(file, str(host.folder), own=[host.folder / "audit"]))


def sleeping(host: Host, go: Path, *, first: int = 1, more: int = 0) -> Workload:
    """A workload of which as many calls are being judged as `first` says, and sleep."""
    workload = host.start(probes.python(SLEEPERS, str(first), str(more), go, "select 1"))
    host.until(lambda: b"attempt" in workload.output or workload.ended, "calls that sleep")
    return workload


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` may query."""
    bot = harness.agent(allow=QUERY, on_violation="kill")
    with harness.enforcing(tmp_path_factory.mktemp("sleeping"), {"bot": bot}) as host:
        yield host


def test_a_verdict_too_many_that_sleeps(live: Host, tmp_path: Path) -> None:
    """As many as a workload may have sleep at once and go on; one more is denied, and ends its process. Others have
    room beside it, until there are no work buffers left for anybody.
    """
    go = tmp_path / "go"
    run = sleeping(live, go, first=EACH, more=1).wait()
    assert run.killed and run.lines == [f"asleep {EACH}", "attempt"], run
    workloads = [sleeping(live, go, first=EACH)]
    workloads += [sleeping(live, go, first=EACH) for _ in range(MOST // EACH - 1)]
    run = sleeping(live, go, first=1).wait()
    assert run.killed and run.lines == [], run
    go.touch()
    assert [workload.wait().value for workload in workloads] == [f"[21], {EACH} times"] * (MOST // EACH)


@pytest.mark.parametrize(("loaded", "goes_on"), [("allow", True), ("deny", False), ("deny allow", True)])
def test_a_reload_while_a_verdict_sleeps(live: Host, tmp_path: Path, loaded: str, goes_on: bool) -> None:
    """What has begun under a policy that allowed it is denied when the one that denies is in force before it ends."""
    go = tmp_path / "go"
    workload = sleeping(live, go)
    for word in loaded.split():
        policy(live, **({"deny": QUERY, "allow": [{"tool": "sqlite"}]} if word == "deny" else {"allow": QUERY}))
    go.touch()
    run = workload.wait()
    policy(live, allow=QUERY)
    assert run.killed is not goes_on and bool(run.denials) is not goes_on, run
    assert ("ok [21], 1 times" in run.lines) is goes_on, run


def test_new_probes_do_not_wait_for_a_verdict_that_sleeps(tmp_path: Path) -> None:
    """A reload that sets other probes comes to its end while a workload keeps a verdict asleep; it still counts."""
    go = tmp_path / "go"
    otherwise = threading.Timer(3 * probes.PATIENCE, go.touch)
    otherwise.daemon = True
    with harness.enforcing(tmp_path, {"bot": harness.agent(allow=QUERY, on_violation="kill")}) as host:
        workload = sleeping(host, go)
        otherwise.start()
        try:
            policy(host, allow=[{"tool": "curl"}], deny=QUERY)
            assert not go.exists()
        finally:
            otherwise.cancel()
            otherwise.join()
            go.touch()
        run = workload.wait()
        assert run.killed and run.denials, run
