"""The reason reaches the agent: it can read why it was refused and what it may do instead, and can't write it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.engine.reasons import KEPT
from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.test_holds import Server, server

__all__ = ["server"]  # the fixture

pytestmark = pytest.mark.root

KEPT_BACK = ("network", "file_reader", "file_writer", "file")

# An agent that is told a goal and learns only from what it reads: it tries what it was told; refused, it does what the
# file says is allowed instead. Without the file (`blind`) it tries the next of its own ideas.
AGENT = """
import json, re
path, ideas, blind = {path!r}, {ideas!r}, {blind!r}
tries = 0
def reach(port):
    global tries
    tries += 1
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except PermissionError:
        return False
def advice(seen):
    for _ in range(200):
        made = json.load(open(path))
        if made["total"] > seen:
            return made["denials"][-1]
        time.sleep(0.005)
    raise SystemExit("no reason came")
say("attempt")
seen = 0
while not reach(ideas[0]):
    if blind:
        ideas = ideas[1:]
        continue
    told = advice(seen)
    seen = told["number"]
    ideas = [int(port) for port in re.findall(r"127.0.0.1:([0-9]+)", told["instead"])] or ideas[1:]
say("ok " + str(tries))
"""


@pytest.fixture(scope="module")
def live(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` may connect to the server's port and read its own folder; nothing else of the kind."""
    folder = tmp_path_factory.mktemp("reasons")
    (folder / "mine").mkdir()
    agents = {
        "bot": {
            "allow": [
                *({"tool": tool} for tool in harness.every_tool() if tool not in KEPT_BACK),
                {"tool": "network", "operations": ["connect"], "hosts": [f"127.0.0.1:{server.port}"]},
                {"tool": "network", "operations": ["socket"]},
                {"tool": "file_reader", "paths": [f"{folder}/mine/**"]},
                {"tool": "file_writer", "paths": ["/dev/**"]},
            ],
            "require_approval": [{"tool": "network", "operations": ["connect"], "hosts": ["127.0.0.1:7"]}],
        }
    }
    with harness.enforcing(folder, agents) as host:
        keeper = host.start(probes.python("time.sleep(600)"))  # or the programs would be detached in between
        yield host
        keeper.kill()
        keeper.wait()


def told(live: Host, workload: int) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(live.engine.reasons.path(workload).read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("blind", [False, True])
def test_a_scripted_agent_gets_there_by_what_it_reads(live: Host, server: Server, blind: bool) -> None:
    """One refusal and one look at the file lead to what is allowed; without the file it takes every wrong idea."""
    number = live.engine.workloads._next
    ideas = [8, 9, 10, 11, 12, 13, server.port]
    code = AGENT.format(path=str(live.engine.reasons.path(number)), ideas=ideas, blind=blind)
    run = live.run(probes.python(code))
    assert run.status == 0 and run.value == ("7" if blind else "2"), run
    server.arrived()


def test_what_the_file_says(live: Host, server: Server) -> None:
    """Each denial says what, under which rule and why, and what is allowed; the newest are kept, all are counted."""
    code = "for n in range(30):\n    attempt(lambda: socket.create_connection(('127.0.0.1', 100 + n)))"
    workload = live.start(probes.python(code))
    live.until(lambda: workload.ended)
    live.pump()
    made = told(live, workload.number)
    assert made["total"] == 30 and len(made["denials"]) == KEPT and made["agent"] == "bot"
    last = made["denials"][-1]
    assert last["what"] == "connect 127.0.0.1:129/tcp" and last["rule"] == "default-deny" and last["number"] == 30
    assert last["instead"].startswith(f"network/connect to 127.0.0.1:{server.port}")
    assert "after a person has approved it" in last["instead"]
    assert (live.engine.reasons.path(workload.number).stat().st_mode & 0o777) == 0o444
    workload.wait()
    live.until(lambda: not live.engine.reasons.path(workload.number).exists(), "the end of its file")


def test_the_reason_of_a_person_is_there_before_the_call_returns(live: Host) -> None:
    """A denial by a person reaches the file before the program goes on: the first look finds it."""
    number = live.engine.workloads._next
    code = f"""
attempt(lambda: socket.create_connection(("127.0.0.1", 7)))
import json
say(json.load(open({str(live.engine.reasons.path(number))!r}))["denials"][-1]["reason"])
"""
    workload = live.start(probes.python(code))
    asked = live.held(workload)
    live.engine.questions.answer(asked["id"], False, harness.TESTER, "not on port 7")
    assert workload.wait().lines[-1] == "not on port 7"


def test_it_can_be_read_and_nothing_else(live: Host) -> None:
    """A workload reads its file and can't write it, nor another one there; a user's can't even list the folder."""
    number = live.engine.workloads._next
    path = live.engine.reasons.path(number)
    run = live.run(probes.python(f"attempt(lambda: open({str(path)!r}).read(11))"))
    assert run.value == repr('{\n "version'), run
    number = live.engine.workloads._next
    path = live.engine.reasons.path(number)
    run = live.run(
        probes.python(f"""
os.setuid(65534)
attempt(lambda: os.listdir({str(path.parent)!r}))
attempt(lambda: open({str(path)!r}).read(3))
attempt(lambda: os.rename({str(path)!r}, {str(path) + "x"!r}))
""")
    )
    assert run.lines[1::2] == ["errno 13", "ok '{\\n '", "errno 13"], run
    run = live.run(probes.python(f"attempt(lambda: open({str(path.parent / 'x.json')!r}, 'w').write('x'))"))
    assert run.denials, run
    (path.parent / "x.json").unlink(missing_ok=True)
    number = live.engine.workloads._next
    path = live.engine.reasons.path(number)
    before = live.run(probes.python(f"attempt(lambda: open({str(path)!r}, 'r+').write('lies'))"))
    assert before.denials and before.denials[0]["object"] == str(path), before


def test_agentd_why(tmp_path: Path, server: Server) -> None:
    """Inside `agentd run`, `agentd why` prints the last denial and what is allowed instead in two lines."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nagents:\n  bot:\n    allow:\n      - {tool: shell}\n      - {tool: file_reader}\n"
        "      - {tool: file_writer, paths: [/dev/**]}\n      - {tool: network, operations: [socket]}\n"
        f"      - {{tool: network, operations: [connect], hosts: ['127.0.0.1:{server.port}']}}\n",
        encoding="utf-8",
    )
    script = (
        f"{probes.PYTHON} -c 'import socket; socket.create_connection((\"127.0.0.1\", 9))' 2> /dev/null; "
        f"{sys.executable} -m agentd why"
    )
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "run", "--agent", "bot", "--policy", policy, "--state", tmp_path / "state",
         "--", "/bin/sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=probes.PATIENCE,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    assert lines[0].startswith("denied: connect 127.0.0.1:9/tcp (network/connect), by rule default-deny: no matching")
    assert lines[1] == f"allowed instead: network/connect to 127.0.0.1:{server.port}"
    outside = subprocess.run(
        [sys.executable, "-m", "agentd", "why"], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}
    )
    assert outside.returncode == 1 and "AGENTD_DENIALS is not set" in outside.stderr
