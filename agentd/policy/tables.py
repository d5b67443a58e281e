"""One agent's rules as the words that the kernel walks (bpf/abi.h, struct agentd_tables).

`build` makes the region; walk.py walks it as the kernel does.

A path is read by two automata, because one for both would need the product of their states: one for the catalogue
(`exec` for programs, `path` for the other operations) gives the outcome as if no rule had `paths:`; the one for `rules`
gives the few outcomes that turn to others by them. An outcome names its tool, operation and risk, and that is all that
rules look at, so that this is a list of pairs. Nothing is lost: the result is what `ResolvedAgent.candidates` says.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from agentd.errors import AgentdError
from agentd.model import HOST_OPS, PATH_OPS, Op
from agentd.policy.automaton import Dfa, StateLimit, compile_globs, compile_hosts
from agentd.policy.calltables import (
    MAX_GROUPS,
    NO_GROUP,
    Candidates,
    DfaHeader,
    Kinds,
    mask_words,
    place_calls,
)
from agentd.policy.nameclasses import MAX_NAME_CLASSES, NamePatterns
from agentd.policy.resolved import Outcome, ResolvedAgent
from agentd.policy.stored import Automata, automaton_key

STATE_WORDS: Final = 4
COMB_WORDS: Final = 2
OUTCOME_WORDS: Final = 4
BY_OP: Final = 0x80000000
MAX_LIST: Final = 512  # what the kernel's loops over a list of pairs examine
UNRESOLVED: Final = -1
_U32: Final = 0xFFFFFFFF
_HINT: Final = "use fewer or simpler patterns, or split the agent"

Overrides = tuple[tuple[int, int], ...]
"""(outcome index without the rules that have paths, outcome index with them)."""


@dataclass(frozen=True, slots=True)
class TablesHeader:
    """struct agentd_tables, but for `base`, which only who places the region knows."""

    words: int
    path: DfaHeader
    exec: DfaHeader
    rules: DfaHeader
    host: DfaHeader
    args: DfaHeader
    name: DfaHeader
    call: DfaHeader
    path_classes: int
    exec_classes: int
    rule_classes: int
    host_classes: int
    arg_masks: int
    call_classes: int
    outcomes: int
    n_outcomes: int
    n_names: int
    unresolved: tuple[int, ...]  # by Op


@dataclass(frozen=True, slots=True)
class AgentTables:
    """`words` is the region; outcomes[i] is what the kernel means by outcome index i."""

    words: array[int]
    header: TablesHeader
    outcomes: tuple[Outcome, ...]


def build(agent: ResolvedAgent, *, max_words: int, automata: Automata | None = None) -> AgentTables:
    """The tables of `agent` in at most `max_words` 32-bit words.

    automata: where those of the catalogue are looked up before they are compiled, and kept afterwards.
    Raises AgentdError `policy-too-large`, with the numbers, when they don't fit.
    """
    return _Builder(agent, max_words, automata).build()


class _Builder:
    def __init__(self, agent: ResolvedAgent, max_words: int, automata: Automata | None = None) -> None:
        self.agent = agent
        self.max_words = max_words
        self.automata = automata
        self.kinds = _kinds(agent)
        self.kind_outcomes: dict[tuple[Op, int], int] = {}
        self.words = array("I")
        self.numbers: dict[Outcome, int] = {}

    def build(self) -> AgentTables:
        agent = self.agent
        path, path_rows = self.place("path patterns", len(agent.path_patterns), self.path_dfa)
        kinds = cast("list[tuple[int, ...]]", path_rows)
        path_classes = self.append(
            [self.outcome(op, kind) for row in kinds for op, kind in zip(PATH_OPS, row, strict=True)]
        )
        exec_, exec_rows = self.place("path patterns", len(agent.path_patterns), self.exec_dfa)
        exec_classes = self.place_lists([self.candidates(row) for row in cast("list[Kinds]", exec_rows)])
        rules, rule_rows = self.place("path patterns", len(agent.path_patterns), self.rules_dfa)
        rule_classes = self.place_lists(cast("list[Overrides]", rule_rows))
        named = NamePatterns(agent)
        name, name_rows = self.place("host names", len(named), named.compile)
        if len(name_rows) > MAX_NAME_CLASSES + 1:
            self.refuse(f"it tells {len(name_rows) - 1} kinds of host names apart; the kernel {MAX_NAME_CLASSES}")
        classes = named.classes(name_rows)
        host, host_rows = self.place(
            "host patterns", len(agent.host_patterns), lambda most: self.host_dfa(most, classes)
        )
        host_classes = self.append([outcome for row in cast("list[tuple[int, ...]]", host_rows) for outcome in row])
        args, args_payloads = self.place("argument lists", len(agent.arg_groups), self.args_dfa)
        groups = cast("list[tuple[int, ...]]", args_payloads)
        arg_masks = self.append([word for row in groups for word in mask_words(row)])
        call, call_rows = self.place("library calls", len(agent.calls), self.call_dfa)
        call_classes = self.append(
            place_calls(self, cast("list[Kinds]", call_rows), self.kinds[agent.last_entry(Op.CALL)])
        )
        unresolved = tuple(self.number(self.agent.unresolved(op)) for op in Op)
        outcomes = self.append([word for outcome in self.numbers for word in _outcome_words(outcome)])
        header = TablesHeader(
            words=len(self.words),
            path=path,
            exec=exec_,
            rules=rules,
            host=host,
            args=args,
            name=name,
            call=call,
            path_classes=path_classes,
            exec_classes=exec_classes,
            rule_classes=rule_classes,
            host_classes=host_classes,
            arg_masks=arg_masks,
            call_classes=call_classes,
            outcomes=outcomes,
            n_outcomes=len(self.numbers),
            n_names=len(name_rows) - 1,
            unresolved=unresolved,
        )
        return AgentTables(self.words, header, tuple(self.numbers))

    # -- the automata and their payloads

    def path_dfa(self, max_states: int) -> Dfa:
        def payload(entries: frozenset[int]) -> tuple[int, ...]:
            return tuple(self.first(op, entries) for op in PATH_OPS)

        return self.entries_dfa("path", [op for op in PATH_OPS if op not in (Op.EXEC, Op.CALL)], payload, max_states)

    def exec_dfa(self, max_states: int) -> Dfa:
        return self.entries_dfa("exec", [Op.EXEC], self.exec_kinds, max_states)

    def call_dfa(self, max_states: int) -> Dfa:
        return self.entries_dfa("call", [Op.CALL], self.exec_kinds, max_states)

    def entries_dfa(
        self, name: str, ops: Sequence[Op], payload: Callable[[frozenset[int]], Hashable], max_states: int
    ) -> Dfa:
        """The automaton of the entries of `ops`; `payload` is given the entries that match.

        It says which kind of entry matches and not what is decided about it, so it doesn't depend on the rules.
        """
        users: dict[int, list[int]] = {}
        for number, entry in enumerate(self.agent.entries):
            if entry.op in ops:
                for pattern in dict.fromkeys(entry.patterns):
                    users.setdefault(pattern, []).append(number)
        entries = self.agent.entries
        used = sorted({number for numbers in users.values() for number in numbers})
        meaning = [(number, int(entries[number].op), self.kinds[number], entries[number].group) for number in used]
        globs = [self.agent.path_patterns[pattern] for pattern in sorted(users)]
        return self.stored(
            automaton_key(name, globs, users, (len(PATH_OPS), meaning)),
            lambda: self.used_dfa(users, payload, max_states),
            max_states,
        )

    def stored(self, key: str, compile_: Callable[[], Dfa], max_states: int) -> Dfa:
        if self.automata is None:
            return compile_()
        found = self.automata.get(key)
        if found is None or found.n_states > max_states:
            found = compile_()
            self.automata.put(key, found)
        return found

    def rules_dfa(self, max_states: int) -> Dfa:
        """The automaton of the rules' own paths."""
        plans = {**self.fences(), **self.plans()}
        users: dict[int, list[int]] = {}
        for number, fence in enumerate(self.agent.fences, -len(self.agent.fences)):
            for pattern in fence.patterns:
                users.setdefault(pattern, []).append(number)
        for rule in self.agent.rules:
            for pattern in dict.fromkeys(rule.paths or ()):
                users.setdefault(pattern, []).append(rule.index)

        def payload(rules: frozenset[int]) -> Overrides:
            found: dict[int, int] = {}
            for index in sorted(rules):
                for plain, outcome in plans.get(index, ()):
                    found.setdefault(plain, outcome)
            if len(found) > MAX_LIST:
                self.refuse(f"one path changes {len(found)} outcomes; at most {MAX_LIST} are looked through")
            return tuple(found.items())

        globs = [self.agent.path_patterns[pattern] for pattern in sorted(users)]
        return self.stored(
            automaton_key("rules", globs, users, sorted(plans.items())),
            lambda: self.used_dfa(users, payload, max_states),
            max_states,
        )

    def fences(self) -> dict[int, list[tuple[int, int]]]:
        """For each fence, by a number below every rule's: the operations that it keeps from, and the outcome."""
        fences = self.agent.fences
        return {
            number: [(BY_OP | op, self.number(self.agent.fenced(fence))) for op in sorted(fence.ops)]
            for number, fence in enumerate(fences, -len(fences))
        }

    def plans(self) -> dict[int, list[tuple[int, int]]]:
        """For each rule with paths: the outcomes without such rules that it takes the place of, and its own there."""
        agent = self.agent
        plans: dict[int, list[tuple[int, int]]] = {}
        by_kind = {(entry.tool, entry.operation, entry.risk): entry for entry in agent.entries if entry.op in PATH_OPS}
        for entry in by_kind.values():
            plain = agent.judge(entry, frozenset())
            for rule in agent.rules:
                if rule.index == plain.rule:
                    break  # what comes after it never decides
                if rule.paths and rule.names(entry.tool, entry.operation) and rule.bears(entry.risk):
                    outcome = agent.judge_by(entry, rule.index)
                    plans.setdefault(rule.index, []).append((self.number(plain), self.number(outcome)))
        return plans

    def used_dfa(
        self, users: dict[int, list[int]], payload: Callable[[frozenset[int]], Hashable], max_states: int
    ) -> Dfa:
        """The automaton of the patterns in `users`; `payload` is given all users of those that match."""
        kept = sorted(users)
        numbers: dict[tuple[int, ...], int] = {}
        labels = [numbers.setdefault(tuple(users[pattern]), len(numbers)) for pattern in kept]
        return compile_globs(
            [self.agent.path_patterns[pattern] for pattern in kept],
            lambda matched: payload(frozenset(user for i in matched for user in users[kept[i]])),
            max_states=max_states,
            labels=labels,
        )

    def host_dfa(self, max_states: int, names: dict[int, frozenset[int]]) -> Dfa:
        def payload(matched: frozenset[int]) -> tuple[int, ...]:
            return tuple(self.only(op, matched) for op in HOST_OPS)

        return compile_hosts(self.agent.host_patterns, payload, max_states=max_states, names=names)

    def args_dfa(self, max_states: int) -> Dfa:
        groups = self.agent.arg_groups
        if len(groups) > MAX_GROUPS:
            self.refuse(f"it has {len(groups)} different `args:` lists; the kernel tells {MAX_GROUPS} apart")
        globs = [glob for group in groups for glob in group]
        owners = [number for number, group in enumerate(groups) for _ in group]

        def payload(matched: frozenset[int]) -> tuple[int, ...]:
            return tuple(sorted({owners[i] for i in matched}))

        return self.stored(
            automaton_key("args", globs, {}, owners),
            lambda: compile_globs(globs, payload, max_states=max_states, labels=owners),
            max_states,
        )

    def only(self, op: Op, matched: frozenset[int]) -> int:
        ((_, outcome),) = self.agent.candidates(op, matched)
        return self.number(outcome)

    def first(self, op: Op, entries: frozenset[int]) -> int:
        """Of an operation without arguments, the kind of the first entry."""
        number = min((number for number in entries if self.agent.entries[number].op is op), default=None)
        return UNRESOLVED if number is None else self.kinds[number]

    def exec_kinds(self, entries: frozenset[int]) -> Kinds:
        """Of each group the first entry, up to one that needs no argument."""
        found: dict[int, int] = {}
        for number in sorted(entries):
            entry = self.agent.entries[number]
            group = NO_GROUP if entry.group is None else entry.group
            found.setdefault(group, self.kinds[number])
            if group == NO_GROUP:
                break
        else:
            found[NO_GROUP] = UNRESOLVED
        return _without_repeats(list(found.items()))

    def candidates(self, kinds: Kinds, op: Op = Op.EXEC) -> Candidates:
        """The outcomes of `kinds`; none that says what the next one says."""
        rows = _without_repeats([(group, self.outcome(op, kind)) for group, kind in kinds])
        if len(rows) > MAX_LIST:
            what = "program has {} tools that depend on arguments" if op is Op.EXEC else "call has {} tools by its text"
            self.refuse(f"one {what.format(len(rows))}; at most {MAX_LIST} are tried")
        return rows

    def outcome(self, op: Op, kind: int) -> int:
        """The number of what is decided about an entry of this kind as if no rule had paths."""
        number = self.kind_outcomes.get((op, kind))
        if number is None:
            agent = self.agent
            outcome = agent.unresolved(op) if kind == UNRESOLVED else agent.judge(agent.entries[kind], frozenset())
            number = self.kind_outcomes[op, kind] = self.number(outcome)
        return number

    def number(self, outcome: Outcome) -> int:
        return self.numbers.setdefault(outcome, len(self.numbers))

    # -- the region

    def place(self, what: str, count: int, compile_: Callable[[int], Dfa]) -> tuple[DfaHeader, list[Hashable]]:
        room = self.max_words - len(self.words)
        try:
            dfa = compile_(room // STATE_WORDS)
        except StateLimit as limit:
            self.refuse(
                f"its {count} {what} need more than {limit.reached} automaton states;"
                f" the kernel tables have room for {limit.limit}"
            )
        classes = self.append(_little_endian(dfa.classes))
        states = self.reserve(STATE_WORDS * dfa.n_states)
        for column, values in enumerate((dfa.base, dfa.default, dfa.accept)):
            self.words[states + column :: STATE_WORDS] = values
        comb = self.reserve(COMB_WORDS * len(dfa.comb_check))
        self.words[comb::COMB_WORDS] = dfa.comb_check
        self.words[comb + 1 :: COMB_WORDS] = dfa.comb_next
        header = DfaHeader(classes, states, comb, dfa.start, dfa.n_states, len(dfa.comb_check))
        return header, dfa.payloads

    def place_lists(self, rows: Sequence[tuple[tuple[int, int], ...]]) -> int:
        """For each row the offset of its pairs, {count, (first, second) * count}."""
        lists: dict[tuple[tuple[int, int], ...], int] = {}
        for row in rows:
            if row not in lists:
                lists[row] = self.append([len(row), *(word for pair in row for word in pair)])
        return self.append([lists[row] for row in rows])

    def reserve(self, count: int) -> int:
        offset = len(self.words)
        if offset + count > self.max_words:
            self.refuse(
                f"its tables need more than {offset + count} words of 4 bytes; there is room for {self.max_words}"
            )
        self.words.frombytes(bytes(4 * count))
        return offset

    def append(self, values: Sequence[int]) -> int:
        offset = self.reserve(len(values))
        self.words[offset:] = array("I", values)
        return offset

    def refuse(self, why: str) -> NoReturn:
        raise AgentdError("policy-too-large", f"agent {self.agent.name}", why, _HINT)


def _kinds(agent: ResolvedAgent) -> list[int]:
    """For each entry the first one that rules can't tell from it: of the same tool, operation and risk."""
    first: dict[tuple[object, ...], int] = {}
    return [
        first.setdefault((entry.op.family, entry.tool, entry.operation, entry.risk), number)
        for number, entry in enumerate(agent.entries)
    ]


def _without_repeats(rows: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    while len(rows) > 1 and rows[-2][1] == rows[-1][1]:
        del rows[-2]
    return tuple(rows)


def _outcome_words(outcome: Outcome) -> tuple[int, int, int, int]:
    first = outcome.decision | outcome.action << 8 | outcome.risk << 16
    return first, outcome.rule & _U32, outcome.toolop, outcome.timeout


def _little_endian(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
