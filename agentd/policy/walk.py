"""The kernel's walk over an agent's tables, word by word as bpf/lib/verdict.bpf.h does it: so that what the kernel will
say can be tested without one, and for the point whose calls are judged outside the kernel (seccomp).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from agentd.model import HOST_OPS, PATH_OPS, Family, Op
from agentd.policy.calltables import ARG_WORDS, NO_GROUP, NOT_ASKED, TEXT_WORDS, DfaHeader
from agentd.policy.resolved import Outcome
from agentd.policy.tables import BY_OP, COMB_WORDS, STATE_WORDS, AgentTables, TablesHeader

MAX_REMEMBERED: Final = 4096  # directories


def lookup(
    tables: AgentTables, op: Op, obj: bytes | None, argv: Sequence[bytes] = (), text: bytes | None = b""
) -> Outcome:
    """The outcome that the kernel reaches for `op` on `obj`: path bytes, a `host_key`, or None if unresolved.

    argv is the whole vector: argv[0] is never looked at. text: of a call; None: unresolved.
    """
    words, header = tables.words, tables.header
    if obj is None:
        return tables.outcomes[header.unresolved[op]]
    if op.family is Family.HOST:
        at = _walk(words, header.host, obj) * len(HOST_OPS) + op - len(PATH_OPS)
        return tables.outcomes[words[header.host_classes + at]]
    if op in (Op.EXEC, Op.CALL):
        outcome: int | None
        if op is Op.EXEC:
            outcome = _first_candidate(words, header, _walk(words, header.exec, obj), argv)
        else:
            outcome = _by_text(words, header, _walk(words, header.call, obj), text)
        if outcome is None:
            return tables.outcomes[header.unresolved[op]]
    else:
        outcome = words[header.path_classes + _walk(words, header.path, obj) * len(PATH_OPS) + op]
    return tables.outcomes[_instead(words, header, _walk(words, header.rules, obj), op, outcome)]


class PathWalk:
    """Outcomes of paths, as indexes into tables.outcomes. Where the walk over a directory ends is remembered, because
    what is done in one is done many times. For one thread at a time, or several under the interpreter's lock.
    """

    def __init__(self, tables: AgentTables) -> None:
        self.tables = tables
        self._ends: dict[bytes, tuple[int, int]] = {}

    def outcome(self, op: Op, path: bytes | None) -> int:
        """Of any operation with a path but exec. path: or a word; None: unresolved."""
        words, header = self.tables.words, self.tables.header
        if path is None:
            return header.unresolved[op]
        cut = path.rfind(b"/") + 1
        ends = self._ends.get(path[:cut])
        if ends is None:
            if len(self._ends) >= MAX_REMEMBERED:
                self._ends.clear()
            ends = _end(words, header.path, path[:cut]), _end(words, header.rules, path[:cut])
            self._ends[path[:cut]] = ends
        state = _end(words, header.path, path[cut:], ends[0])
        rules = _end(words, header.rules, path[cut:], ends[1])
        outcome = words[header.path_classes + _accepts(words, header.path, state) * len(PATH_OPS) + op]
        return _instead(words, header, _accepts(words, header.rules, rules), op, outcome)


def name_class(tables: AgentTables, name: str) -> int:
    """The class of a name, the last byte of a `host_key`."""
    return _walk(tables.words, tables.header.name, name.encode("ascii"))


def _instead(words: array[int], header: TablesHeader, number: int, op: Op, outcome: int) -> int:
    """What fences and the rules' own paths make of an outcome. number: the class of the path for them."""
    for plain, instead in _pairs(words, words[header.rule_classes + number]):
        if plain in (outcome, BY_OP | op):
            return instead
    return outcome


def _first_candidate(words: array[int], header: TablesHeader, number: int, argv: Sequence[bytes]) -> int | None:
    mask = [0] * ARG_WORDS
    for argument in argv[1:]:
        masks = header.arg_masks + _walk(words, header.args, argument) * ARG_WORDS
        mask = [have | new for have, new in zip(mask, words[masks : masks + ARG_WORDS], strict=True)]
    for group, outcome in _pairs(words, words[header.exec_classes + number]):
        if group == NO_GROUP or mask[group >> 5] >> (group & 31) & 1:
            return outcome
    return None


def _by_text(words: array[int], header: TablesHeader, number: int, text: bytes | None) -> int | None:
    if text is None:
        return None
    at = words[header.call_classes + number]
    if words[at] == NOT_ASKED:
        return words[at + 1]
    mask = [0] * ARG_WORDS
    for i in range(words[at]):
        classes, states, comb, state, masks = words[at + 1 + i * TEXT_WORDS : at + 1 + (i + 1) * TEXT_WORDS]
        dfa = DfaHeader(classes, states, comb, state, 0, 0)
        for byte in text:
            state = _end(words, dfa, bytes((byte,)), state)
            _gather(words, mask, masks + words[states + state * STATE_WORDS + 2] * 2 * ARG_WORDS)
        _gather(words, mask, masks + (words[states + state * STATE_WORDS + 2] * 2 + 1) * ARG_WORDS)
    for group, outcome in _pairs(words, at + 1 + words[at] * TEXT_WORDS):
        if group == NO_GROUP or mask[group >> 5] >> (group & 31) & 1:
            return outcome
    return None


def _gather(words: array[int], mask: list[int], at: int) -> None:
    for i in range(ARG_WORDS):
        mask[i] |= words[at + i]


def _pairs(words: array[int], at: int) -> Iterator[tuple[int, int]]:
    for i in range(at + 1, at + 1 + 2 * words[at], 2):
        yield words[i], words[i + 1]


def _walk(words: array[int], dfa: DfaHeader, data: bytes) -> int:
    return _accepts(words, dfa, _end(words, dfa, data))


def _end(words: array[int], dfa: DfaHeader, data: bytes, state: int | None = None) -> int:
    """The state after `data`, from `state` (None: the first)."""
    if state is None:
        state = dfa.start
    classes, states, comb = dfa.classes, dfa.states, dfa.comb
    for byte in data:
        column = words[classes + (byte >> 2)] >> (byte & 3) * 8 & 0xFF
        row = states + state * STATE_WORDS
        entry = comb + (words[row] + column) * COMB_WORDS
        state = words[entry + 1] if words[entry] == state else words[row + 1]
    return state


def _accepts(words: array[int], dfa: DfaHeader, state: int) -> int:
    return words[dfa.states + state * STATE_WORDS + 2]
