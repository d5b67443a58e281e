"""Programs that begin an agent because a rule of `match:` recognises them: by the kernel, before they run anything."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.kernel.features import cgroup2_root
from tests.live.harness import enforcing
from tests.live.service import PYTHON, Service, Sleeper, bot, listening, until

pytestmark = pytest.mark.root
MARK = f"AGENTD_TEST_{os.getpid()}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="agentd-match-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """A program that nobody else runs: its first instructions open the file it is named; it exits with the errno."""
    source = folder / "first.c"
    source.write_text(
        r"""
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
__attribute__((naked)) void _start(void) { __asm__("mov %rsp, %rdi; call begin; hlt"); }
__attribute__((used)) void begin(long *stack) {
    char *at = ((char **)(stack + 1))[1];
    long r = call(257, -100, (long)at, 0); /* openat */
    call(60, r < 0 ? -r : 0, 0, 0);
}
""",
        encoding="utf-8",
    )
    made = folder / "first"
    subprocess.run(
        ["gcc", "-O1", "-static", "-nostdlib", "-fno-stack-protector", "-o", made, source], check=True, timeout=60
    )
    return made


def outcome(program: Path, file: Path, **how: Any) -> int:
    """0: it read the file; EPERM; or minus the signal that ended it."""
    return subprocess.run([program, file], check=False, timeout=60, **how).returncode


def held(status: int) -> bool:
    """Did its first system call fail, or was it ended there? (Without LSM hooks a denied read ends the process.)"""
    return status in (errno.EPERM, -9)


@pytest.fixture
def secret(folder: Path) -> Path:
    """A file that the agent of these tests may not read."""
    path = folder / "secret.txt"
    path.write_text("secret", encoding="utf-8")
    return path


def agent(secret: Path, *rules: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A bot that is recognised by `rules` and may not read the file."""
    deny = [{"tool": "file_reader", "operations": ["read"], "paths": [str(secret)]}]
    return {"bot": bot(match=list(rules), **keys) | {"deny": deny}}


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own, with one below it."""
    path = cgroup2_root() / f"agentd-test-{os.getpid()}"
    (path / "agents-probe.service").mkdir(parents=True)
    yield path
    for folder in (path / "agents-probe.service", path):
        until(lambda at=folder: not (at / "cgroup.procs").read_text(), "an empty cgroup")
        folder.rmdir()


def inside(path: Path) -> Any:
    """For preexec_fn: moves the child there, as systemd does before it executes a unit's program."""
    return lambda: (path / "cgroup.procs").write_text("0")


def test_a_program_is_held_from_its_first_instruction_by_each_kind_of_rule(
    program: Path, secret: Path, cgroup: Path
) -> None:
    """exe, cgroup, systemd_unit, user and env recognise a program at its exec; without them it reads the file."""
    place = cgroup / "agents-probe.service"
    below = f"/{cgroup.name}"
    user = 54321
    cases: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ({"exe": str(program)}, {}, {"executable": "/bin/cat"}),
        ({"cgroup": f"{below}/**"}, {"preexec_fn": inside(place)}, {}),
        ({"systemd_unit": "agents-pr*.service"}, {"preexec_fn": inside(place)}, {"preexec_fn": inside(cgroup)}),
        ({"user": user}, {"user": user}, {}),
        ({"env": {MARK: "yes", f"{MARK}_TOO": "*"}}, {"env": {"A": "x" * 700, MARK: "yes", f"{MARK}_TOO": "*"}},
         {"env": {MARK: "yes", f"{MARK}_TOO": "all"}}),
    ]  # fmt: skip
    with Service({"bot": bot()}) as service:
        for rule, how, control in cases:
            service.write_policy({"bot": bot()})
            assert service.reload().returncode == 0
            assert outcome(program, secret, **how) == 0, "nothing recognises it yet"
            service.write_policy(agent(secret, rule))
            assert service.reload().returncode == 0
            assert held(outcome(program, secret, **how)), rule
            assert outcome(program, secret, **control) == 0, f"control of {rule}"

        def denied() -> list[dict[str, Any]]:
            return [r for r in service.records("denied") if r["kernel_operation"] == "read"]

        until(lambda: len(denied()) >= len(cases), "the records")
        assert len(denied()) == len(cases)
        tagged = [r for r in service.records("tagged") if r["reason"].startswith("match ")]
        assert {record["reason"].split()[1] for record in tagged} == {"exe", "cgroup", "systemd_unit", "user", "env"}


