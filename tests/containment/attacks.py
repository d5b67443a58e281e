"""Rows 60 to 67: agentd itself as the target.

Rounds by default and in full: 63: 20,000 and 1,000,000 connections; 65: 3 and 1,000 kills; 66: 20 and 1,000 reloads.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentd.audit.verify import verify
from tests.containment.paths import KEY
from tests.containment.races import held
from tests.containment.suite import Probe, Scenario, Seen, Suite, Told, came_back, numbers
from tests.live.probes import untagged
from tests.unit.audit.samples import make

USR1: Final = int(signal.SIGUSR1)
TARGET_BYTE: Final = ctypes.create_string_buffer(b"-", 1)  # in this process, which is the daemon's
SIGNALS: list[int] = []
LOCKS: Final = 10  # RLIMIT_LOCKS, which Linux ignores


def note_signals(ground: Any) -> None:
    """A harmless signal stands for SIGKILL and SIGSTOP: kill(2) is judged before it is told apart."""
    SIGNALS.clear()
    signal.signal(signal.SIGUSR1, lambda number, frame: SIGNALS.append(number))
    TARGET_BYTE[0] = b"-"
    ground.names["byte"] = hex(ctypes.addressof(TARGET_BYTE))
    ground.names["oom"] = Path("/proc/self/oom_score_adj").read_text().strip()
    ground.names["audit"] = ground.dir / "state/audit/audit.jsonl"
    ground.names["policy"] = ground.dir / "state/policy.yaml"


def got_signal(seen: Seen) -> bool:
    """This process got the signal."""
    time.sleep(0.001)
    return bool(SIGNALS)


def poked(seen: Seen) -> bool:
    """Its memory was written to."""
    return bool(TARGET_BYTE[0] == b"x")


def limited(seen: Seen) -> bool:
    """Its limit was changed; changed back here."""
    soft, hard = resource.getrlimit(LOCKS)
    resource.setrlimit(LOCKS, (hard, hard))
    return soft == 12345


def pin(ground: Any) -> None:
    """A folder of bpffs that stands for agentd's pins."""
    note_signals(ground)
    made = Path(f"/sys/fs/bpf/agentd-run/{os.getpid()}-canary")
    made.mkdir(exist_ok=True)
    ground.names["pin"] = made


def remove_canary() -> None:
    """Takes it away again."""
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/bpf/agentd-run/{os.getpid()}-canary").rmdir()


def unpinned(seen: Seen) -> bool:
    """It is gone."""
    return not Path(seen.ground.say("{pin}")).exists()


def bpffs(ground: Any) -> None:
    """A bpffs of its own, to unmount."""
    note_signals(ground)
    subprocess.run(["mount", "-t", "bpf", "agentd-test", ground.dir / "free/mount"], check=True)


def unmounted(seen: Seen) -> bool:
    """It is not mounted any more."""
    return not os.path.ismount(seen.ground.dir / "free/mount")


# -- floods


def flood(suite: Suite) -> Told:
    """More denials than the ring holds, and nobody reads it: nothing gets through, and all are told."""
    number, port = suite.rounds(20_000, 1_000_000), suite.ground.sinks.port["denied"]
    suite.ground.fresh()
    control = untagged(suite.probe("flood", 3, port, suite.ground.say(KEY)))
    assert numbers(control, "through") == [3] and b"data secret" in control.out, control
    suite.drain()
    first = suite.host.engine.audit.head.seq
    workload = suite.host.start(suite.probe("flood", number, port, suite.ground.say(KEY)))
    os.waitid(os.P_PID, workload.pid, os.WEXITED | os.WNOWAIT)  # nobody pumps meanwhile
    run = workload.wait()
    assert numbers(run, "through") == [0] and b"data secret" not in run.out, run
    suite.host.engine.flush()
    denied = [r for r in suite.host.records(first) if r["event"] == "denied"]
    told = sum(r.get("count") or 1 for r in denied if r["kernel_operation"] == "connect")
    assert told == number, f"{told} denials are on record, {number} happened"
    assert [r for r in denied if r["kernel_operation"] == "read"], "the last denial is not on record"
    return Told("connect", denied[0]["point"], denied[0]["guarantee"], f"{number} connections")


