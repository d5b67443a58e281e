"""Library calls on another kernel: judged and held, whatever wakes who is held, and refused where that can't be.

`.venv/bin/python -m tests.vm.calls --build` on the host, which compiles the policies, then
`./dev vm 6.1 --lsm on -- .venv/bin/python -m tests.vm.calls`. What is said of library calls in general is tried on the
host (tests/live/test_library_calls.py); here is what hangs on the kernel: the programs load, the fetchers that bcc
compiles are taken, a denied call ends the process before it takes effect, whichever of the two programs judges it, a
call within a call counts once, and holds, also in storms of SIGCONT. `--refused`: this
kernel is one that can't keep calls held. Exit status 1: not as it should be.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from agentd.daemon import host as composition
from agentd.engine import automata
from agentd.errors import AgentdError
from tests.containment.ground import BUILD
from tests.containment.run import PR_SET_CHILD_SUBREAPER
from tests.live import probes
from tests.live.harness import Host, agent, enforcing
from tests.live.probes import Run, untagged
from tests.live.test_library_calls import (
    ASKED,
    BUFFER,
    EXEC,
    HUNG_UP,
    SQLITE,
    TOOLS,
    hung_up,
    opens_at_once,
    waked_without_charge,
)
from tests.live.tls import CARD, TLS, Sink

DROP = "drop table kept"
LONG = f"select '{'x' * 100_000}'; "  # by the program that may sleep
ALLOW = [{"tool": "sqlite", "operations": ["query"]}, {"tool": "tls", "operations": ["send"]}]
BOT = {"bot": agent(allow=ALLOW, on_violation="kill")}
ASKING = {"asking": agent(allow=ALLOW, ask=ASKED, on_violation="kill")}
SINGLE, STORM, ROUNDS = 20, 2000, 10  # SIGCONTs one by one; from each of two senders at once, and how often
failures = 0


def check(what: str, fine: object, run: Run | None = None) -> None:
    """One line for who reads along."""
    global failures
    failures += not fine
    print(f"{'ok  ' if fine else 'FAIL'} {what}{'' if fine or run is None else f': {run}'}", flush=True)


def denied(what: str, run: Run, tool: str, operation: str) -> None:
    """It was ended before its call took effect, by us, with one record."""
    records = [(one["tool_name"], one["operation"], one["guarantee"], one["point"]) for one in run.denials]
    came_back = any(line.startswith("ok ") for line in run.lines)
    fine = run.killed and not came_back and records == [(tool, operation, "contained", "uprobe")]
    check(what, fine, run)


def statements(host: Host, folder: Path) -> None:
    """SQLite by Python, by its shell and by ctypes."""
    for name, text in (("a statement", DROP), ("one of 100 KB", LONG + DROP)):
        base = str(folder / f"{len(text)}.db")
        subprocess.run(["sqlite3", base, "create table kept (a)"], check=True)
        run = host.run(["sqlite3", base, text])
        denied(f"{name} that destroys ends the program", run, "sqlite", "destroy")
        left = subprocess.run(["sqlite3", base, "select name from sqlite_master"], capture_output=True, check=True)
        check("the table is there", left.stdout == b"kept\n")
        run = host.run(["sqlite3", base, f"{text.removesuffix(DROP)}select '{DROP}'"])
        check("what only mentions it goes on", run.out.endswith(f"{DROP}\n".encode()), run)
    denied("a statement by Python", host.run(probes.python(SQLITE, folder / "b.db", DROP)), "sqlite", "destroy")
    run = host.run(probes.python(BUFFER, folder / "c.db", "select 1", DROP))
    denied("another text in the same buffer", run, "sqlite", "destroy")
    check("untagged it is made", untagged(probes.python(EXEC, folder / "d.db", DROP)).value == "0")


def counted(host: Host, folder: Path) -> None:
    """sqlite3_exec calls sqlite3_prepare_v2 with its text. Before anything else has called either."""

    run = host.run(probes.python(EXEC, folder / "e.db", "select 1"))
    check("sqlite3_exec goes on", run.value == "0", run)
    found = {one["object"] for one in host.counted("bot") if one["tool_name"] == "sqlite"}
    check("a call within a call isn't counted", found == {"sqlite3:sqlite3_exec"})


def connections(host: Host, folder: Path) -> None:
    """TLS by Python, at once and in three writes."""
    sink = Sink(folder)
    where = str(sink.port), str(sink.certificate)
    for name, parts in (("a card's number", (CARD,)), ("one in three writes", (CARD[:17], CARD[17:21], CARD[21:]))):
        sink.got.clear()
        denied(f"{name} ends the program", host.run(probes.python(TLS, *where, *parts)), "tls", "personal")
        host.until(lambda: bool(sink.got), "the server")
        check("it has not arrived", CARD.encode() not in sink.got[0])
    sink.got.clear()
    run = host.run(probes.python(TLS, *where, "an ordinary order"))
    host.until(lambda: bool(sink.got), "the server")
    check("ordinary text arrives", run.value == "thanks" and b"an ordinary order" in sink.got[0], run)
    sink.close()


def holds(host: Host, folder: Path) -> None:
    """Held until somebody says yes, whatever wakes it."""
    try:
        opens_at_once(host, folder / "made.gz")
        check("what an approved call does first is judged as always", True)
    except AssertionError as error:
        check(f"what an approved call does first is judged as always: {error}", False)
    for allow in (True, False):
        answered = f"answered with {'yes' if allow else 'no'}"
        workload = host.start(probes.python(EXEC, folder / f"{allow}.db", DROP), "asking")
        asked = host.held(workload)
        for _ in range(SINGLE):
            host.until(lambda: probes.state(workload.pid) == "T", "the stop")  # noqa: B023
            time.sleep(0.01)  # two in one millisecond are a storm
            os.kill(workload.pid, signal.SIGCONT)
        waked_without_charge(host, workload)
        host.answer(asked, allow)
        run = workload.wait()
        fine = run.killed is not allow and len(run.of("approval_required")) == 1 and ("ok 0" in run.lines) is allow
        check(f"a held call, {answered}, is asked about once, {SINGLE} SIGCONTs or not", fine, run)
        gone = folder / f"gone-{allow}"
        workload = host.start(probes.python(HUNG_UP, folder / f"{allow}.hup", DROP, gone), "asking")
        asked = host.held(workload)
        hung_up(host, asked["processes"][0], gone)
        waits = workload.output.endswith(b"attempt\n")
        host.answer(asked, allow)
        run = workload.wait()
        check(f"and so is one whose terminal is hung up, {answered}", waits and ("ok 0" in run.lines) is allow, run)


def storms(host: Host, folder: Path) -> None:
    """Two processes send SIGCONT as fast as they can: nobody runs on by it."""
    shout = f"import os, sys\nfor _ in range({STORM}): os.kill(int(sys.argv[1]), 18)"
    ran = 0
    for number in range(ROUNDS):
        workload = host.start(probes.python(EXEC, folder / f"storm{number}.db", DROP), "asking")
        host.held(workload)
        other = subprocess.Popen([probes.PYTHON, "-I", "-S", "-c", shout, str(workload.pid)], stderr=subprocess.DEVNULL)
        for _ in range(STORM):
            os.kill(workload.pid, signal.SIGCONT)
        other.wait()
        run = workload.wait()
        ran += not run.killed or "ok 0" in run.lines
    check(f"a storm of SIGCONT lets none of {ROUNDS} held calls go on ({ran} did)", not ran)


def refused(folder: Path) -> None:
    """A kernel that can't keep a call held takes no policy that would, and the same without."""
    try:
        with enforcing(folder, {**BOT, **ASKING}, TOOLS):
            check("a policy that holds calls is refused", False)
    except AgentdError as error:
        check("a policy that holds calls is refused", "held" in str(error))
    (folder / "again").mkdir()
    with enforcing(folder / "again", BOT) as host:
        judged(host, folder)


def judged(host: Host, folder: Path) -> None:
    """What a policy without holds needs."""
    counted(host, folder)
    statements(host, folder)
    connections(host, folder)


def held(folder: Path) -> None:
    """Everything."""
    with enforcing(folder, {**BOT, **ASKING}, TOOLS) as host:
        judged(host, folder)
        holds(host, folder)
        storms(host, folder)


def main() -> int:
    """0: as it should be."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.monotonic()
    automata.HOST_DIR = BUILD / "calls"  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        if "--build" in sys.argv:
            policy = Path(folder) / "policy.yaml"
            policy.write_text(
                yaml.safe_dump({"version": 1, "tools": TOOLS, "agents": {**BOT, **ASKING}}), encoding="utf-8"
            )
            composition.read_policy(policy, folder)
            return 0
        try:
            (refused if "--refused" in sys.argv else held)(Path(folder))
        except AgentdError as error:
            check(f"agentd starts: {error}", False)
    print(f"{os.uname().release}: {failures} failed, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