def test_status_says_which_rule_marked_a_workload_also_after_a_restart(program: Path, secret: Path) -> None:
    """`agentd status` shows the rule, for what the kernel recognised and after another daemon has taken over."""
    rule = {"env": {MARK: "status"}}
    with Service(agent(secret, rule)) as service, Sleeper(env={**os.environ, MARK: "status"}) as sleeper:

        def origin() -> str | None:
            found = service.call("status")["workloads"]
            return next((w["origin"] for w in found if w["agent"] == "bot" and w["processes"] == 1), None)

        why = f"match env {{'{MARK}': 'status'}}"
        until(lambda: origin() == why, "the rule in the status")
        assert sleeper.pid in service.pids()
        assert why in service.cli("status").stdout
        note = service.audit / "workloads.json"
        until(lambda: note.exists() and MARK in note.read_text(encoding="utf-8"), "the note")
        service.crash()
        service.start()
        assert origin() == why


def test_what_runs_already_is_found_at_start_and_at_reload(program: Path, secret: Path) -> None:
    """A process that began before the service, or before its rule, is marked with all that it has started."""
    rule = {"env": {MARK: "old"}}
    with Sleeper(env={**os.environ, MARK: "old"}) as before:
        assert before.do("open", secret) == "ok"
        with Service(agent(secret, rule)) as service:
            assert before.pid in service.pids()
            assert before.do("open", secret) in ("errno 1", "killed")
            with Sleeper(env={**os.environ, MARK: "new"}) as later:
                assert later.do("open", secret) == "ok"
                service.write_policy(agent(secret, rule, {"env": {MARK: "new"}}))
                assert service.reload().returncode == 0
                assert later.do("open", secret) in ("errno 1", "killed")


def test_who_moves_into_a_matching_cgroup_is_found_soon_and_what_it_executes_at_once(
    program: Path, secret: Path, cgroup: Path
) -> None:
    """A running process that is moved is marked within seconds; a program it begins there is held from its start."""
    place = cgroup / "agents-probe.service"
    with Service(agent(secret, {"cgroup": f"/{cgroup.name}/agents-probe.service"})) as service, Sleeper() as sleeper:
        assert sleeper.do("run", program, secret) == "ok 0"
        (place / "cgroup.procs").write_text(str(sleeper.pid))
        assert sleeper.do("run", program, secret) in ("ok 1", "ok -9")
        until(lambda: sleeper.pid in service.pids(), "the sweep")
        assert sleeper.do("open", secret) in ("errno 1", "killed")


def test_nothing_slips_through_between_the_look_at_what_runs_and_the_kernels_rules(
    program: Path, secret: Path, tmp_path: Path
) -> None:
    """While a service starts and reloads, programs that match begin in a storm; from the moment it is ready none reads
    the file, and every one that lives carries a mark.
    """
    answers = tmp_path / "answers"
    storm = r"""
import os, subprocess, sys, time
program, secret, marked, plain, answers, stop = sys.argv[1:]
with open(answers, "a", buffering=1) as out:
    while not os.path.exists(stop):
        for variable in (marked, plain):
            begun = time.monotonic()
            try:
                done = subprocess.run([program, secret], env={variable: "1"}).returncode
            except OSError as error:
                done = error.errno
            print(variable, begun, done, file=out)
            time.sleep(0.01)
"""
    stop = tmp_path / "stop"
    words = [PYTHON, "-I", "-S", "-c", storm, program, secret, f"{MARK}_STORM", f"{MARK}_PLAIN", answers, stop]
    crowd = [subprocess.Popen(words) for _ in range(2)]
    sleepers: list[subprocess.Popen[bytes]] = []
    try:
        until(lambda: answers.exists() and answers.stat().st_size > 1000, "the storm")
        with Service(agent(secret, {"env": {f"{MARK}_STORM": "1"}})) as service:
            ready = time.monotonic()
            for _ in range(3):
                sleepers.append(subprocess.Popen(["/bin/sleep", "600"], env={f"{MARK}_STORM": "1"}))
                assert service.reload().returncode == 0
            at = answers.stat().st_size
            until(lambda: answers.stat().st_size > at + 5000, "more of the storm")
            stop.touch()
            for one in crowd:
                one.wait(60)
            assert {one.pid for one in sleepers} <= service.pids()
            lines = [line.split() for line in answers.read_text(encoding="utf-8").splitlines()]
            after = [(name, int(done)) for name, begun, done in lines if float(begun) > ready]
            marked = [done for name, done in after if name.endswith("_STORM")]
            plain = [done for name, done in after if name.endswith("_PLAIN")]
            assert len(marked) > 20 and all(held(done) for done in marked)
            assert len(plain) > 20 and not any(plain)
            before = [int(done) for name, begun, done in lines if float(begun) < ready and name.endswith("_STORM")]
            assert 0 in before, "the storm did what is forbidden while nothing forbade it"
    finally:
        stop.touch()
        for one in (*sleepers, *crowd):
            one.kill()
            one.wait()


