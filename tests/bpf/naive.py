"""Deciding once more, from the text of the documents: slow, short, and sharing no code with agentd.

A rule or an entry is looked at only when it is its turn, a glob is matched as its definition says, and nothing is
compiled, numbered or reordered.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import yaml

from agentd.resources import policies_dir
from tests.reference import glob_matches

RISKS: Final = ("low", "medium", "high", "critical")
SECTIONS: Final = (("deny", 2), ("require_approval", 1), ("allow", 0))
ACTIONS: Final = {"none": 0, "deny": 1, "kill": 2, "pause": 3}
FILE_OPS: Final = (
    *("exec", "read", "write", "create", "delete", "rename", "link", "setattr", "mount", "chroot"),
    "unix_connect",
)
WORD_OPS: Final = ("ptrace", "namespace", "bpf", "module", "kexec", "io_uring", "socket", "perf", "compat")
PATH_OPS: Final = (*FILE_OPS, *WORD_OPS, "execmem", "signal")
HOST_OPS: Final = ("connect", "bind", "listen", "send", "accept")
DEFAULT, UNRESOLVED, ABOVE = -1, -2, -4
NAMELESS: Final = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("::/96", "fe80::/10", "ff00::/8", "fd00:ec2::254", "fd20:ce::254"),
)

CATALOGUE: Final[dict[str, Any]] = yaml.safe_load((policies_dir() / "catalogue.yaml").read_text())


@dataclass(frozen=True)
class Decided:
    """decision and action as numbers, risk as a number, rule as an index in the order of judging (or -1, -2)."""

    decision: int
    action: int
    risk: int
    rule: int
    toolop: tuple[str, str]
    timeout: int


@dataclass(frozen=True)
class Peer:
    address: str
    port: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    tool: str
    operation: str
    op: str
    patterns: tuple[str, ...]
    args: tuple[str, ...] | None
    risk: int


def entries_of(document: dict[str, Any]) -> Iterator[Entry]:
    for tool, operations in (document.get("tools") or {}).items():
        for operation, entries in operations.items():
            for entry in entries:
                risk = RISKS.index(entry.get("risk", "high"))
                args = tuple(entry["args"]) if "args" in entry else None
                for op, patterns in entry.items():
                    if op not in ("args", "risk", "call", "text", "detect"):  # calls: tests/bpf/test_calls.py
                        yield Entry(tool, operation, op, tuple(patterns), args, risk)


class Naive:
    """One agent of a document."""

    def __init__(self, document: dict[str, Any], agent: str, workspace: str) -> None:
        self.aegize = "version" not in document
        self.agent = document["agents"][agent]
        self.workspace = self.agent.get("workspace", workspace)
        self.entries: dict[str, list[Entry]] = {op: [] for op in (*PATH_OPS, *HOST_OPS)}
        self.own = list(entries_of(document))
        self.everything = [*self.own, *entries_of(CATALOGUE)]
        for entry in self.everything:
            self.entries[entry.op].append(entry)

    def decide(self, op: str, obj: bytes | Peer | None, argv: Sequence[bytes] = ()) -> Decided:
        """An address with several names that count is judged by each; the rule that stands first decides."""
        if isinstance(obj, Peer):
            names = [name for name in obj.names if op in ("connect", "send") and self.counts(name, obj)]
            forms = [Peer(obj.address, obj.port, (name,)) for name in names] or [Peer(obj.address, obj.port)]
            decided = [self.decide_one(op, form, argv) for form in forms]
            order = [(entry.tool, entry.operation) for entry in self.everything]
            return min(decided, key=lambda d: (d.rule % 2**32, order.index(d.toolop), d.risk))
        return self.decide_one(op, obj, argv)

    def counts(self, name: str, peer: Peer) -> bool:
        address = plain(peer.address)
        if any(address in ipaddress.ip_network(network) for network in NAMELESS):
            return False
        rules = [rule for section, _ in SECTIONS for rule in self.agent.get(section) or []]
        texts = [text for rule in rules for text in rule.get("hosts") or ()]
        texts += [text for op in HOST_OPS for entry in self.entries[op] for text in self.hosts_of(entry)]
        return any(is_name(text.rpartition(":")[0] or text, name) for text in texts)

    def hosts_of(self, entry: Entry) -> tuple[str, ...]:
        """Names of a shipped entry only count if a rule lists its operation."""
        if entry in self.own or any(
            rule["tool"] == entry.tool and entry.operation in (rule.get("operations") or ())
            for section, _ in SECTIONS
            for rule in self.agent.get(section) or []
        ):
            return entry.patterns
        return tuple(text for text in entry.patterns if not re.search("[a-z]", text))

    def decide_one(self, op: str, obj: bytes | Peer | None, argv: Sequence[bytes] = ()) -> Decided:
        if op == "rename" and isinstance(obj, bytes) and self.is_above(obj):
            action = self.agent.get("on_violation", "deny")
            renamed = Entry("file", "rename", op, (), None, RISKS.index("high"))
            return self.decided(2, "deny" if action == "pause" else action, renamed, ABOVE, None)
        entry = None if obj is None else self.entry(op, obj, argv)
        if entry is None:
            last = self.entries[op][-1]
            return self.decided(2, None, last, UNRESOLVED, None)
        index = 0
        for section, decision in SECTIONS:
            for rule in self.agent.get(section) or []:
                if self.covers(rule, decision, entry, obj):
                    return self.decided(decision, rule.get("action"), entry, index, rule.get("timeout"))
                index += 1
        if entry.tool == "runtime" and entry.operation in ("load", "code", "generate"):
            return self.decided(0, None, entry, index, None)
        return self.decided(2, None, entry, DEFAULT, None)

    def entry(self, op: str, obj: bytes | Peer, argv: Sequence[bytes]) -> Entry | None:
        for entry in self.entries[op]:
            patterns = self.hosts_of(entry) if isinstance(obj, Peer) else entry.patterns
            if not any(self.is_object(pattern, obj, op) for pattern in patterns):
                continue
            if entry.args is None or any(is_argument(glob, one) for one in argv[1:] for glob in entry.args):
                return entry
        return None

    def covers(self, rule: dict[str, Any], decision: int, entry: Entry, obj: bytes | Peer | None) -> bool:
        if rule["tool"] != entry.tool:
            return False
        if rule.get("operations") is not None and entry.operation not in rule["operations"]:
            return False
        if self.aegize and decision:
            return True  # aegize heeds nothing else outside allow
        if rule.get("risk_level_max") is not None and entry.risk > RISKS.index(rule["risk_level_max"]):
            return False
        paths, hosts = rule.get("paths"), rule.get("hosts")
        if paths is None and hosts is None:
            return True
        return any(self.is_object(text, obj, None) for text in (hosts if isinstance(obj, Peer) else paths) or ())

    def is_above(self, obj: bytes) -> bool:
        """Is it a folder that the paths of a rule which doesn't allow name on their way?"""
        rules = [rule for section in ("deny", "require_approval") for rule in self.agent.get(section) or []]
        texts = [text for rule in rules for text in rule.get("paths") or ()]
        # aegize heeds no paths outside allow
        return not self.aegize and any(
            is_path(folder, obj) for text in texts for one in self.texts(text) for folder in folders(one)
        )

    def decided(self, decision: int, action: str | None, entry: Entry, rule: int, timeout: int | None) -> Decided:
        if decision == 2:
            action = action or self.agent.get("on_violation", "deny")
        else:
            action = "pause" if decision == 1 else "none"
        if self.agent.get("mode") == "monitor":
            action = "none"
        seconds = (timeout or 300) if action == "pause" else 0
        return Decided(decision, ACTIONS[action], entry.risk, rule, (entry.tool, entry.operation), seconds)

    def is_object(self, text: str, obj: bytes | Peer | None, op: str | None) -> bool:
        """op: None for a rule's pattern."""
        if isinstance(obj, Peer):
            return is_host(text, obj)
        assert obj is not None
        if op in WORD_OPS:
            return is_path(text, obj)
        if op is None and self.aegize:
            return self.is_aegize(text, obj)
        return any(is_path(one, obj) for one in self.texts(text))

    def texts(self, text: str) -> list[str]:
        if text == "~" or text.startswith("~/"):
            return ["/root" + text[1:], "/home/*" + text[1:]]
        if text.startswith(("/", "**", "anon:", "@", "ptrace:", "unshare:", "setns:", "inet:")):
            return [text]
        workspace = "".join("\\" + char if char in "*?[]\\" else char for char in self.workspace)
        below = text[2:] if text.startswith("./") else text
        return [workspace] if below == "." else [f"{workspace.rstrip('/')}/{below}"]

    def is_aegize(self, text: str, obj: bytes) -> bool:
        """A relative pattern is meant as it stands and below the workspace, whose characters are no wildcards."""
        text = text.replace("\\", "/")
        while text.startswith("./"):
            text = text[2:]
        if not text:
            return False
        folder = self.workspace.rstrip("/").encode() + b"/"
        inside = not text.startswith("/") and obj.startswith(folder) and is_fnmatch(text, obj[len(folder) :])
        return inside or is_fnmatch(text, obj)


