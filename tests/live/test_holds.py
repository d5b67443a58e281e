"""Operations that wait for an answer: nothing is done, nobody else's SIGCONT helps, and the answer decides."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import AgentdError
from tests.live import harness, probes
from tests.live.harness import Host, Workload
from tests.live.probes import Compiler, Result, state, untagged
from tests.live.test_exec import EFFECT

pytestmark = pytest.mark.root

STORM = 2000  # foreign SIGCONTs


class Server:
    """A TCP and a UDP server on one port of 127.0.0.1."""

    def __init__(self, stack: ExitStack) -> None:
        self.tcp = stack.enter_context(socket.socket())
        self.tcp.bind(("127.0.0.1", 0))
        self.tcp.listen(64)
        self.port = self.tcp.getsockname()[1]
        self.udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", self.port))
        self.tcp.setblocking(False)
        self.udp.setblocking(False)

    def arrived(self) -> int:
        """How many connections and datagrams came since the last call."""
        found = 0
        while True:
            try:
                self.tcp.accept()[0].close()
            except BlockingIOError:
                break
            found += 1
        while True:
            try:
                self.udp.recv(100)
            except BlockingIOError:
                return found
            found += 1


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Where the probes want to go."""
    with ExitStack() as stack:
        yield Server(stack)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, compiler: Compiler) -> Path:
    """Has a program `ask/program` that is held when started, and a file `ask/file` that is held when opened."""
    made = tmp_path_factory.mktemp("holds")
    (made / "ask").mkdir()
    program = made / "ask/program"
    program.write_bytes(compiler.program(EFFECT).read_bytes())
    program.chmod(0o755)
    (made / "ask/file").write_text("data")
    return made


@pytest.fixture(scope="module")
def live(server: Server, folder: Path) -> Iterator[Host]:
    """`bot` must ask; `hasty` too, and gets a second."""
    ask: list[dict[str, Any]] = [
        {"tool": "asked"},
        {"tool": "network", "hosts": [f"127.0.0.1:{server.port}", "127.0.0.1:61235"]},
        {"tool": "file_reader", "paths": [f"{folder}/ask/**"]},
    ]
    tools = {"asked": {"run": [{"exec": [f"{folder}/ask/**"]}]}}
    agents = {
        "bot": harness.agent(ask=ask),
        "hasty": harness.agent(ask=[{**rule, "timeout": "1s"} for rule in ask]),
    }
    with harness.enforcing(folder, agents, tools) as host:
        yield host


def at_rest(host: Host, pid: int, states: str) -> None:
    """The process comes to one of these states."""
    host.until(lambda: state(pid) in states, f"state {states}")


def storm(pid: int) -> None:
    """SIGCONT, from this process and from another."""
    shout = f"import os\nfor _ in range({STORM}): os.kill({pid}, 18)"
    other = subprocess.Popen([probes.PYTHON, "-I", "-S", "-c", shout], stderr=subprocess.DEVNULL)
    for _ in range(STORM):
        os.kill(pid, signal.SIGCONT)
    other.wait()


def stopped(host: Host, workload: Workload, pid: int) -> None:
    """The process comes to state T, and stays in it through a storm of SIGCONT from this process and from another."""
    host.until(lambda: state(pid) == "T", "state T")
    storm(pid)
    host.until(lambda: state(pid) == "T", "state T again")
    assert len(host.pending()) == 1, "the storm made another question of it"


# name -> (code, kernel operation, guarantee); each leaves a trace in `arrived` or in the effect
CODES = {
    "connect": ("s = socket.socket(); attempt(lambda: s.connect(to))", "connect"),
    "udp connect": (
        "s = socket.socket(type=socket.SOCK_DGRAM); attempt(lambda: (s.connect(to), s.send(b'x')))",
        "connect",
    ),
    "sendto": ("s = socket.socket(type=socket.SOCK_DGRAM); attempt(lambda: s.sendto(b'x', to))", "send"),
    "sendmsg": ("s = socket.socket(type=socket.SOCK_DGRAM); attempt(lambda: s.sendmsg([b'x'], [], 0, to))", "send"),
    "fast open": ("s = socket.socket(); attempt(lambda: s.sendto(b'x', 0x20000000, to))", "connect"),
    "connect in a thread": (
        "s = socket.socket()\nt = threading.Thread(target=lambda: attempt(lambda: s.connect(to)))\nt.start(); t.join()",
        "connect",
    ),
}


def command(how: str, server: Server) -> list[str]:
    """A probe that ends with a line of its own."""
    return probes.python(f"to = ('127.0.0.1', {server.port})\n{CODES[how][0]}\nsay('after')")


