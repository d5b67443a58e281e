"""The policy in force: compiled, installed in the kernel, and kept by generation, so that an event of an older
generation still finds the rule that decided it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from agentd.engine.archive import AgentView, Archive, view_of
from agentd.engine.automata import for_this_host
from agentd.errors import AgentdError
from agentd.kernel.prepare import MAX_ARENA_WORDS
from agentd.kernel.tables import PolicyTables, Prepared, arena_words_for
from agentd.model import Mode, Op
from agentd.policy import recognise, resolve
from agentd.policy.hosts import RESOLVERS
from agentd.policy.resolved import ResolvedAgent, ResolvedPolicy
from agentd.policy.tables import AgentTables, build
from agentd.policy.walk import PathWalk

KEPT_GENERATIONS: Final = 64
CANARY: Final = "(canary)"  # the agent that probes run as: it may do nothing. No policy can name it


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy whose tables are built, and so known to be loadable but for the room in the arena."""

    policy: ResolvedPolicy
    tables: dict[str, AgentTables]

    @property
    def names(self) -> bool:
        """Is anything decided by the name of a host?"""
        patterns = (pattern for agent in self.policy.agents.values() for pattern in agent.host_patterns)
        return any(pattern.name not in (None, RESOLVERS) for pattern in patterns)

    @property
    def words(self) -> int:
        """Words of all tables together."""
        return sum(len(tables.words) for tables in self.tables.values())

    def arena_words(self) -> int:
        """The arena this policy wants: itself twice, for a reload."""
        return arena_words_for(self.words)


def compile_policy(policy: ResolvedPolicy, *, max_words: int = MAX_ARENA_WORDS) -> Compiled:
    """Builds every agent's tables. Raises AgentdError `policy-too-large`."""
    kept = for_this_host()
    return Compiled(
        policy, {name: build(agent, max_words=max_words, automata=kept) for name, agent in policy.agents.items()}
    )


@dataclass(frozen=True, slots=True)
class InForce:
    """What judges an agent now, for the point that judges outside the kernel: replaced as a whole."""

    generation: int
    walk: PathWalk
    monitor: bool
    strict: bool


class PolicySet:
    """What is installed, and what earlier generations meant."""

    def __init__(self, tables: PolicyTables, archive: Archive) -> None:
        self._tables = tables
        self._archive = archive
        self._views: OrderedDict[tuple[int, int], AgentView] = OrderedDict(archive.load())
        self._slots: dict[str, int] = {}
        self.in_force: dict[int, InForce] = {}  # by the agent's number in the kernel
        self.current: ResolvedPolicy | None = None

    def install(self, compiled: Compiled) -> None:
        """Puts a compiled policy in force, agent by agent; each flips in one step.

        All tables are built and must fit before the first one is installed. An agent that the new policy doesn't name
        but that the kernel knows (it may have workloads) is denied everything.
        """
        for name in {CANARY, recognise.NAME} & set(compiled.tables):
            raise AgentdError(
                "policy-invalid", compiled.policy.source, f"the name {name} is agentd's own", "choose another"
            )
        fresh: dict[tuple[int, int], AgentView] = {}
        gone = {name for name in self._tables.names() if name not in compiled.tables and name != recognise.NAME}
        everything = dict(compiled.tables)
        agents = dict(compiled.policy.agents)
        for name in gone:
            agents[name] = _canary() if name == CANARY else _nobody(name, compiled.policy)
            everything[name] = build(agents[name], max_words=MAX_ARENA_WORDS, automata=for_this_host())
        prepared: dict[str, Prepared] = {}
        try:
            for name, tables in everything.items():
                agent = agents[name]
                prepared[name] = self._tables.prepare(name, tables, mode=agent.mode, strict=agent.strict_audit)
        except BaseException:
            for one in prepared.values():
                self._tables.give_up(one)
            raise
        for name, tables in everything.items():
            agent = agents[name]
            put = self._tables.flip(prepared[name])
            self._slots[name] = put.agent
            monitor = agent.mode is Mode.MONITOR
            self.in_force[put.agent] = InForce(put.generation, PathWalk(tables), monitor, agent.strict_audit)
            fresh[put.agent, put.generation] = view_of(name, agent, tables.outcomes, compiled.policy.sha256)
        self._views.update(fresh)
        self._archive.keep(fresh)
        while len(self._views) > KEPT_GENERATIONS + len(everything):
            self._views.popitem(last=False)
        self.current = compiled.policy

    def judges(self, op: Op, compiled: Compiled) -> bool:
        """Is anybody not allowed `op` on every object when this is in force? An agent that it doesn't name, say."""
        known = set(self._tables.names()) - {CANARY, recognise.NAME}
        agents = compiled.policy.agents
        return not known <= set(agents) or not all(agent.allows_all(op) for agent in agents.values())

    def canary_slot(self) -> int:
        """The kernel's number of the canary agent; installed if it isn't. Raises AgentdError `policy-too-large`."""
        known = self._tables.names().get(CANARY)
        if known is not None:
            return known
        agent = _canary()
        tables = build(agent, max_words=MAX_ARENA_WORDS, automata=for_this_host())
        put = self._tables.install(CANARY, tables, mode=Mode.ENFORCE, strict=False)
        self.in_force[put.agent] = InForce(put.generation, PathWalk(tables), False, False)
        return put.agent

    def agent(self, name: str) -> ResolvedAgent | None:
        """An agent of the policy in force; None: it names none such."""
        return self.current.agents.get(name) if self.current else None

    def view(self, agent: int, generation: int) -> AgentView | None:
        """What a generation meant; None: installed by an agentd before this one, whose notes are lost."""
        return self._views.get((agent, generation))

    def slot(self, name: str) -> int:
        """The kernel's number of an agent of the policy in force. Raises AgentdError `unknown-agent`."""
        if self.current is None or name not in self.current.agents:
            known = ", ".join(sorted(self.current.agents)) if self.current else ""
            raise AgentdError(
                "unknown-agent", f"agent {name!r}", "the policy doesn't name it", f"choose one of: {known}"
            )
        return self._slots[name]

    def names(self) -> dict[int, str]:
        """Kernel number -> agent name, of every agent the kernel knows."""
        return {index: name for name, index in self._tables.names().items()}


def _canary() -> ResolvedAgent:
    """The agent of the probes: whatever it does is denied, with EPERM where that is possible."""
    document = b"version: 1\nagents:\n  canary:\n    on_violation: deny\n    deny: []\n"
    agent = resolve.load_text(document, "canary", workspace="/").agents["canary"]
    return dataclasses.replace(agent, name=CANARY, rules=())  # the runtime baseline too: nothing is allowed


def _nobody(name: str, policy: ResolvedPolicy) -> ResolvedAgent:
    """An agent without a single rule, with the catalogue that the policy's agents share."""
    donor = next(iter(policy.agents.values()), None)
    if donor is None:
        raise AgentdError("policy-invalid", policy.source, "it names no agent", "name at least one under agents:")
    return dataclasses.replace(donor, name=name, rules=(), match=(), mode=Mode.ENFORCE)
