"""What an answer is for: the operations that wait, a process, a workload, a time; and how it is taken back."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agentd.approvals.book import Approver
from agentd.approvals.standing import Scope
from agentd.errors import AgentdError
from agentd.kernel import abi
from tests.live import harness, probes
from tests.live.harness import TESTER, Host, Workload
from tests.live.probes import state
from tests.live.test_holds import Server, server

__all__ = ["server"]  # the fixture

pytestmark = pytest.mark.root
ANN = Approver("ann", 1001, os.getpid())
BOB = Approver("bob", 1002, os.getpid())


@pytest.fixture(scope="module")
def live(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` must ask for each connection and each file below `ask`; `two` needs two people."""
    folder = tmp_path_factory.mktemp("scopes")
    (folder / "ask").mkdir()
    for name in ("one", "two"):
        (folder / "ask" / name).write_text("data")
    ask: list[dict[str, Any]] = [
        {"tool": "network", "hosts": [f"127.0.0.1:{server.port}"]},
        {"tool": "file_reader", "paths": [f"{folder}/ask/**"]},
    ]
    agents = {
        "bot": harness.agent(ask=ask),
        "two": harness.agent(ask=[{**rule, "approvers": 2} for rule in ask]),
    }
    with harness.enforcing(folder, agents) as host:
        keeper = host.start(probes.python("time.sleep(600)"))  # or the programs would be detached in between
        yield host
        keeper.kill()
        keeper.wait()
        assert not host.pending()


@pytest.fixture(autouse=True)
def nobody_has_come(server: Server) -> None:
    """What arrived in an earlier test counts in none."""
    server.arrived()


def connects(server: Server, times: int) -> list[str]:
    """A program that connects so often, one after the other."""
    return probes.python(
        f"for _ in range({times}):\n    s = socket.socket(); attempt(lambda: s.connect(('127.0.0.1', {server.port})))"
    )


def forks(server: Server, times: int) -> list[str]:
    """A program whose children all connect at once, and which says what came of it."""
    return probes.python(f"""
pids = []
for _ in range({times}):
    pid = os.fork()
    if not pid:
        try:
            socket.socket().connect(('127.0.0.1', {server.port}))
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    pids.append(pid)
say("attempt")
say("ok " + str([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]))
""")


def answer(host: Host, asked: dict[str, Any], by: Approver = TESTER, **how: Any) -> dict[str, Any]:
    return host.engine.questions.answer(asked["id"], how.pop("allow", True), by, **how)


def waiting(host: Host, workload: Workload, count: int) -> dict[str, Any]:
    """The question that `count` threads of a workload wait for."""

    def there() -> list[dict[str, Any]]:
        rows = [row for row in host.pending() if row["workload"] == workload.number]
        return [row for row in rows if row["waiting_threads"] == count]

    host.until(lambda: bool(there()), f"{count} that wait")
    return there()[0]


def asked_anew(live: Host, server: Server, agent: str = "bot") -> None:
    """No answer covers what another workload of the agent does: it is a question, and denied."""
    workload = live.start(connects(server, 1), agent)
    answer(live, live.held(workload), allow=False)
    assert workload.wait().lines == ["attempt", "errno 1"]


@pytest.mark.parametrize("allow", [True, False])
def test_processes_that_want_the_same_are_one_question(live: Host, server: Server, allow: bool) -> None:
    """Three processes held at the same action are one question with one answer, carried out for each of them."""
    workload = live.start(forks(server, 3))
    asked = waiting(live, workload, 3)
    assert len(live.pending()) == 1 and asked["waiting_processes"] == 3
    answer(live, asked, allow=allow)
    assert workload.wait().value == str([0 if allow else errno.EPERM] * 3)
    assert server.arrived() == (3 if allow else 0)


def test_an_answer_is_for_what_was_shown(live: Host, server: Server) -> None:
    """What came after the one who answers has looked is not answered: it stays a question."""
    workload = live.start(forks(server, 3))
    asked = waiting(live, workload, 3)
    pids = {hold.hold_id: hold.pid for hold in live.engine.questions.book.get(asked["id"]).holds.values()}
    seen = sorted(pids)[1]
    assert answer(live, asked, upto=seen)["waiting_threads"] == 2
    rest = waiting(live, workload, 1)
    assert rest["processes"] == [pids[max(pids)]] and rest["id"] != asked["id"]
    answer(live, rest, allow=False)
    assert sorted(eval(workload.wait().value)) == [0, 0, errno.EPERM]
    assert server.arrived() == 2


