"""Rows 50 to 53: changing things at the wrong moment.

Rounds by default and in full: 50: 1,000 and 100,000; 51: 500 and 1,000,000 (a crowd: 30 and
3,000 each); 53: 2,000 and 100,000 signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from agentd.kernel import recursion
from agentd.model import Point
from tests.containment.suite import Probe, Scenario, Suite, Told, numbers, touch
from tests.live.harness import Workload
from tests.live.probes import Run, state, untagged


def last_point(run: Run) -> tuple[str, str]:
    """Point and guarantee of its last denial."""
    assert run.denials, f"nothing was refused: {run}"
    return run.denials[-1]["point"], run.denials[-1]["guarantee"]


def flip(how: str) -> Callable[[Suite], Told]:
    """A path, or a symlink, that changes between a file that may be read and one that may not."""

    def run(suite: Suite) -> Told:
        suite.ground.fresh()
        rounds = suite.rounds(1000, 100_000)
        d = suite.ground.dir
        words = (d / "free/plain", d / "denied/key", d / "free/flips")
        control = untagged(suite.probe("flip", how, 2000, *words))
        assert numbers(control, "escaped")[0], f"untagged nothing is read: {control}"
        tagged = suite.host.run(suite.probe("flip", how, rounds, *words))
        tries, good = numbers(tagged, "done")
        assert numbers(tagged, "escaped") == [0], tagged
        assert tries >= rounds and good, f"what is allowed was not read: {tagged}"
        return Told("read", *last_point(tagged), f"{tries} opens, {good} allowed")

    return run


def flip_address(suite: Suite) -> Told:
    """A destination that changes between an allowed and a denied port while sendto reads it."""
    rounds, port = suite.rounds(1000, 100_000), suite.ground.sinks.port
    suite.drain()
    words = (port["free"], port["denied"])
    untagged(suite.probe("flipport", 2000, *words))
    assert suite.ground.sinks.seen("denied", 1), "untagged nothing arrives"
    suite.drain()
    tagged = suite.host.run(suite.probe("flipport", rounds, *words))
    tries, good = numbers(tagged, "done")
    assert not suite.ground.sinks.seen("denied"), "a datagram reached the denied port"
    assert suite.ground.sinks.seen("free") and good, f"nothing reached the allowed port: {tagged}"
    return Told("send", *last_point(tagged), f"{tries} datagrams, {good} allowed")


def flip_argument(suite: Suite) -> Told:
    """An argument that changes while execve copies it: judged as the program gets it."""
    suite.ground.fresh()
    rounds = suite.rounds(300, 100_000)
    words = (suite.ground.dir / "bin/tool", suite.ground.mark)
    control = untagged(suite.probe("flipargv", 200, *words))
    assert numbers(control, "escaped")[0], f"untagged the argument is never the forbidden one: {control}"
    tagged = suite.host.run(suite.probe("flipargv", rounds, *words))
    assert numbers(tagged, "escaped") == [0], tagged
    tries, good = numbers(tagged, "done")
    assert good, f"it never ran: {tagged}"
    return Told("exec", *last_point(tagged), f"{tries} programs, {good} allowed")


def preempt(suite: Suite) -> Told:
    """On one CPU, a task with real-time priority does what it may in the middle of what others may not."""
    suite.ground.fresh()
    rounds = suite.rounds(500, 1_000_000)
    words = (suite.ground.dir / "free/plain", suite.ground.dir / "denied/key")
    control = untagged(suite.probe("preempt", 100, *words))
    assert numbers(control, "escaped") == [100] and control.status == 0, control
    records = suite.host.records()
    before = records[-1]["seq"] if records else 0
    tagged = suite.host.run(suite.probe("preempt", rounds, *words))
    tries, good = numbers(tagged, "done")
    assert numbers(tagged, "escaped") == [0] and tagged.status == 0 and good, tagged
    suite.host.engine.flush()  # a million of them are more than the ring holds: the others are counted
    told = sum(one.get("count") or 1 for one in suite.host.records(before) if one["event"] == "denied")
    assert told == tries, f"{told} of {tries} denials are in the log"
    return Told("read", *last_point(tagged), f"{tries} denied, {good} allowed opens")


CROWD: Final = 24


def crowd(suite: Suite) -> Told:
    """Many processes on one CPU, each in a hook, a trace point or a fork when the next one comes: none gets anything.

    A kernel that preempts a task inside of a program may leave that program out for all others on that CPU; where it
    does, everything else says so (tests/vm/hosts.py).
    """
    point = Point(suite.host.engine.loaded.control.point)
    if recursion.open_to_all(point):
        return Told("read", detail="this kernel leaves programs out, and doctor says so")
    suite.ground.fresh()
    rounds = max(2, suite.rounds(30, 3_000))
    words = (suite.ground.dir / "denied/key", suite.ground.dir / "nobin/bad", suite.ground.mark)
    control = untagged(suite.probe("crowd", 2, 2, *words))
    assert numbers(control, "escaped") == [3], f"untagged both files are read and the program runs: {control}"
    suite.ground.mark.unlink()
    tagged = suite.host.run(suite.probe("crowd", CROWD, rounds, *words))
    assert numbers(tagged, "escaped") == [0], tagged
    assert numbers(tagged, "done") == [CROWD * rounds, 0] and not suite.ground.mark.exists(), tagged
    return Told("read", *last_point(tagged), f"{CROWD * rounds} tries")


CROWDED: Final = (Scenario(51, "a crowd on one processor", crowd),)


# -- held, approved, and changed in between


def at_rest(suite: Suite, pid: int, letters: str = "T") -> None:
    """The process comes to this state."""
    suite.host.until(lambda: state(pid) in letters, f"state {letters}")


def held(suite: Suite, *words: object) -> tuple[Workload, dict[str, Any]]:
    """Starts a probe whose operation is held; (the workload, the question)."""
    workload = suite.host.start(suite.probe(*words), "asker")  # type: ignore[arg-type]
    asked = suite.host.held(workload)
    at_rest(suite, asked["processes"][0])
    return workload, asked


def approved_works(suite: Suite) -> None:
    """The control: what is approved and not changed is done."""
    suite.ground.fresh()
    suite.drain()
    workload, asked = held(suite, "reach", "connect", "127.0.0.1", suite.ground.sinks.port["ask"])
    assert not suite.ground.sinks.seen("ask"), "it arrived before it was approved"
    suite.host.answer(asked, True)
    run = workload.wait()
    assert "ok 0" in run.lines and suite.ground.sinks.seen("ask", 1), run


def swap_destination(suite: Suite) -> Told:
    """A port that is approved, and another one that is there when the call is issued again: refused, or asked anew."""
    approved_works(suite)
    port, go = suite.ground.sinks.port, suite.ground.dir / "state/go"
    for other in ("denied", "ask2"):
        go.unlink(missing_ok=True)
        suite.drain()
        workload, asked = held(suite, "swapport", port["ask"], port[other], go)
        touch(go)
        suite.host.until(lambda w=workload: b"swapped" in w.output, "the swap")  # type: ignore[misc]
        suite.host.answer(asked, True)
        if other == "ask2":
            suite.host.until(lambda: bool(suite.host.pending()), "a question of its own")
            again = suite.host.pending()[0]
            assert again["object"]["port"] == port["ask2"], again
            suite.host.answer(again, False)
        run = workload.wait()
        assert "errno 1" in run.lines, run
        assert not any(suite.ground.sinks.seen(name) for name in ("ask", "ask2", "denied")), run
        assert not run.of("allowed"), f"the approval was used: {run}"
    go.unlink(missing_ok=True)
    return Told("connect", "cgroup" if not asked.get("point") else asked["point"], asked["guarantee"])


def swap_name(suite: Suite) -> Told:
    """A new name that is approved, and another one that is there when the call is issued again: asked anew."""
    suite.ground.fresh()
    source, first, second = (suite.ground.dir / "ask" / name for name in ("moves", "first", "second"))
    go = suite.ground.dir / "state/go"
    touch(source)
    workload, asked = held(suite, "swapname", source, first, second, go)
    touch(go)
    suite.host.until(lambda: b"swapped" in workload.output, "the swap")
    suite.host.answer(asked, True)
    if asked["guarantee"] == "prevented":
        suite.host.until(lambda: workload.ended or bool(suite.host.pending()), "a question of its own")
        for again in suite.host.pending():
            suite.host.answer(again, False)
    run = workload.wait()
    moved = [path.name for path in (first, second) if path.exists()]
    for path in (source, first, second, go):
        path.unlink(missing_ok=True)
    # without LSM hooks the question comes after the effect: what was approved has happened, and nothing else
    assert moved == ([] if asked["guarantee"] == "prevented" else ["first"]), (moved, run)
    return Told("rename", "-", asked["guarantee"])


def swap_program(suite: Suite) -> Told:
    """A program that is approved, and another one at its path before it goes on: the other one doesn't run."""
    suite.ground.fresh()
    program, other = suite.ground.dir / "askbin/prog", suite.ground.dir / "free/other"
    second = suite.ground.dir / "free/second-mark"
    workload, asked = held(suite, "spawn", "fork", program, "x", suite.ground.mark)
    other.write_text(f"#!/bin/sh\n: > {second}\n")
    other.chmod(0o755)
    other.rename(program)
    suite.host.answer(asked, True)
    for _ in range(2):  # a host that issues the call again may ask about the new file
        suite.host.until(lambda: workload.ended or bool(suite.host.pending()), "the end or a question")
        for again in suite.host.pending():
            suite.host.answer(again, False)
    run = workload.wait()
    assert not second.exists(), f"the other program ran: {run}"
    return Told("exec", "-", asked["guarantee"], "the approved one ran" if suite.ground.mark.exists() else "refused")


