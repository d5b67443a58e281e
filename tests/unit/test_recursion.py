"""Whether a kernel preempts tasks inside of it, as far as it says."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from agentd.kernel import recursion
from agentd.kernel.recursion import _preempts, preempts, skips
from agentd.model import Point

DYNAMIC = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1 (2025-01-10)"


@pytest.mark.parametrize(
    ("mode", "command_line", "version", "configuration", "answer"),
    [
        ("none voluntary (full)\n", "preempt=none", DYNAMIC, "", True),
        ("none (voluntary) full\n", "preempt=full", DYNAMIC, "", False),
        ("(none) voluntary full lazy\n", "", DYNAMIC, "", False),
        ("full (lazy)\n", "", DYNAMIC, "", True),
        ("", "quiet preempt=full lsm=bpf", DYNAMIC, "CONFIG_PREEMPT_VOLUNTARY=y\n", True),
        ("", "quiet preempt=none", DYNAMIC, "CONFIG_PREEMPT=y\n", False),
        ("", "notpreempt=full", DYNAMIC, "# x\nCONFIG_PREEMPT_VOLUNTARY=y\n", False),
        ("", "", DYNAMIC, "CONFIG_PREEMPT=y\n", True),
        ("", "", DYNAMIC, "CONFIG_PREEMPT_LAZY=y\n", True),
        ("", "", DYNAMIC, "CONFIG_PREEMPT_BUILD=y\n", None),
        ("", "", "#1 SMP PREEMPT Fri Jan 1", "", True),
        ("", "", "#1 SMP PREEMPT_RT Debian", "", True),
        ("", "preempt=full", "#1 SMP Debian 5.10", "", False),
    ],
)
def test_what_a_kernel_says(
    mode: str, command_line: str, version: str, configuration: str, answer: bool | None
) -> None:
    """What runs goes before the command line, and that before how the kernel was built; else it isn't known."""
    assert _preempts(mode, command_line, version, configuration) is answer


def test_this_kernel() -> None:
    """Those of fmod_ret may be skipped on every kernel, what seccomp judges on none; and it answers here."""
    assert skips(Point.FMOD_RET) and not skips(Point.SECCOMP)
    assert skips(Point.NONE) == skips(Point.TRACE) == skips(Point.EXEC) == skips(Point.CGROUP)
    assert preempts() in (True, False, None)


@pytest.mark.parametrize(
    ("names", "described", "cgroup", "lsm", "trace"),
    [
        ("T _text\nt __bpf_prog_enter_recur\nT tracepoint_srcu\n", True, True, False, True),  # 7.2
        ("T _text\nt __bpf_prog_enter_recur\nT __traceiter_sys_exit\n", True, True, False, False),  # 6.18
        ("T _text\nt __bpf_prog_enter_recur\nd tracepoint_srcu\n", False, False, False, False),  # 6.12
        ("T _text\nt __bpf_prog_enter\nd tracepoint_srcu\n", False, False, True, False),  # before 6.1.54
        ("", True, True, False, True),  # it tells no names, but its types
        ("", False, True, True, True),
        (None, False, True, True, True),
    ],
)
def test_which_programs_a_kernel_may_skip(
    tmp_path: Path, names: str | None, described: bool, cgroup: bool, lsm: bool, trace: bool
) -> None:
    """Told by its own names; what it doesn't tell counts as yes."""
    file = tmp_path / "kallsyms"
    if names is not None:
        file.write_text("".join(f"0000000000000000 {line}\n" for line in names.splitlines()))
    recursion._names.cache_clear()
    try:
        with patch.multiple(
            recursion, Path=lambda _: file, cgroup_programs=lambda: cgroup, described=lambda _: described
        ):
            assert (skips(Point.LSM), skips(Point.TRACE)) == (lsm, trace)
    finally:
        recursion._names.cache_clear()
