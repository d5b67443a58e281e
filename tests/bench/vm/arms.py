"""What is measured: operations, arms, and the policy of the agents. Read by the host and by the guest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

FEW, MANY = 10, 10_000  # rules of the two agents


@dataclass(frozen=True, slots=True)
class Operation:
    """name: as ops.c calls it; count: how often in one round; first: it has a form that meets a new object each time,
    so often."""

    name: str
    title: str
    count: int
    first: int = 0


OPERATIONS: Final = (
    Operation("getppid", "getppid", 4000),
    Operation("stat", "stat", 2000),
    Operation("pipe", "pipe, there and back", 600),
    Operation("open3", "open+close, depth 3", 2000, 150),
    Operation("open12", "open+close, depth 12", 2000, 150),
    Operation("change", "create+rename+unlink", 500, 100),
    Operation("udp", "UDP send+receive", 1000, 100),
    Operation("tcp", "TCP connect", 250, 60),
    Operation("fork", "fork", 60),
    Operation("exec", "fork+exec", 40, 12),
)
FRESH: Final = max(operation.first for operation in OPERATIONS)
PROGRAMS: Final = next(operation.first for operation in OPERATIONS if operation.name == "exec")
# What the program that `exec` starts is linked with, by names without a symbolic link in them.
LIBRARIES: Final = tuple(
    os.path.realpath(f"/lib/x86_64-linux-gnu/{name}") for name in ("ld-linux-x86-64.so.2", "libc.so.6")
)


@dataclass(frozen=True, slots=True)
class Arm:
    """agent: of the measured process, None: of no workload. attached: a workload exists. run: with the seccomp filter
    that `agentd run` gives its command. About: what the column is."""

    name: str
    agent: str | None
    attached: bool
    run: bool
    about: str


ARMS: Final = (
    Arm("bare", None, False, False, "no workload exists, so no program is attached; the service runs"),
    Arm("bystander", None, True, False, "belongs to no workload, while others do"),
    Arm("tagged", "few", True, False, f"belongs to a workload under {FEW} rules, as the service tags it"),
    Arm("many", "many", True, False, f"the same under {MANY:,} rules"),
    Arm(
        "run", "few", True, True, f"as `tagged`, started by `agentd run`, so with its seccomp filter, under {FEW} rules"
    ),
)


def read_only(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """How a mapping that nobody may change comes out of a pickle, which knows no such type."""
    return MappingProxyType(content)


def write_policy(path: Path) -> None:
    """Two agents that may do everything but what a number of rules deny, none of which is ever met."""
    from agentd.policy.resolve import shipped_catalogue

    entries = shipped_catalogue().entries
    # no library calls: who looks for their functions waits for the host's files, and the clock here leaps over waits
    tools = sorted({entry.tool for entry in entries} - {entry.tool for entry in entries if entry.calls} - {"runtime"})
    lines = ["version: 1", "agents:"]
    for name, count in (("few", FEW), ("many", MANY)):
        rules = [
            '{tool: file_reader, paths: ["/etc/secret/**"]}', '{tool: secrets, paths: ["~/.ssh/**"]}',
            '{tool: email, hosts: ["10.0.0.0/8:25"]}', '{tool: shell, operations: [rm]}',
        ]  # fmt: skip
        for number in range((count - len(rules)) // 2):
            rules.append(f'{{tool: file_reader, paths: ["/srv/tenant-{number}/private/**"]}}')
            rules.append(f'{{tool: network, hosts: ["10.{number >> 8 & 255}.{number & 255}.0/24:443"]}}')
        lines += [f"  {name}:", "    deny:", *(f"      - {rule}" for rule in rules)]
        lines += ["    allow:", *(f"      - {{tool: {tool}}}" for tool in tools)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
