"""Are there calls that the kernel lets pass a program by, because that program is under way on the processor already?

The trampoline of a tracing program (fmod_ret) counts its runs on a processor, and skips one that comes while another
has not ended: bpf_prog_check_recur in include/linux/bpf_verifier.h, __bpf_prog_enter_recur in kernel/bpf/trampoline.c.
A task can come in between only where the kernel preempts tasks inside of it; but there whoever wants to can make it so:
24 processes on one processor of a Debian 6.12 with preempt=full opened a denied file 69,781 times in 72,000. `lsm`
programs were counted as well until "bpf: Remove prog->active check for bpf_lsm and bpf_iter" (Linux 6.2, stable 6.1.54
and 6.5.4), which brought the name that is looked for here.

Programs of trace points are counted in the same way. Up to Linux 6.19 the kernel doesn't preempt inside of a trace
point; 7.2 does (include/linux/tracepoint.h: guard(srcu_fast_notrace) for guard(preempt_notrace)), and there a crowd on
one processor got 375 of 1,680 denied files and programs, and 189 children without a mark. With the mark is lost what
cgroup programs judge, though these are never left out. Only seccomp needs neither.

How often it happened is in bpf_prog_info: LoadedObject.skipped().
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
from functools import cache
from pathlib import Path
from typing import Final

from agentd.kernel.compat import cgroup_programs, described
from agentd.kernel.notify import raw
from agentd.model import Point

SINCE: Final = b"__bpf_prog_enter_recur"
SLEEPS: Final = b"tracepoint_srcu"  # before 6.13 it was there for idle processors only
MODE: Final = "sched/preempt"  # in debugfs: none voluntary (full) lazy. Not readable under lockdown
FSOPEN, FSCONFIG, FSMOUNT, FSCONFIG_CMD_CREATE = 430, 431, 432, 6


def skips(point: Point) -> bool:
    """May this kernel pass programs of this point by, or the one that gives a child its mark, without which they judge
    nobody? NONE: of the points that judge where there are no hooks. Raises nothing: what can't be known counts as yes.
    """
    if point is Point.LSM:
        return not described(SINCE) and SINCE not in _names()
    if point in (Point.NONE, Point.EXEC, Point.TRACE, Point.CGROUP):
        return cgroup_programs() and (not _names() or SLEEPS in _names())  # the former came with 6.16
    return point is Point.FMOD_RET


@cache
def _names() -> frozenset[bytes]:
    """Which of the two the kernel has, and one that all have; empty: it doesn't tell (in a unit with
    ProtectKernelTunables=, for one: systemd hides the list there).
    """
    with contextlib.suppress(OSError):
        names = Path("/proc/kallsyms").read_bytes()
        return frozenset(name for name in (SINCE, SLEEPS, b"_text") if b" " + name + b"\n" in names)
    return frozenset()


def preempts() -> bool | None:
    """Does this kernel preempt tasks inside of it? None: it doesn't say."""
    return _preempts(_mode(), _read(Path("/proc/cmdline")), os.uname().version, _configuration())


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


def _mode() -> str:
    """Read from a mount of its own: whether and where debugfs is mounted doesn't matter."""
    with contextlib.ExitStack() as stack:
        try:
            context = raw.call(FSOPEN, b"debugfs", 1)
            stack.callback(os.close, context)
            raw.call(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
            mount = raw.call(FSMOUNT, context, 1, 0)
            stack.callback(os.close, mount)
            file = os.open(MODE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount)
            stack.callback(os.close, file)
            return os.read(file, 4096).decode("ascii", "replace")
        except OSError:
            return ""


def open_to_all(point: Point) -> bool:
    """Can a workload get calls past programs of this kind? Asked each time, because root may change how a kernel
    preempts while it runs. Not knowing counts as yes.
    """
    return preempts() is not False and skips(point)  # in this order: the kernel's names are many


def _configuration() -> str:
    with contextlib.suppress(OSError):
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode("utf-8", "replace")
    return _read(Path(f"/boot/config-{os.uname().release}"))


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace")
    return ""
