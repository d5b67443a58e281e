"""Rows 45, 60 and 62, without kill(2) and ptrace(2): what a workload may do to a process that is none of its own, or is
agentd's, by way of descriptors, limits, schedulers, terminals and pipes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
import time
import tty
from pathlib import Path
from typing import Any, Final

from tests.containment.attacks import LOCKS, SIGNALS, USR1, guard, note_signals
from tests.containment.promises import INLINE
from tests.containment.suite import Probe, Scenario, Seen, Suite, Told, came_back

OWNERS: Final = ("F_SETOWN", "F_SETOWN, a group", "F_SETOWN_EX", "FIOSETOWN", "SIOCSPGRP")
EASINGS: Final = ("ioprio_set", "setpriority", "sched_setscheduler", "sched_setaffinity", "migrate_pages")
LIMIT: Final = 12345


class Stranger:
    """A process that belongs to nobody's workload: it copies what it reads to a file, and leads a group of its own."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._terminal: tuple[int, int] | None = None

    def __call__(self, ground: Any) -> None:
        """Another one, with its own terminal."""
        self.close()
        with open(ground.dir / "free/heard", "wb") as heard:
            self.process = subprocess.Popen(
                ["/bin/cat"], stdin=subprocess.PIPE, stdout=heard, stderr=heard, start_new_session=True
            )
        self._terminal = os.openpty()
        tty.setraw(self._terminal[1])
        ground.names["stranger"] = self.process.pid
        ground.names["terminal"] = os.ttyname(self._terminal[1])

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process
        return self.process.pid

    def ends(self, wait: float) -> int | None:
        """How it has ended, if it has in so many seconds."""
        assert self.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(wait)
        return self.process.returncode

    def got_signal(self, seen: Seen) -> bool:
        """It has ended by the signal."""
        return self.ends(0 if seen.run.records else 1) == -USR1

    def limited(self, seen: Seen) -> bool:
        """A limit of it was changed."""
        return resource.prlimit(self.pid, LOCKS)[0] == LIMIT

    def heard(self, seen: Seen) -> bool:
        """It has read something."""
        end = time.monotonic() + (0.05 if seen.run.records else 1)
        path = Path(seen.ground.say("{free}/heard"))
        while time.monotonic() < end:
            if path.stat().st_size:
                return True
            time.sleep(0.01)
        return False

    def typed(self, seen: Seen) -> bool:
        """Something can be read from its terminal."""
        assert self._terminal
        return bool(select.select([self._terminal[1]], [], [], 0)[0])

    def close(self) -> None:
        """Ends it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            if self.process.stdin:
                self.process.stdin.close()
        for descriptor in self._terminal or ():
            os.close(descriptor)
        self.process = self._terminal = None


STRANGER: Final = Stranger()


def stranger(row: int, name: str, words: Any, effect: Any = came_back, kind: str = "signal", named: str = "") -> Probe:
    """An attempt on it."""
    return Probe(row, name, kind, words, effect, named or "signal:outside", prepare=STRANGER)


def signals_of_descriptors(suite: Suite) -> Told:
    """Where a policy allows signals, a stranger gets the kernel's and agentd doesn't."""
    note_signals(suite.ground)
    hooks = bool(suite.points & INLINE)
    for how in OWNERS:
        STRANGER(suite.ground)
        run = suite.host.run(suite.probe("owner", how, STRANGER.pid, USR1), "roamer")
        assert not run.denials and STRANGER.ends(1) == -USR1, f"{how}, the control: {run}"
        if how == "F_SETOWN, a group":  # that of whoever started these tests
            continue
        run = suite.host.run(suite.probe("owner", how, os.getpid(), USR1), "roamer")
        assert "ok 0" in run.lines, run
        time.sleep(0.01)
        assert bool(SIGNALS) is not hooks, f"{how}: {SIGNALS}"
        SIGNALS.clear()
    return Told("signal", "-", "prevented" if hooks else "-", f"{len(OWNERS)} ways")


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    *(stranger(60, f"a stranger's signal, by {how}", ["owner", how, "{stranger}", str(USR1)],
               STRANGER.got_signal) for how in OWNERS),
    Probe(60, "its own signal, by F_SETOWN", "", "owner F_SETOWN 0 17"),
    stranger(60, "a stranger's limit", "limit {stranger}", STRANGER.limited),
    *(stranger(60, f"{how} of a stranger", ["ease", how, "{stranger}"]) for how in EASINGS),
    *(Probe(60, f"{how} of itself", "", ["ease", how, "0"]) for how in EASINGS),
    *(guard(60, f"{how}, where signals are allowed", ["ease", how, "{pid}"], came_back) for how in EASINGS),
    Scenario(60, "a signal of a descriptor, where signals are allowed", signals_of_descriptors),
    stranger(62, "input typed on a terminal", "type {terminal} x", STRANGER.typed, named="signal:terminal"),
    stranger(45, "a stranger's pipe", "pour /proc/{stranger}/fd/0 hello", STRANGER.heard, "write, nothing truncated",
             "anon:pipefs/outside"),
    stranger(45, "a stranger's pipe, by a path descriptor", "pour /proc/{stranger}/fd/0 hello x", STRANGER.heard,
             "write, nothing truncated", "anon:pipefs/outside"),
    Probe(45, "its own pipe, by its name", "", "own"),
)  # fmt: skip
