"""`agentd run` and `agentd tag` against the service: exit codes, descriptors, signals, who is held from when on."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.service import PYTHON, Line, Service, Sleeper, agentd, bot, listening, state, until

pytestmark = pytest.mark.root

FREE = bot(
    allow=[
        {"tool": tool} for tool in ("shell", "file_reader", "file_writer", "file", "process", "git", "package_manager")
    ],
    deny=[{"tool": "network"}],
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with Service({"bot": FREE, "other": bot(deny=[{"tool": "shell"}])}) as made:
        yield made


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    yield shared
    shared.end_workloads()


@pytest.mark.leaves("children", reason="the service of the module starts in its first test")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 128 + 9),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
    ],
)
def test_exit_codes(service: Service, command: list[str], code: int) -> None:
    """The exit code is the command's own, 128+N for signal N."""
    done = service.run(*command)
    assert (done.returncode, done.stderr) == (code, "")


def test_not_executed(service: Service) -> None:
    """126 for what can't be executed and 127 for what isn't there, with one line."""
    plain = service.folder / "plain"
    plain.write_text("x")
    assert "command not found" in Line.of(service.run("/no/such/program"), 127).text
    assert "command not found" in Line.of(service.run("no-such-program-here"), 127).text
    assert "permission denied" in Line.of(service.run(plain), 126).text
    assert not service.pids()


def test_cannot_enforce(service: Service) -> None:
    """125 when it can't be enforced, and the command was not started."""
    mark = service.folder / "started"
    for words, expected in (
        (["--socket", service.socket, "--agent", "ghost"], "the policy doesn't name it"),
        (["--socket", service.folder / "none.sock", "--agent", "bot"], "is agentd running?"),
        (["--socket", service.socket, "--agent", "bot", "--user", "no-such-user"], "there is none"),
        (["--socket", service.socket, "--agent", "bot", "--json-events", "/tmp/x"], "the service keeps the log"),
        (["--policy", service.folder / "none.yaml", "--agent", "bot"], "none.yaml"),
        (["--policy", service.config, "--agent", "bot"], "agentd.yaml"),
        (["--policy", service.policy, "--agent", "ghost"], "the policy doesn't name it"),
        (["--policy", service.policy, "--agent", "bot", "--state", service.audit], "another process is writing"),
    ):
        done = agentd("run", *words, "--", "touch", mark)
        assert done.returncode == 125 and expected in done.stderr, done
        assert not mark.exists()
    assert service.run("touch", mark).returncode == 0 and mark.exists()


def test_held_from_the_first_instruction(service: Service) -> None:
    """What `agentd run` starts is held, with its children; the command itself is the operator's."""
    with listening() as port:
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        for command in ([PYTHON, "-c", code], ["sh", "-c", f'setsid {PYTHON} -c "{code}" & wait $!']):
            done = service.run(*command)
            assert done.returncode == 1 and "Operation not permitted" in done.stderr, done
            subprocess.run(command, check=True)
    done = service.run("sh", "-c", "true; /bin/true", agent="other")
    assert done.returncode == 128 + 9, done


def test_pipes_environment_and_descriptors(service: Service) -> None:
    """Standard streams pass through; the environment is the caller's; no descriptor of agentd is inherited."""
    code = (
        "import os, sys\n"
        "fds = sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1]\n"
        "print(sys.stdin.read(), fds, os.environ['MARK'], os.getcwd()); print('to stderr', file=sys.stderr)"
    )
    done = service.run(PYTHON, "-I", "-S", "-c", code, input="to stdin", env={**os.environ, "MARK": "here"}, cwd="/")
    assert done.stdout == "to stdin [0, 1, 2] here /\n" and done.stderr == "to stderr\n", done


def test_user(service: Service) -> None:
    """--user runs the command as that user, with its groups and home."""
    nobody = pwd.getpwnam("nobody")
    done = service.cli("run", "--agent", "bot", "--user", "nobody", "--", "sh", "-c", "id -u; id -G; echo $HOME")
    assert done.stdout.split() == [str(nobody.pw_uid), str(nobody.pw_gid), nobody.pw_dir], done


def test_signals_are_forwarded(service: Service) -> None:
    """TERM, HUP, USR1 and USR2 reach the command; its way of ending is the exit code."""
    code = (
        "import signal, sys, time\nfor n in (1, 10, 12, 15):\n    signal.signal(n, lambda n, f: sys.exit(n))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        with service.spawn(PYTHON, "-I", "-S", "-c", code, stdout=subprocess.PIPE) as started:
            assert started.stdout is not None and started.stdout.readline() == b"ready\n"
            started.send_signal(number)
            assert started.wait() == number


def test_interrupt_from_a_terminal(service: Service) -> None:
    """Ctrl-C on a terminal ends the command, and agentd reports how."""
    # by short sleeps: a signal that comes after Python has looked for one and before the kernel waits, ends none
    code = "import time\nprint('ready', flush=True)\nwhile True: time.sleep(1)"
    import pty

    pid, master = pty.fork()
    if pid == 0:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "agentd", "run", "--socket", str(service.socket), "--agent", "bot", "--",
             PYTHON, "-I", "-S", "-c", code],
        )  # fmt: skip
    try:
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 1024)
        os.write(master, b"\x03")
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while os.read(master, 1024):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + 2
    finally:
        os.close(master)


