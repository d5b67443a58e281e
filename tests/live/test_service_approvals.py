"""Approvals through the service: who may answer, what an answer does, and that none is lost when agentd dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.live.members import temporary_group
from tests.live.service import PYTHON, Line, Service, Sleeper, bot, listening, state, until

pytestmark = pytest.mark.root

SECRET = {"tool": "file_reader", "paths": ["/**/secret*"], "timeout": "10m"}
ASKING = bot(
    allow=[
        {"tool": "file_reader"},
        {"tool": "shell", "operations": ["execute"]},
        {"tool": "network"},
        {"tool": "file"},
    ],
    deny=[{"tool": "secrets"}],
    require_approval=[
        SECRET,
        {"tool": "network", "operations": ["connect"], "timeout": "10m"},
        {"tool": "shell", "operations": ["rm"], "timeout": "10m"},
    ],
)
HASTY = bot(
    deny=[{"tool": "secrets"}],
    require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "1s"}],
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    """One service for the tests that leave it as it was."""
    with Service({"bot": ASKING, "hasty": HASTY}) as made:
        yield made


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    yield shared
    shared.end_workloads()
    until(lambda: not shared.pending(), "an empty list")


@pytest.mark.leaves("children", "descriptors", reason="the service of the module starts in its first test")
def test_list_show_approve(service: Service) -> None:
    """A held connect is in the list, shown in full, and succeeds in the unmodified program after approve."""
    with Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        sleeper.send("connect", str(port))
        held = service.held()[0]
        until(lambda: state(sleeper.pid) == "T", "the stop")
        text = service.cli("approvals", "list").stdout
        assert "network/connect" in text and f"127.0.0.1:{port}" in text and "\x1b" not in text
        listed = json.loads(service.cli("approvals", "list", "--json").stdout)
        assert [row["id"] for row in listed] == [held["id"]]
        shown = service.cli("approvals", "show", held["id"]).stdout
        assert str(sleeper.pid) in shown and "agentd tag pid" in shown and PYTHON[:8] in shown
        made = json.loads(service.cli("approvals", "show", "--json", held["id"]).stdout)
        assert made["processes"] == [sleeper.pid] and made["kernel_operation"] == "connect"
        done = service.cli("approvals", "approve", held["id"])
        assert done.stdout == f"approval {held['id']}: approved\n"
        assert sleeper.answer() == "ok"
        again = service.cli("approvals", "approve", held["id"])
        assert "it was approved already" in Line.of(again, 1).text
        assert "there is none" in Line.of(service.cli("approvals", "deny", "999999"), 1).text
        assert service.cli("approvals", "list").stdout == "nothing waits for approval\n"
        events = [r["event"] for r in service.records() if r["metadata"].get("approval") == held["id"]]
        assert events == ["approval_required", "approved"]


def test_deny(service: Service) -> None:
    """After deny a connect fails with EPERM, a held program ends; the reason and who gave it are in the record."""
    with Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        sleeper.send("connect", str(port))
        number = service.held()[0]["id"]
        done = service.cli("approvals", "deny", number, "--reason", "not today", "--json")
        assert json.loads(done.stdout)["answer"] == "denied"
        assert sleeper.answer() == "errno 1"
        record = service.records("approval_denied")[-1]
        assert record["reason"] == "not today" and record["metadata"]["by"].startswith("root (uid 0")
        victim = service.folder / "victim"
        victim.write_text("x")
        sleeper.send("run", "/bin/rm", victim)
        service.call("approvals.deny", id=service.held()[0]["id"])
        assert sleeper.answer() == "ok -9"
        assert victim.exists()


def test_foreign_sigcont_changes_nothing(service: Service) -> None:
    """SIGCONT from somebody else leaves a held open and a held connect held."""
    with Sleeper() as opener, Sleeper() as connector, listening() as port:
        for sleeper in (opener, connector):
            service.tag(sleeper.pid)
        secret = service.folder / "secret1"
        secret.write_text("x")
        opener.send("open", secret)
        connector.send("connect", str(port))
        held = {row["processes"][0]: row["id"] for row in service.held(2)}
        for _ in range(20):
            for sleeper in (opener, connector):
                until(lambda sleeper=sleeper: state(sleeper.pid) == "T", "the stop")
                time.sleep(0.005)  # two in one millisecond would be a storm
                os.kill(sleeper.pid, signal.SIGCONT)
        assert {row["processes"][0]: row["id"] for row in service.pending()} == held
        for number in held.values():
            service.call("approvals.approve", id=number)
        assert (opener.answer(), connector.answer()) == ("ok", "ok")


def test_timeout_is_deny(service: Service) -> None:
    """Nobody answers: EPERM after the timeout, recorded as expired."""
    with Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid, "hasty")
        assert sleeper.do("connect", str(port)) == "errno 1"
    record = until(lambda: service.records("approval_expired"), "its record")[-1]
    assert record["reason"] == "nobody answered in time (deny)" and record["object"]["port"] == port


def test_killed_while_held(service: Service) -> None:
    """A process that is killed while held leaves the list, and the record says so."""
    with Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        sleeper.send("connect", str(port))
        number = service.held()[0]["id"]
    until(lambda: not service.pending(), "its leaving")
    assert "it was expired already" in Line.of(service.cli("approvals", "approve", number), 1).text
    assert service.records("approval_expired")[-1]["reason"] == "the process ended while it was held"


def ask_as(service: Service, user: int, groups: list[int]) -> str:
    """The first line that the service answers to another user."""
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect(sys.argv[1])\n"
        "except OSError as error:\n    sys.exit(print('errno', error.errno))\n"
        'try:\n    s.sendall(b\'{"method": "status"}\\n\')\nexcept BrokenPipeError:\n    pass\n'
        "print(s.makefile().readline())"
    )
    done = subprocess.run(
        [PYTHON, "-I", "-c", code, service.socket], user=user, group=user, extra_groups=groups,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_who_may_ask(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user can't even connect; one whom the socket lets in and who isn't in the group is told no."""
    service.folder.chmod(0o755)
    assert ask_as(service, 65534, []) == "errno 13\n"
    service.socket.chmod(0o666)
    try:
        answer = json.loads(ask_as(service, 65534, []))
        assert answer["ok"] is False and answer["error"]["code"] == "not-permitted"
    finally:
        service.socket.chmod(0o660)


