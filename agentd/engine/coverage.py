"""Which enforcement point judges each kernel operation on this host, and what that guarantees."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agentd.model import Op, Point

# What the LSM hooks leave to the point that there is besides.
PREVENTED_BUT: Final = {
    Op.EXEC: "prevented (contained where the arguments decide)",
    Op.SETATTR: "prevented (mode and owner), detected (times and extended attributes)",
    Op.NAMESPACE: "prevented (user), detected (others)",
    Op.MOUNT: "prevented (detected: fsopen and its kin)",
    Op.PERF: "prevented (contained: fanotify, userfaultfd)",
}


def enforcement(hooks: Point, prevented: Collection[Op]) -> list[dict[str, str]]:
    """Which point judges each kernel operation on this host, and what that guarantees.

    hooks: what the LSM hooks are here; prevented: the operations they judge.
    """
    rows = []
    for op in Op:
        if op in prevented:
            rows.append({"operation": op.word, "point": hooks.word, "guarantee": PREVENTED_BUT.get(op, "prevented")})
            continue
        if op is Op.EXEC:
            point, guarantee = Point.EXEC, "contained"
        elif op in (Op.CONNECT, Op.BIND, Op.SEND):
            point, guarantee = Point.CGROUP, "prevented"
        elif op is Op.SOCKET:
            point, guarantee = Point.CGROUP, "prevented (inet), contained (others)"
        elif op is Op.READ:
            point, guarantee = Point.TRACE, "contained (detected if threads share descriptors)"
        elif op in (Op.LISTEN, Op.UNIX_CONNECT):
            point, guarantee = Point.TRACE, "contained"
        else:
            point, guarantee = Point.TRACE, "detected"
        rows.append({"operation": op.word, "point": point.word, "guarantee": guarantee})
    return rows
