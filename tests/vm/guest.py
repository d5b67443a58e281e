"""What runs in each kernel when `./dev vm` is given no command: every program is loaded, and the containment suite.

The suite starts one engine for everything, because Python, imports and the verifier are slow under emulation; the host
has compiled its probes and its policy (tests/vm/__main__.py). Left out: the rows whose subject is a daemon that dies or
loads its policy very often (63 and above), which don't depend on the kernel and take minutes here; with --brief, what
is permitted, which one kernel tries for all; and without --thorough what takes minutes more: the storms on remembered
verdicts, which have an engine of their own, the probes on overlays, a crowd, ordinary programs (row 70), doctor beside
what happens (tests/containment/compared.py), and other kinds of hosts (hosts.py).

Reports go to the file that AGENTD_VM_REPORT names, a JSON object a line; see table.py. Exit status 1: something failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any, Final

from agentd.errors import AgentdError
from agentd.kernel import holding, lsm, prepare
from agentd.kernel.libbpf import prog_info
from agentd.model import Point
from tests.containment import ordinary, overlays, races, storms
from tests.containment import run as containment
from tests.containment.suite import Finding, Probe, Scenario, Suite
from tests.vm.programs import verified

ROWS: Final = frozenset(row for row in containment.ROWS if row < 63 or row == 70)
THOROUGH: Final = (*storms.PROBES, *overlays.PROBES, *ordinary.PROBES, *races.CROWDED)
FACTOR: Final = 0.03  # of the rounds of the long rows


def emit(**what: Any) -> None:
    """One line for the host, and for somebody who reads along."""
    with open(os.environ.get("AGENTD_VM_REPORT", os.devnull), "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def program(name: str, instructions: int | None, error: str = "") -> None:
    """A line about one program."""
    emit(kind="program", object=prepare.OBJECT, program=name, instructions=instructions, error=error)


def programs() -> bool:
    """Does every program load? Each is tried alone if not."""
    fine = True
    for found in verified():
        program(found.program, found.instructions, found.said)
        if found.instructions is None:
            fine = False
            print(f"{found.program}: refused: {found.said}", flush=True)
    return fine


def begun(live: Suite) -> None:
    """What the verifier had to do for the programs that are in force. Those that only a policy with library calls wants
    have to load, too. Raises KernelError.
    """
    if holding.kept(live.host.engine.loaded):
        holding.HoldKeepers(live.host.engine.loaded).close()
    for name, fd in sorted(live.host.engine.loaded.programs.items()):
        program(name, prog_info(fd).verified_insns)


def told(finding: Finding) -> None:
    """Who reads along sees what went wrong."""
    if finding.problem:
        print(f"FAIL row {finding.row}, {finding.probe}: {finding.outcome}: {finding.problem}", flush=True)


def report(found: list[Finding]) -> None:
    """A line for each row of the catalogue and each point that held it."""
    for row in sorted({finding.row for finding in found}):
        mine = [finding for finding in found if finding.row == row]
        for point in sorted({finding.point for finding in mine}):
            here = [finding for finding in mine if finding.point == point]
            outcomes = Counter(finding.outcome for finding in here).most_common()
            bad = [finding for finding in here if finding.problem]
            emit(
                kind="row",
                row=f"{row:2}",
                point=point,
                result=("FAIL " if bad else "") + ", ".join(f"{count} {outcome}" for outcome, count in outcomes),
                seconds=round(sum(finding.seconds for finding in here), 1),
                detail="; ".join(f"{finding.probe}: {finding.problem}" for finding in bad)[:2000],
            )


def wanted(probe: Probe | Scenario) -> bool:
    """Is it for this machine?"""
    if probe in THOROUGH and "--thorough" not in sys.argv:
        return False
    return not isinstance(probe, Probe) or bool(probe.kind) or "--brief" not in sys.argv


def main() -> int:
    """0: all is well."""
    ctypes.CDLL(None).prctl(containment.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        found = containment.run(set(ROWS), FACTOR, told, begun, wanted=wanted)
    except AgentdError as error:
        print(f"the suite did not start: {error}", flush=True)
        programs()
        return 1
    report(found)
    more = []
    if "--thorough" in sys.argv:
        more.append("tests.containment.compared")
        more += ["tests.vm.hosts"] if lsm.point() is Point.LSM else []
    codes = [subprocess.run([sys.executable, "-m", name], check=False).returncode for name in more]
    bad = sum(bool(finding.problem) for finding in found)
    print(f"{len(found)} probes, {bad} failed", flush=True)
    return 1 if bad or any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