def test_the_group_may_ask() -> None:
    """A member of the group agentd may ask and answer."""
    with temporary_group() as (group, user), Service({"bot": ASKING}) as service:
        service.folder.chmod(0o755)
        assert service.socket.stat().st_gid == group
        assert json.loads(ask_as(service, user, [group]))["ok"] is True


def test_a_workload_may_not_ask(service: Service) -> None:
    """A tagged process is refused whatever its user, also for its own approval."""
    code = (
        "import socket, sys\nsys.stdin.readline()\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        's.sendall(b\'{"method": "approvals.list"}\\n\')\nprint(s.makefile().readline())'
    )
    child = subprocess.Popen([PYTHON, "-I", "-c", code, service.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    service.tag(child.pid)
    out, _ = child.communicate(b"go\n")
    assert child.returncode == -signal.SIGKILL or b"not-permitted" in out, (child.returncode, out)
    assert b'"ok": true' not in out
    assert json.loads(ask_as(service, 0, []))["ok"] is True


def raw(service: Service, data: bytes) -> bytes:
    """What the service answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(service.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def test_junk_on_the_socket(service: Service) -> None:
    """Bad requests get an error each, and the service goes on."""
    for data in (
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"{\n",
        b"\xff\xfe\0\0\n",
        b'{"method": "nothing"}\n',
        b'{"method": "approvals.show"}\n',
        b'{"method": "approvals.show", "params": []}\n',
        b'{"method": "approvals.show", "params": {"id": 3}}\n',
        b'{"method": "approvals.approve", "params": {"id": {"a": 1}}}\n',
        b'{"method": "tag", "params": {"agent": "bot", "pid": true}}\n',
        b'{"method": "tag", "params": {"agent": "bot", "pid": 1}}\n',
        b'{"method": "tag", "params": {"agent": "bot", "pid": 4194304}}\n',
        b'{"method": "tag", "params": {"agent": "bot", "cgroup": "/nothing/here"}}\n',
        b'{"method": "run.mark", "params": {"agent": "bot", "pid": 2}}\n',
        b'{"method": ["status"]}\n',
        b"[" * 100_000 + b"\n",
        b'{"method": "approvals.show", "params": {"id": "' + b"9" * 100_000 + b'"}}\n',
        b'{"method": "approvals.show", "params": {"id": "\\ud800"}}\n',
    ):
        answer = json.loads(raw(service, data))
        assert answer["ok"] is False and answer["error"]["code"], data[:80]
    for data in (b"", b'{"method": "sta', b"x" * (3 << 20), os.urandom(1 << 16).replace(b"\n", b"")):
        raw(service, data)
    assert raw(service, b'{"method": "status"}\n{"method": "approvals.list"}\n').count(b'"ok": true') == 2
    assert service.process is not None and service.process.poll() is None
    assert service.said == ""


def test_many_connections(service: Service) -> None:
    """200 connections at once: some are told to come back, and afterwards everything works."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(200):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(30)
            connection.connect(str(service.socket))
            connections.append(connection)
        refused = [c for c in connections if b"too many clients" in first_line(c)]
        assert refused
    until(lambda: b'"ok": true' in raw(service, b'{"method": "status"}\n'), "an answer")


def first_line(connection: socket.socket) -> bytes:
    with contextlib.suppress(BrokenPipeError):  # what was said before the connection was closed can be read still
        connection.sendall(b'{"method": "status"}\n')
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def test_500_pending(service: Service) -> None:
    """500 processes held at 500 different actions are 500 questions; each gets its own answer."""
    code = (
        "import os, socket, sys\nsys.stdin.readline()\n"
        "for i in range(500):\n    if os.fork() == 0:\n        s = socket.socket()\n        try:\n"
        "            s.connect((f'127.9.{i // 250}.{i % 250 + 1}', int(sys.argv[1])))\n"
        "        except OSError as error:\n"
        "            os._exit(error.errno)\n        os._exit(0)\n"
        "codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(500)]\n"
        "print(codes.count(0), codes.count(1))"
    )
    with socket.create_server(("", 0), backlog=512) as server:
        port = server.getsockname()[1]
        child = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", code, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        service.tag(child.pid)
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
        held = service.held(500)
        for place, row in enumerate(held):
            service.call("approvals.deny" if place % 5 else "approvals.approve", id=row["id"])
        out, _ = child.communicate()
        assert out.split() == [b"100", b"400"]
    assert not service.pending()


@pytest.mark.parametrize("how", ["crash", "stop"])
def test_holds_outlive_the_daemon(how: str) -> None:
    """Held operations stay held without a daemon; the next one shows all of them and can answer each."""
    with Service({"bot": ASKING}) as service, contextlib.ExitStack() as stack, listening() as port:
        sleepers = [stack.enter_context(Sleeper("thread")) for _ in range(6)]
        secret = service.folder / "secret2"
        secret.write_text("x")
        victim = service.folder / "victim"
        victim.write_text("x")
        for sleeper in sleepers:
            service.tag(sleeper.pid)
        for sleeper, words in zip(
            sleepers, [("connect", str(port)), ("open", secret), ("run", "/bin/rm", victim)] * 2, strict=True
        ):
            sleeper.send(*words)
        before = service.held(6)
        service.crash() if how == "crash" else service.end()
        stopped = {pid for row in before for pid in row["processes"]}
        for pid in stopped:
            until(lambda pid=pid: state(pid) == "T", "the stop")
            os.kill(pid, signal.SIGCONT)  # changes nothing, as ever
        service.start()
        after = service.held(6)

        def facts(rows: list[dict[str, object]]) -> list[str]:
            names = ("processes", "tool", "operation", "summary", "agent", "rule", "exe")
            return sorted(json.dumps([row[name] for name in names]) for row in rows)

        assert facts(after) == facts(before)
        assert {row["id"] for row in after} == {row["id"] for row in before}
        assert all(row["seconds_left"] > 500 for row in after)
        for pid in stopped:
            until(lambda pid=pid: state(pid) == "T", "the stop")
        assert victim.exists()
        first = {sleeper.pid for sleeper in sleepers[:3]}
        for row in after:
            above = service.call("approvals.show", id=row["id"])["ancestors"]
            if first & {*row["processes"], *(process["pid"] for process in above)}:
                service.call("approvals.approve", id=row["id"])
        for row in service.held(3):
            service.call("approvals.deny", id=row["id"])
        results = [sleeper.answer() or "killed" for sleeper in sleepers]
        assert results[:3] == ["ok", "ok", "ok 0"] and results[3:] == ["errno 1", "killed", "ok -9"], results
        assert not victim.exists()
        service.verify()
        questions = {r["metadata"]["approval"] for r in service.records("approval_required")}
        ends = [r["metadata"]["approval"] for r in service.records("approved", "approval_denied", "approval_expired")]
        assert questions <= set(ends)


def test_hold_without_a_note() -> None:
    """A held open of which nothing is known any more is shown with what /proc says, and can be denied."""
    with Service({"bot": ASKING}) as service, Sleeper() as sleeper:
        secret = service.folder / "secret3"
        secret.write_text("x")
        service.tag(sleeper.pid)
        sleeper.send("open", secret)
        number = service.held()[0]["id"]
        service.crash()
        for note in (service.audit / "held").iterdir():
            note.write_text("{junk")
        service.start()
        row = service.held()[0]
        assert row["id"] == number and row["processes"] == [sleeper.pid] and row["tool"] == "unknown"
        assert row["exe"] == os.path.realpath(PYTHON) and 0 < row["seconds_left"] <= 60
        service.call("approvals.deny", id=number)
        assert sleeper.answer() == ""


def test_release_denies_what_waits() -> None:
    """A stop that releases refuses everything that waits: nothing goes on without an answer."""
    with Service({"bot": ASKING}, on_stop="release") as service, Sleeper() as connector, Sleeper() as opener:
        with listening() as port:
            secret = service.folder / "secret4"
            secret.write_text("x")
            service.tag(connector.pid)
            service.tag(opener.pid)
            connector.send("connect", str(port))
            opener.send("open", secret)
            service.held(2)
            assert service.end() == 0
            assert connector.answer() == "errno 1"
            assert opener.answer() == ""
        assert len(service.records("approval_expired")) == 2