def test_who_leaves_its_parent_while_the_service_looks_is_found_too(secret: Path) -> None:
    """A process forks all the time, and its children leave it at once: when the service is ready each is marked."""
    name = f"{MARK}_LEAVES"
    code = (
        "import os, time\n"
        "while True:\n"
        "    if not (child := os.fork()):\n"
        "        os.setsid()\n"
        "        if os.fork():\n"
        "            os._exit(0)\n"
        "        time.sleep(1)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    time.sleep(0.005)\n"
    )

    def alive() -> set[int]:
        found = set()
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.environ().get(name) == "1" and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(pid)
        return found

    words = [PYTHON, "-I", "-S", "-c", code]
    with subprocess.Popen(words, env={name: "1"}) as crowd:
        try:
            until(lambda: len(alive()) > 20, "a crowd")
            with Service(agent(secret, {"env": {name: "1"}})) as service:
                there = alive()
                marked = service.pids()
                assert len(there) > 1 and crowd.pid in marked  # how many is a matter of how busy this machine is
                assert not (there - marked) & alive()
                crowd.kill()
                until(lambda: not alive(), "their end")
        finally:
            crowd.kill()


@pytest.fixture
def agents_slice() -> Iterator[Path]:
    """agents.slice, as systemd makes it, with a unit in the slice of bot and the slice of an agent that is none."""
    folder = cgroup2_root() / "agents.slice"
    unit, nobody = folder / "agents-bot.slice" / "x.service", folder / "agents-nobody.slice"
    unit.mkdir(parents=True)
    nobody.mkdir()
    yield folder
    for one in (unit, unit.parent, nobody, folder):
        until(lambda at=one: not (at / "cgroup.procs").read_text(), "an empty cgroup")
        one.rmdir()


def test_a_slice_makes_an_agent_and_who_begins_beside_it_may_not_run(
    program: Path, secret: Path, agents_slice: Path, tmp_path: Path
) -> None:
    """Under systemd agents-NAME.slice is the agent NAME without a rule; below agents.slice all else is killed before it
    runs, but for the host's own systemd, which is not mistaken for what a container calls so.
    """
    unit, nobody = agents_slice / "agents-bot.slice" / "x.service", agents_slice / "agents-nobody.slice"
    systemd = "/usr/lib/systemd/systemd"
    steps = 'mount --bind "$1" "$2"; cat "$3" >/dev/null; echo 0 >"$4/cgroup.procs"; exec "$2" "$3"'
    disguised = ["unshare", "--mount", "/bin/sh", "-c", steps, "sh", program, systemd, secret, nobody]
    assert outcome(program, secret, preexec_fn=inside(nobody)) == 0
    assert subprocess.run(disguised, check=False, timeout=60).returncode == 0
    with enforcing(tmp_path, agent(secret), slices=True) as host:
        assert held(outcome(program, secret, preexec_fn=inside(unit)))
        assert outcome(program, secret, preexec_fn=inside(nobody)) == -9
        assert outcome(program, secret, preexec_fn=inside(agents_slice)) == -9
        assert subprocess.run(disguised, check=False, timeout=60).returncode == -9
        version = [systemd, "--version"]
        own = subprocess.run(version, preexec_fn=inside(nobody), capture_output=True, check=False, timeout=60)
        assert own.returncode == 0 and own.stdout
        assert outcome(program, secret) == 0, "elsewhere it may"
        records = host.records()
        assert sum(r["event"] == "denied" and "may not run" in r["reason"] for r in records) == 3
        assert [r["reason"] for r in records if r["event"] == "tagged"] == ["slice agents-bot.slice"]


def test_a_policy_below_its_minimum_lets_no_program_begin(program: Path, secret: Path, tmp_path: Path) -> None:
    """Where the host gives less than minimum_guarantee, what a rule recognises is killed instead of run half held."""
    rule = {"env": {MARK: "minimum"}}
    with Service(agent(secret, rule, minimum_guarantee="prevented")) as service:
        weak = any(row["guarantee"] != "prevented" for row in service.call("status")["enforcement"])
        status = outcome(program, tmp_path / "nothing", env={MARK: "minimum"})
        assert status == (-9 if weak else errno.ENOENT)
        if weak:
            until(lambda: any("may not run" in r["reason"] for r in service.records("denied")), "the record")


def test_connections_are_left_alone_where_nothing_matches(program: Path) -> None:
    """With rules in force, a process that none recognises goes on as before."""
    with Service({"bot": bot(match=[{"env": {MARK: "never"}}])}) as service, listening() as port, Sleeper() as sleeper:
        assert sleeper.do("connect", str(port)) == "ok"
        assert sleeper.do("run", "/bin/true") == "ok 0"
        assert not service.pids()
