"""The requests of ioctl(2) that change files: one list for the kernel's side, the filter and the supervisor."""

from __future__ import annotations

import re
from pathlib import Path

from agentd.kernel.notify.table import SET_FLAGS
from agentd.kernel.seccomp import FILE_IOCTLS, STATIC_IOCTLS

HEADER = Path(__file__).resolve().parents[2] / "bpf/lib/ioctls.bpf.h"


def test_what_the_trace_point_judges_is_refused_or_handed_over() -> None:
    """Each request in the header is refused by the filter, or one that the supervisor carries out; and the reverse."""
    found = re.findall(r"^#define (\w+) (0x[0-9a-f]{8})$", HEADER.read_text(encoding="utf-8"), re.M)
    requests = {name: int(number, 16) for name, number in found}
    assert {name: requests[name] for name in FILE_IOCTLS} == FILE_IOCTLS
    others = {number for name, number in requests.items() if name not in FILE_IOCTLS}
    assert others - set(STATIC_IOCTLS) == set(SET_FLAGS), "FIFREEZE and its kin are refused to all that agentd starts"
