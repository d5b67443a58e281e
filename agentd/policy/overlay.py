"""The overlay of a policy: rules that people have approved for good, in a document of its own.

They stand behind deny and before require_approval: what is denied stays denied, and what was asked about is allowed.
"""

from __future__ import annotations

import dataclasses

from agentd.policy.ir import OVERLAY_SECTION, Language, RuleSource
from agentd.policy.parse import check_unique_ids, parse_language, parse_section
from agentd.policy.problem import Problems
from agentd.policy.reader import Reader
from agentd.policy.source import Node


def parse_overlay(node: Node, problems: Problems) -> dict[str, tuple[RuleSource, ...]]:
    """The rules of an overlay, by agent: a document with `version: 1` whose agents have only `approved:`."""
    root = Reader(node, "", problems)
    if parse_language(root) is not Language.AGENTD:
        root.error("an overlay is a document with `version: 1`", "add that line at the top")
    top = root.keys(("version", "agents")) or {}
    found: dict[str, tuple[RuleSource, ...]] = {}
    for name, reader in top["agents"].names("the name of an agent") if "agents" in top else ():
        keys = reader.keys((OVERLAY_SECTION,)) or {}
        rules = parse_section(OVERLAY_SECTION, keys[OVERLAY_SECTION], Language.AGENTD) if keys else []
        for rule in rules:
            if rule.timeout is not None or rule.approvers > 1 or rule.action is not None:
                at = rule.at
                problems.error(
                    at.line, at.column, at.path, "an approved rule asks nobody", "remove what is about asking"
                )
        check_unique_ids(rules, reader)
        found[name] = tuple(dataclasses.replace(rule, file=problems.file) for rule in rules)
    return found
