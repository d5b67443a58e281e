"""Where an engine keeps what is its own. Imports little: `agentd run` asks before everything else is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agentd.workloads.processes import start_ticks

BPFFS_RUNS: Final = Path("/sys/fs/bpf/agentd-run")
RUN_DIR: Final = Path("/run/agentd")


def run_pins() -> Path:
    """A folder of bpffs for the engine of this one process."""
    return BPFFS_RUNS / f"{os.getpid()}-{start_ticks(os.getpid())}"
