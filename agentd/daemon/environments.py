"""What an environment's files may set in the service's configuration: more, or more strictly, unless they say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentd.policy import source
from agentd.policy.layers import JoinedProblems, Part
from agentd.policy.source import Mapping, Node

NESTED: Final = frozenset({"audit", "console"})  # mappings whose keys are joined one by one
# What an environment may set where nobody else has: none of these can let an agent do more.
HARMLESS: Final = frozenset(
    {"metrics_address", "metrics_port", "program_times", "arena_mib", "audit", "notify", "pending_per_agent"}
)
SHORTENS: Final = frozenset({"audit.keep_days", "audit.keep_mib"})  # what is removed of the log


def check_environment(parts: Sequence[Part], theirs: set[str], problems: JoinedProblems) -> None:
    """An environment adds settings that can't loosen anything, unless it says that it may."""
    said: dict[str, Node] = {}
    for part in parts:
        strict = part.document.file in theirs and not part.loosens
        for key, value in _leaves(part.node):
            if key == "environment" and part.document.file in theirs:
                problems.error(value.line, value.column, key, "an environment can't choose another one", "remove it")
            elif strict and key in said and source.plain(said[key]) != source.plain(value):
                at = problems.where(said[key].line, said[key].column)
                _refuse(problems, key, value, f"{at} has another value, and an environment only adds")
            elif strict and key not in said and not _harmless(key, value):
                _refuse(problems, key, value, "an environment sets nothing that could loosen")
            said[key] = value


def _harmless(key: str, value: Node) -> bool:
    if key in SHORTENS or (key, source.plain(value)) == ("metrics_port", 0):
        return False
    return key.split(".")[0] in HARMLESS or (key, source.plain(value)) == ("on_stop", "keep")


def _refuse(problems: JoinedProblems, key: str, node: Node, why: str) -> None:
    problems.error(node.line, node.column, key, why, "say it elsewhere, or add `loosens: true` to this file")


def _leaves(node: Mapping) -> list[tuple[str, Node]]:
    found: list[tuple[str, Node]] = []
    for key, value in node.entries:
        if key.text in NESTED and isinstance(value, Mapping):
            found += [(f"{key.text}.{name.text}", below) for name, below in value.entries]
        else:
            found.append((key.text, value))
    return found
