"""Globs and host patterns as a minimal deterministic automaton over byte classes, in the shape that the kernel walks.

`compile_globs` and `compile_hosts` build it, `run` takes the kernel's own steps. A state's payload is whatever the
caller makes of the set of patterns that match there, so states that lead to the same outcome are one state.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentd.policy.comb import Packed, byte_classes
from agentd.policy.hosts import MAX_PORT, HostPattern
from agentd.policy.minimise import ChainInCycle, Minimal, minimise
from agentd.policy.nfa import Nfa
from agentd.policy.patterns import ALL, Glob, OneOf, Run, Token, parse
from agentd.policy.subset import Graph, StateLimit, determinise

__all__ = ["Dfa", "StateLimit", "compile_globs", "compile_hosts", "pack", "run"]

Payload = Callable[[frozenset[int]], Hashable]


@dataclass(frozen=True, slots=True)
class Dfa:
    """A packed automaton. classes[byte] is a byte's class; one step from state s:

    i = base[s] + classes[byte]; s = comb_next[i] if comb_check[i] == s else default[s]

    accept[s] indexes payloads; payloads[0] is that of no match. Free comb slots have check 0xffffffff.
    """

    classes: bytes
    n_states: int
    start: int
    base: array[int]
    default: array[int]
    accept: array[int]
    comb_check: array[int]
    comb_next: array[int]
    payloads: list[Hashable]


def compile_globs(
    patterns: Sequence[Glob], payload: Payload, *, max_states: int, labels: Sequence[int] | None = None
) -> Dfa:
    """The automaton of all `patterns` (of any dialects) together.

    payload(indices of the patterns that match) is called once for each set that can occur, and for that of no
    match. What matches everything is in every set and costs no state.
    labels: one number a pattern; patterns with the same number mean the same to `payload`, which is then given at
    least one of those that match instead of all. It keeps policies with many `**/x/**` small.
    Raises ValueError for a malformed glob, StateLimit when more than `max_states` states, or too much work, are needed.
    """
    everything = frozenset(
        i for i, glob in enumerate(patterns) if not glob.text.strip("*") and parse(glob) == (Run(ALL),)
    )

    def sequences() -> Iterator[tuple[Sequence[Token], int]]:
        return ((parse(glob), i) for i, glob in enumerate(patterns) if i not in everything)

    def with_everything(matched: frozenset[int]) -> Hashable:
        return payload(matched | everything)

    return _compile(sequences, with_everything, len(patterns), max_states, labels)


def compile_hosts(
    patterns: Sequence[HostPattern], payload: Payload, *, max_states: int, names: Mapping[int, frozenset[int]]
) -> Dfa:
    """The automaton of all `patterns` over the byte keys of `hosts.host_key`. Raises StateLimit.

    names: for each pattern with a name, by its index, the classes of names that match it.
    """
    return _compile(
        lambda: (
            (tokens, i)
            for i, pattern in enumerate(patterns)
            for tokens in _host_tokens(pattern, names.get(i, frozenset()))
        ),
        payload,
        len(patterns),
        max_states,
        None,
    )


def run(dfa: Dfa, data: bytes) -> int:
    """The index into `dfa.payloads` for `data`, step by step as the kernel does it."""
    classes, base, default, check, following = dfa.classes, dfa.base, dfa.default, dfa.comb_check, dfa.comb_next
    state = dfa.start
    for byte in data:
        i = base[state] + classes[byte]
        state = following[i] if check[i] == state else default[state]
    return dfa.accept[state]


def _compile(
    sequences: Callable[[], Iterator[tuple[Sequence[Token], int]]],
    payload: Payload,
    patterns: int,
    max_states: int,
    labels: Sequence[int] | None,
) -> Dfa:
    try:
        minimal, payloads = _minimal(Nfa(sequences(), labels), payload, patterns, max_states, chains=True)
    except ChainInCycle:
        minimal, payloads = _minimal(Nfa(sequences(), labels), payload, patterns, max_states, chains=False)
    return _packed(minimal, payloads)


def pack(graph: Graph, *, patterns: int, max_states: int) -> Dfa:
    """The automaton of a graph that was made elsewhere, without chain edges. Raises StateLimit."""
    return _packed(minimise(graph, patterns=patterns, max_states=max_states), graph.payloads)


def _packed(minimal: Minimal, payloads: list[Hashable]) -> Dfa:
    classes = byte_classes(minimal)
    packed = Packed(minimal, classes)
    return Dfa(
        classes,
        packed.n_states,
        0,
        packed.base,
        packed.default,
        packed.accept,
        packed.check,
        packed.next,
        payloads,
    )


def _minimal(
    nfa: Nfa, payload: Payload, patterns: int, max_states: int, *, chains: bool
) -> tuple[Minimal, list[Hashable]]:
    graph = determinise(nfa, payload, patterns=patterns, max_states=max_states, chains=chains)
    del nfa  # what it holds is room for the next step
    return minimise(graph, patterns=patterns, max_states=max_states), graph.payloads


def _host_tokens(pattern: HostPattern, classes: frozenset[int]) -> Iterator[tuple[Token, ...]]:
    """The keys that `pattern` matches, as rows of byte sets. classes: of names, for a pattern with a name."""
    last = OneOf(ALL)
    if pattern.name is not None:
        if not classes:
            return
        last = OneOf(sum(1 << number for number in classes))
    protocol = OneOf(1 << ord("t") | 1 << ord("u"))
    if pattern.network is None:
        addresses: list[tuple[Token, ...]] = [(ord("4"), protocol, *_any(4)), (ord("6"), protocol, *_any(16))]
    else:
        size = len(pattern.network)
        whole, bits = divmod(pattern.prefix, 8)
        address: tuple[Token, ...] = tuple(pattern.network[:whole])
        if bits:
            low = pattern.network[whole]
            address += (_span(low, low | 0xFF >> bits),)
        addresses = [(ord("4" if size == 4 else "6"), protocol, *address, *_any(size - len(address)))]
    for address in addresses:
        for ports in _port_tokens(pattern.port_low, pattern.port_high):
            yield (*address, *ports, last)


def _any(count: int) -> tuple[Token, ...]:
    return (OneOf(ALL),) * count


def _span(low: int, high: int) -> Token:
    return OneOf((1 << (high + 1)) - (1 << low))


def _port_tokens(low: int, high: int) -> Iterator[tuple[Token, Token]]:
    """An inclusive range of ports as at most three products of byte ranges."""
    if (low, high) == (0, MAX_PORT):
        yield OneOf(ALL), OneOf(ALL)
        return
    first, last = low >> 8, high >> 8
    if first == last:
        yield first, _span(low & 0xFF, high & 0xFF)
        return
    if low & 0xFF:
        yield first, _span(low & 0xFF, 0xFF)
        first += 1
    if high & 0xFF != 0xFF:
        yield last, _span(0, high & 0xFF)
        last -= 1
    if first <= last:
        yield _span(first, last), OneOf(ALL)
