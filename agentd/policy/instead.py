"""What would be allowed instead of an operation that was denied: said to the agent, which can only learn from it."""

from __future__ import annotations

from typing import Final

from agentd.model import Decision, Family, Op
from agentd.policy.resolved import BASELINE, ResolvedAgent, Rule

SHOWN: Final = 4  # rules, and globs or hosts of a rule


def instead(agent: ResolvedAgent, op: Op, tool: str, operation: str) -> str:
    """One line: the rules that allow this operation elsewhere, else those that allow the same kind of kernel operation
    as another tool's, else that there are none. Rules that ask a person come behind, and say so.
    """
    rules = sorted(agent.rules, key=lambda rule: rule.decision)  # those that ask nobody first
    same = [rule for rule in rules if rule.names(tool, operation)]
    said = [_say(rule, tool, operation, op) for rule in same if _helps(rule, op)]
    if not any(said):
        toolops = dict.fromkeys((entry.tool, entry.operation) for entry in agent.entries if entry.op is op)
        said = [
            _say(rule, *toolop, op)
            for rule in rules
            if _helps(rule, op)
            for toolop in toolops
            if rule.names(*toolop) and toolop not in BASELINE and toolop != (tool, operation)
        ]
    said = list(dict.fromkeys(filter(None, said)))
    if not said:
        return f"nothing: no rule lets this agent {op.word} as {tool}/{operation} anything; ask whoever runs it"
    more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more


def _helps(rule: Rule, op: Op) -> bool:
    """Can the rule let an operation of this kind happen?"""
    if rule.decision is Decision.DENY or rule.tool is None:
        return False
    limited = rule.paths_text is not None or rule.hosts_text is not None
    return not limited or (rule.paths_text if op.family is Family.PATH else rule.hosts_text) is not None


def _say(rule: Rule, tool: str, operation: str, op: Op) -> str:
    if (tool, operation) in BASELINE:
        return ""
    texts = rule.paths_text if op.family is Family.PATH else rule.hosts_text
    word = "in" if op.family is Family.PATH else "to"
    where = ""
    if texts is not None:
        listed = ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")
        where = f" {word} {listed}"
    asks = " after a person has approved it" if rule.decision is Decision.REQUIRE_APPROVAL else ""
    return f"{tool}/{operation}{where}{asks}"
