"""An engine in the test's own process, and workloads under it. What a probe is, says probes.py."""

from __future__ import annotations

import bisect
import contextlib
import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from agentd.approvals.book import Approver
from agentd.audit import many, segments
from agentd.daemon import host as composition
from agentd.daemon.launch import Marked, launch
from agentd.daemon.places import run_pins
from agentd.engine.core import Engine
from agentd.engine.pending import describe
from agentd.kernel.hosts import Resolver
from agentd.kernel.notify.device import take_listener
from agentd.kernel.seccomp import restrict
from agentd.resources import policies_dir
from tests.live.probes import PATIENCE, Run, waits_at

TESTER = Approver("a test", 0, os.getpid())


@functools.cache
def every_tool() -> list[str]:
    """The names of all tools of the shipped catalogue but the baseline's, and those that would have probes compiled."""
    tools = yaml.safe_load((policies_dir() / "catalogue.yaml").read_text(encoding="utf-8"))["tools"]
    calls = {
        tool
        for tool, operations in tools.items()
        if any("call" in one for entries in operations.values() for one in entries)
    }
    return [tool for tool in tools if tool != "runtime" and tool not in calls]


def agent(
    *, deny: Sequence[dict[str, Any]] = (), ask: Sequence[dict[str, Any]] = (), but: Sequence[str] = (), **keys: Any
) -> dict[str, Any]:
    """An agent that may do everything except what `deny` and `ask` say, and the tools in `but`."""
    allowed = [{"tool": tool} for tool in every_tool() if tool not in but]
    made: dict[str, Any] = {**keys, "allow": [*keys.get("allow", ()), *allowed]}
    return {**made, **({"deny": list(deny)} if deny else {}), **({"require_approval": list(ask)} if ask else {})}


