"""Random policies, and objects that are near their patterns."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from hypothesis import strategies as st

from tests.bpf.naive import CATALOGUE, FILE_OPS, HOST_OPS, WORD_OPS, Peer, entries_of

WORKSPACE: Final = "/home/me/my [project]"
SHIPPED: Final = list(entries_of(CATALOGUE))
TOOLOPS: Final = sorted({(entry.tool, entry.operation) for entry in SHIPPED})

# -- policies, as documents

_PART = st.sampled_from(
    ["a", "b", "data", "é", "*", "**", "*.txt", "x?", "?", "[ab]*", "[!a]", "[a-c]x", r"\*", "-", " ", "a*b*c", "tool"]
)
_PATH = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["/", "/srv/", "", "./", "~/", "**/", "/home/me/"]),
    st.lists(_PART, min_size=1, max_size=4),
)
_WORDS: Final = ["**", "*:*", "unshare:*", "ptrace:*", "u*", "inet:raw", "*"]
_PROGRAM = st.one_of(st.just("**"), _PATH.filter(lambda text: "/" in text))
_ARGUMENT = st.sampled_from(
    [
        "a",
        "-x",
        "--long=*",
        "*rm*",
        "push",
        "of=/dev/*",
        "?",
        "[ab]",
        "[!a]",
        r"\*",
        "é*",
        "*",
        "a*b*c",
        "-[fr]*",
        "x" * 40,
    ]
)
_HOST = st.sampled_from(
    [
        "10.0.0.0/8",
        "10.1.2.3",
        "10.1.2.3:443",
        "*:80",
        "*:1000-2000",
        "localhost",
        "fe80::/10",
        "[2001:db8::1]:443",
        "::1",
        "2001:db8::/33",
        "0.0.0.0/0",
        "::/0",
        "[::ffff:10.0.0.0/104]:443",
        "*",
        "10.0.0.0/8:0",
        "128.0.0.0/1:1024-65535",
        "www.example.com:443",
        "*.example.com",
        "*.example.com:80",
        "example.org:443",
        "*.org:1-1024",
    ]
)
_RISK = st.sampled_from(["low", "medium", "high", "critical"])
_OWN: Final = [("work", "look"), ("work", "change"), ("odd", "look"), ("shell", "execute"), ("file_reader", "read")]


def _some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


def _rule(section: str, toolops: Sequence[tuple[str, str]], *, aegize: bool) -> st.SearchStrategy[dict[str, Any]]:
    def with_tool(toolop: tuple[str, str]) -> st.SearchStrategy[dict[str, Any]]:
        others = sorted({operation for tool, operation in toolops if tool == toolop[0]})
        parts = {
            "operations": st.one_of(st.just([toolop[1]]), st.lists(st.sampled_from(others), min_size=1, max_size=3)),
            "risk_level_max": _RISK,
        }
        if aegize:
            parts["paths"] = st.lists(st.one_of(_AEGIZE_PATH, _PATH), min_size=1, max_size=4)
        else:
            parts["paths"] = st.lists(_PATH, min_size=1, max_size=4)
            parts["hosts"] = st.lists(_HOST, min_size=1, max_size=3)
        if section == "require_approval" and not aegize:
            parts["timeout"] = st.integers(1, 604800)
        if section == "deny" and not aegize:
            parts["action"] = st.sampled_from(["deny", "kill", "pause"])
        return _some(**parts).map(lambda rule: {"tool": toolop[0], **rule})

    return st.sampled_from(toolops).flatmap(with_tool)


_AEGIZE_PATH = st.text(alphabet="ab/*?[]!-.é\\ ", min_size=1, max_size=12)


def _sections(toolops: Sequence[tuple[str, str]], *, aegize: bool) -> dict[str, st.SearchStrategy[Any]]:
    return {
        section: st.lists(_rule(section, toolops, aegize=aegize), min_size=1, max_size=6)
        for section in ("allow", "require_approval", "deny")
    }


def _entry() -> st.SearchStrategy[dict[str, Any]]:
    risk = _some(risk=_RISK)
    program = st.fixed_dictionaries(
        {"exec": st.lists(_PROGRAM, min_size=1, max_size=3)},
        optional={"args": st.lists(_ARGUMENT, min_size=1, max_size=4)},
    )
    paths = st.lists(_PATH, min_size=1, max_size=3)
    file = st.dictionaries(st.sampled_from(FILE_OPS[1:]), paths, min_size=1, max_size=3)
    word = st.dictionaries(
        st.sampled_from(WORD_OPS), st.lists(st.sampled_from(_WORDS), min_size=1, max_size=2), min_size=1, max_size=2
    )
    host = st.dictionaries(st.sampled_from(HOST_OPS), st.lists(_HOST, min_size=1, max_size=3), min_size=1, max_size=2)
    return st.tuples(st.one_of(program, program, file, word, host), risk).map(lambda two: {**two[0], **two[1]})


def _tools() -> st.SearchStrategy[dict[str, Any]]:
    def grouped(rows: list[tuple[tuple[str, str], dict[str, Any]]]) -> dict[str, Any]:
        tools: dict[str, Any] = {}
        for (tool, operation), entry in rows:
            tools.setdefault(tool, {}).setdefault(operation, []).append(entry)
        return tools

    return st.lists(st.tuples(st.sampled_from(_OWN), _entry()), max_size=8).map(grouped)


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """A policy of one agent, `bot`, in either language."""
    optional = {
        "mode": st.sampled_from(["enforce", "enforce", "monitor"]),
        "workspace": st.sampled_from(["/", "/srv", "/srv/we*rd"]),
    }
    sections = _sections([*_OWN * 3, *TOOLOPS], aegize=False)
    violation = {"on_violation": st.sampled_from(["kill", "deny", "pause"])}
    agent = st.fixed_dictionaries({**violation, **sections}, optional=optional)
    modern = st.fixed_dictionaries(
        {
            "version": st.just(1),
            "tools": _tools(),
            "agents": st.fixed_dictionaries({"bot": agent}),
        }
    )
    old = st.fixed_dictionaries(
        {"agents": st.fixed_dictionaries({"bot": _some(**_sections(TOOLOPS, aegize=True)).filter(bool)})}
    )
    return st.one_of(modern, modern, old)


def text_of(document: dict[str, Any]) -> bytes:
    """JSON, which is YAML too."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


