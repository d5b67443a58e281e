"""From one operation to rules that would allow operations like it: what a person may choose from, narrowest first.

Nothing here is written or in force; the command line shows each proposal with what it would have matched in the past.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentd.model import Endpoint, Family, Op
from agentd.policy.hosts import host_matches, parse_host
from agentd.policy.patterns import Dialect, Glob, matches

MIN_DEPTH: Final = 2  # a tree is proposed from /a/b on: never /** and never a whole top-level folder


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule of the section `approved`. words: what it covers, for people."""

    tool: str
    operation: str
    words: str
    paths: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None

    def rule(self) -> dict[str, Any]:
        """As a policy document says it."""
        made: dict[str, Any] = {"tool": self.tool, "operations": [self.operation]}
        if self.paths is not None:
            made["paths"] = list(self.paths)
        if self.hosts is not None:
            made["hosts"] = list(self.hosts)
        return made

    def covers(self, tool: str, operation: str, obj: bytes | Endpoint) -> bool:
        """Would it have covered this operation?"""
        if (tool, operation) != (self.tool, self.operation):
            return False
        if isinstance(obj, Endpoint):
            return any(host_matches(one, obj) for text in self.hosts or () for one in parse_host(text))
        return any(matches(Glob(text, Dialect.AGENTD), obj) for text in self.paths or ())


def proposals(op: Op, tool: str, operation: str, obj: bytes | Endpoint | None) -> Sequence[Proposal]:
    """Rules for operations like this one; none where the object is unknown, no path, or can't be written down."""
    if isinstance(obj, Endpoint):
        return [Proposal(tool, operation, words, hosts=(host,)) for words, host in _hosts(obj)]
    if obj is None or op.family is not Family.PATH or not obj.startswith(b"/"):
        return ()
    try:
        text = obj.decode("utf-8")
    except UnicodeDecodeError:
        return ()
    if not text.isprintable():
        return ()
    return [Proposal(tool, operation, words, paths=(glob,)) for words, glob in _paths(text, op)]


def _paths(path: str, op: Op) -> list[tuple[str, str]]:
    escaped = re.sub(r"([*?\[\]\\])", r"\\\1", path)
    folder = escaped.rpartition("/")[0]
    what = "this program with any arguments" if op is Op.EXEC else "this very path"
    found = [(what, escaped)]
    if folder.count("/") >= 1:
        found.append((f"anything directly in {path.rpartition('/')[0]}", f"{folder}/*"))
    if folder.count("/") >= MIN_DEPTH:
        found.append((f"anything below {path.rpartition('/')[0]}", f"{folder}/**"))
    return found


def _hosts(endpoint: Endpoint) -> list[tuple[str, str]]:
    address = ipaddress.ip_address(endpoint.address)
    port = endpoint.port
    found: list[tuple[str, str]] = []
    for name in endpoint.names[:1]:
        found.append((f"{name} on port {port}", f"{name}:{port}"))
        parent = name.partition(".")[2]
        if parent.count(".") >= 1:
            found.append((f"every name below {parent} on port {port}", f"*.{parent}:{port}"))
    if not endpoint.names:
        written = f"[{address}]" if address.version == 6 else str(address)
        found.append(("this address and port", f"{written}:{port}"))
        network = ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False)
        at = f"[{network.network_address}]/{network.prefixlen}" if address.version == 6 else str(network)
        found.append((f"addresses of {network} on port {port}", f"{at}:{port}"))
    return [(words, host) for words, host in found if _parses(host)]


def _parses(host: str) -> bool:
    try:
        parse_host(host)
    except ValueError:
        return False
    return True