class Workload:
    """A probe that runs tagged."""

    def __init__(self, owner: Host, pid: int, pidfd: int, number: int, out: Path, first: int) -> None:
        self.pid = pid
        self.number = number
        self._owner = owner
        self._pidfd = pidfd
        self._out = out
        self._first = first
        self._status: int | None = None

    @classmethod
    def under(cls, owner: Host, other: Workload) -> Workload:
        """The same workload under another engine, which has taken over."""
        return cls(owner, other.pid, other._pidfd, other.number, other._out, other._first)

    @property
    def ended(self) -> bool:
        """Its first process is gone."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    @property
    def output(self) -> bytes:
        """What it has printed so far."""
        return self._out.read_bytes()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Records of its own so far; allowed operations are counted for the agent as a whole and have no workload."""
        mine = [r for r in self._owner.records(self._first) if r["metadata"].get("workload") == self.number]
        return [record for record in mine if record["kernel_operation"]]

    def wait(self) -> Run:
        """Its end, with everything else of the workload ended too."""
        self._owner.until(lambda: self.ended, pid=self.pid)
        self._owner.settle(self)
        assert self._status is not None
        os.close(self._pidfd)
        return Run(self._status, self.output, self._out.with_suffix(".err").read_bytes(), self.pid, self.records)

    def kill(self) -> None:
        """Ends it now."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Waits while no engine runs."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)


class Host:
    """An engine in this process, with one audit log."""

    def __init__(
        self,
        folder: Path,
        agents: dict[str, Any],
        tools: dict[str, Any] | None = None,
        resolvers: Sequence[Resolver] | None = None,
        pins: Path | None = None,
        *,
        slices: bool = False,
    ) -> None:
        """slices: recognises who is an agent as the service does under systemd."""
        self.folder = folder
        self.patience = PATIENCE
        document: dict[str, Any] = {"version": 1, "agents": agents}
        if tools:
            document["tools"] = tools
        policy = folder / "policy.yaml"
        policy.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        self.compiled = composition.read_policy(policy, str(folder), own=[folder / "audit"])
        composition.collect_stale_runs()
        self.engine: Engine = composition.start(
            self.compiled,
            pins=pins or run_pins(),
            audit_dir=folder / "audit",
            resolvers=resolvers,
            matching=slices,
            slices=slices,
        )
        self._log = folder / "audit" / "audit.jsonl"
        self._parsed: Counter[int] = Counter()  # bytes of each of its files, by inode
        self._records: list[dict[str, Any]] = []
        self._number = 0
        self._ticked = 0.0
        self._left: set[int] = set()

    def start(
        self,
        command: Sequence[str | os.PathLike[str]],
        name: str = "bot",
        *,
        seccomp: bool = False,
        keep: Sequence[int] = (),
        cwd: str | os.PathLike[str] | None = None,
    ) -> Workload:
        """Starts a command as agent `name`. keep: descriptors it inherits. seccomp: as `agentd run` does."""
        self._number += 1
        out = self.folder / f"{self._number}.out"
        first = self.engine.audit.head.seq
        number = 0
        opened = [os.open("/dev/null", os.O_RDONLY)]
        opened += [os.open(p, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for p in (out, out.with_suffix(".err"))]

        supervised = seccomp and self.engine.supervises

        def mark(pid: int, pidfd: int) -> Marked:
            nonlocal number
            words = [os.fspath(command[0])]
            number = self.engine.tagging.started(pidfd, name, "a test", words, supervised=supervised).number
            return Marked(supervised=supervised)

        def listen(pid: int, pidfd: int, listener: int) -> None:
            self.engine.supervision.supervise(pidfd, take_listener(pidfd, listener))

        def prepare() -> None:
            for target, source in enumerate(opened):
                os.dup2(source, target)
            if cwd is not None:
                os.chdir(cwd)

        try:
            for descriptor in keep:
                os.set_inheritable(descriptor, True)
            words = [os.fspath(word) for word in command]
            child = launch(words, mark, prepare=prepare, restrict=restrict if seccomp else None, listen=listen)
        finally:
            for descriptor in keep:
                os.set_inheritable(descriptor, False)
            for descriptor in opened:
                os.close(descriptor)
        return Workload(self, child.pid, child.pidfd, number, out, first)

    def run(self, command: Sequence[str | os.PathLike[str]], name: str = "bot", **how: Any) -> Run:
        """Starts a command and waits for its end."""
        return self.start(command, name, **how).wait()

    def until(self, done: Callable[[], bool], what: str = "the probe's end", pid: int = 0) -> None:
        """Carries the engine on until `done`. pid: who is waited for."""
        deadline = time.monotonic() + self.patience
        while not done():
            self.pump()
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}; {waits_at(pid) if pid else 'see the records'}")
            time.sleep(0.002)
        self.pump()

    def pump(self) -> None:
        """What the daemon's loop does."""
        self.engine.pump()
        if time.monotonic() - self._ticked > 1:
            self._ticked = time.monotonic()
            self.engine.tick()

    def settle(self, workload: Workload) -> None:
        """Ends what is left of a workload, until no process carries its mark."""

        def gone() -> bool:
            pids = self.engine.tagging.live(workload.number)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._left |= pids
            for pid in list(self._left):  # orphans come to this process (a subreaper)
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        self._left.discard(pid)
            return not pids and not self.engine.supervision.of(workload.number)

        self.until(gone, "the end of the workload")

    def records(self, after: int = 0) -> list[dict[str, Any]]:
        """The audit log's records, from the one behind number `after`."""
        self.engine.pump()
        self._records += [json.loads(line) for line in self._new_lines()]
        return self._records[bisect.bisect_right(self._records, after, key=lambda record: record["seq"]) :]

    def _new_lines(self) -> Iterator[bytes]:
        """What was written since the last call; a long run's log goes on in new files."""
        files, last = segments.opened(self._log)
        with last:
            for file in files:
                with file.open("rb") if file is not files[-1] else last as log:
                    inode = os.fstat(log.fileno()).st_ino
                    log.seek(self._parsed[inode])
                    new = log.read()
                    new = new[: new.rfind(b"\n") + 1]
                    self._parsed[inode] += len(new)
                    yield from new.splitlines()

    def counted(self, name: str) -> list[dict[str, Any]]:
        """Flushes the exact counts; all of this agent's so far, each object by itself."""
        self.engine.flush()
        mine = [r for r in self.records() if r["event"] == "allowed" and r["agent_id"] == name]
        return [dict(record) for record in many.singles(mine)]

    def held(self, workload: Workload) -> dict[str, Any]:
        """Waits until an operation of the workload is held; its approval, as the socket would show it."""
        found: list[dict[str, Any]] = []

        def asked() -> bool:
            found[:] = [p for p in self.pending() if p["workload"] == workload.number]
            return bool(found) or workload.ended

        self.until(asked, "a question")
        assert found, f"ended without a question: {workload.wait()}"
        return found[0]

    def pending(self) -> list[dict[str, Any]]:
        """All approvals that wait."""
        self.engine.pump()
        return [describe(pending, time.clock_gettime_ns(time.CLOCK_BOOTTIME)) for pending in self.engine.questions.book]

    def answer(self, approval: dict[str, Any], allow: bool) -> None:
        """What approve and deny do."""
        self.engine.questions.answer(approval["id"], allow, TESTER)

    def close(self) -> None:
        """Ends enforcement."""
        composition.stop(self.engine, release=True)


@contextlib.contextmanager
def enforcing(
    folder: Path,
    agents: dict[str, Any],
    tools: dict[str, Any] | None = None,
    resolvers: Sequence[Resolver] | None = None,
    *,
    slices: bool = False,
) -> Iterator[Host]:
    """A Host, closed at the end."""
    made = Host(folder, agents, tools, resolvers, slices=slices)
    try:
        yield made
    finally:
        made.close()
