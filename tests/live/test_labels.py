"""Containers that are an agent by their labels: asked of their engine, and stopped before they run anything until then.

The containers are cgroups with the names that engines give, and programs in a pid namespace of their own; the engine is
engines.py. Where Podman is installed, it is both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel.features import cgroup2_root
from tests.live.engines import Engine
from tests.live.service import Service, bot, state, until

pytestmark = pytest.mark.root
Podman = Callable[..., "subprocess.CompletedProcess[str]"]
# In a mount namespace whose /sys/fs/cgroup is the v2 hierarchy alone: crun refuses the hybrid one.
IN_V2 = 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
# As little as a host without CAP_SYS_RESOURCE and without v2 controllers can give.
LEAN = ("--privileged", "--pids-limit=-1", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4000:4000", "--network=none")
RULE = {"label": {"com.example.agent": "bot"}}
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
        why = [record["reason"] for record in service.records("denied") if "labels" in record["reason"]]
        assert why and all(f"container {MUTE} are not known" in text and "no such container" in text for text in why)


@pytest.fixture
def podman(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Podman]:
    """Podman with a storage of its own, and an image `tiny` with a busybox and a file."""
    if not request.config.getoption("--slow"):
        pytest.skip("takes minutes: give --slow")
    assert shutil.which("podman"), "apt-get install podman"
    storage = tmp_path / "storage.conf"
    places = f'runroot="{tmp_path}/run"\ngraphroot="{tmp_path}/graph"\n'
    storage.write_text(f'[storage]\ndriver="vfs"\n{places}', encoding="utf-8")
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "TMPDIR": str(tmp_path)}

    def command(*words: str) -> list[str]:
        return ["unshare", "--mount", "/bin/sh", "-c", IN_V2, "sh", "podman", "--cgroup-manager=cgroupfs", *words]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )

    (tmp_path / "Containerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY note /note\n", encoding="utf-8"
    )
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    (tmp_path / "note").write_text("secret", encoding="utf-8")
    assert run("build", "-q", "-t", "tiny", ".").returncode == 0
    serve = command("system", "service", "--time=0", f"unix://{tmp_path}/podman.sock")
    with subprocess.Popen(serve, env=environment, stderr=subprocess.DEVNULL) as service:
        try:
            until((tmp_path / "podman.sock").exists, "the socket")
            yield run
        finally:
            run("rm", "-af", "-t", "0")
            service.terminate()
            service.wait(60)
            run("rmi", "-af")


def test_a_container_of_podman_is_an_agent_by_its_label(podman: Podman, tmp_path: Path) -> None:
    """`podman run --label` is held from its first instruction, `podman exec` too; without the label it reads the file,
    and without Podman's service it is killed.
    """

    def reads(*words: str) -> bool:
        done = podman("run", "--rm", *LEAN, *words, "tiny", "/bin/busybox", "cat", "/note")
        assert (done.returncode == 0) == (done.stdout == "secret")
        return done.returncode == 0

    assert reads("--label=com.example.agent=bot"), "nothing holds it yet"
    deny = [{"tool": "file_reader", "operations": ["read"], "paths": ["**/note"]}]
    made = Service({"bot": bot(match=[RULE]) | {"deny": deny}}, container_engines=[str(tmp_path / "podman.sock")])
    with made as service:
        assert not reads("--label=com.example.agent=bot")
        assert reads("--label=com.example.agent=other") and reads()
        started = podman(
            "run", "-d", "--name=long", *LEAN, "--label=com.example.agent=bot", "tiny", "/bin/busybox", "sleep", "600"
        )
        assert started.returncode == 0
        assert podman("exec", "long", "/bin/busybox", "cat", "/note").stdout == ""
        assert podman("exec", "long", "/bin/busybox", "echo", "yes").stdout == "yes\n"
        assert len(service.records("tagged")) >= 3
        service.write_config(container_engines=[str(tmp_path / "gone.sock")])
        service.crash()
        service.start()
        assert not reads()
        assert any("labels of container" in record["reason"] for record in service.records("denied"))