def swap_link(suite: Suite) -> Told:
    """A symlink that leads to an approved file, and to a denied one before the program goes on."""
    suite.ground.fresh()
    link, other = suite.ground.dir / "free/swaps", suite.ground.dir / "free/swaps.new"
    link.symlink_to(suite.ground.dir / "ask/file")
    workload, asked = held(suite, "read", link)
    other.symlink_to(suite.ground.dir / "denied/key")
    other.rename(link)
    suite.host.answer(asked, True)
    run = workload.wait()
    assert b"secret" not in run.out, run
    return Told("read", "-", asked["guarantee"], "the approved one was read" if b"asked for" in run.out else "refused")


def second_use(suite: Suite) -> Told:
    """An approval that was used is not there for the next call."""
    approved_works(suite)
    workload, asked = held(suite, "reach", "connect", "127.0.0.1", suite.ground.sinks.port["ask"])
    suite.host.answer(asked, False)
    run = workload.wait()
    assert "errno 1" in run.lines and not suite.ground.sinks.seen("ask"), run
    return Told("connect", "-", asked["guarantee"])


def storm(suite: Suite) -> Told:
    """SIGCONT from outside the workload, thousands of times: a held connection stays held, with one question."""
    rounds = suite.rounds(2000, 100_000)
    suite.drain()
    workload, asked = held(suite, "reach", "connect", "127.0.0.1", suite.ground.sinks.port["ask"])
    for _ in range(rounds):
        os.kill(workload.pid, signal.SIGCONT)
    at_rest(suite, workload.pid)
    assert not suite.ground.sinks.seen("ask") and len(suite.host.pending()) == 1
    suite.host.answer(asked, False)
    run = workload.wait()
    assert "errno 1" in run.lines and not suite.ground.sinks.seen("ask"), run
    return Told("connect", "-", asked["guarantee"], f"{rounds} signals")


