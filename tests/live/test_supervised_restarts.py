"""The service ends, is killed, is started again: what it supervised is refused meanwhile, and judged again after it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel import lsm
from agentd.model import Point
from tests.live.harness import agent
from tests.live.service import Service, until

pytestmark = pytest.mark.root

# One thread waits for an answer, and says what came of it; the other does as it is told.
PROGRAM = r"""
import os, sys, threading
def tell(name, call):
    try:
        call(); print(name, "ok", flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)
KEPT, FREE, ASK = sys.argv[1:]
for line in iter(sys.stdin.readline, ""):
    word = line.strip()
    if word == "ask":
        threading.Thread(target=tell, args=("asked", lambda: os.unlink(ASK))).start()
    if word == "kept":
        tell("kept", lambda: os.unlink(KEPT))
    if word == "free":
        tell("free", lambda: open(FREE, "w").write("free"))
    if word == "read":
        tell("read", lambda: open(KEPT).read())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("restarts")
    for name in ("kept", "free", "ask"):
        (made / name).mkdir()
        (made / name / "file").write_text(name)
    return made


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Service]:
    if lsm.point() is not Point.NONE:
        pytest.skip("there are LSM hooks on this host: nothing is supervised")
    deny = [{"tool": tool, "paths": [f"{place}/kept/**"]} for tool in ("file", "file_writer")]
    ask = [{"tool": "file", "operations": ["delete"], "paths": [f"{place}/ask/**"]}]
    with Service({"bot": agent(deny=deny, ask=ask)}) as made:
        yield made


@pytest.fixture
def service(shared: Service) -> Service:
    """Ready, whatever the test before it has done to it: a start takes seconds."""
    if shared.process is None:
        shared.start()
    return shared


class Talker:
    """That program, as a supervised command of the service."""

    def __init__(self, service: Service, place: Path, **how: Any) -> None:
        files = [place / name / "file" for name in ("kept", "free", "ask")]
        self.process = service.spawn(
            "/usr/bin/python3", "-I", "-S", "-c", PROGRAM, *files, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how
        )
        assert self.tell("free") == "free ok"

    def say(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()

    def tell(self, word: str) -> str:
        self.say(word)
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()

    def end(self) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        left = self.process.stdout.read()
        self.process.stdout.close()
        assert left == b""
        return self.process.wait()


@pytest.mark.leaves("children", reason="the service of the module starts in its first test")
def test_a_restarted_service_judges_what_it_supervised(service: Service, place: Path) -> None:
    """What a killed service held is refused; what comes while there is none waits for the next one, which judges it by
    its policy, and puts on record what was refused.
    """
    one, two = Talker(service, place), Talker(service, place)
    assert one.tell("kept") == f"kept {errno.EPERM}"
    one.say("ask")
    service.held()
    service.crash()
    assert one.hear() == f"asked {errno.EPERM}"
    for talker in (one, two):
        talker.say("free")
    service.start()
    for talker in (one, two):
        assert talker.hear() == "free ok"
        assert talker.tell("kept") == f"kept {errno.EPERM}"
    one.say("ask")
    (held,) = service.held()
    service.call("approvals.approve", id=held["id"])
    assert one.hear() == "asked ok"
    assert [os.path.exists(place / name / "file") for name in ("kept", "free", "ask")] == [True, True, False]
    assert one.end() == two.end() == 0
    denied = [r for r in service.records("denied") if r["object"] == str(place / "kept/file")]
    assert [(r["point"], r["guarantee"]) for r in denied] == [("seccomp", "prevented")] * 3
    (gap,) = service.records("gap")
    assert gap["metadata"]["why"] == "no-agentd" and gap["count"] == 1


@pytest.mark.leaves("children", reason="the service of the module is started again")
def test_without_a_service_everything_is_refused(
    service: Service, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service comes: changes are refused, allowed ones too; reading goes on; and one that comes later takes over."""
    monkeypatch.setenv("PYTHONPATH", f"{place}:{os.environ.get('PYTHONPATH', '')}")  # no patience, for this run
    (place / "sitecustomize.py").write_text("import agentd.daemon.keeping as k\nk.GRACE_SECONDS = 0\n")
    talker, before = Talker(service, place), service.records("gap")
    service.crash()
    for _ in range(3):
        assert talker.tell("kept") == f"kept {errno.EPERM}"
        assert talker.tell("free") == f"free {errno.EPERM}"
        assert talker.tell("read") == "read ok"
    service.start()
    until(lambda: len(service.records("gap")) > len(before), "the new service's word for it")
    assert talker.tell("free") == "free ok"
    assert talker.end() == 0
    assert service.records("gap")[-1]["count"] == 6


def test_nobody_is_left_to_answer(service: Service, place: Path) -> None:
    """A service that is stopped refuses what it holds. With `agentd run` killed too the kernel answers, ENOSYS."""
    (place / "ask/file").write_text("ask")
    kept, alone = Talker(service, place), Talker(service, place)
    alone.process.kill()
    alone.process.wait()
    got = alone.tell("free")
    assert got == "free ok", service.records()[-6:]  # the service has it still
    kept.say("ask")
    service.held()
    assert service.end() == 0
    assert kept.hear() == f"asked {errno.EPERM}"
    assert alone.tell("free") == f"free {errno.ENOSYS}"
    assert alone.tell("kept") == f"kept {errno.ENOSYS}"
    assert (place / "kept/file").exists() and (place / "ask/file").exists()
    alone.end()
    assert kept.end() == 0
