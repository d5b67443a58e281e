"""Runs the containment suite: `python -m tests.containment.run [--rows 1,2,40-46] [--rounds N|full] [--json FILE]`.

One engine, one policy, every row. One line a row: what was tried how often, and what came of it. With --json, one
object a probe, a line each. Exit 1 if anything got out, if a control failed, or if an outcome is not what is promised.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import yaml

from agentd.daemon import host as composition
from tests.containment import (
    again,
    attacks,
    beyond,
    corners,
    crowds,
    demand,
    exec_,
    files,
    hostnames,
    network,
    ordinary,
    others,
    overlays,
    paths,
    promises,
    races,
    routes,
    started,
    storms,
    survival,
    tag,
)
from tests.containment.ground import ground
from tests.containment.suite import FULL, Finding, Probe, Scenario, Suite
from tests.live import harness

GROUPS: Final = (
    *(paths, overlays, exec_, files, network, routes, demand, hostnames, tag, races, again, storms, attacks, crowds),
    *(survival, others, corners, beyond),
    *(ordinary, started),
)
PROBES: Final[tuple[Probe | Scenario, ...]] = tuple(probe for group in GROUPS for probe in group.PROBES)
PR_SET_CHILD_SUBREAPER: Final = 36
ROWS: Final = tuple(sorted({probe.row for probe in PROBES}))


def chosen(text: str) -> set[int]:
    """`1,2,40-46` as numbers. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


@contextlib.contextmanager
def suite(factor: float | None = 1.0) -> Iterator[Suite]:
    """A suite that enforces."""
    with ground() as made:
        agents, tools = made.policy()
        try:
            with harness.enforcing(made.dir / "state", agents, tools, hostnames.RESOLVERS) as host:
                host.patience *= 100 if factor is FULL else max(1, math.ceil(factor))
                yield Suite(host, made, factor)
        finally:
            network.LISTENING.close()
            for caller in network.CALLERS:
                caller.close()
            routes.WIRE.close()
            hostnames.close()
            corners.close()
            beyond.close()
            others.STRANGER.close()
            attacks.remove_canary()
            tag.remove_group()


def prepare() -> None:
    """Compiles what the suite needs, on this machine for a slower one that sees the same files."""
    with ground() as made:
        agents, tools = made.policy()
        path = made.dir / "state/policy.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "tools": tools, "agents": agents}), encoding="utf-8")
        composition.read_policy(path, str(made.dir), own=[made.dir / "state/audit"])  # as tests/live/harness.py does
        for name in survival.OTHERS:
            survival.other(made, name)


def run(
    rows: set[int],
    factor: float | None = 1.0,
    told: Callable[[Finding], None] = lambda found: None,
    begun: Callable[[Suite], None] = lambda live: None,
    wanted: Callable[[Probe | Scenario], bool] = lambda probe: True,
) -> list[Finding]:
    """What came of every probe of these rows that is wanted. begun: told when the suite enforces."""
    found = []
    with suite(factor) as live:
        begun(live)
        if set(rows) >= set(ROWS):
            for problem in promises.complaints(live.host.engine.status()["enforcement"]):
                found.append(Finding(0, "the status", "-", "-", "-", "differs", problem=problem))
            known = {(probe.row, probe.name) for probe in PROBES}
            for row, name in promises.GAPS.keys() - known:
                found.append(Finding(0, "the gaps", "-", "-", "-", "differs", problem=f"row {row} has no {name!r}"))
        for probe in PROBES:
            if probe in started.PROBES and not live.host.engine.supervises:
                continue
            if probe.row in rows and wanted(probe):
                found.append(live.run(probe))
                told(found[-1])
    return found


def summary(row: int, found: list[Finding]) -> str:
    """One line about a row."""
    outcomes = Counter(finding.outcome for finding in found)
    points = sorted({f"{finding.operation} {finding.point}" for finding in found if finding.point != "-"})
    seconds = sum(finding.seconds for finding in found)
    text = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    bad = "FAIL " if any(finding.problem for finding in found) else ""
    return f"{bad}row {row:2}  {len(found):3} probes  {seconds:6.2f} s  {text}  [{', '.join(points)}]"


def main(words: list[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.containment.run", description=__doc__)
    parser.add_argument("--rows", type=chosen, default=set(ROWS), help="such as 1,2,40-46")
    parser.add_argument(
        "--rounds", default="1", help="a factor for the long rows, or `full` for the catalogue's numbers"
    )
    parser.add_argument("--json", type=Path, help="a file for one JSON object a probe")
    parser.add_argument("--build", action="store_true", help="only compile the probes and the policy")
    options = parser.parse_args(words)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who is cut loose by a double fork is ended here
    if options.build:
        prepare()
        return 0
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(options.json.open("w")) if options.json else None

        def told(finding: Finding) -> None:
            if out:
                out.write(json.dumps(dataclasses.asdict(finding)) + "\n")
                out.flush()
            if finding.problem:
                print(f"FAIL row {finding.row}, {finding.probe}: {finding.outcome}: {finding.problem}", flush=True)

        factor = FULL if options.rounds == "full" else float(options.rounds)
        found = run(options.rows, factor, told)
    for finding in found:
        if not finding.row and finding.problem:
            print(f"FAIL {finding.probe}: {finding.problem}")
    for row in sorted(options.rows & set(ROWS)):
        print(summary(row, [finding for finding in found if finding.row == row]))
    bad = sum(bool(finding.problem) for finding in found)
    print(f"{len(found)} probes, {bad} failed, {time.monotonic() - began:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
