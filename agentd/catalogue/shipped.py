"""The shipped catalogue by itself: which (tool, operation) a kernel operation is, whatever a policy says about it.

Policies are resolved together with the catalogue (`policy.resolve`); this is for what needs the names alone: the test
that every operation has one, label values of metrics, documentation.
"""

from __future__ import annotations

import functools

from agentd.model import Endpoint, Op
from agentd.policy.evaluate import decide
from agentd.policy.resolve import ResolvedAgent, load_text, shipped_catalogue

_NOBODY = b"version: 1\nagents: {nobody: {}}\n"


@functools.cache
def nobody() -> ResolvedAgent:
    """An agent without rules: its entries are the shipped catalogue and nothing else."""
    return load_text(_NOBODY, "nobody.yaml", workspace="/").agents["nobody"]


@functools.cache
def caller() -> ResolvedAgent:
    """An agent with a rule for every tool that stands for library calls: only such an agent has their entries."""
    tools = dict.fromkeys(entry.tool for entry in shipped_catalogue().entries if entry.calls)
    rules = "".join(f"      - {{tool: {tool}}}\n" for tool in tools)
    text = f"version: 1\nagents:\n  caller:\n    allow:\n{rules}"
    return load_text(text.encode(), "caller.yaml", workspace="/").agents["caller"]


def classify(op: Op, obj: bytes | Endpoint, argv: tuple[bytes, ...] = ()) -> tuple[str, str]:
    """The (tool, operation) of one kernel operation."""
    agent = nobody()
    return agent.toolops[decide(agent, op, obj, argv).toolop]


def toolops() -> tuple[tuple[str, str], ...]:
    """Every (tool, operation) of the shipped catalogue, in its order."""
    return tuple(dict.fromkeys((entry.tool, entry.operation) for entry in shipped_catalogue().entries))
