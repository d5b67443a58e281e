"""Rows 65 and 66: agentd is killed, or gets another policy, while a workload tries what is denied.

Rounds by default and in full: 65: 3 and 1,000 kills; 66: 10 and 1,000 reloads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from agentd.audit.verify import verify
from agentd.daemon import host as composition
from agentd.engine.policies import Compiled
from agentd.kernel import loader
from tests.containment.ground import Ground
from tests.containment.races import at_rest
from tests.containment.suite import Probe, Scenario, Suite, Told, numbers, touch
from tests.live import harness
from tests.live.probes import Run


class Hammer:
    """A process that tries what is denied all the time, in each of its ways."""

    def __init__(self, suite: Suite, name: str) -> None:
        d = suite.ground.dir
        self.stop = d / f"state/{name}.stop"
        self.stop.unlink(missing_ok=True)
        self.mark = d / f"state/{name}.mark"
        self.words = suite.probe(
            "hammer", self.stop, suite.ground.sinks.port["denied"], d / "denied/key", d / "nobin/bad", self.mark
        )

    def control(self) -> None:
        """Untagged it gets through in every way."""
        child = subprocess.Popen(self.words, stdout=subprocess.PIPE)
        time.sleep(0.05)
        self.stop.touch()
        try:
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
        rounds = numbers(Run(0, out, b"", 0), "done")[0]
        assert rounds and numbers(Run(0, out, b"", 0), "escaped")[0] >= 2 * rounds, out
        self.stop.unlink()
        self.mark.unlink(missing_ok=True)


def reloads(suite: Suite) -> Told:
    """Reloads under a hammering attacker: nothing goes through. Then an empty policy: nothing is allowed."""
    rounds, engine = suite.rounds(10, 1000), suite.host.engine
    suite.ground.fresh()
    hammer = Hammer(suite, "reload")
    hammer.control()
    first, second, nothing = suite.host.compiled, other(suite.ground, "reversed"), other(suite.ground, "nobody")
    workload = suite.host.start(hammer.words)
    for number in range(rounds):
        engine.install(second if number % 2 else first)
        suite.host.pump()
        time.sleep(0.002)
    hammer.stop.touch()
    run = workload.wait()
    assert numbers(run, "escaped") == [0] and numbers(run, "done")[0], run
    go = suite.ground.dir / "state/go"
    go.unlink(missing_ok=True)
    waiting = suite.host.start(suite.probe("older", go, suite.ground.dir / "free/plain"))
    engine.install(nothing)
    touch(go)
    refused = waiting.wait()
    go.unlink()
    engine.install(first)
    assert b"data plain" not in refused.out and refused.denials, f"with an empty policy it reads: {refused}"
    allowed = suite.host.run(suite.probe("read", suite.ground.dir / "free/plain"))
    assert b"data plain" in allowed.out and not allowed.denials, f"with the old policy back it doesn't: {allowed}"
    return Told("read", *(run.denials[-1][name] for name in ("point", "guarantee")), f"{rounds} reloads")


OTHERS: Final = ("reversed", "nobody", "lenient", "open")


def other(ground: Ground, name: str) -> Compiled:
    """Another policy than the suite's, ready to be installed: with its rules in another order, about nobody,
    with nothing against executable memory, or with nothing against anything and no host by name.
    """
    agents, tools = ground.policy()
    if name == "reversed":
        agents["bot"]["deny"].reverse()
    elif name == "nobody":
        agents, tools = {"nobody": {"allow": []}}, {}
    elif name == "open":
        agents = {agent: harness.agent() for agent in agents}
    else:
        agents["pure"]["deny"] = []
    path = ground.dir / f"state/policy-{name}.yaml"
    document = {"version": 1, "agents": agents, **({"tools": tools} if tools else {})}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return composition.read_policy(path, str(ground.dir), own=[ground.dir / "state/audit"])


class Daemon:
    """An engine in a process of its own, which can be killed. It does what files in its folder tell it."""

    def __init__(self, suite: Suite, policy: Compiled) -> None:
        self.pins = Path(f"/sys/fs/bpf/agentd-run/{os.getpid()}-killed")
        self.folder = suite.ground.dir / "state/daemon"
        self.folder.mkdir(exist_ok=True)
        self._policy = policy
        self.pid = 0

    def start(self, tag: int = 0, agent: str = "bot") -> None:
        """Starts it and waits until it enforces. tag: a process to mark."""
        ready, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(ready)
                self._serve(tag, agent, write)
            finally:
                os._exit(1)
        os.close(write)
        try:
            assert os.read(ready, 1) == b"r", "the daemon did not start"
        finally:
            os.close(ready)

    def _serve(self, tag: int, agent: str, ready: int) -> None:
        engine = composition.start(self._policy, pins=self.pins, audit_dir=self.folder / "audit")
        if tag:
            engine.tagging.tree(tag, agent, "the containment suite")
        os.write(ready, b"r")
        while not (self.folder / "end").exists():
            engine.pump()
            engine.tick()
            if (self.folder / "approve").exists():
                for pending in list(engine.questions.book):
                    engine.questions.answer(pending.id, True, harness.TESTER)
            time.sleep(0.005)
        composition.stop(engine, release=True)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Daemon]:
        """Ends with nothing left of it."""
        try:
            yield self
        finally:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                self.kill()
            loader.remove_pins(self.pins)
            shutil.rmtree(self.folder)


def end_of(child: subprocess.Popen[bytes]) -> bytes:
    """Waits for its end; what it printed."""
    child.wait(60)
    assert child.stdout
    return child.stdout.read()


def daemon_killed(suite: Suite) -> Told:
    """kill -9 under a hammering attacker, with an approval pending: nothing goes through, and the approval counts."""
    kills = suite.rounds(3, 1000)
    suite.ground.fresh()
    suite.drain()
    hammer = Hammer(suite, "kill")
    hammer.control()
    port = suite.ground.sinks.port["ask"]
    daemon = Daemon(suite, suite.host.compiled)
    attacker = subprocess.Popen(["/bin/sh", "-c", 'read go; exec "$@"', "sh", *hammer.words], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)  # fmt: skip
    asker = subprocess.Popen(
        ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *suite.probe("reach", "connect", "127.0.0.1", port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert attacker.stdin and asker.stdin
    with daemon.whole():
        try:
            daemon.start(attacker.pid)
            daemon.kill()
            daemon.start(asker.pid, "asker")
            for child in (attacker, asker):
                os.write(child.stdin.fileno(), b"go\n")  # type: ignore[union-attr]
            at_rest(suite, asker.pid)
            for _ in range(kills):
                daemon.kill()
                time.sleep(0.01)
                assert not suite.ground.sinks.seen("ask"), "what nobody approved went through"
                daemon.start()
            (daemon.folder / "approve").touch()
            said = end_of(asker)
            assert b"ok 0" in said and suite.ground.sinks.seen("ask", 1), f"the approval was lost: {said!r}"
            hammer.stop.touch()
            out = end_of(attacker)
            result = Run(0, out, b"", attacker.pid)
            assert numbers(result, "escaped") == [0] and numbers(result, "done")[0], out
            (daemon.folder / "end").touch()
            os.waitpid(daemon.pid, 0)
            report = verify(daemon.folder / "audit/audit.jsonl")
            assert report.ok, report.bad
        finally:
            for child in (attacker, asker):
                child.kill()
                child.wait()
                for stream in (child.stdin, child.stdout):
                    assert stream
                    stream.close()
    return Told("read", detail=f"{kills} kills, {numbers(result, 'done')[0]} rounds of attempts")


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    Scenario(65, "kill -9", daemon_killed),
    Scenario(66, "reloads", reloads),
)
