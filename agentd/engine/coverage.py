"""Which enforcement point judges each kernel operation on this host, and what that guarantees."""

from __future__ import annotations

from agentd.model import Op, Point


def enforcement() -> list[dict[str, str]]:
    """Which point judges each kernel operation on this host, and what that guarantees."""
    rows = []
    for op in Op:
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