def many_files(suite: Suite) -> Told:
    """Thousands of files, each with a count of its own: the next denied one is denied."""
    number = suite.rounds(3000, 200_000)
    suite.ground.fresh()
    (suite.ground.dir / "free/many").mkdir()
    run = suite.host.run(suite.probe("files", number, suite.ground.dir / "free/many", suite.ground.say(KEY)))
    assert b"data secret" not in run.out and len(run.denials) == 1, run
    assert (
        b"data secret" in untagged(suite.probe("files", 1, suite.ground.dir / "free/many", suite.ground.say(KEY))).out
    )
    return Told("read", run.denials[0]["point"], run.denials[0]["guarantee"], f"{number} files")


def many_questions(suite: Suite) -> Told:
    """Many processes held at once, by one question: none gets through, and its answer is for all."""
    number, port = suite.rounds(50, 1000), suite.ground.sinks.port["ask"]
    suite.drain()
    assert untagged(suite.probe("dialers", 5, port)).value == "5" and suite.ground.sinks.seen("ask", 1)
    suite.drain()
    workload = suite.host.start(suite.probe("dialers", number, port), "asker")

    def waiting() -> int:
        suite.host.pending()
        return sum(len(pending.holds) for pending in suite.host.engine.questions.book)

    suite.host.until(lambda: workload.ended or waiting() == number, "the questions")
    assert len(suite.host.pending()) == 1, "one question"
    assert not suite.ground.sinks.seen("ask"), "one arrived"
    for asked in suite.host.pending():
        suite.host.answer(asked, False)
    run = workload.wait()
    assert run.value == "0" and not suite.ground.sinks.seen("ask"), run
    return Told("connect", "-", "prevented", f"{number} processes")


def labels(suite: Suite) -> Told:
    """Whatever a workload calls itself and its files, the metrics have the same series, with no word of it in them."""
    registry = suite.host.engine.metrics.registry

    def series() -> set[tuple[str, ...]]:
        return {
            (sample.name, *sorted(sample.labels.values())) for family in registry.collect() for sample in family.samples
        }

    suite.ground.fresh()
    before = series()
    evil = 'x"} 1\nagentd_evil{a="'
    for number in range(5):
        path = suite.ground.dir / "names" / f"{evil}{number}"
        path.write_text("x")
        run = suite.host.run(suite.probe("comm", evil[:15], path))
        assert len(run.denials) == 1, run
    after = series()
    assert after == before and "evil" not in str(after), sorted(after - before)
    return Told("read", run.denials[0]["point"], run.denials[0]["guarantee"], f"{len(after)} series")


# -- the log


def tampered(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Suite], Told]:
    """A changed log is refused, with the place; before the change it is not. tests/unit/audit changes signed ones."""

    def run(suite: Suite) -> Told:
        copy = suite.ground.dir / "state/copy.jsonl"
        lines = make(copy, 60).read_bytes().splitlines(keepends=True)
        head = json.loads(lines[-1])["hash"]
        control = verify(copy, head=head)
        assert control.ok, f"the control: {control.bad}"
        copy.write_bytes(b"".join(change(list(lines))))
        report = verify(copy, head=head)
        copy.unlink()
        assert report.bad is not None, "it was not found"
        return Told("-", detail=f"line {report.bad.line}: {report.bad.why}"[:200])

    return run


def _flip(lines: list[bytes]) -> list[bytes]:
    middle = len(lines) // 2
    lines[middle] = lines[middle].replace(b'"event":"', b'"event":"x', 1)
    return lines