# -- objects

_LETTERS: Final = "ab*cx.-_é /\\"


def near(random: Random, pattern: str) -> bytes:
    """A string that matches the pattern, or almost."""
    parts: list[bytes] = []
    for piece in re.findall(r"\\.|\*\*|\*|\?|\[[^\]]*\]|.", pattern, re.DOTALL):
        if piece == "**":
            parts.append("/".join(random.choice(["a", "b", "data", ""]) for _ in range(random.randint(0, 3))).encode())
        elif piece == "*":
            parts.append("".join(random.choice(_LETTERS) for _ in range(random.randint(0, 3))).encode())
        elif len(piece) > 1 and piece[0] == "[":
            parts.append(random.choice(piece[1:-1] or "a").encode())
        elif piece == "?":
            parts.append(random.choice([b"a", b"?", b"/", "é".encode(), b"\xff"]))
        else:
            parts.append(piece[-1].encode())
    data = b"".join(parts)
    if random.random() < 0.4:
        data = mutated(random, data)
    return data.replace(b"\0", b"")[:250] or b"/"


def mutated(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    match random.randrange(7):
        case 0:
            return data[:at] + data[at + 1 :]
        case 1:
            return data[:at] + bytes((random.randint(1, 255),)) + data[at:]
        case 2:
            return data[:at] + bytes((random.randint(1, 255),)) + data[at + 1 :]
        case 3:
            return data + b"/x"
        case 4:
            return data.rpartition(b"/")[0]
        case 5:
            return data.replace(b"/", b"//", 1)
        case _:
            return data[at:] + data[:at]


def anchored(pattern: str, workspace: str) -> str:
    if pattern.startswith("~"):
        return "/home/you" + pattern[1:]
    if pattern.startswith(("/", "**", "anon:", "@")) or ":" in pattern:
        return pattern
    return f"{workspace}/{pattern.removeprefix('./')}"


def pool(random: Random, size: int) -> list[bytes]:
    """Objects near the shipped catalogue's patterns; made once, so that the naive matcher sees them once."""
    patterns = [pattern for entry in SHIPPED if entry.op not in HOST_OPS for pattern in entry.patterns]
    return [near(random, anchored(random.choice(patterns), WORKSPACE)) for _ in range(size)]


def own_objects(random: Random, document: dict[str, Any], size: int) -> list[bytes]:
    """Objects near the policy's own patterns; empty if it has none."""
    agent = document["agents"]["bot"]
    patterns = [
        text
        for section in ("allow", "require_approval", "deny")
        for rule in agent.get(section, ())
        for text in rule.get("paths", ())
    ]
    patterns += [text for entry in entries_of(document) if entry.op not in HOST_OPS for text in entry.patterns]
    workspace = agent.get("workspace", WORKSPACE)
    return [near(random, anchored(random.choice(patterns), workspace)) for _ in range(size)] if patterns else []


def argvs(random: Random, document: dict[str, Any], size: int) -> list[tuple[bytes, ...]]:
    """Argument vectors near the globs of the policy and of the catalogue, some longer than the kernel's buffers."""
    globs = [glob for entry in (*entries_of(document), *SHIPPED) for glob in entry.args or ()]
    own = [glob for entry in entries_of(document) for glob in entry.args or ()] or globs
    found: list[tuple[bytes, ...]] = [(), (b"tool",)]
    while len(found) < size:
        arguments = [near(random, random.choice(random.choice((globs, own)))) for _ in range(random.randint(0, 4))]
        if random.random() < 0.05:  # beyond one buffer, and beyond two
            filler = bytes((random.choice(b"ax-"),)) * random.randint(1, 5000)
            arguments = [filler] * random.randint(1, 3) + arguments
        if random.random() < 0.1:
            arguments.append(b"")
        found.append((near(random, random.choice(globs)), *arguments))
    return found


def peers(random: Random, size: int) -> list[tuple[Peer, str]]:
    """Endpoints inside, at the edge of, and outside the networks that the policies name; most with the names of their
    address, if it has any.
    """
    bases = ["10.0.0.0", "10.1.2.3", "127.0.0.1", "128.0.0.0", "fe80::", "2001:db8::1", "2001:db8:8000::", "::1", "::"]
    bases += ["0.0.0.0", "::ffff:10.1.2.3", "::ffff:127.0.0.1", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    ports = [0, 1, 22, 23, 53, 79, 80, 81, 443, 999, 1000, 1024, 2000, 2001, 5432, 6379, 65535]
    found = []
    names = [
        "www.example.com",
        "a.b.example.com",
        "example.com",
        "evilexample.com",
        "example.org",
        "x.org",
        "www.google.com",
    ]
    known: dict[bytes, tuple[str, ...]] = defaultdict(lambda: tuple(random.sample(names, random.randint(0, 3))))
    for _ in range(size):
        address = ipaddress.ip_address(random.choice(bases))
        near_by = (int(address) + random.choice([0, 0, 0, 1, -1, 255, 1 << 24])) % (1 << address.max_prefixlen)
        peer = Peer(str(type(address)(near_by)), random.choice([*ports, random.randint(0, 65535)]))
        if random.random() < 0.7:
            peer = Peer(peer.address, random.choice([80, 443, 443, peer.port]), known[address_of(peer)])
        found.append((peer, random.choice(["tcp", "udp"])))
    return found


def address_of(peer: Peer) -> bytes:
    """Raw, a mapped address as IPv4."""
    address = ipaddress.ip_address(peer.address)
    return (getattr(address, "ipv4_mapped", None) or address).packed