def test_for_this_process(live: Host, server: Server) -> None:
    """An answer for the process covers its later calls, each on record; another process is asked about."""
    workload = live.start(connects(server, 5))
    made = answer(live, live.held(workload), scope=Scope.PROCESS)
    run = workload.wait()
    assert run.lines == ["attempt", "ok None"] * 5 and server.arrived() == 5
    approved = [record for record in run.records if record["event"] == "approved"]
    assert len(approved) == 5 and [r["metadata"].get("standing") for r in approved][1:] == made["standing"] * 4
    assert all("a test" in record["reason"] for record in approved)
    asked_anew(live, server)


def test_for_this_workload(live: Host, server: Server) -> None:
    """An answer for the workload covers its other processes, nothing else, and ends with it."""
    workload = live.start(forks(server, 1))
    twice = probes.python(f"""
for _ in range(2):
    pid = os.fork()
    if not pid:
        socket.socket().connect(('127.0.0.1', {server.port}))
        os._exit(0)
    say("attempt"); say("ok " + str(os.waitpid(pid, 0)[1]))
""")
    answer(live, live.held(workload), allow=False)
    workload.wait()
    workload = live.start(twice)
    (name,) = answer(live, live.held(workload), scope=Scope.WORKLOAD)["standing"]
    asked_anew(live, server)
    assert workload.wait().lines == ["attempt", "ok 0"] * 2 and server.arrived() == 2
    live.until(lambda: all(one.id != name for one in live.engine.questions.ledger.standing), "the end of the answer")


def test_for_a_time(live: Host, server: Server) -> None:
    """An answer for a time covers every workload of the agent, and no other agent; afterwards it is asked again."""
    first, second = live.start(connects(server, 1)), live.start(connects(server, 1))
    live.held(second)
    asked = live.held(first)
    (name,) = answer(live, asked, scope=Scope.TIME, seconds=3600)["standing"]
    assert first.wait().lines == second.wait().lines == ["attempt", "ok None"]  # both were asked about already
    assert live.run(connects(server, 2)).lines == ["attempt", "ok None"] * 2
    asked_anew(live, server, "two")
    standing = next(one for one in live.engine.questions.ledger.standing if one.id == name)
    standing.expires = 1  # its time is up
    asked_anew(live, server)


def test_revoke(live: Host, server: Server) -> None:
    """A revoked answer counts no more from the next operation on; who revoked it is on record."""
    workload = live.start(connects(server, 1))
    (name,) = answer(live, live.held(workload), scope=Scope.TIME, seconds=3600)["standing"]
    workload.wait()
    assert live.run(connects(server, 1)).lines == ["attempt", "ok None"]
    live.engine.questions.revoke(name, BOB, "no more")
    asked_anew(live, server)
    record = [record for record in live.records() if record["event"] == "approval_revoked"][-1]
    assert record["reason"] == "no more" and record["metadata"]["by_uid"] == BOB.uid
    with pytest.raises(AgentdError, match="there is none"):
        live.engine.questions.revoke(name, BOB)


def test_a_no_that_stands(live: Host, server: Server) -> None:
    """A refusal can stand as well: a program that tries again is refused without a question."""
    workload = live.start(connects(server, 4))
    answer(live, live.held(workload), allow=False, scope=Scope.WORKLOAD, reason="not here")
    run = workload.wait()
    assert run.lines == ["attempt", "errno 1"] * 4 and server.arrived() == 0
    assert "not here" in run.records[-1]["reason"]


def test_another_object_is_another_question(live: Host) -> None:
    """An answer that stands for one file says nothing about another one, and for a held open it works as for a call."""
    one, two = (live.folder / "ask" / name for name in ("one", "two"))
    reads = probes.python(f"for p in ({str(one)!r}, {str(one)!r}, {str(two)!r}): attempt(lambda: open(p).read())")
    workload = live.start(reads)
    answer(live, live.held(workload), scope=Scope.PROCESS)
    asked = live.held(workload)
    assert asked["object"] == str(two) and len(live.pending()) == 1
    live.until(lambda: state(workload.pid) == "T", "state T")
    assert workload.output.count(b"'data'") == 2
    answer(live, asked)
    assert workload.wait().lines.count("ok 'data'") == 3