def _splice(lines: list[bytes]) -> list[bytes]:
    """The second half of another log of the same length: the same records, chained to another start."""
    other = [line.replace(b'"seq":', b'"seq": ', 1) for line in lines]
    return lines[: len(lines) // 2] + other[len(lines) // 2 :]


CHANGES: Final[dict[str, Callable[[list[bytes]], list[bytes]]]] = {
    "a changed record": _flip,
    "a deleted record": lambda lines: lines[:2] + lines[3:],
    "two records the wrong way round": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "the end cut off": lambda lines: lines[:-2],
    "half a record at the end": lambda lines: [*lines[:-1], lines[-1][:40]],
    "a record twice": lambda lines: [*lines[:3], *lines[2:]],
    "the beginning cut off": lambda lines: lines[1:],
    "another log's second half": _splice,
}


def replayed(suite: Suite) -> Told:
    """An answer that was given once can't be given again."""
    suite.drain()
    workload, asked = held(suite, "reach", "connect", "127.0.0.1", suite.ground.sinks.port["ask"])
    suite.host.answer(asked, False)
    run = workload.wait()
    assert "errno 1" in run.lines, run
    try:
        suite.host.answer(asked, True)
    except Exception as error:  # noqa: BLE001  # whatever it says: it must not be taken
        detail = str(error)[:100]
    else:
        raise AssertionError("an approval was answered twice")
    return Told("connect", "-", asked["guarantee"], detail)


def signals_out(suite: Suite) -> Told:
    """A workload signals its own processes only; a stranger, or those of another workload, where a rule allows it."""
    sleeps = ["/bin/sleep", "30"]
    mine = suite.host.run(["/bin/sh", "-c", "sleep 30 & kill -USR1 $!; wait $!; echo ended $?"])
    assert mine.lines == [f"ended {128 + USR1}"] and not mine.denials, mine
    point = guarantee = ""
    for word, wanted in (("outside", False), ("workload", True)):
        for agent in ("bot", "roamer"):
            other = suite.host.start(sleeps, "roamer") if wanted else subprocess.Popen(sleeps)
            run = suite.host.run(suite.probe("signal", other.pid, USR1), agent)
            if agent == "bot":
                (record,) = run.denials
                assert (record["kernel_operation"], record["object"]) == ("signal", f"signal:{word}"), record
                point, guarantee = record["point"], record["guarantee"]
                if guarantee == "prevented":
                    assert f"errno {errno.EPERM}" in run.lines, run
                    state = Path(f"/proc/{other.pid}/stat").read_text().split()[2]
                    assert state not in "ZX", state  # it may not be asleep yet
                else:
                    assert run.killed, run
            other.kill()
            status = other.wait()
            if agent == "roamer":  # the control: allowed, it arrives
                assert not run.denials and (status if isinstance(status, int) else status.status) == -USR1, status
    return Told("signal", point, guarantee)


def guard(row: int, name: str, words: str, effect: Callable[[Seen], bool], kind: str = "guard", **how: Any) -> Probe:
    """An attempt on agentd that no rule of the policy speaks of: only a guard could stop it."""
    return Probe(row, name, kind, words, effect, **{"agent": "roamer", "prepare": note_signals, **how})


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    guard(60, "a signal", f"signal {{pid}} {USR1}", got_signal, "signal"),
    Probe(60, "ptrace", "ptrace", "ptrace {pid}", came_back, prepare=note_signals),
    Probe(60, "process_vm_writev", "ptrace", "poke {pid} {byte}", poked, prepare=note_signals),
    Probe(60, "/proc/PID/mem", "write, nothing truncated", "open 2 /proc/{pid}/mem", came_back,
          prepare=note_signals),  # the guard's record says `agentd`
    guard(60, "ptrace, where it is allowed", "ptrace {pid}", came_back),
    guard(60, "oom_score_adj", "number /proc/{pid}/oom_score_adj {oom}", came_back, "write, nothing truncated"),
    *(guard(60, f"its memory, as {name} in /proc shows it", f"open 0 /proc/{{pid}}/{name}", came_back)
      for name in ("maps", "environ")),
    guard(60, "prlimit", "limit {pid}", limited),
    Probe(61, "a link by its id", "bpf", "bpf take", came_back, "bpf"),
    Probe(61, "a link by its id, of a command that agentd starts", "bpf", "bpf take", came_back, seccomp=True),
    guard(61, "a link by its id, where bpf is allowed", "bpf take", came_back, "bpf"),
    guard(61, "removal of a pin", "rmdir {pin}", unpinned, "delete", prepare=pin),
    Probe(61, "unmount of a bpffs", "mount", "umount {free}/mount", unmounted, "{free}/mount", prepare=bpffs,
          records=None),
    guard(62, "the audit log, opened to write", "open 0x402 {audit}", came_back, "write, nothing truncated"),
    guard(62, "the audit log, read", "open 0 {audit}", came_back, "read"),
    guard(62, "the policy, opened to write", "open 0x402 {policy}", came_back, "write, nothing truncated"),
    Scenario(60, "signals to others than agentd", signals_out),
    Scenario(62, "an answer given twice", replayed),
    Scenario(63, "a ring that is full", flood),
    Scenario(63, "many files", many_files),
    Scenario(63, "many questions", many_questions),
    Scenario(64, "labels", labels),
    *(Scenario(67, name, tampered(change)) for name, change in CHANGES.items()),
)  # fmt: skip
