"""Notifications of the service: people are told, and a sink that hangs delays neither answers nor enforcement."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.live.service import Line, Service, Sleeper, agentd, bot, listening, state, until

pytestmark = pytest.mark.root

ASKING = bot(require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "10m"}])


def test_a_webhook_that_hangs() -> None:
    """A webhook that accepts and never answers: the command is told all the same, and answers work as ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent, listening() as port:
        hook = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with Service({"bot": ASKING}, metrics=True) as service:
            service.end()
            out = service.folder / "told"
            command = ["/bin/sh", "-c", f"cat >> {out}"]
            service.write_config(notify=[{"webhook": hook}, {"command": command}])
            service.start()
            with Sleeper() as sleeper:
                service.tag(sleeper.pid)
                sleeper.send("connect", str(port))
                row = service.held()[0]
                service.call("approvals.approve", id=row["id"])
                assert sleeper.answer() == "ok"
            told = until(lambda: lines if len(lines := read(out)) == 2 else None, "both notices")
            assert [line["event"] for line in told] == ["asked", "answered"]
            assert told[0]["id"] == row["id"] and "connect to 127.0.0.1" in told[0]["text"]
            until(lambda: service.call("status")["notifications"][1]["delivered"] == 2, "the end of both commands")
            hanging, told_to = service.call("status")["notifications"]
            assert hanging["delivered"] == 0 and told_to["delivered"] == 2 and told_to["lost"] == 0
            with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics") as page:
                lines = page.read().decode().splitlines()
            assert 'agentd_notifications_total{result="sent",sink="command"} 2.0' in lines
            assert 'agentd_notifications_total{result="sent",sink="webhook"} 0.0' in lines
            assert 'agentd_notifications_queued{sink="webhook"} 1.0' in lines  # and one that it is being told
            assert service.said == ""


def read(out: object) -> list[dict[str, object]]:
    try:
        with open(str(out), encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


def ask_on_terminal(service: Service, number: str) -> subprocess.CompletedProcess[str]:
    """`agentd approvals approve` with a pseudo-terminal whose master this process holds; what it printed."""
    master, slave = pty.openpty()
    try:
        run = subprocess.Popen(
            [sys.executable, "-c", SETTY, os.ttyname(slave), "approvals", "approve", number,
             "--socket", service.socket],
            stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        out, err = run.communicate()
        return subprocess.CompletedProcess(run.args, run.returncode, out, err)
    finally:
        os.close(master)
        os.close(slave)


SETTY = """
import os, sys
os.close(os.open(sys.argv[1], os.O_RDWR))  # a session leader's first terminal is its controlling one
os.execv(sys.executable, [sys.executable, "-m", "agentd", *sys.argv[2:]])
"""


@pytest.mark.parametrize("end", ["master", "slave"])
def test_nobody_answers_from_a_workloads_terminal(end: str) -> None:
    """A terminal of which a workload holds either end is refused; another terminal, and no terminal, are not."""
    master, slave = pty.openpty()
    try:
        with Service({"bot": ASKING}) as service, listening() as port:
            keep = (master,) if end == "master" else (slave,)
            with Sleeper(pass_fds=keep) as sleeper:
                service.tag(sleeper.pid)
                sleeper.send("connect", str(port))
                number = service.held()[0]["id"]
                until(lambda: state(sleeper.pid) == "T", "the stop")
                refused = subprocess.run(
                    [sys.executable, "-c", SETTY, os.ttyname(slave), "approvals", "approve", number, "--socket",
                     service.socket],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False,
                )  # fmt: skip
                assert "a workload holds this terminal" in Line.of(refused, 1).text
                assert state(sleeper.pid) == "T" and [row["id"] for row in service.pending()] == [number]
                listed = agentd("approvals", "list", "--socket", service.socket, stdin=slave)
                assert listed.returncode == 0  # looking is no answer
                done = ask_on_terminal(service, number)
                assert done.returncode == 0 and "approved" in done.stdout, done
                assert sleeper.answer() == "ok"
    finally:
        os.close(master)
        os.close(slave)


def test_an_unlogged_answer_is_recorded_by_the_next_agentd() -> None:
    """An answer that had taken effect and not reached the log when agentd was killed is in it after a restart."""
    with Service({"bot": ASKING}) as service:
        service.crash()
        journal = service.audit / "approvals.jsonl"
        line = {
            "t": "answer", "id": "77", "agent": "bot", "kind": "approved", "action_id": "a-b-c", "reason": "as agreed",
            "by": "ann (uid 7, pid 8)", "answer": "approved", "summary": "connect", "scope": "once", "time": "",
        }  # fmt: skip
        with journal.open("a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")
        service.start()
        (record,) = service.records("approved")
        assert record["action_id"] == "a-b-c" and record["metadata"]["recovered"] is True
        assert record["metadata"]["by"] == "ann (uid 7, pid 8)" and record["reason"] == "as agreed"
        service.end()
        service.start()
        assert len(service.records("approved")) == 1
        service.verify()


def test_an_answer_that_stands_outlives_the_daemon() -> None:
    """After kill -9 and a start an answer for the workload still stands, a vote counts, a revocation holds."""
    two = bot(require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "10m", "approvers": 2}])
    with (
        Service({"bot": ASKING, "two": two}) as service,
        listening() as port,
        Sleeper() as sleeper,
        Sleeper() as other,
    ):
        service.tag(sleeper.pid)
        service.tag(other.pid, "two")
        sleeper.send("connect", str(port))
        row = service.held()[0]
        (name,) = service.call("approvals.approve", id=row["id"], scope="workload")["standing"]
        assert sleeper.answer() == "ok"
        other.send("connect", str(port))
        (row,) = service.held()
        assert service.call("approvals.approve", id=row["id"])["answer"] == "waiting"
        service.crash()
        service.start()
        assert sleeper.do("connect", str(port)) == "ok"
        (again,) = service.held()
        assert again["id"] == row["id"] and len(again["approved_by"]) == 1
        assert [one["id"] for one in service.call("approvals.standing")] == [name]
        service.call("approvals.revoke", id=name)
        service.crash()
        service.start()
        assert service.call("approvals.standing") == []
        sleeper.send("connect", str(port))
        for held in service.held(2):
            service.call("approvals.deny", id=held["id"])
        assert (sleeper.answer(), other.answer()) == ("errno 1", "errno 1")
