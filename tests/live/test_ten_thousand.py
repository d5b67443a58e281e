"""Ten thousand operations that wait at once: each is a question, and none is in the way of another."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.live.service import Service, bot, until

pytestmark = pytest.mark.root

MANY: Final = 10_000
EXPIRE: Final = 200
SOME: Final = 100  # are approved
DENIED: Final = 300
FLOOD: Final = 40
RULE: Final = {"tool": "network", "operations": ["connect"]}
AGENTS: Final = {
    "bot": bot(require_approval=[{**RULE, "timeout": "30m"}]),
    "hasty": bot(require_approval=[{**RULE, "timeout": "2s"}]),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """many.c, compiled."""
    made = tmp_path_factory.mktemp("many") / "many"
    source = Path(__file__).with_name("many.c")
    subprocess.run(["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", made, source], check=True)
    return made


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server whose queue takes everybody."""
    with socket.create_server(("", 0), backlog=4096) as listener:
        yield int(listener.getsockname()[1])


def begin(service: Service, program: Path, net: int, port: int, count: int, agent: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([program, str(net), str(port), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    service.tag(child.pid, agent)
    assert child.stdin is not None
    child.stdin.write(b"x")
    child.stdin.flush()
    return child


def memory(service: Service) -> int:
    """Bytes of the daemon that are in memory."""
    assert service.process is not None
    return int(Path(f"/proc/{service.process.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
        "SC_PAGESIZE"
    )


def pending(service: Service, count: int) -> None:
    """Waits until so many questions are open, as long as their number moves."""
    last = -1
    while (now := service.call("approvals.summary")["pending"]) != count:
        if now == last:
            until(lambda: service.call("approvals.summary")["pending"] != now, f"another number than {now}")
        last = now
        time.sleep(0.2)


def test_ten_thousand_wait(program: Path, server: int) -> None:
    """10,000 wait and more are refused; status, list, show and answers work meanwhile, another agent's questions run
    out of time together, hundreds are denied, the rest is killed at once, and the log has every one of them.
    """
    with Service(AGENTS, pending_per_agent=MANY) as service:
        before = memory(service)
        with begin(service, program, 9, server, MANY + FLOOD, "bot") as crowd:
            pending(service, MANY)
            until(lambda: service.call("approvals.summary")["floods"], "a flood")
            until(lambda: service.call("approvals.summary")["floods"][0]["denied"] == FLOOD, "the rest of the flood")
            assert service.call("approvals.summary")["by_agent"] == {"bot": MANY}
            assert memory(service) - before < MANY * 20_000

            with begin(service, program, 10, server, EXPIRE, "hasty") as hasty:
                rows = service.call("approvals.list", agent="bot", limit=SOME + DENIED)
                assert len(rows) == SOME + DENIED and json.loads(service.cli("status", "--json").stdout)
                assert service.call("approvals.show", id=rows[0]["id"])["agent"] == "bot"
                for row in rows[:SOME]:
                    assert service.call("approvals.approve", id=row["id"])["answer"] == "approved"
                assert hasty.communicate()[0].split() == [b"0", str(EXPIRE).encode(), b"0"]  # nobody answered in time

            for row in rows[SOME:]:
                assert service.call("approvals.deny", id=row["id"], reason="all of them")["answer"] == "denied"
            left = MANY - SOME - DENIED
            assert service.call("approvals.summary")["by_agent"] == {"bot": left}
            until(lambda: len(service.pids() - {crowd.pid}) == left, "those that were denied end by themselves")
            for pid in service.pids() - {crowd.pid}:
                os.kill(pid, signal.SIGKILL)
            assert crowd.communicate()[0].split() == [str(n).encode() for n in (SOME, DENIED + FLOOD, left)]
        pending(service, 0)
        events = [record["event"] for record in service.records()]
        counts = {name: events.count(name) for name in ("approval_required", "approved", "approval_denied")}
        assert counts == {"approval_required": MANY + EXPIRE, "approved": SOME, "approval_denied": DENIED}
        assert events.count("approval_expired") == EXPIRE + left and events.count("denied") >= FLOOD
        service.verify(strict=False)
