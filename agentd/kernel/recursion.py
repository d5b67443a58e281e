"""Are there calls that the kernel lets pass a program by, because that program is under way on the processor already?

The trampoline of a tracing program (fmod_ret) counts its runs on a processor, and skips one that comes while another
has not ended: bpf_prog_check_recur in include/linux/bpf_verifier.h, __bpf_prog_enter_recur in kernel/bpf/trampoline.c.
A task can come in between only where the kernel preempts tasks inside of it. `lsm` programs were counted as well until
"bpf: Remove prog->active check for bpf_lsm and bpf_iter" (Linux 6.2, stable 6.1.54 and 6.5.4), which brought the name
that is looked for here. How often it happened is in bpf_prog_info: LoadedObject.skipped().
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
from functools import cache
from pathlib import Path
from typing import Final

from agentd.model import Point

SINCE: Final = b" __bpf_prog_enter_recur\n"
MODE: Final = Path("/sys/kernel/debug/sched/preempt")  # none voluntary (full) lazy; needs debugfs, and no lockdown


def skips(point: Point) -> bool:
    """May this kernel pass programs of this kind by? Raises nothing: what can't be known counts as yes."""
    if point is not Point.LSM:
        return point is Point.FMOD_RET
    return not _lsm_is_free()


@cache
def _lsm_is_free() -> bool:
    with contextlib.suppress(OSError):
        return SINCE in Path("/proc/kallsyms").read_bytes()
    return False


def preempts() -> bool | None:
    """Does this kernel preempt tasks inside of it? None: it doesn't say."""
    return _preempts(_read(MODE), _read(Path("/proc/cmdline")), os.uname().version, _configuration())


def _preempts(mode: str, command_line: str, version: str, configuration: str) -> bool | None:
    if chosen := re.search(r"\((\w+)\)", mode):
        return chosen[1] in ("full", "lazy")
    words = version.split()
    if "PREEMPT" in words or "PREEMPT_RT" in words or "PREEMPT_LAZY" in words:
        return True
    if not any(word.startswith("PREEMPT_DYNAMIC") for word in words):
        return False
    if chosen := re.search(r"(?:^|\s)preempt=(\w+)", command_line):
        return chosen[1] in ("full", "lazy")
    if re.search(r"^CONFIG_PREEMPT(_LAZY)?=y", configuration, re.M):
        return True
    return False if re.search(r"^CONFIG_PREEMPT_(NONE|VOLUNTARY)=y", configuration, re.M) else None


def _configuration() -> str:
    with contextlib.suppress(OSError):
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode("utf-8", "replace")
    return _read(Path(f"/boot/config-{os.uname().release}"))


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace")
    return ""
