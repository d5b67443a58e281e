"""Files that a workload has open from before its policy: what is on record, what is not, and when it is looked at.

Whether their use is judged is a matter of the host: rows 22 of the containment suite, in the virtual machines.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import host as composition
from tests.live import harness, probes
from tests.live.harness import Host

pytestmark = pytest.mark.root

SLEEPER = "import sys, time; files = [open(name) for name in sys.argv[1:]]; print('open', flush=True); time.sleep(600)"


@contextlib.contextmanager
def host(folder: Path) -> Iterator[Host]:
    """`bot` may do everything but read in `denied`; two files in each folder."""
    for name in ("denied", "free"):
        (folder / name).mkdir()
        for file in ("one", "two"):
            (folder / name / file).write_text("data")
    agents = {"bot": harness.agent(deny=[{"tool": "file_reader", "paths": [f"{folder}/denied/**"]}])}
    with harness.enforcing(folder, agents) as live:
        yield live


@contextlib.contextmanager
def running(*files: Path, stdin: Path | None = None) -> Iterator[int]:
    """The pid of a process that has these open."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(stdin.open()) if stdin else subprocess.DEVNULL
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SLEEPER, *map(str, files)], stdin=given, stdout=subprocess.PIPE
        )
        try:
            assert child.stdout and child.stdout.readline() == b"open\n"
            yield child.pid
        finally:
            child.kill()
            child.communicate()


def found(live: Host, after: int = 0) -> list[tuple[str, list[str]]]:
    """What the records tell of descriptors: path and operations."""
    told: list[dict[str, Any]] = [r for r in live.records(after) if r["event"] == "descriptor_found"]
    assert all(record["metadata"]["judged"] is live.engine.foreign.judged for record in told)
    assert all(("judged when it is used" in record["reason"]) is live.engine.foreign.judged for record in told)
    return [(Path(r["metadata"]["path"]).name, r["metadata"]["operations"]) for r in told]


def entries(live: Host) -> int:
    """How many files the kernel judges the use of."""
    return live.engine.foreign.table.entries()


def test_a_command_is_started_with(tmp_path: Path) -> None:
    """On record: what it inherits and may not use. Not: what it may, what exec closes, standard input."""
    with host(tmp_path) as live, contextlib.ExitStack() as stack:
        names = ("denied/one", "free/one", "denied/two")
        barred, fine, closed = (stack.enter_context((tmp_path / name).open()).fileno() for name in names)
        assert not os.get_inheritable(closed)
        run = live.run(probes.python("attempt(lambda: 1)"), keep=[barred, fine])
        assert run.value == "1"
        assert found(live) == [("one", ["read"])]
        first = live.engine.audit.head.seq
        assert live.run(probes.python("attempt(lambda: 2)"), keep=[fine]).value == "2"
        assert found(live, first) == []


def test_a_process_is_tagged_with(tmp_path: Path) -> None:
    """On record: what it has open and may not use. Not: what it may, standard input; gone when the workload is."""
    with host(tmp_path) as live:
        files = [tmp_path / name for name in ("denied/one", "free/one")]
        with running(*files, stdin=tmp_path / "denied/two") as pid:
            assert found(live) == []
            workload, _ = live.engine.tagging.tree(pid, "bot", "a test")
            assert found(live) == [("one", ["read"])]
            assert entries(live) == int(live.engine.foreign.judged)
            told = [record for record in live.records() if record["event"] == "descriptor_found"]
            assert told[-1]["metadata"]["workload"] == workload.number
        live.until(lambda: not live.engine.marks.list(), "its end")
        live.engine.tick()
        assert entries(live) == 0 and not live.engine.loaded.control.foreign


def test_another_policy_is_another_judgement(tmp_path: Path) -> None:
    """A policy that is loaded looks at what is open, and takes back what the one before said."""
    with host(tmp_path) as live:
        strict = live.compiled
        policy = tmp_path / "policy.yaml"
        text = policy.read_text()
        policy.write_text(text.replace(f"{tmp_path}/denied", f"{tmp_path}/free"))
        other = composition.read_policy(policy, str(tmp_path), own=[tmp_path / "audit"])
        with running(tmp_path / "denied/one", tmp_path / "free/two") as pid:
            live.engine.tagging.tree(pid, "bot", "a test")
            live.engine.install(other)
            assert found(live) == [("one", ["read"]), ("two", ["read"])]
            assert entries(live) == int(live.engine.foreign.judged)
            live.engine.install(strict)
            assert [name for name, _ in found(live)] == ["one", "two", "one"]


def test_many_are_one_line(tmp_path: Path) -> None:
    """Of more than a hundred the rest is told as a number."""
    with host(tmp_path) as live:
        many = [tmp_path / "denied" / f"more{number}" for number in range(130)]
        for file in many:
            file.write_text("data")
        with running(*many) as pid:
            live.engine.tagging.tree(pid, "bot", "a test")
            told = [record for record in live.records() if record["event"] == "descriptor_found"]
            assert len(told) == 101 and told[-1]["metadata"]["count"] == 30
            assert entries(live) == 130 * int(live.engine.foreign.judged)
