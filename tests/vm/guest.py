"""What runs in each kernel when `./dev vm` is given no command: the programs first, then the probes.

Reports go to the file that AGENTD_VM_REPORT names, a JSON object a line; see table.py. Exit status 1: something failed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from agentd.kernel import loader
from tests.vm.programs import verified


def report(**what: Any) -> None:
    """One line for the host, and for somebody who reads along."""
    with open(os.environ.get("AGENTD_VM_REPORT", os.devnull), "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def programs() -> bool:
    """Does every program load?"""
    fine = True
    for found in verified():
        report(
            kind="program",
            object=loader.OBJECT,
            program=found.program,
            instructions=found.instructions,
            error=found.said,
        )
        if found.instructions is None:
            fine = False
            print(f"{found.program}: refused: {found.said}", flush=True)
    return fine


def main() -> int:
    """0: all is well."""
    return 0 if programs() else 1


if __name__ == "__main__":
    sys.exit(main())
