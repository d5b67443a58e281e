"""`agentd doctor` beside what really happens on the same host: `python -m tests.containment.compared`.

Doctor speaks of each kernel operation, of tagged processes and of what `agentd run` starts. Here the suite's own probes
make the same attempts in both ways, and what came of them is judged by what is there afterwards: was there an effect,
did the caller go on, is it dead. A line a kind of operation; it differs when

    less than doctor says came of an attempt; nothing is on record about it, or another point than doctor names;
    doctor could not try an operation, and here it can be tried.

Exit status 1: something differs. Doctor is a process of its own, as an operator calls it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from agentd.engine.verify import STATIC
from agentd.model import Guarantee, Op, Point
from tests.containment import promises
from tests.containment.run import PR_SET_CHILD_SUBREAPER, PROBES, suite
from tests.containment.suite import Probe, Seen, Suite
from tests.live.probes import Result

RINGS: Final = 24  # the row whose probes are made through a ring, which the filter refuses
ESCAPED: Final = "ESCAPED"
UNTRIED: Final = "can't be tried"
STATIC_WORDS: Final = {op.word for op in STATIC}
ORDER: Final = {guarantee.word: guarantee for guarantee in Guarantee}


@dataclass(frozen=True, slots=True)
class Said:
    """What doctor says of a kind of operation. point: of the operation as such, "" for a part of one, whose point it
    doesn't name. failed: its probe failed.
    """

    point: str
    guarantee: str
    tried: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A kind in one of the two ways. came: a guarantee's word, ESCAPED or UNTRIED; point: that is on record, or ""."""

    kind: str
    started: bool
    said: Said
    came: str
    point: str

    @property
    def problem(self) -> str:
        """Why it differs; empty: it doesn't."""
        if self.came == UNTRIED:
            return ""
        if self.said.failed:
            return ""  # it says: don't rely on it, whatever a single attempt comes to
        if self.came == ESCAPED or ORDER[self.came] < ORDER[self.said.guarantee]:
            return f"doctor says {self.said.guarantee}"
        if not self.said.tried and ORDER[self.said.guarantee] > Guarantee.NONE and not self.part:
            return "doctor could not try it"
        if not self.point:
            return "nothing is on record"
        if self.said.point and self.point != self.said.point:
            return f"judged by {self.point}, doctor says {self.said.point}"
        return ""

    @property
    def part(self) -> bool:
        """Is it only a part of an operation?"""
        return "," in self.kind

    def __str__(self) -> str:
        how = "agentd run" if self.started else "tagged"
        said = f"{self.said.guarantee} by {self.said.point or 'some point'}"
        said += ", NOT HELD" if self.said.failed else "" if self.said.tried else ", not tried"
        text = f"{self.kind:32} {how:10}  doctor: {said:34} here: {self.came} {self.point}".rstrip()
        return f"DIFFERS {text}: {self.problem}" if self.problem else f"ok      {text}"


def said(report: dict[str, Any], kind: str, *, started: bool) -> Said:
    """What a report of doctor's (--json) says of one kind."""
    row = next(row for row in report["operations"] if row["operation"] == promises.operation(kind))
    own = started and row["started_point"] != row["point"]
    words, point = (row["started"], row["started_point"]) if started else (row["guarantee"], row["point"])
    tried, verified = (row[f"{'started_' if own else ''}{name}"] for name in ("tried", "verified"))
    first, _, rest = words.partition(" (")
    part = kind.partition(", ")[2]
    guarantee = first
    for other in rest.rstrip(")").split("; ") if part else ():
        word, _, parts = other.partition(": ")
        guarantee = word if part in parts.split(", ") else guarantee
    return Said("" if part else point, guarantee, tried, tried and not verified)


def chosen(points: frozenset[Point]) -> Iterator[Probe]:
    """A probe of each kind that doctor speaks of, on a host with these points; not made through a ring."""
    taken = set()
    for probe in PROBES:
        if not isinstance(probe, Probe) or not probe.kind or probe.kind == "guard" or probe.seccomp:
            continue
        gap = promises.GAPS.get((probe.row, probe.name))
        if (gap and not points & gap.closed_by) or promises.operation(probe.kind) == Op.CALL.word:
            continue
        if promises.operation(probe.kind) != Op.IO_URING.word and probe.row == RINGS:
            continue
        if probe.kind not in taken:
            taken.add(probe.kind)
            yield probe


def came(probe: Probe, seen: Seen) -> str:
    """What came of a tagged attempt, by what is there. That its process goes on is success where the attempt is the
    process's own; where a program that the process has begun makes it (suite.py: records is None) it says nothing.
    """
    effect = probe.effect(seen)
    if seen.came_back and (effect or probe.records):
        return ESCAPED
    if effect:
        return Guarantee.DETECTED.word if seen.run.denials else ESCAPED
    if seen.came_back or f"errno {errno.EPERM}" in seen.run.lines:
        return Guarantee.PREVENTED.word
    return Guarantee.CONTAINED.word


def compare(live: Suite, report: dict[str, Any]) -> Iterator[Line]:
    """A line for each probe, tagged and as `agentd run` would start it."""
    for probe in chosen(live.points):
        control = live.attempt(probe, tagged=False)
        possible = control.run.result() is Result.ALLOWED and probe.effect(control)
        for started in (False, True):
            what = said(report, probe.kind, started=started)
            if not possible:
                yield Line(probe.kind, started, what, UNTRIED, "")
                continue
            seen = live.attempt(replace(probe, seccomp=started), tagged=True)
            point = seen.run.denials[0]["point"] if seen.run.denials else ""
            if started and not point and promises.operation(probe.kind) in STATIC_WORDS:
                point = Point.SECCOMP.word  # the filter refuses these by itself, on every host, and tells nobody
                what = replace(what, point=Point.SECCOMP.word)
            yield Line(probe.kind, started, what, came(probe, seen), point)


def main() -> int:
    """0: what doctor says is so."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked = subprocess.run(
        [sys.executable, "-m", "agentd", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    if not asked.stdout:
        print(f"doctor can't enforce here (exit {asked.returncode}): {asked.stderr.strip()}")
        return 1
    report = json.loads(asked.stdout)
    with suite(0.03) as live:
        lines = []
        for line in compare(live, report):
            lines.append(line)
            print(line, flush=True)
    differ = sum(bool(line.problem) for line in lines)
    untried = sorted({line.kind for line in lines if line.came == UNTRIED})
    compared = {promises.operation(line.kind) for line in lines if line.came != UNTRIED}
    missing = [row["operation"] for row in report["operations"] if row["operation"] not in compared]
    print(f"hooks {report['hooks']}, doctor's exit {report['exit']}; {len(lines)} attempts, {differ} differ")
    print(f"not possible here: {', '.join(untried) or '-'}; operations without an attempt: {', '.join(missing) or '-'}")
    wrong = asked.returncode != report["exit"] or not compared
    return 1 if differ or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
