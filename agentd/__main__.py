"""The command `agentd`. The service's programs are begun to be verified here, while Python imports everything else."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Runs the command line; does not return."""
    preparation = None
    if sys.argv[1:2] == ["daemon"] and not {"--check", "--help"} & set(sys.argv):
        gc.disable()  # until it enforces: what a start makes is not garbage, and looking for some takes a tenth of it
        from agentd.kernel.prepare import SERVICE_PINS, Preparation

        preparation = Preparation(SERVICE_PINS)
    from agentd.cli import main as command

    command(prog_name="agentd", obj=preparation)


if __name__ == "__main__":
    main()