def test_two_at_once(service: Service) -> None:
    """Runs in parallel are workloads of their own."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(service.spawn("sleep", "1000")) for _ in range(4)]
        until(lambda: len(service.call("status")["workloads"]) >= 4, "four workloads")
        until(lambda: len({line.workload for line in service.tasks()}) == 4, "four marks")
        for process in started:
            process.terminate()
        assert [process.wait() for process in started] == [128 + 15] * 4


def test_alone_with_events() -> None:
    """Without a service: every record goes to --json-events too, and what the command leaves behind is ended."""
    service = Service({"bot": FREE})
    try:
        events, log = service.folder / "events.jsonl", service.folder / "state"
        with listening() as port:
            code = f"import socket; socket.socket().connect_ex(('127.0.0.1', {port}))"
            done = agentd(
                "run", "--agent", "bot", "--policy", service.policy, "--state", log, "--json-events", events,
                "--", "sh", "-c", f'{PYTHON} -c "{code}"; setsid sleep 1000 & exit 5',
            )  # fmt: skip
        assert done.returncode == 5 and "1 processes outlived sh: killed" in done.stderr, done
        kinds = [json.loads(line)["event"] for line in events.read_text().splitlines()]
        assert {"workload_started", "denied"} <= set(kinds)
        assert agentd("audit", "verify", "--strict", log).returncode == 0
    finally:
        service.close()


# -- tag


FAMILY = r"""
import os, socket, sys, threading
port = int(sys.argv[1])
r, w = os.pipe()
go, gone = os.pipe()
here, begun = os.pipe()
def attempt():
    os.write(begun, b"x")
    os.read(go, 1)
    os.write(w, b"%d" % socket.socket().connect_ex(("127.0.0.1", port)))
for i in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            attempt()
        else:
            attempt()
            os.wait()
        os._exit(0)
threads = [threading.Thread(target=attempt) for _ in range(4)]
[t.start() for t in threads]
[os.read(here, 1) for _ in range(10)]
print("ready", flush=True)
sys.stdin.readline()
os.write(gone, b"x" * 10)
[t.join() for t in threads]
[os.wait() for _ in range(3)]
print(os.read(r, 100).decode())
"""


def test_tag_threads_and_children(service: Service) -> None:
    """Tagging a process holds its threads and the children it has already, whatever they do next."""
    for tagged in (False, True):
        with listening() as port:
            child = subprocess.Popen(
                [PYTHON, "-I", "-S", "-c", FAMILY, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            if tagged:
                done = service.cli("tag", "--agent", "bot", "--pid", str(child.pid))
                assert "11 threads are held" in done.stdout, done
            out, _ = child.communicate(b"go\n")
            assert out.strip() == (b"1" if tagged else b"0") * 10


STORM = r"""
import os, socket, sys, time
# A tree that forks all the time: every node forks a child that lives on, then a few that end at once.
def node(depth):
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            if depth < 3 and os.getpid() % 3 == 0:
                node(depth + 1)
            os._exit(0)
        os.waitpid(pid, 0)
    # what lives at the end says whether it is held
    if socket.socket().connect_ex(("127.0.0.1", int(sys.argv[2]))) != 1:
        os.write(1, b"FREE %d\n" % os.getpid())
    else:
        os.write(1, b"held\n")
first = os.getpid()
for _ in range(4):
    if os.fork() == 0:
        node(0)
        os._exit(0)
print("ready", flush=True)
for _ in range(4):
    os.wait()
