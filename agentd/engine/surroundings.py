"""What of the engine the questions need, handed to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentd.audit.record import Record
from agentd.policy.resolved import ResolvedAgent


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the engine the questions need. commit: is everything recorded on disk now; agents: kernel number -> name;
    agent: one of the policy in force; origin: how a workload came to be; denied: tells the workload what it was refused
    and why (reasons.py).
    """

    record: Callable[[Record], None]
    commit: Callable[[], bool]
    pump: Callable[[], int]
    agents: Callable[[], dict[int, str]]
    agent: Callable[[str], ResolvedAgent | None]
    origin: Callable[[int], str]
    denied: Callable[..., None]

    def strict(self, name: str) -> bool:
        """Does the agent's log come before everything? One that the policy doesn't name is treated as if."""
        agent = self.agent(name)
        return agent is None or agent.strict_audit

    def most_approvers(self, name: str) -> int:
        """As many people as any rule of the agent wants: for an operation whose rule isn't known any more."""
        agent = self.agent(name)
        return max((rule.approvers for rule in agent.rules), default=1) if agent else 1
