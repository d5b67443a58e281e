"""One record for each denial, with the object's exact bytes, and exact counts of what was allowed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.audit.verify import verify
from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import assert_allowed, assert_denied, raw, untagged

pytestmark = pytest.mark.root

NAMES = {
    "newline": b"a\nb",
    "quotes": b'it\'s "so"',
    "escape": b"\x1b[2J\x1b]0;x\x07",
    "invalid UTF-8": b"\xff\xfe\x80bytes",
    "cut UTF-8": "é".encode()[:1] + b"x",
    "right to left": "a\u202eb".encode(),
    "backslash": b"a\\nb\\",
    "json": b'","decision":"allow',
    "spaces": b"  ",
    "255 bytes": b"n" * 255,
    "every byte": bytes(byte for byte in range(1, 256) if byte != ord("/"))[:250],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the files are."""
    made = tmp_path_factory.mktemp("records")
    for name in ("kept", "free", "many"):
        (made / name).mkdir()
    yield made
    subprocess.run(["rm", "-rf", *(made / name for name in ("kept", "free"))], check=True)  # too deep for shutil


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """`bot` may not read or delete below `kept`; others have the same policy, for counts of their own."""
    paths = [f"{folder}/kept/**"]
    deny = [{"tool": "file_reader", "paths": paths, "id": "no-reading"}, {"tool": "file", "paths": paths}]
    agents = {name: harness.agent(deny=deny) for name in ("bot", "one", "many", "mixed", "crowd")}
    with harness.enforcing(folder, agents) as host:
        yield host


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("call", ["open", "unlink"])
def test_names_of_any_bytes(live: Host, folder: Path, kind: str, call: str) -> None:
    """The record of a denial has the object's bytes, whatever they are, as one valid line."""
    path = os.path.join(os.fsencode(folder), b"kept", NAMES[kind])
    does = {"open": "open(p).read()", "unlink": "os.unlink(p)"}[call]
    code = probes.python(f"p = {path!r}\nattempt(lambda: {does})")
    for tagged in (False, True):
        with open(path, "wb"):
            pass
        run = live.run(code) if tagged else untagged(code)
    assert run.killed
    record = assert_denied(
        run, killed_by=signal.SIGKILL, rule="no-reading" if call == "open" else "bot/deny/1",
        guarantee="contained" if call == "open" else "detected", point="trace", action="kill", agent_id="bot",
        kernel_operation="read" if call == "open" else "delete", decision="deny",
    )  # fmt: skip
    assert raw(record["object"]) == path
    assert record["process"]["pid"] == run.pid
    assert raw(record["process"]["exe"]) == os.fsencode(os.path.realpath(probes.PYTHON))
    assert record["metadata"]["comm"] == "python3"


def test_each_denial_has_one_record(live: Host, folder: Path) -> None:
    """A process that is refused again and again, and many that die at once, have one record for each denial."""
    (folder / "kept/secret").write_text("x")
    code = f"""
pids = []
for _ in range(50):
    pid = os.fork()
    if not pid:
        open({str(folder / "kept/secret")!r})
        os._exit(0)
    pids.append(pid)
say("attempt")
say("ok " + str(sum(os.waitpid(pid, 0)[1] == 9 for pid in pids)))
"""
    run = live.run(probes.python(code))
    assert run.value == "50" and len(run.denials) == 50
    assert len({record["process"]["pid"] for record in run.denials}) == 50


def counts(host: Host, name: str, path: Path | str, operation: str) -> int:
    """The sum of an agent's counts for one object."""
    return sum(
        record["count"]
        for record in host.counted(name)
        if raw(record["object"]) == os.fsencode(path) and record["kernel_operation"] == operation
    )


def test_a_thousand_opens_of_one_file(live: Host, folder: Path) -> None:
    """Every allowed open is counted, none twice, also while the counts are being written."""
    path = folder / "free/counted"
    path.write_text("x")
    code = f"for _ in range(500): os.close(os.open({str(path)!r}, os.O_RDONLY))"
    workloads = [live.start(probes.python(code), "one") for _ in range(2)]
    while not all(workload.ended for workload in workloads):
        live.engine.flush()
    for workload in workloads:
        assert workload.wait().status == 0
    assert counts(live, "one", path, "read") == 1000


def test_opens_by_both_kinds_of_access(live: Host, folder: Path) -> None:
    """An open to read and write counts as both; a new file counts as created too."""
    path = folder / "free/mixed"
    code = f"""
for _ in range(10):
    os.close(os.open({str(path)!r}, os.O_RDWR | os.O_CREAT))
    os.unlink({str(path)!r})
"""
    assert live.run(probes.python(code), "mixed").status == 0
    assert [counts(live, "mixed", path, operation) for operation in ("create", "read", "write", "delete")] == [10] * 4


