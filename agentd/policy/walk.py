"""The kernel's walk over an agent's tables, word by word as bpf/lib/verdict.bpf.h does it, so that what the kernel will
say can be tested without one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from agentd.model import HOST_OPS, PATH_OPS, Family, Op
from agentd.policy.resolved import Outcome
from agentd.policy.tables import ARG_WORDS, COMB_WORDS, NO_GROUP, STATE_WORDS, AgentTables, DfaHeader, TablesHeader


def lookup(tables: AgentTables, op: Op, obj: bytes | None, argv: Sequence[bytes] = ()) -> Outcome:
    """The outcome that the kernel reaches for `op` on `obj`: path bytes, a `host_key`, or None if unresolved.

    argv is the whole vector: argv[0] is never looked at.
    """
    words, header = tables.words, tables.header
    if obj is None:
        return tables.outcomes[header.unresolved[op]]
    if op.family is Family.HOST:
        at = _walk(words, header.host, obj) * len(HOST_OPS) + op - len(PATH_OPS)
        return tables.outcomes[words[header.host_classes + at]]
    if op is Op.EXEC:
        outcome = _first_candidate(words, header, _walk(words, header.exec, obj), argv)
        if outcome is None:
            return tables.outcomes[header.unresolved[op]]
    else:
        outcome = words[header.path_classes + _walk(words, header.path, obj) * len(PATH_OPS) + op]
    for plain, instead in _pairs(words, words[header.rule_classes + _walk(words, header.rules, obj)]):
        if plain == outcome:
            return tables.outcomes[instead]
    return tables.outcomes[outcome]


def name_class(tables: AgentTables, name: str) -> int:
    """The class of a name, the last byte of a `host_key`."""
    return _walk(tables.words, tables.header.name, name.encode("ascii"))


def _first_candidate(words: array[int], header: TablesHeader, number: int, argv: Sequence[bytes]) -> int | None:
    mask = [0] * ARG_WORDS
    for argument in argv[1:]:
        masks = header.arg_masks + _walk(words, header.args, argument) * ARG_WORDS
        mask = [have | new for have, new in zip(mask, words[masks : masks + ARG_WORDS], strict=True)]
    for group, outcome in _pairs(words, words[header.exec_classes + number]):
        if group == NO_GROUP or mask[group >> 5] >> (group & 31) & 1:
            return outcome
    return None


def _pairs(words: array[int], at: int) -> Iterator[tuple[int, int]]:
    for i in range(at + 1, at + 1 + 2 * words[at], 2):
        yield words[i], words[i + 1]


def _walk(words: array[int], dfa: DfaHeader, data: bytes) -> int:
    state = dfa.start
    for byte in data:
        column = words[dfa.classes + (byte >> 2)] >> (byte & 3) * 8 & 0xFF
        row = dfa.states + state * STATE_WORDS
        entry = dfa.comb + (words[row] + column) * COMB_WORDS
        state = words[entry + 1] if words[entry] == state else words[row + 1]
    return words[dfa.states + state * STATE_WORDS + 2]