def storm_inside(suite: Suite) -> Told:
    """SIGCONT from the workload itself: neither the held connection nor the held program gets anywhere."""
    rounds = suite.rounds(2000, 100_000)
    suite.ground.fresh()
    suite.drain()
    for words in (
        ("connect", suite.ground.sinks.port["ask"]),
        ("exec", suite.ground.dir / "askbin/prog", suite.ground.mark),
    ):
        workload = suite.host.start(suite.probe("waken", rounds, *words), "asker")
        suite.host.until(lambda w=workload: w.ended, "the end of the one who sends")  # type: ignore[misc]
        suite.host.pump()
        for again in suite.host.pending():
            suite.host.answer(again, False)
        run = workload.wait()
        asked = run.of("approval_required")
        assert asked and not suite.ground.sinks.seen("ask") and not suite.ground.mark.exists(), run
    return Told("exec", asked[0]["point"], asked[0]["guarantee"], f"{rounds} signals")


def killed_while_held(suite: Suite) -> Told:
    """SIGKILL of a held process closes its question, with nothing done."""
    suite.drain()
    workload, asked = held(suite, "reach", "connect", "127.0.0.1", suite.ground.sinks.port["ask"])
    workload.kill()
    run = workload.wait()
    assert run.killed and not suite.host.pending() and not suite.ground.sinks.seen("ask"), run
    return Told("connect", "-", asked["guarantee"])


def busy(what: str) -> Callable[[Suite], Told]:
    """Another thread of a process that is held does something else: nothing arrives that nobody approved."""

    def run(suite: Suite) -> Told:
        suite.ground.fresh()
        suite.drain()
        words: list[Any] = ["busy", suite.ground.sinks.port["ask"], what]
        words += [suite.ground.dir / "bin/good", "x", suite.ground.mark] if what == "exec" else []
        for _ in range(suite.rounds(10, 1000)):
            workload = suite.host.start(suite.probe(*words), "asker")
            suite.host.until(lambda w=workload: w.ended or bool(suite.host.pending()), "a question")  # type: ignore[misc]
            assert not suite.ground.sinks.seen("ask")
            for asked in suite.host.pending():
                suite.host.answer(asked, False)
            with contextlib.suppress(AssertionError):
                suite.host.until(lambda w=workload: w.ended, "its end")  # type: ignore[misc]
            result = workload.wait()
            assert not suite.ground.sinks.seen("ask") and not suite.host.pending(), result
        return Told("connect", "-", "prevented")

    return run


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    Scenario(50, "a path changes during open", flip("path")),
    Scenario(50, "a symlink changes during open", flip("link")),
    Scenario(50, "an address changes during sendto", flip_address),
    Scenario(50, "an argument changes during execve", flip_argument),
    Scenario(51, "preempted by a task with real-time priority", preempt),
    *CROWDED,
    Scenario(52, "another destination", swap_destination),
    Scenario(52, "another new name", swap_name),
    Scenario(52, "another program at the path", swap_program),
    Scenario(52, "another target of a symlink", swap_link),
    Scenario(52, "an approval used twice", second_use),
    Scenario(53, "SIGCONT from outside", storm),
    Scenario(53, "SIGCONT from the workload", storm_inside),
    Scenario(53, "SIGKILL while held", killed_while_held),
    *(Scenario(53, f"{what} in another thread while held", busy(what)) for what in ("exec", "exit", "fork")),
)
