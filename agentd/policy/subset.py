"""The subset construction: a deterministic graph out of an `Nfa`, sparse against one default target a state.

A state that is a single plain position is not expanded byte by byte: the whole literal stretch is one chain edge. Work
is bounded: a policy whose states multiply is refused while that is still cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from agentd.policy.nfa import Closure, Nfa
from agentd.policy.patterns import ALL

CHAIN: Final = -1  # in Graph.default: labels[s] is a literal, targets[s][0] what follows it
DEAD: Final = 0
ENTRIES_MAX: Final = 1_800_000  # members and explicit edges held at once; about 60 MB
_STATE_COST: Final = 12  # what a state itself takes, in entries


class StateLimit(Exception):
    """More states than allowed. `limit`: what was allowed; `reached`: how many there were when work stopped."""

    def __init__(self, limit: int, reached: int, patterns: int) -> None:
        super().__init__(f"{patterns} patterns need more than {reached} automaton states; the limit is {limit}")
        self.limit = limit
        self.reached = reached
        self.patterns = patterns


class Graph:
    """State s goes to targets[s][i] on labels[s][i], on any other byte to default[s]. State 0 is dead."""

    def __init__(self) -> None:
        self.labels: list[bytes] = []
        self.targets: list[tuple[int, ...]] = []
        self.default: list[int] = []
        self.payload: list[int] = []  # index into payloads; 0 is the payload of no match
        self.payloads: list[Hashable] = []
        self.start = DEAD


class _Determiniser:
    def __init__(
        self,
        nfa: Nfa,
        payload: Callable[[frozenset[int]], Hashable],
        *,
        patterns: int,
        max_states: int,
        chains: bool,
    ) -> None:
        self.nfa = nfa
        self.payload = payload
        self.patterns = patterns
        self.max_states = max_states
        self.chains = chains
        self.graph = Graph()
        self.members: list[Closure] = []
        self.numbers: dict[Closure, int] = {}
        self.entries = 0
        self.by_set: dict[frozenset[int], int] = {}
        self.by_payload: dict[Hashable, int] = {}

    def run(self) -> Graph:
        graph = self.graph
        self.number(())
        graph.start = self.number(self.nfa.closure(0))
        state = 0
        while state < len(self.members):  # `expand` appends
            self.expand(state)
            self.members[state] = ()  # the tuple lives on as the key only
            state += 1
        return graph

    def number(self, members: Closure) -> int:
        state = self.numbers.get(members)
        if state is not None:
            return state
        short = self.nfa.pruned(members)
        if short != members:
            state = self.number(short)
        else:
            state = len(self.members)
            self.members.append(members)
            self.graph.payload.append(self.payload_of(members))
        self.numbers[members] = state
        self.entries += len(members) + _STATE_COST
        if self.entries > ENTRIES_MAX:
            raise StateLimit(self.max_states, len(self.members), self.patterns)
        return state

    def payload_of(self, members: Closure) -> int:
        accepts = self.nfa.accepts
        matched = frozenset(i for p in members if p in accepts for i in accepts[p])
        index = self.by_set.get(matched)
        if index is None:
            value = self.payload(matched)
            index = self.by_payload.setdefault(value, len(self.by_payload))
            if index == len(self.graph.payloads):
                self.graph.payloads.append(value)
            self.by_set[matched] = index
        return index

    def expand(self, state: int) -> None:
        nfa, graph = self.nfa, self.graph
        members = self.members[state]
        if self.chains and len(members) == 1 and nfa.plain[members[0]]:
            end = nfa.plain.find(0, members[0])
            graph.labels.append(bytes(nfa.lits[members[0] : end]))
            graph.targets.append((self.number(nfa.closure(end)),))
            graph.default.append(CHAIN)
            return
        narrow: dict[int, list[Closure]] = {}
        wide: list[tuple[int, Closure]] = []
        for position in members:
            if nfa.plain[position]:
                narrow.setdefault(nfa.lits[position], []).append(nfa.closure(position + 1))
                continue
            moves = nfa.moves(position)
            for byte, target in moves.narrow:
                narrow.setdefault(byte, []).append(target)
            wide.extend(moves.wide)
        common = -1
        for mask, _ in wide:
            common &= mask
        base = [target for _, target in wide]
        default = self.number(_union(base))
        holes = ALL & ~common
        while holes:
            byte = (holes & -holes).bit_length() - 1
            narrow.setdefault(byte, [])
            holes &= holes - 1
        labels = bytearray()
        targets: list[int] = []
        for byte in sorted(narrow):
            shared = base if common >> byte & 1 else [target for mask, target in wide if mask >> byte & 1]
            following = self.number(_union(shared + narrow[byte]))
            if following != default:
                labels.append(byte)
                targets.append(following)
        if len(labels) == 256:  # no byte is left for the default
            default = targets[0]
            kept = [i for i in range(256) if targets[i] != default]
            labels, targets = bytearray(kept), [targets[i] for i in kept]
        self.entries += len(labels)
        graph.labels.append(bytes(labels))
        graph.targets.append(tuple(targets))
        graph.default.append(default)


def _union(parts: list[Closure]) -> Closure:
    if len(parts) == 1:
        return parts[0]
    return tuple(sorted(set().union(*parts)))


def determinise(
    nfa: Nfa,
    payload: Callable[[frozenset[int]], Hashable],
    *,
    patterns: int,
    max_states: int,
    chains: bool = True,
) -> Graph:
    """The reachable deterministic graph; `payload` is called once for each set of patterns matched together.

    Raises StateLimit when the construction itself would take too much time or memory.
    """
    return _Determiniser(nfa, payload, patterns=patterns, max_states=max_states, chains=chains).run()
