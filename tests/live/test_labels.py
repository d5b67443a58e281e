"""Containers that are an agent by their labels: asked of their engine, and stopped before they run anything until then.

The containers are cgroups with the names that engines give, and programs in a pid namespace of their own; the engine is
engines.py. Where Podman and Docker are installed, these are both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel.features import cgroup2_root
from tests.live import engines
from tests.live.engines import Containerd, Engine, Real
from tests.live.service import Service, bot, state, until

pytestmark = pytest.mark.root
RULE = {"label": {"com.example.agent": "bot"}}
# What an agent in a container may not read.
NOTES = {"bot": bot(match=[RULE]) | {"deny": [{"tool": "file_reader", "operations": ["read"], "paths": ["**/note"]}]}}
AGENT, OTHER, MUTE, LATE, USERS, UNKNOWN, RUNS = (f"{os.getpid():032x}{digit * 32}" for digit in "1234567")


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the agent may not read."""
    path = tmp_path_factory.mktemp("labels") / "secret"
    path.write_text("secret", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def engine(secret: Path) -> Iterator[Engine]:
    """One that knows all containers but MUTE and UNKNOWN."""
    with Engine(secret.parent / "engine.sock") as made:
        made.labels = {AGENT: {"com.example.agent": "bot", "a": "b"}, OTHER: {"com.example.agent": "bott"}}
        made.labels |= {LATE: made.labels[AGENT], USERS: made.labels[AGENT], RUNS: made.labels[AGENT]}
        yield made


@pytest.fixture(scope="module")
def service(engine: Engine, secret: Path) -> Iterator[Service]:
    """One whose bot is recognised by labels."""
    with Service(policy(secret), container_engines=[str(engine.socket)]) as made:
        yield made


def policy(secret: Path) -> dict[str, Any]:
    """The bot may not read the file."""
    deny = [{"tool": "file_reader", "operations": ["read"], "paths": [str(secret)]}]
    return {"bot": bot(match=[RULE]) | {"deny": deny}}


@contextlib.contextmanager
def cgroup(name: str, above: Path | None = None) -> Iterator[Path]:
    """A cgroup."""
    path = (above or cgroup2_root()) / name
    path.mkdir()
    try:
        yield path
    finally:
        until(lambda: not (path / "cgroup.procs").read_text(), "an empty cgroup")
        path.rmdir()


def begin(place: Path, *command: str | Path) -> subprocess.Popen[bytes]:
    """A program in a container: the first process of a pid namespace, moved into the cgroup before its exec."""
    enter = ["unshare", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", 'echo 0 >"$1"; shift; exec "$@"', "sh"]
    return subprocess.Popen([*enter, place / "cgroup.procs", *command], stdout=subprocess.PIPE)


@contextlib.contextmanager
def moved_to(place: Path) -> Iterator[int]:
    """The pid of a program that came there without beginning there."""
    with subprocess.Popen(["/bin/sleep", "600"]) as program:
        try:
            until(
                lambda: Path(f"/proc/{program.pid}/exe").readlink().name == "sleep" and state(program.pid) == "S", "it"
            )
            (place / "cgroup.procs").write_text(str(program.pid))
            yield program.pid
        finally:
            program.kill()


def reads(program: subprocess.Popen[bytes]) -> bool:
    """Did `cat` get to read the file?"""
    with program:
        out, _ = program.communicate(timeout=300)
    assert (program.returncode == 0) == (out == b"secret")
    return program.returncode == 0


def unlabelled(service: Service) -> list[str]:
    """Why programs were killed whose labels nobody said. The record is written when the signal has been sent."""
    told = [record["reason"] for record in service.records("denied")]
    return [reason for reason in told if "the labels of container" in reason]


def waiting(place: Path) -> int:
    """The process that is stopped there."""

    def stopped() -> int | None:
        found = (place / "cgroup.procs").read_text().split()
        return next((int(pid) for pid in found if state(int(pid)) == "T"), None)

    return int(until(stopped, "a stopped process"))


def test_the_labels_of_a_container_make_it_an_agent_from_its_first_instruction(
    service: Service, engine: Engine, secret: Path
) -> None:
    """A program in a container with the labels is held to the policy, one in another container isn't; the engine is
    asked once about each. What a user calls a container, in a cgroup of its own, is none.
    """
    with (
        cgroup(f"agentd-test-{os.getpid()}.slice") as slice_, cgroup(f"agentd-test-user-{os.getpid()}") as user,
        cgroup(f"docker-{AGENT}.scope", slice_) as agent, cgroup("init.scope", agent) as below,
        cgroup(f"libpod-{OTHER}") as other, cgroup(f"docker-{MUTE}.scope.d") as none,
        cgroup(f"libpod-{USERS}.scope", user) as users,
    ):  # fmt: skip
        os.chown(user, 12345, 12345)
        for place in (agent, agent, below):
            assert not reads(begin(place, "/bin/cat", secret))
        for place in (other, other, none, users):
            assert reads(begin(place, "/bin/cat", secret))
        assert engine.asked == {AGENT: 1, OTHER: 1}
        tagged = [record["reason"] for record in service.records("tagged")]
        assert len(tagged) == 3 and set(tagged) == {"match label {'com.example.agent': 'bot'}"}
        os.chown(user, 0, 0)
        service.write_policy({"bot": bot(match=[RULE])})
        assert service.reload().returncode == 0
        assert reads(begin(agent, "/bin/cat", secret)), "the policy lets it now"
        assert engine.asked == {AGENT: 1, OTHER: 1}, "labels never change"
        assert reads(begin(users, "/bin/cat", secret)) and engine.asked[USERS] == 1, "control: root's cgroup"


@pytest.mark.leaves("children", reason="the service of the module begins anew")
def test_without_an_answer_a_program_waits_and_then_dies_and_nobody_else_waits(
    service: Service, engine: Engine, secret: Path
) -> None:
    """Whose labels nobody says is stopped, whoever sends SIGCONT, and killed in the end; meanwhile others begin. A
    daemon that comes back settles what began without it, and asks about what runs; whose labels nobody says is left
    then, on record.
    """
    with (
        cgroup(f"docker-{MUTE}.scope") as mute, cgroup(f"libpod-{OTHER}") as other, cgroup(f"libpod-{LATE}") as late,
        cgroup(f"nerdctl-{RUNS}.scope") as agent, cgroup(UNKNOWN) as unknown,
        moved_to(agent) as known_runs, moved_to(unknown) as unknown_runs,
    ):  # fmt: skip
        service.write_policy(policy(secret))
        service.crash()
        left = begin(late, "/bin/cat", secret)
        waiting(late)
        service.start()
        assert not reads(left)
        assert known_runs in service.pids() and unknown_runs not in service.pids() and state(unknown_runs) == "S"
        failed = [record["reason"] for record in service.records("enforcement_failed")]
        assert failed and all(f"container {UNKNOWN} runs" in text for text in failed)
        engine.answering.clear()
        woken = begin(mute, "/bin/cat", secret)
        os.kill(waiting(mute), signal.SIGCONT)
        dies = begin(mute, "/bin/cat", secret)
        engine.answering.set()
        assert reads(begin(other, "/bin/cat", secret)), "its engine knows it"
        assert not reads(woken) and not reads(dies)
        why = until(lambda: unlabelled(service), "the record of the one that stayed stopped")
        assert all(f"container {MUTE} are not known" in text and "no such container" in text for text in why)


@pytest.fixture(params=["podman", "docker"])
def real(request: pytest.FixtureRequest) -> Iterator[Real]:
    """An engine that runs containers."""
    if not request.config.getoption("--slow"):
        pytest.skip("takes minutes: give --slow")
    with tempfile.TemporaryDirectory(prefix="agentd-") as name, getattr(engines, request.param)(Path(name)) as made:
        yield made


def test_a_container_of_a_real_engine_is_an_agent_by_its_label(real: Real) -> None:
    """`run --label` is held from its first instruction, `exec` too; without the label it reads the file, and without
    the engine's socket it is killed.
    """
    assert real.cat("--label=com.example.agent=bot"), "nothing holds it yet"
    with Service(NOTES, container_engines=[str(real.socket)]) as service:
        assert not real.cat("--label=com.example.agent=bot")
        assert real.cat("--label=com.example.agent=other") and real.cat()
        label = "--label=com.example.agent=bot"
        started = real.run("run", "-d", "--name=long", *real.lean, label, "tiny", "/bin/busybox", "sleep", "600")
        assert started.returncode == 0, started
        assert real.run("exec", "long", "/bin/busybox", "cat", "/note").stdout == ""
        assert real.run("exec", "long", "/bin/busybox", "echo", "yes").stdout == "yes\n"
        assert len(service.records("tagged")) >= 3
        service.write_config(container_engines=[str(real.folder / "gone.sock")])
        service.crash()
        service.start()
        assert not real.cat()
        until(lambda: unlabelled(service), "the record of its end")


@pytest.mark.parametrize("real", ["docker"], indirect=True)
def test_a_container_of_containerd_is_an_agent_by_its_annotations(real: Real) -> None:
    """What `ctr` runs under an id of 64 digits is told apart by the annotations in its bundle, and by its labels, which
    ctr writes there; under another name it is no container.
    """
    containerd = Containerd(real)
    agents = {"com.example.agent": "bot"}
    assert containerd.cat(agents), "nothing holds it yet"
    with Service(NOTES, container_engines=[str(containerd.tasks)]) as service:
        assert not containerd.cat(agents)
        assert not containerd.cat({}, "--label=com.example.agent=bot")
        assert containerd.cat({"com.example.agent": "other"}) and containerd.cat({})
        assert containerd.cat(agents, name="mine")
        assert len(service.records("tagged")) == 2
