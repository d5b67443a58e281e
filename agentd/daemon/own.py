"""Which files are agentd's own, for the guard (agentd/policy/guard.py)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import agentd
from agentd.daemon.places import BPFFS_RUNS, RUN_DIR
from agentd.policy.guard import Guarded

CONFIG_DIR: Final = Path("/etc/agentd")
STATE_ROOT: Final = Path("/var/lib/agentd")
PINS: Final = Path("/sys/fs/bpf/agentd")


def guarded(own: Iterable[Path] = (), kept: Iterable[Path] = ()) -> Guarded:
    """agentd's standard places, and where this one keeps what is its own. kept: what workloads may read and not change,
    beside the program itself and what tells them why something was denied.
    """
    secret = (CONFIG_DIR, STATE_ROOT, PINS, BPFFS_RUNS, *own)
    readable = (Path(agentd.__file__).parent, RUN_DIR, *kept)
    return Guarded(*(tuple(dict.fromkeys(os.path.realpath(path) for path in paths)) for paths in (secret, readable)))