@cache
def folders(text: str) -> list[str]:
    """The folders that a glob names before its last part; behind `**` none of wildcards only."""
    parts = text.split("/")
    below = next((i for i, part in enumerate(parts) if "**" in part), len(parts))
    named = [i for i, part in enumerate(parts[:-1]) if part and "**" not in part and (i < below or part.strip("*?"))]
    return ["/".join(parts[: i + 1]) for i in named]


@cache
def is_path(text: str, data: bytes) -> bool:
    return glob_matches(text, data, paths=True)


@cache
def is_argument(text: str, data: bytes) -> bool:
    return wild(argument_items(text), [bytes((byte,)) for byte in data])


@cache
def is_fnmatch(text: str, data: bytes) -> bool:
    decoded = data.decode("utf-8", "surrogateescape")
    answer = wild(fnmatch_items(text), list(decoded))
    if decoded.isprintable():
        assert answer == fnmatch.fnmatchcase(decoded, text)
    return answer


def wild(items: Sequence[Any], data: Sequence[Any]) -> bool:
    """Items are None (any run) or a test of one element; the last run is stretched whenever the rest doesn't fit."""
    i = d = 0
    star, resume = -1, 0
    while d < len(data):
        if i < len(items) and items[i] is None:
            star, resume = i, d
            i += 1
        elif i < len(items) and items[i](data[d]):
            i += 1
            d += 1
        elif star >= 0:
            resume += 1
            i, d = star + 1, resume
        else:
            return False
    return all(item is None for item in items[i:])


