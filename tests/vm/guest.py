"""What runs in each kernel when `./dev vm` is given no command: the programs first, then tests of whole programs.

One pytest runs them all, because starting Python and importing takes seconds under emulation.

Reports go to the file that AGENTD_VM_REPORT names, a JSON object a line; see table.py. Exit status 1: something failed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.kernel import prepare
from tests.vm.programs import verified

# What fits in the time of an arm, and differs between kernels: tests, with `-k` in mind.
TESTS: Final = ("tests/live/test_exec.py", "tests/live/test_files_read.py")
OPTIONS: Final = ("-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=200", "--basetemp=/tmp/tests")


def emit(**what: Any) -> None:
    """One line for the host, and for somebody who reads along."""
    with open(os.environ.get("AGENTD_VM_REPORT", os.devnull), "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def programs() -> bool:
    """Does every program load?"""
    fine = True
    for found in verified():
        emit(
            kind="program",
            object=prepare.OBJECT,
            program=found.program,
            instructions=found.instructions,
            error=found.said,
        )
        if found.instructions is None:
            fine = False
            print(f"{found.program}: refused: {found.said}", flush=True)
    return fine


class Rows:
    """A pytest plugin: each test is a row."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test counts when it ran, or when it could not be set up or cleaned up."""
        if report.when != "call" and report.outcome == "passed":
            return
        file, _, name = report.nodeid.partition("::")
        print(f"{report.outcome} {report.nodeid}", flush=True)
        emit(
            kind="row",
            row=name,
            point=Path(file).stem.removeprefix("test_"),
            result=report.outcome,
            seconds=round(report.duration, 1),
            detail=report.longreprtext[-2000:],
        )


def tests(words: list[str]) -> bool:
    """Do the tests pass?"""
    return pytest.main([*OPTIONS, *(words or TESTS)], plugins=[Rows()]) == pytest.ExitCode.OK


def main() -> int:
    """0: all is well. Arguments are for pytest, in the place of TESTS."""
    fine = programs()
    return 0 if tests(sys.argv[1:]) and fine else 1


if __name__ == "__main__":
    sys.exit(main())
