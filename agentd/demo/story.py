"""Plays the story and judges it: what is tried, what the kernel did, and the proof.

What the kernel did is read from the audit log, the proof from the servers, the files and /proc. Nothing is said that
was not looked at; a step that did not go as it should fails the demo. The agent runs under `agentd run` in a process of
its own, and is answered through that run's socket: the story uses what every user has and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from agentd.audit import verify
from agentd.audit.writer import FILE_NAME
from agentd.demo.servers import Servers
from agentd.demo.stage import Stage, fingerprint
from agentd.errors import EXIT_CANNOT_ENFORCE, EXIT_FAILURE, AgentdError

AGENT: Final = "research_bot"
# The same agentd as this one: the package's has no place where `python -m` would find it.
THIS_AGENTD: Final = (
    sys.executable, "-IS" if sys.flags.no_site else "-I", "-c",
    f"import sys; sys.path[:] = {[path for path in sys.path if path]!r}; from agentd.__main__ import main; main()",
)  # fmt: skip
AGENT_PYTHON: Final = "/usr/bin/python3"
START_PATIENCE: Final = 600.0  # seconds until the agent's first word: emulated, the kernel's verifier takes minutes
PATIENCE: Final = 15.0  # seconds to wait for one thing before the step counts as failed
EPERM: Final = "errno 1,"
DONE: Final = {"deny": "failed with EPERM", "kill": "its process was killed", "pause": "held before its effect"}
Value = TypeVar("Value")
Row = dict[str, Any]
# (process id of an `agentd run`, method of its socket, parameters) -> result
Ask = Callable[[int, str, dict[str, Any]], Any]


class Show(Protocol):
    """How the story is told."""

    def step(self, text: str) -> None:
        """A new attempt of the agent."""

    def line(self, label: str, text: str, good: bool | None = None) -> None:
        """One fact. good: None for what is neither."""


class Run:
    """`agentd run` around the agent, and what both say."""

    def __init__(self, stage: Stage, servers: Servers, state: Path, ask: Ask) -> None:
        self._ask = ask
        self.log = state / FILE_NAME
        self._offset = self._given = 0
        self._records: list[Row] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.said: list[str] = []
        url = f"http://127.0.0.1:{servers.search_port}/search?q=agentd"
        agent = [AGENT_PYTHON, "agent.py", url, str(servers.smtp_port), str(stage.customers), str(servers.other_port)]
        command = [*THIS_AGENTD, "run", "--agent", AGENT]
        command += ["--policy", str(stage.write_policy(servers)), "--state", str(state), "--", *agent]
        self._process = subprocess.Popen(
            command, cwd=stage.workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # No folder twice: what can't be executed in one is tried in the next, and is another denial.
            env={"PATH": "/usr/sbin:/usr/bin", "HOME": str(stage.home), "LANG": "C.UTF-8"},
            text=True, errors="backslashreplace",
            start_new_session=True,  # without the terminal, from which nobody could answer then
        )  # fmt: skip
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=target) for target in (self._take_output, self._take_errors)]
        for thread in self._threads:
            thread.start()

    def _take_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _take_errors(self) -> None:
        assert self._process.stderr is not None
        self.errors.extend(line.rstrip("\n") for line in self._process.stderr)

    def next_line(self) -> str:
        """The agent's next line. Raises AgentdError when it has ended, or says nothing for too long."""
        try:
            line = self._lines.get(timeout=PATIENCE if self.said else START_PATIENCE)
        except queue.Empty:
            raise _broken("the agent says nothing any more", self) from None
        if line is None:
            self.finish()
            raise _broken("the agent has ended too early", self)
        self.said.append(line)
        return line

    def records(self) -> list[Row]:
        """All records so far."""
        with open(self.log, "rb") as log:
            log.seek(self._offset)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        self._records += [json.loads(line) for line in whole.splitlines()]
        return self._records

    def record(self, event: str) -> Row | None:
        """The next record of this event behind the one that was given last; waited for. None if there is none."""

        def look() -> Row | None:
            for number, row in enumerate(self.records()):
                if row["seq"] > self._given and row["event"] == event:
                    self._given = row["seq"]
                    return self._records[number]
            return None

        return wait(look)

    def call(self, method: str, **params: Any) -> Any:
        """Asks the run."""
        return self._ask(self._process.pid, method, params)

    def finish(self) -> int:
        """The exit code, once the agent has ended."""
        code = self._process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return code

    def _ended(self) -> bool:
        """Whether agentd is gone. An agent that is held would not hear a signal, so nothing stays held."""
        with contextlib.suppress(AgentdError):
            for held in self.call("approvals.list"):
                self.call("approvals.deny", id=held["id"], reason="the demo ends")
        return self._process.poll() is not None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Whatever happened, nothing goes on running."""
        self._process.terminate()
        if not wait(self._ended):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def wait(look: Callable[[], Value | None]) -> Value | None:
    """What `look` finds, or None after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def state_of(pid: int) -> str:
    """The state letter of a process, empty if there is none. proc(5), stat."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Story:
    """Six attempts of the agent, each told and judged."""

    def __init__(self, stage: Stage, servers: Servers, run: Run, show: Show) -> None:
        self.stage, self.servers, self.run, self.show = stage, servers, run, show
        self.failed = 0

    def play(self) -> bool:
        """Whether everything went as it should. Raises AgentdError when the agent could not be run at all."""
        customers = fingerprint(self.stage.customers)
        self._search()
        self._approved_mail()
        self._denied_mail()
        self._rm(customers)
        self._key()
        self._background()
        code = self.run.finish()
        self.show.step("The agent has ended")
        self._proof(code == 0, f"it lived through all of this: agentd run exited with {code}")
        rows = self.run.records()
        searches = [row for row in rows if row["event"] == "allowed" and row["tool_name"] == "web_search"]
        told = ", ".join(f"{row['input_summary']}, {row['count']} time" for row in searches)
        self._proof([row["count"] for row in searches] == [1], f"the search is in the log, counted: {told or 'no'}")
        denied = [row["tool_name"] for row in rows if row["event"] == "denied"]
        self._proof(denied == ["shell", "secrets", "network"], f"denied without being asked about: {', '.join(denied)}")
        return not self.failed

    # -- the six

    def _search(self) -> None:
        self._try()
        result = self._result()
        asked = self.servers.searches
        refused = [row for row in self.run.records() if row["event"] == "denied"]
        self._kernel(refused[0] if refused else None)
        self._proof(
            len(asked) == 1 and result.startswith("results"), f"the search server answered {len(asked)}: {asked}"
        )

    def _approved_mail(self) -> None:
        self._try()
        held = self._held()
        if held is None:
            return
        pids = held["processes"]
        for pid in pids:
            os.kill(pid, signal.SIGCONT)  # not an answer
        time.sleep(0.3)
        again = wait(lambda: "T" if all(state_of(pid) == "T" for pid in pids) else None)
        seen = self.servers.mail_connections
        self._proof(
            again == "T" and not seen,
            f"a SIGCONT from elsewhere changes nothing: state {self._states(pids)}, {seen} connections to the sink",
        )
        approved = time.monotonic()
        answer = self.run.call("approvals.approve", id=held["id"])
        self.show.line("answer", f"approval {answer['id']}: {answer['answer']} by {answer['by']}")
        result = self._result()
        mails = self.servers.mails
        told = [f"to {mail.to}, {(mail.received - approved) * 1000:.0f} ms after the approval" for mail in mails]
        good = len(mails) == 1 and result == "sent" and mails[0].received > approved
        self._proof(good, f"the sink got {len(mails)} mail: {'; '.join(told)}")

    def _denied_mail(self) -> None:
        before = len(self.servers.mails), self.servers.mail_connections
        self._try()
        held = self._held()
        if held is None:
            return
        answer = self.run.call("approvals.deny", id=held["id"], reason="not to everybody")
        self.show.line("answer", f"approval {answer['id']}: {answer['answer']} by {answer['by']}")
        result = self._result()
        now = len(self.servers.mails), self.servers.mail_connections
        self._proof(
            EPERM in result and now == before, f"the sink has {now[0]} mail and saw {now[1]} connection, as before"
        )

    def _rm(self, customers: tuple[int, str]) -> None:
        self._try()
        result = self._result()
        self._kernel(self.run.record("denied"), "shell", "rm")
        files, digest = fingerprint(self.stage.customers)
        stopped = EPERM in result or f"signal {signal.SIGKILL:d}" in result  # with LSM hooks the exec fails
        good = (files, digest) == customers and stopped
        self._proof(
            good, f"{files} of {customers[0]} files are there, sha256 {digest[:12]}, before {customers[1][:12]}"
        )

    def _key(self) -> None:
        self._try()
        self.show.line("but", f"notes.txt is a symlink to {os.readlink(self.stage.workspace / 'notes.txt')}")
        self._result()
        self._kernel(self.run.record("denied"), "secrets", "read")
        copy = (self.stage.workspace / "copy.txt").read_text(encoding="utf-8", errors="replace")
        leaked = self.stage.key.splitlines()[1] in copy + "\n".join(self.run.said)
        holds = "todo.txt and nothing else" if copy == self.stage.todo else "something else than todo.txt"
        self._proof(copy == self.stage.todo and not leaked, f"copy.txt holds {holds}: {copy!r}")

    def _background(self) -> None:
        self._try()
        self._result()
        row = self.run.record("denied")
        self._kernel(row, "network", "connect")
        try:
            pid, session, parent, errno = map(int, (self.stage.workspace / "background.log").read_text().split())
        except (OSError, ValueError):
            self._proof(False, "the background process left no word")
            return
        found = self.servers.other_connections
        good = row is not None and row["process"]["pid"] == pid and errno == 1 and not found
        self._proof(good, f"pid {pid}, session {session}, adopted by {parent}; the port has seen {found} connections")

    # -- telling

    def _try(self) -> None:
        self.show.step(self.run.next_line())

    def _result(self) -> str:
        said = self.run.next_line().removeprefix(" -> ")
        self.show.line("agent", said)
        return said

    def _held(self) -> Row | None:
        pending: list[Row] = wait(lambda: self.run.call("approvals.list")) or []
        if not pending:
            self._proof(False, "nothing waits for approval")
            self._result()
            return None
        held = pending[0]
        self._kernel(self.run.record("approval_required"), "email", "send")
        self.show.line(
            "pending",
            f"approval {held['id']}: {held['agent']} wants {held['tool']}/{held['operation']}, {held['summary']}",
        )
        states = wait(lambda: self._states(held["processes"]) == "T" and "T") or self._states(held["processes"])
        before = len(self.servers.mails)
        pids = ", ".join(map(str, held["processes"]))
        self._proof(states == "T", f"pid {pids} is in state {states}; the sink has {before} mail")
        return held

    def _states(self, pids: list[int]) -> str:
        return "".join(sorted({state_of(pid) or "gone" for pid in pids}))

    def _kernel(self, row: Row | None, tool: str = "", operation: str = "") -> None:
        """What the log says that the kernel did; a record of another tool than expected is a failure."""
        if row is None:
            good = not tool
            self.show.line("kernel", "let through; nothing refused or held is on record" if good else "no record", good)
        else:
            good = (row["tool_name"], row["operation"]) == (tool, operation)
            done = DONE.get(row["action"], row["action"])
            wrong = None if good else False
            why = f"{row['tool_name']}/{row['operation']}: {row['decision']}, rule {row['rule']}"
            self.show.line("kernel", f"{row['input_summary']}: {done} ({row['guarantee']}, by {row['point']})", wrong)
            self.show.line("policy", why, wrong)
        self.failed += not good

    def _proof(self, good: bool, text: str) -> None:
        self.failed += not good
        self.show.line("proof", text, good)


def tampered(log: Path, folder: Path) -> verify.Result:
    """What verifying says of a copy in which one denial was rewritten to an approval."""
    copy = folder / "tampered.jsonl"
    copy.write_bytes(log.read_bytes().replace(b'"decision":"deny"', b'"decision":"allow"', 1))
    return verify.verify(copy)


def _broken(why: str, run: Run) -> AgentdError:
    said = [line.removeprefix("agentd: ") for line in run.errors[-3:]]
    with contextlib.suppress(OSError):
        said += [
            f"the log says: {row['input_summary']}, {row['reason']}"
            for row in run.records()
            if row["event"] == "denied"
        ]
    code = EXIT_FAILURE if run.said else EXIT_CANNOT_ENFORCE
    return AgentdError("enforcement-lost", "demo", why, "; ".join(said[-3:]), exit_code=code)
