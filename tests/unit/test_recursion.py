"""Whether a kernel preempts tasks inside of it, as far as it says."""

from __future__ import annotations

import pytest

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
    """Programs of no hooks are never skipped, those of fmod_ret may be; and it answers here."""
    assert not skips(Point.NONE) and skips(Point.FMOD_RET)
    assert preempts() in (True, False, None)