def test_five_thousand_files(live: Host, folder: Path) -> None:
    """Each of many files is counted by itself, with its name."""
    for number in range(5000):
        (folder / "many" / str(number)).touch()
    code = f"""
for i in range(5000):
    for _ in range(1 + i % 3): os.close(os.open({str(folder / "many")!r} + f"/{{i}}", os.O_RDONLY))
"""
    assert live.run(probes.python(code), "many").status == 0
    found: Counter[bytes] = Counter()
    nameless = 0
    for record in live.counted("many"):
        if record["object"] is None:
            nameless += record["count"]
        elif raw(record["object"]).startswith(os.fsencode(folder / "many") + b"/"):
            found[raw(record["object"])] += record["count"]
    assert nameless == 0
    assert found == {os.fsencode(folder / "many" / str(i)): 1 + i % 3 for i in range(5000)}


def test_more_files_than_the_kernel_can_count(live: Host, folder: Path) -> None:
    """Who opens more files between two readings than there is room for has them read before it is full: each is
    counted, and none needs an event of its own. (A name may be lost if agentd waits for a processor; that is told.)
    """
    number = live.engine.loaded.counts[0].capacity + 1000
    crowd = folder / "crowd"
    crowd.mkdir()
    for one in range(number):
        os.close(os.open(crowd / str(one), os.O_CREAT | os.O_WRONLY))
    before = len(live.counted("crowd"))
    code = f"for i in range({number}): os.close(os.open({str(crowd)!r} + f'/{{i}}', os.O_RDONLY))"
    assert live.run(probes.python(code), "crowd").status == 0
    found: Counter[bytes] = Counter()
    nameless = 0
    for record in live.counted("crowd")[before:]:
        if record["object"] is None:
            nameless += record["count"]
        elif raw(record["object"]).startswith(os.fsencode(crowd)):
            found[raw(record["object"])] += record["count"]
    assert live.engine.status()["lost"]["counts-full"] == 0
    assert found.total() + nameless == number and set(found.values()) == {1}
    assert len([r for r in live.records() if r["agent_id"] == "crowd" and r["event"] == "allowed"]) < number // 16
    subprocess.run(["rm", "-rf", crowd], check=True)


# A path is built by openat, a component at a time, so that no single call has a name longer than the kernel takes.
CHAIN = """
f = os.open(BASE, os.O_PATH)
for name in NAMES[:-1]:
    g = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=f); os.close(f); f = g
attempt(lambda: os.read(os.open(NAMES[-1], os.O_RDONLY, dir_fd=f), 9))
"""
SHAPES = {
    # name -> (how many components, bytes of each)
    "20 deep": (20, 1),
    "200 deep": (200, 1),
    "1000 deep": (1000, 1),
    "2000 deep": (2000, 1),
    "255 bytes": (1, 255),
    "4000 bytes": (None, 4000),
    "4095 bytes": (None, 4095),
    "4096 bytes": (None, 4096),
    "4097 bytes": (None, 4097),
    "5000 bytes": (None, 5000),
}


def shape(base: Path, kind: str) -> list[str]:
    """Components below `base`; where a length is asked for, the whole path has that many bytes."""
    number, size = SHAPES[kind]
    if number is not None:
        return ["d" * size] * number
    left = size - len(os.fsencode(base))
    names = []
    while left > 260:
        names.append("d" * 199)
        left -= 200
    return [*names, "d" * (left - 1)]


def build(base: Path, names: list[str]) -> None:
    """Makes the folders and, last, the file."""
    held = os.open(base, os.O_PATH)
    for name in names[:-1]:
        os.mkdir(name, dir_fd=held)
        below = os.open(name, os.O_PATH, dir_fd=held)
        os.close(held)
        held = below
    file = os.open(names[-1], os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=held)
    os.write(file, b"deep")
    os.close(file)
    os.close(held)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("place", ["free", "kept"])
def test_deep_and_long_paths(live: Host, folder: Path, tmp_path: Path, kind: str, place: str) -> None:
    """A path of up to 4,096 bytes is judged whole; a longer one is unresolved, and denied everywhere."""
    base = folder / place / f"shape {kind}"
    base.mkdir()
    names = shape(base, kind)
    build(base, names)
    code = probes.python(f"BASE = {str(base)!r}\nNAMES = {names!r}\n{CHAIN}")
    assert untagged(code).value == "b'deep'"
    run = live.run(code)
    whole = os.fsencode("/".join([str(base), *names]))
    if len(whole) > 4096:
        record = assert_denied(run, killed_by=signal.SIGKILL, object=None)
        assert "could not be resolved" in record["reason"]
    elif place == "free":
        assert_allowed(run)
    else:
        record = assert_denied(run, killed_by=signal.SIGKILL, rule="no-reading")
        assert raw(record["object"]) == whole


def test_the_log_of_all_this_verifies(live: Host) -> None:
    """After all these names the log is still one unbroken chain."""
    live.engine.commit()
    report = verify(live.folder / "audit" / "audit.jsonl", strict=True)
    assert report.ok and report.gaps == 0, report