@pytest.mark.parametrize("how", CODES)
def test_a_held_call_succeeds_when_it_is_approved(live: Host, server: Server, how: str) -> None:
    """Held, the process is stopped and nothing has arrived; approved, the very same call succeeds."""
    assert untagged(command(how, server)).result() is Result.ALLOWED and server.arrived()
    workload = live.start(command(how, server))
    asked = live.held(workload)
    assert (asked["kernel_operation"], asked["guarantee"]) == (CODES[how][1], "prevented")
    stopped(live, workload, workload.pid)
    assert server.arrived() == 0 and workload.output == b"attempt\n"
    live.answer(asked, True)
    run = workload.wait()
    assert run.status == 0 and run.result() is Result.ALLOWED and run.lines[-1] == "after", run
    assert server.arrived() == 1
    assert [record["event"] for record in run.records] == ["approval_required", "approved", "allowed"]


@pytest.mark.parametrize("how", CODES)
def test_a_held_call_fails_when_it_is_denied(live: Host, server: Server, how: str) -> None:
    """Denied, the call fails with EPERM, nothing arrives, and the process goes on."""
    workload = live.start(command(how, server))
    asked = live.held(workload)
    live.until(lambda: state(workload.pid) == "T", "state T")
    live.answer(asked, False)
    run = workload.wait()
    assert run.lines == ["attempt", f"errno {errno.EPERM}", "after"] and run.status == 0, run
    assert server.arrived() == 0
    assert [record["event"] for record in run.records] == ["approval_required", "approval_denied"]


@pytest.mark.parametrize("allow", [True, False])
def test_a_held_bind(live: Host, allow: bool) -> None:
    """A bind that needs an answer is done after a yes, and not done after a no."""
    code = "s = socket.socket(); attempt(lambda: s.bind(('127.0.0.1', 61235))); say(str(s.getsockname()[1]))"
    assert untagged(probes.python(code)).lines[-1] == "61235"
    workload = live.start(probes.python(code))
    asked = live.held(workload)
    stopped(live, workload, workload.pid)
    live.answer(asked, allow)
    run = workload.wait()
    assert run.lines[-1] == ("61235" if allow else "0"), run
    assert run.lines[1] == ("ok None" if allow else f"errno {errno.EPERM}")


def test_time_is_up(live: Host, server: Server) -> None:
    """Without an answer a held call is denied when its time is up."""
    run = live.run(command("connect", server), "hasty")
    assert run.lines == ["attempt", f"errno {errno.EPERM}", "after"], run
    assert [record["event"] for record in run.records] == ["approval_required", "approval_expired"]
    assert server.arrived() == 0


def test_one_answer_is_one_call(live: Host, server: Server) -> None:
    """A yes is for one call: the same call again is asked about again."""
    code = f"""
for _ in range(2):
    s = socket.socket()
    attempt(lambda: s.connect(('127.0.0.1', {server.port})))
"""
    workload = live.start(probes.python(code))
    live.answer(live.held(workload), True)
    second = live.held(workload)
    live.until(lambda: state(workload.pid) == "T", "state T")
    live.answer(second, False)
    run = workload.wait()
    assert run.lines == ["attempt", "ok None", "attempt", "errno 1"], run
    assert server.arrived() == 1


def test_threads_that_wait_for_the_same_action(live: Host, server: Server) -> None:
    """Threads of one process held at the same action are answered together, once each."""
    code = f"""
def go():
    s = socket.socket()
    s.connect(('127.0.0.1', {server.port}))
    done.append(1)
done = []
threads = [threading.Thread(target=go) for _ in range(2)]
say("attempt")
[t.start() for t in threads]
[t.join() for t in threads]
say(f"ok {{len(done)}}")
"""
    workload = live.start(probes.python(code))
    answered = 0
    while not workload.ended:
        live.until(lambda: workload.ended or bool(live.pending()), "a question or the end")
        for asked in live.pending():
            live.answer(asked, True)
            answered += 1
    assert workload.wait().value == "2"
    assert 1 <= answered <= 2 and server.arrived() == 2


def test_the_end_of_a_held_process(live: Host, server: Server) -> None:
    """A held process that is killed closes its question, and nothing was done."""
    workload = live.start(command("connect", server))
    live.held(workload)
    live.until(lambda: state(workload.pid) == "T", "state T")
    workload.kill()
    run = workload.wait()
    assert run.killed and live.pending() == []
    assert [record["event"] for record in run.records] == ["approval_required", "approval_expired"]
    assert server.arrived() == 0