def is_one_byte(text: str, byte: bytes) -> bool:
    return glob_matches(text, byte, paths=False)


@cache
def argument_items(text: str) -> list[Any]:
    items: list[Any] = []
    pattern = text.encode("utf-8", "surrogateescape")
    for piece in re.findall(rb"\\.|\*|\?|\[!?\]?(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL):
        if piece == b"*":
            items.append(None)
        elif piece[:1] == b"\\":
            items.append(piece[1:].__eq__)
        elif len(piece) == 1 and piece != b"?":
            items.append(piece.__eq__)
        else:
            items.append(partial(is_one_byte, piece.decode()))
    return items


@cache
def fnmatch_items(text: str) -> list[Any]:
    """One character at a time; what is no part of valid UTF-8 is only matched by a run."""

    def single(pattern: str) -> Any:
        return lambda char: not "\udc80" <= char <= "\udcff" and fnmatch.fnmatchcase(char, pattern)

    items: list[Any] = []
    i = 0
    while i < len(text):
        end = text.find("]", i + (3 if text[i : i + 2] == "[!" else 2)) if text[i] == "[" else -1
        if text[i] == "*":
            items.append(None)
        elif end >= 0:
            items.append(single(text[i : end + 1]))
            i = end
        else:
            items.append(single("[[]" if text[i] == "[" else text[i]))
        i += 1
    return items


@cache
def is_host(text: str, peer: Peer) -> bool:
    found = re.fullmatch(r"(\[[^]]+\]|[^:]+|[^\[]*:[^\[]*:[^\[]*)(?::([0-9*-]+))?", text)
    assert found, text
    host, port = found[1].strip("[]"), found[2] or "*"
    low, _, high = ("0-65535" if port == "*" else port).partition("-")
    if not int(low) <= peer.port <= int(high or low):
        return False
    if host == "*":
        return True
    if host != "localhost" and not re.fullmatch(r"[0-9.]+(/[0-9]+)?|.*:.*", host):
        return any(is_name(host, name) for name in peer.names)
    networks = ["127.0.0.0/8", "::1"] if host == "localhost" else [host]
    address = plain(peer.address)
    for text_of_network in networks:
        network = ipaddress.ip_network(text_of_network)
        if network.version == 6 and network.prefixlen >= 96 and plain(str(network[0])).version == 4:
            network = ipaddress.ip_network(f"{plain(str(network[0]))}/{network.prefixlen - 96}")
        if address in network:
            return True
    return False


def is_name(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and ("*" in pattern or name == pattern)


def plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
