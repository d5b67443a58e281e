"""What the numbers in events meant, by generation: the names of tools, operations and rules, for the agentd after this.

Events wait in the kernel's ring while no agentd runs, and the next one installs the policy under new generation
numbers. Without these notes it would know that something was denied, and not by which rule. Only the newest generations
are kept: what is older has left the ring. A note that can't be written costs names, nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.kernel import abi
from agentd.model import Action, Decision, Risk
from agentd.policy.resolved import RULE_ABOVE, RULE_DEFAULT, RULE_GUARD, RULE_UNRESOLVED, Outcome, ResolvedAgent

KEPT: Final = 2  # generations of each agent


@dataclass(frozen=True, slots=True)
class AgentView:
    """What one generation of one agent's tables means."""

    name: str
    toolops: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    policy_sha256: str
    terms: tuple[tuple[str, int], ...] = ()  # of each rule: digest, approvers

    def toolop(self, number: int) -> tuple[str, str]:
        """(tool, operation) of a number that the kernel gave."""
        return self.toolops[number] if number < len(self.toolops) else ("unknown", "unknown")

    def rule_id(self, number: int) -> str:
        """The stable id of a rule index that the kernel gave (AGENTD_RULE_*)."""
        if number in (abi.RULE_DEFAULT, RULE_DEFAULT):
            return "default-deny"
        if number in (abi.RULE_GUARD, RULE_GUARD):
            return "guard"
        if number in (abi.RULE_ABOVE, RULE_ABOVE):
            return "above"
        if number in (abi.RULE_UNRESOLVED, RULE_UNRESOLVED):
            return "unresolved"
        return self.rules[number] if number < len(self.rules) else f"rule-{number}"

    def rule_terms(self, number: int) -> tuple[str, int]:
        """(Digest of what the rule says, how many people must say yes) of a rule index; no rule: ("", 1)."""
        return self.terms[number] if number < len(self.terms) else ("", 1)


def view_of(name: str, agent: ResolvedAgent, outcomes: tuple[Outcome, ...], sha256: str) -> AgentView:
    """What a generation of `agent` means."""
    return AgentView(
        name,
        tuple(agent.toolops),
        tuple(rule.id for rule in agent.rules),
        outcomes,
        sha256,
        tuple((rule.digest, rule.approvers) for rule in agent.rules),
    )


class Archive:
    """The notes of one set of pins. identity: of that set; notes of another one are not believed."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def load(self) -> dict[tuple[int, int], AgentView]:
        """Every note that can be read, by agent and generation."""
        found = {}
        for agent, generation, path in self._notes():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                note = json.loads(path.read_text(encoding="utf-8"))
                if note["set"] == self._identity:
                    found[agent, generation] = _view(note)
        return found

    def keep(self, views: Mapping[tuple[int, int], AgentView]) -> None:
        """Writes notes of the generations in force, and removes those that are too old."""
        for (agent, generation), view in views.items():
            note = {
                "set": self._identity,
                "name": view.name,
                "toolops": view.toolops,
                "rules": view.rules,
                "outcomes": [(o.decision, o.action, o.risk, o.rule, o.toolop, o.timeout) for o in view.outcomes],
                "sha256": view.policy_sha256,
                "terms": view.terms,
            }
            with contextlib.suppress(OSError):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                path = self._folder / f"{agent}-{generation}.json"
                path.write_text(json.dumps(note), encoding="utf-8")
        by_agent: dict[int, list[tuple[int, Path]]] = {}
        for agent, generation, path in self._notes():
            by_agent.setdefault(agent, []).append((generation, path))
        for notes in by_agent.values():
            for _, path in sorted(notes)[:-KEPT]:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _notes(self) -> list[tuple[int, int, Path]]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.iterdir():
            agent, _, generation = path.stem.partition("-")
            if agent.isdigit() and generation.isdigit():
                found.append((int(agent), int(generation), path))
        return found


def _view(note: dict[str, object]) -> AgentView:
    toolops = tuple((str(tool), str(operation)) for tool, operation in _list(note["toolops"]))
    outcomes = tuple(
        Outcome(Decision(decision), Action(action), Risk(risk), int(rule), int(toolop), int(timeout))
        for decision, action, risk, rule, toolop, timeout in _list(note["outcomes"])
    )
    rules = tuple(str(rule) for rule in _list(note["rules"]))
    terms = tuple((str(digest), int(approvers)) for digest, approvers in _list(note["terms"]))
    return AgentView(str(note["name"]), toolops, rules, outcomes, str(note["sha256"]), terms)


def _list(value: object) -> list:  # type: ignore[type-arg]
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value