@pytest.mark.parametrize("allow", [True, False])
def test_a_held_program(live: Host, folder: Path, allow: bool) -> None:
    """A held program has not run an instruction; yes lets it run unmodified, no ends it."""
    effect = folder / f"effect-{allow}"
    run_it = [folder / "ask/program", effect]
    assert untagged(run_it).status == 0
    effect.unlink()
    workload = live.start(["/usr/bin/env", *run_it])
    asked = live.held(workload)
    assert asked["argv"] == [str(word) for word in run_it] and asked["guarantee"] == "contained"
    live.until(lambda: state(workload.pid) == "T", "state T")
    assert not effect.exists() and not workload.ended
    live.answer(asked, allow)
    run = workload.wait()
    assert (run.status == 0 and effect.exists()) if allow else (run.killed and not effect.exists()), run
    answer = "approved" if allow else "approval_denied"
    assert [record["event"] for record in run.records] == ["approval_required", answer]


def test_a_held_program_whose_time_is_up(live: Host, folder: Path) -> None:
    """A held program that nobody answers for ends without having run."""
    effect = folder / "effect-late"
    run = live.run(["/usr/bin/env", folder / "ask/program", effect], "hasty")
    assert run.killed and not effect.exists()
    assert [record["event"] for record in run.records] == ["approval_required", "approval_expired"], run


@pytest.mark.parametrize("allow", [True, False])
def test_a_held_open(live: Host, folder: Path, allow: bool) -> None:
    """An open that needs an answer doesn't return before it; yes lets the program read, no ends it."""
    code = probes.python(f"attempt(lambda: open({str(folder / 'ask/file')!r}).read())")
    assert untagged(code).value == "'data'"
    workload = live.start(code)
    asked = live.held(workload)
    live.until(lambda: state(workload.pid) == "T", "state T")
    assert workload.output == b"attempt\n"
    live.answer(asked, allow)
    run = workload.wait()
    assert run.value == "'data'" if allow else (run.killed and run.lines == ["attempt"])


def test_answers_through_the_socket_of_a_run(folder: Path, server: Server, tmp_path: Path) -> None:
    """`agentd run` serves a socket through which held programs are listed, approved and denied; its exit code tells."""
    from agentd.daemon.client import Client

    policy = folder / "policy.yaml"
    for method, expected in (("approvals.approve", 0), ("approvals.deny", 137)):
        effect = tmp_path / method
        state_dir = tmp_path / f"state-{method}"
        line: list[str | Path] = [
            sys.executable,
            "-m",
            "agentd",
            "run",
            "--agent",
            "bot",
            "--policy",
            policy,
            "--state",
            state_dir,
        ]
        run = subprocess.Popen(
            [*line, "--", "/bin/sh", "-c", f"{folder}/ask/program {effect}"],
            stderr=subprocess.PIPE,
        )
        try:
            pending: list[dict[str, Any]] = []
            path = Path(f"/run/agentd/run-{run.pid}.sock")
            while not pending and run.poll() is None:
                time.sleep(0.05)
                if path.exists():
                    # a socket has its name before it listens
                    with contextlib.suppress(AgentdError), Client(path) as client:
                        pending = client.call("approvals.list")
            assert len(pending) == 1 and not effect.exists(), run.stderr and run.stderr.read()
            assert state(pending[0]["processes"][0]) == "T"
            with Client(path) as client:
                client.call(method, id=pending[0]["id"])
            _, err = run.communicate(timeout=probes.PATIENCE)
        finally:
            run.kill()
            run.wait()
            assert run.stderr
            run.stderr.close()
        assert run.returncode == expected, err
        assert effect.exists() == (expected == 0)


def test_a_shell_that_runs_rm(tmp_path: Path) -> None:
    """`sh -c 'rm x'` leaves the file where rm is denied; the shell sees exit status 137."""
    agents = {"bot": harness.agent(deny=[{"tool": "shell", "operations": ["rm"]}])}
    victim = tmp_path / "x"
    command = ["/bin/sh", "-c", f"echo attempt; rm {victim}; echo ok $?"]
    victim.write_text("precious")
    assert untagged(command).value == "0" and not victim.exists()
    victim.write_text("precious")
    with harness.enforcing(tmp_path, agents) as host:
        run = host.run(command)
        assert run.status == 0 and run.value == "137"
        assert [(r["object"], r["rule"]) for r in run.denials] == [("/usr/bin/rm", "bot/deny/0")]
        last = host.run(["/bin/sh", "-c", f"exec rm {victim}"])
        assert last.killed and len(last.denials) == 1
    assert victim.read_text() == "precious"