"""


def test_tag_races_with_forks(service: Service) -> None:
    """Every descendant of a tree that forks while it is being tagged is held."""
    with listening() as port:
        for _ in range(5):
            with subprocess.Popen([PYTHON, "-I", "-S", "-c", STORM, "1", str(port)], stdout=subprocess.PIPE) as child:
                assert child.stdout is not None and child.stdout.readline() == b"ready\n"
                service.tag(child.pid)
                said = child.stdout.read()
            assert b"FREE" not in said and said.count(b"held") >= 4, said


@pytest.fixture
def cgroup() -> Iterator[Path]:
    from agentd.kernel.features import cgroup2_root

    folder = cgroup2_root() / f"agentd-test-{os.getpid()}"
    inner = folder / "inner"
    inner.mkdir(parents=True)
    try:
        yield folder
    finally:
        for path in (inner, folder):
            until(lambda path=path: not (path / "cgroup.procs").read_text(), "an empty cgroup")
            path.rmdir()


def test_tag_cgroup(service: Service, cgroup: Path) -> None:
    """Tagging a cgroup holds what is in it and below, and what these processes start later."""
    with listening() as port, contextlib.ExitStack() as stack:
        outer, inner, outside = (stack.enter_context(Sleeper()) for _ in range(3))
        (cgroup / "cgroup.procs").write_text(str(outer.pid))
        (cgroup / "inner" / "cgroup.procs").write_text(str(inner.pid))
        assert outer.do("connect", str(port)) == "ok"
        done = service.cli("tag", "--agent", "bot", "--cgroup", cgroup, "--json")
        assert json.loads(done.stdout)["threads"] == 2, done
        assert [s.do("connect", str(port)) for s in (outer, inner, outside)] == ["errno 1", "errno 1", "ok"]
        (cgroup.parent / "cgroup.procs").write_text(str(inner.pid))
        assert inner.do("connect", str(port)) == "errno 1"
    assert (
        "give a folder of cgroup2"
        in Line.of(service.cli("tag", "--agent", "bot", "--cgroup", "/no/such/cgroup"), 1).text
    )


def test_tag_refuses(service: Service) -> None:
    """Tag says in one line what it can't do, and no workload is left of it."""
    before = service.cli("status", "--json").stdout
    assert "there is none" in Line.of(service.cli("tag", "--agent", "bot", "--pid", "4194304"), 1).text
    daemon = str(service.process.pid) if service.process else ""
    assert "agentd itself" in Line.of(service.cli("tag", "--agent", "bot", "--pid", daemon), 1).text
    both = service.cli("tag", "--agent", "bot", "--pid", "5", "--cgroup", "/x")
    assert "exactly one of" in Line.of(both, 2).text
    with Sleeper() as sleeper:
        refused = service.cli("tag", "--agent", "ghost", "--pid", str(sleeper.pid))
        assert "choose one of: bot, other" in Line.of(refused, 1).text
        assert sleeper.pid not in service.pids()
    now = json.loads(service.cli("status", "--json").stdout)
    assert {row["origin"] for row in now["workloads"]} <= {row["origin"] for row in json.loads(before)["workloads"]}


def test_tagging_its_own_ancestor_spares_the_daemon(tmp_path: Path) -> None:
    """A daemon whose ancestor is tagged goes on working: it is not held itself."""
    service = Service({"bot": FREE})
    code = (
        "import subprocess, sys\nchild = subprocess.Popen(sys.argv[1:])\nprint(child.pid, flush=True)\n"
        "sys.stdin.readline()\nchild.terminate()\nsys.exit(child.wait())"
    )
    parent = subprocess.Popen(
        [PYTHON, "-c", code, sys.executable, "-m", "agentd", "daemon", "--config", service.config],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        daemon = int(parent.stdout.readline())
        until(lambda: service.cli("status").returncode == 0, "the daemon")
        service.tag(parent.pid)
        assert daemon not in service.pids() and parent.pid in service.pids()
        assert service.cli("status").returncode == 0
        os.kill(daemon, signal.SIGTERM)
        until(lambda: state(daemon) in "ZX", "its end")
    finally:
        parent.communicate(b"\n")
        service.close()


def test_match_rules() -> None:
    """`match:` finds running processes by user, program, environment and cgroup, at start and at reload."""
    from agentd.kernel.features import cgroup2_root

    folder = cgroup2_root() / f"agentd-match-{os.getpid()}"
    folder.mkdir()
    mark = f"agentd-{os.getpid()}"
    service = Service({})
    own = service.folder / "own-sleep"
    try:
        with contextlib.ExitStack() as stack:
            own.write_bytes(Path("/bin/sleep").read_bytes())
            own.chmod(0o755)
            service.folder.chmod(0o755)

            def sleeping(*command: str, **how: object) -> subprocess.Popen[bytes]:
                process = subprocess.Popen(command or ("sleep", "1000"), **how)  # type: ignore[call-overload]
                stack.callback(process.wait)
                stack.callback(process.kill)
                return process

            by_env = sleeping(env={**os.environ, "AGENT_ID": mark})
            by_exe = sleeping(str(own), "1000")
            by_user = sleeping(user=64321)
            by_cgroup = sleeping()
            nobody = sleeping()
            (folder / "cgroup.procs").write_text(str(by_cgroup.pid))
            time.sleep(0.1)  # until they have made their exec
            service.write_policy(
                {
                    "env": FREE | {"match": [{"env": {"AGENT_ID": mark}}]},
                    "exe": FREE | {"match": [{"exe": str(own)}]},
                    "user": FREE | {"match": [{"user": "64321"}]},
                }
            )
            service.start()
            assert service.pids() == {by_env.pid, by_exe.pid, by_user.pid}
            service.write_policy(
                {"cg": FREE | {"match": [{"cgroup": f"/{folder.name}/**"}, {"cgroup": f"/{folder.name}"}]}}
            )
            assert service.reload().returncode == 0
            assert service.pids() == {by_env.pid, by_exe.pid, by_user.pid, by_cgroup.pid}
            assert nobody.pid not in service.pids()
            agents = {w["agent"]: w["origin"] for w in service.call("status")["workloads"]}
            assert set(agents) == {"env", "exe", "user", "cg"} and agents["exe"].startswith("match exe"), agents
    finally:
        service.close()
        folder.rmdir()
