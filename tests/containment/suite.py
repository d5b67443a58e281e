"""What a probe is, how one is run, and how its outcome is compared with what is promised.

A `Probe` makes one attempt, as one process of the program in c/, first untagged (its positive control: it must come
about) and then as an agent. What must come of it follows from the record's point and PROMISES:

    prevented   nothing has come about, and the caller was not told that it has
    contained   what came about can't be used: the process is dead before it could
    detected    it may have come about; the process is dead, and a record says so

One that is permitted must come about, without a record against it. One that GAPS lists for this host must come about,
too: when it doesn't, the table is wrong. A `Scenario` is anything longer; it asserts, and says what it saw.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agentd.audit import rawbytes
from agentd.model import Guarantee, Point
from tests.containment import promises
from tests.containment.ground import Ground, Looks, looks
from tests.containment.promises import GAPS, PROMISES
from tests.live.harness import Host
from tests.live.probes import Result, Run, untagged

FULL: Final = None  # as many rounds as the catalogue says


@dataclass(frozen=True, slots=True)
class Seen:
    """After a run. before: the denied folder's looks before it."""

    ground: Ground
    run: Run
    before: Looks

    @property
    def came_back(self) -> bool:
        """The attempt returned success to a process that could go on."""
        return any(line.startswith("ok ") for line in self.run.lines)


Effect = Callable[[Seen], bool]


def came_back(seen: Seen) -> bool:
    """The attempt itself is the effect."""
    return seen.came_back


def secret(seen: Seen) -> bool:
    """The content of a denied file was printed."""
    return any(line.startswith("data secret") for line in seen.run.lines)


def plain(seen: Seen) -> bool:
    """The content of an allowed file was printed."""
    return any(line.startswith(("data plain", "data deep", "data text")) for line in seen.run.lines)


def marked(seen: Seen) -> bool:
    """The program ran."""
    return seen.ground.mark.exists()


def changed(seen: Seen) -> bool:
    """The denied folder isn't as it was."""
    return looks(seen.ground.say("{denied}")) != seen.before


def arrived(seen: Seen) -> bool:
    """Something reached the denied port."""
    return bool(seen.ground.sinks.seen("denied", 0 if seen.run.records else 1))


