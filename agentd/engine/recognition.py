"""Puts the rules of `match:` into the kernel, beside the policy (bpf/match.bpf.c), and knows what they were later.

Their tables are those of the agent `(match)`; what each number means stands in the map `matches`, in two sets as an
agent has two tables, so that a flip changes both at once.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agentd.audit.canonical import Json
from agentd.audit.record import Record
from agentd.engine import coverage
from agentd.engine.automata import for_this_host
from agentd.engine.census import Census
from agentd.engine.records import Names, note
from agentd.errors import AgentdError
from agentd.kernel import abi, features
from agentd.kernel.loader import LoadedObject
from agentd.kernel.matches import Meaning, write_container, write_matches
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tables import PolicyTables, Prepared
from agentd.model import Mode, Point
from agentd.policy import recognise
from agentd.policy.recognise import NAME, Recognition
from agentd.policy.resolved import ResolvedPolicy
from agentd.policy.tables import build
from agentd.workloads import processes

KEPT: Final = 16  # generations whose rules are known: an event may be older than the rules of now
MAX_WORDS: Final = 64 << 20
WAITS: Final = "waits until the labels of its container are known"
UNKNOWN: Final = "match, by a policy before this one"


@dataclass(frozen=True, slots=True)
class Ready:
    """Rules whose tables are written and not in force. prepared: None if there are no rules."""

    rules: tuple[Recognition, ...]
    prepared: Prepared | None


class Recognisers:
    """The rules in force of one engine. look: at what a program was given, by why and workload; uid_of: the number of a
    user, None: nothing is recognised; slices: see recognise.
    """

    def __init__(
        self,
        loaded: LoadedObject,
        tables: PolicyTables,
        workloads: Census,
        record: Callable[[Record], None],
        look: Collection[Callable[[str, int], None]],
        uid_of: Callable[[str], int | None] | None,
        *,
        slices: bool,
    ) -> None:
        self.rules: tuple[Recognition, ...] = ()
        # Told pid, start in ticks and workload of a program that waits; see daemon/labels.py.
        self.on_asked: Callable[[int, int, int], None] | None = None
        self._loaded = loaded
        self._tables = tables
        self._workloads = workloads
        self._record = record
        self._look = look
        self._uid_of = uid_of
        self._slices = slices
        self._generation = 0
        self._known: OrderedDict[int, tuple[Recognition, ...]] = OrderedDict()

    @contextlib.contextmanager
    def prepared(self, policy: ResolvedPolicy) -> Iterator[None]:
        """Around the change to a policy: its rules are in force afterwards, and stay as they were if it fails.

        Raises AgentdError `policy-too-large`, and `policy-invalid` for cgroups that the host doesn't use; nothing has
        changed then.
        """
        if self._uid_of is None:
            yield
            return
        ready = self._prepare(policy, self._uid_of)
        try:
            yield
        except BaseException:
            if ready.prepared:
                self._tables.give_up(ready.prepared)
            raise
        if ready.rules:
            self._loaded.watch()
        self._flip(ready, policy)

    def _prepare(self, policy: ResolvedPolicy, uid_of: Callable[[str], int | None]) -> Ready:
        placed = features.cgroup2_root() != features.PRIVATE_CGROUP2
        rules = recognise.recognitions(policy, uid_of, slices=self._slices and placed)
        if not rules:
            return Ready((), None)
        if not placed and (blind := next((rule for rule in rules if rule.agent and rule.cgroups), None)):
            why = "this host has no process in a cgroup of version 2"
            raise AgentdError("policy-invalid", blind.why, why, "recognise it by exe, user or env")
        donor = next(iter(policy.agents.values()))
        tables = build(recognise.agent_of(rules, donor), max_words=MAX_WORDS, automata=for_this_host())
        return Ready(rules, self._tables.prepare(NAME, tables, mode=Mode.ENFORCE, strict=False))

    def _flip(self, ready: Ready, policy: ResolvedPolicy) -> None:
        control = self._loaded.control
        self.rules = ready.rules
        if ready.prepared is None:
            control.match = 0
            return
        slots = self._tables.names()
        meanings = []
        weak = self._below_minimum(policy)
        variables = {text: bit for bit, text in enumerate(recognise.variables_of(ready.rules))}
        for rule in ready.rules:
            flags = abi.MATCH_USED
            if rule.exempt:
                flags |= abi.MATCH_EXEMPT
            elif rule.refuse or rule.agent in weak:
                flags |= abi.MATCH_REFUSE
            if rule.labels:
                flags |= abi.MATCH_LABEL
            meanings.append(Meaning(slots.get(rule.agent, 0), flags, recognise.needs(rule, variables)))
        meanings += [Meaning(0, abi.MATCH_USED | abi.MATCH_VARIABLE, bit=bit) for bit in variables.values()]
        write_matches(self._loaded, ready.prepared.target, meanings)
        installed = self._tables.flip(ready.prepared)
        self._generation = installed.generation
        self._known[installed.generation] = ready.rules
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        control.host_mounts = processes.mount_namespace(1) or processes.mount_namespace(os.getpid())
        control.match_variables = int(bool(variables))
        control.match = installed.agent + 1

    def _below_minimum(self, policy: ResolvedPolicy) -> frozenset[str]:
        """The agents whose policies want more than this host gives to what it recognises."""
        covers = coverage.of_host(Point(self._loaded.control.point), self._loaded.prevented)
        weak = set()
        for agent in policy.agents.values():
            try:
                coverage.require(agent, covers)
            except AgentdError:
                weak.add(agent.name)
        return frozenset(weak)

    def matched(self, event: KernelEvent, agent: str, names: Names) -> None:
        """A program began a workload."""
        workload = self._workloads.begun(event.workload, agent, self.rule(event.reason, event.generation))
        metadata: dict[str, Json] = {"workload": workload.number, "pid": event.pid, "threads": 1}
        self._record(note("tagged", workload.origin, agent=agent, metadata=metadata))
        for judge in self._look:
            judge(workload.origin, workload.number)

    def unmatched(self, event: KernelEvent, agent: str, names: Names) -> None:
        """A program was not let run."""
        rule = self.rule(event.reason, event.generation)
        self._record(note("denied", f"process {event.pid} may not run and was killed: {rule}"))

    @property
    def labelled(self) -> bool:
        """Is a rule about labels of containers?"""
        return any(rule.labels for rule in self.rules)

    def asked(self, event: KernelEvent, agent: str, names: Names) -> None:
        """A program waits until the labels of its container are known."""
        self._workloads.begun(event.workload, NAME, WAITS)
        if self.on_asked:
            self.on_asked(event.pid, processes.ticks(event.start_time), event.workload)

    def learn(self, cgroup: int, labels: Mapping[str, str]) -> None:
        """The labels of the container whose processes are in a cgroup, for the programs that begin there later."""
        if self.labelled:
            numbers = [number for number, rule in enumerate(self.rules) if recognise.says(labels, rule)]
            write_container(self._loaded, cgroup, self._generation, min(numbers, default=abi.NO_MATCH))

    def rule(self, number: int, generation: int) -> str:
        """What a rule said, in words, whose number an event has."""
        rules = self._known.get(generation, ())
        return rules[number].why if number < len(rules) else UNKNOWN