def test_two_people(live: Host, server: Server) -> None:
    """Where the rule says so, two different people must say yes; one person twice is one, and a no needs one."""
    workload = live.start(connects(server, 1), "two")
    asked = live.held(workload)
    assert answer(live, asked, ANN)["answer"] == "waiting"
    with pytest.raises(AgentdError, match="another person"):
        answer(live, asked, ANN)
    with pytest.raises(AgentdError, match="another person"):  # from another process
        answer(live, asked, Approver("ann", 1001, 77))
    with pytest.raises(AgentdError, match="wants 2 approvers"):
        answer(live, asked, BOB, scope=Scope.WORKLOAD)
    live.until(lambda: state(workload.pid) == "T", "state T")
    os.kill(workload.pid, signal.SIGCONT)
    live.until(lambda: state(workload.pid) == "T", "state T again")
    assert server.arrived() == 0
    assert answer(live, asked, BOB)["answer"] == "approved"
    run = workload.wait()
    assert run.lines == ["attempt", "ok None"] and server.arrived() == 1
    approved = next(record for record in run.records if record["event"] == "approved")
    assert approved["metadata"]["approved_by"] == [str(ANN), str(BOB)]
    workload = live.start(connects(server, 1), "two")
    asked = live.held(workload)
    answer(live, asked, ANN)
    answer(live, asked, BOB, allow=False)
    assert workload.wait().lines == ["attempt", "errno 1"]


def test_what_came_after_the_first_yes_is_not_in_it(live: Host, server: Server) -> None:
    """The second yes covers what the first one was shown, not what joined since."""
    code = probes.python(f"""
def go():
    pid = os.fork()
    if not pid:
        try:
            socket.socket().connect(('127.0.0.1', {server.port}))
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    return pid
first = go()
while not os.path.exists({str(live.folder / "go")!r}): time.sleep(0.01)
second = go()
say("attempt"); say("ok " + str([os.waitpid(pid, 0)[1] >> 8 for pid in (first, second)]))
""")
    workload = live.start(code, "two")
    asked = waiting(live, workload, 1)
    answer(live, asked, ANN)
    (live.folder / "go").touch()
    waiting(live, workload, 2)
    answer(live, asked, BOB)
    rest = waiting(live, workload, 1)
    assert rest["approved_by"] == []
    answer(live, rest, allow=False)
    assert workload.wait().value == str([0, errno.EPERM])


def twelve_held(live: Host, workload: Workload) -> list[abi.TaskLine]:
    """The marked threads, once twelve of the workload's are held; the engine hasn't looked at them yet."""
    for _ in range(4000):
        lines = live.engine.marks.list()
        if sum(line.workload == workload.number and bool(line.hold_id) for line in lines) == 12:
            return lines
        time.sleep(0.005)
    raise AssertionError("twelve are never held")


def test_a_flood_is_denied_and_shown(live: Host, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of an agent operations are denied without a question, and it is said how many."""
    monkeypatch.setattr(live.engine.questions.book, "limit", 5)
    (live.folder / "ask" / "many").mkdir(exist_ok=True)
    code = probes.python(f"""
pids = []
for n in range(12):
    path = {str(live.folder / "ask/many")!r} + f"/{{n}}"
    pid = os.fork()
    if not pid:
        try: os.close(os.open(path, os.O_RDONLY | os.O_CREAT))
        except OSError: os._exit(3)
        os._exit(0)
    pids.append(pid)
say("attempt"); say("ok " + str([os.waitpid(pid, 0)[1] for pid in pids].count(9)))
""")
    workload = live.start(code)
    lines = twelve_held(live, workload)
    live.pump()
    live.engine.takeover.adopt(lines)  # a list from before the denials: who is on the way out is not asked again
    assert live.engine.questions.summary()["floods"][0]["denied"] == 7
    assert len(live.pending()) == 5
    assert 'agentd_approval_floods_total{agent="bot"} 7.0' in live.engine.metrics.exposition()
    for asked in live.pending():
        answer(live, asked)
    run = workload.wait()
    assert run.value == "7"
    denied = [record for record in run.records if record["event"] == "denied" and record["metadata"].get("flood")]
    assert len(denied) == 7 and "wait for approval already" in denied[0]["reason"]
