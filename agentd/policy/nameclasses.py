"""The classes of host names: what the kernel keeps of a name when it judges an address, one byte of the host key.

A class is a set of patterns that match a name, as far as it makes a difference: patterns that stand in the same rules
and entries and have the same ports are one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, cast

from agentd.model import HOST_OPS
from agentd.policy.automaton import Dfa, compile_globs
from agentd.policy.patterns import Dialect, Glob
from agentd.policy.resolved import ResolvedAgent

MAX_NAME_CLASSES: Final = 255  # 0 is the class of a name that no pattern matches


class NamePatterns:
    """The host patterns of an agent that have a name."""

    def __init__(self, agent: ResolvedAgent) -> None:
        users: dict[int, list[tuple[str, int]]] = {}
        for index, rule in enumerate(agent.rules):
            for number in rule.hosts or ():
                users.setdefault(number, []).append(("rule", index))
        for index, entry in enumerate(agent.entries):
            for number in entry.patterns if entry.op in HOST_OPS else ():
                users.setdefault(number, []).append(("entry", index))
        labels: dict[Hashable, int] = {}
        self._globs: list[Glob] = []
        self._labels: list[int] = []
        self._numbers: list[int] = []
        for number, pattern in enumerate(agent.host_patterns):
            if pattern.name is not None and number in users:
                key = (pattern.port_low, pattern.port_high, tuple(users[number]))
                self._globs.append(Glob(pattern.name, Dialect.ARGUMENT))
                self._labels.append(labels.setdefault(key, len(labels)))
                self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def compile(self, max_states: int) -> Dfa:
        """The automaton of names; what it accepts by is the class. Raises StateLimit."""
        return compile_globs(
            self._globs,
            lambda matched: tuple(sorted({self._labels[i] for i in matched})),
            max_states=max_states,
            labels=self._labels,
        )

    def classes(self, payloads: Sequence[Hashable]) -> dict[int, frozenset[int]]:
        """For each pattern, by its number in the agent, the classes of names that match it."""
        rows = cast("Sequence[tuple[int, ...]]", payloads)
        return {
            number: frozenset(index for index, row in enumerate(rows) if label in row)
            for number, label in zip(self._numbers, self._labels, strict=True)
        }