def reached(seen: Seen) -> bool:
    """Something reached the allowed port."""
    return bool(seen.ground.sinks.seen("free", 1))


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt.

    kind: of PROMISES; "" for one that is permitted. words: of the program in c/, with {names} of the Ground, separated
    by blanks or a list. object: what the record must name, None for a path that can't be resolved, "*" for anything.
    prepare: makes what the probe needs, after the ground was made fresh. keep: descriptors that it inherits. before:
    of the untagged run, of the tagged one. only_if: the kernel may lack it; then there is nothing to hold. supervised:
    seccomp, and where there are no LSM hooks it must be that point which holds it.
    """

    row: int
    name: str
    kind: str
    words: str | Sequence[str]
    effect: Effect = came_back
    object: str | None = "*"
    agent: str = "bot"
    prepare: Callable[[Ground], Any] | None = None
    keep: Callable[[Ground], Sequence[int]] | None = None
    records: int | None = 1
    seccomp: bool = False
    supervised: bool = False
    only_if: bool = False
    program: str = "probe"

    def command(self, ground: Ground) -> list[str]:
        """Its command line."""
        words = self.words.split() if isinstance(self.words, str) else self.words
        first = [str(ground.programs / self.program)] if self.program else []
        return [*first, *(ground.say(word) for word in words)]


@dataclass(frozen=True, slots=True)
class Told:
    """What a scenario saw: which operation, and by which point and guarantee it was held."""

    operation: str
    point: str = "-"
    guarantee: str = "-"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something longer than an attempt. run() raises AssertionError for an escape or a control that failed."""

    row: int
    name: str
    run: Callable[[Suite], Told]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one probe. problem: empty if it is as promised."""

    row: int
    probe: str
    operation: str
    point: str
    guarantee: str
    outcome: str
    seconds: float = 0.0
    problem: str = ""
    detail: str = ""


@dataclass(slots=True)
class Suite:
    """One engine, one ground."""

    host: Host
    ground: Ground
    factor: float | None = 1.0  # of the default rounds; FULL: the catalogue's
    points: frozenset[Point] = field(init=False)

    def __post_init__(self) -> None:
        words = {row["point"] for row in self.host.engine.status()["enforcement"]}
        self.points = frozenset(point for point in Point if point.word in words)

    def rounds(self, default: int, full: int) -> int:
        """How often: `default` times the factor, or `full`."""
        return full if self.factor is FULL else max(1, min(full, round(default * self.factor)))

    def probe(self, *words: str | os.PathLike[str] | int) -> list[str]:
        """A command line of the program in c/."""
        return [str(self.ground.programs / "probe"), *(str(word) for word in words)]

    def drain(self) -> None:
        """Forgets what has arrived so far."""
        for name in self.ground.sinks.NAMES:
            self.ground.sinks.seen(name)

    # -- probes

    def attempt(self, probe: Probe, tagged: bool) -> Seen:
        """Runs a probe once."""
        ground = self.ground
        ground.fresh()
        if probe.prepare:
            probe.prepare(ground)
        self.drain()
        keep = probe.keep(ground) if probe.keep else ()
        try:
            before = looks(ground.say("{denied}"))
            command = probe.command(ground)
            run = (
                self.host.run(command, probe.agent, keep=keep, seccomp=probe.seccomp)
                if tagged
                else untagged(command, keep=keep)
            )
        finally:
            for descriptor in keep:
                os.close(descriptor)
        return Seen(ground, run, before)

    def judge(self, probe: Probe) -> Finding:
        """The control, the attempt, and what is to be said about them."""
        found = Finding(probe.row, probe.name, promises.operation(probe.kind) or "permitted", "-", "-", "")
        control = self.attempt(probe, tagged=False)
        if control.run.result() is Result.NOT_ATTEMPTED and probe.only_if:
            tagged = self.attempt(probe, tagged=True)
            problem = "came about only when tagged" if probe.effect(tagged) else ""
            return replace(found, outcome="not on this kernel", problem=problem)
        if control.run.result() is not Result.ALLOWED or not probe.effect(control):
            return replace(found, outcome="control failed", problem=f"untagged it has no effect: {control.run}")
        seen = self.attempt(probe, tagged=True)
        effect = probe.effect(seen)
        gap = GAPS.get((probe.row, probe.name))
        if gap and self.points & gap.closed_by:
            gap = None
        if not probe.kind:
            problem = "" if effect and not seen.run.denials else f"it is permitted: {seen.run}"
            return replace(found, outcome="failed" if problem else "permitted", problem=problem)
        if gap:
            if effect and not seen.run.denials:
                return replace(found, outcome="open: not judged", detail=gap.why)
            return replace(found, outcome="closed", problem=f"closed: take it out of GAPS ({gap.why}); {seen.run}")
        if seen.run.denials:
            return self.compare(found, probe, seen, effect)
        if probe.seccomp and not effect and f"errno {errno.EPERM}" in seen.run.lines:
            return replace(found, point=Point.SECCOMP.word, guarantee="prevented", outcome="prevented")
        outcome = "ESCAPED" if effect else "refused by something else"
        return replace(found, outcome=outcome, problem=f"no record: {seen.run}")

    def compare(self, found: Finding, probe: Probe, seen: Seen, effect: bool) -> Finding:
        """A probe that has a record, against what the record's point promises."""
        record = seen.run.denials[0]
        found = replace(
            found, operation=record["kernel_operation"], point=record["point"], guarantee=record["guarantee"]
        )
        problems = []
        point = next(point for point in Point if point.word == record["point"])
        promised = PROMISES[probe.kind].get(point)
        if probe.supervised and point is not Point.SECCOMP:
            problems.append("not held by its seccomp filter")
        if probe.kind != "guard" and record["kernel_operation"] != promises.operation(probe.kind):
            problems.append(f"recorded as {record['kernel_operation']}")
        if promised is None or promised.word != record["guarantee"]:
            problems.append(f"{record['guarantee']} by {record['point']}; promised is {promised and promised.word}")
        if probe.records is not None and len(seen.run.denials) != probe.records:
            problems.append(f"{len(seen.run.denials)} records, expected {probe.records}")
        if probe.object != "*":
            wanted = None if probe.object is None else self.ground.say(probe.object)
            if (named := thing(record["object"])) != wanted:
                problems.append(f"names {named!r}, expected {wanted!r}")
        if promised is Guarantee.PREVENTED and effect:
            problems.append("it came about")
        elif promised is Guarantee.PREVENTED and probe.records and seen.came_back:
            problems.append("its process was told that it worked")
        elif promised is Guarantee.CONTAINED and (effect or seen.came_back):
            problems.append("it could be used")
        elif promised is Guarantee.DETECTED and seen.came_back:
            problems.append("the process went on")
        outcome = "ESCAPED" if effect and promised is not Guarantee.DETECTED else record["guarantee"]
        return replace(found, outcome=outcome, problem="; ".join([*problems, str(seen.run)]) if problems else "")

    def run(self, item: Probe | Scenario) -> Finding:
        """One probe or scenario, whatever goes wrong in it."""
        began = time.monotonic()
        try:
            if isinstance(item, Probe):
                found = self.judge(item)
            else:
                told = item.run(self)
                found = Finding(
                    item.row, item.name, told.operation, told.point, told.guarantee, "held", detail=told.detail
                )
        except Exception as error:  # noqa: BLE001  # one that breaks is a failure of its own, and the others go on
            text = f"{type(error).__name__}: {error}"
            operation = promises.operation(item.kind) if isinstance(item, Probe) else "-"
            found = Finding(item.row, item.name, operation, "-", "-", "failed", problem=text[:2000])
        return replace(found, seconds=round(time.monotonic() - began, 3))


def thing(value: Any) -> str | None:
    """A record's object as a line of text: a path, or ADDRESS:PORT/PROTOCOL."""
    if value is None:
        return None
    if isinstance(value, dict) and "address" in value:
        return f"{value['address']}:{value['port']}/{value['protocol']}"
    return os.fsdecode(rawbytes.decode(value))


def numbers(run: Run, word: str) -> list[int]:
    """The numbers in the line `WORD N N...` that a scenario's program printed."""
    return next([int(text) for text in line.split()[1:]] for line in run.lines if line.startswith(word + " "))


def touch(path: Path) -> None:
    """Makes an empty file, for a process that waits for it."""
    path.touch()
