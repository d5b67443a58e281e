"""The kernel's look-up code at the ends of what it takes: long paths, far arguments, full lists."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

from agentd.errors import AgentdError
from agentd.model import Decision, Op
from agentd.policy.calltables import MAX_GROUPS
from agentd.policy.evaluate import decide
from agentd.policy.resolve import load
from agentd.policy.resolved import RULE_UNRESOLVED, Outcome, ResolvedAgent
from agentd.policy.tables import MAX_LIST, build
from tests.bpf.probe import PATH_MAX, Probe, loaded_probe

pytestmark = pytest.mark.root

ARENA_WORDS: Final = 1 << 21
ARGV_MAX: Final = 64 * 4096  # bytes of argv that are read, each argument counted with its NUL
CHUNK: Final = 4096


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with loaded_probe(ARENA_WORDS) as loaded:
        yield loaded


class Kernel:
    """One agent in the kernel, under a name of its own, and the same one for the evaluator."""

    _numbers = itertools.count()

    def __init__(self, probe: Probe, document: dict[str, Any]) -> None:
        self.agent = agent_of(document)
        self._probe = probe
        tables = build(self.agent, max_words=ARENA_WORDS // 2)
        self._number = probe.install(tables, name=f"agent-{next(self._numbers)}")

    def ask(self, op: Op, obj: bytes | None, argv: Sequence[bytes] = ()) -> Outcome:
        return self._probe.runners[0].ask(self._number, op, obj, argv).outcome


def agent_of(document: dict[str, Any]) -> ResolvedAgent:
    return load(json.dumps({"version": 1, **document}).encode(), workspace="/home/me").agents["bot"]


# -- paths


@pytest.fixture(scope="module")
def long_paths(probe: Probe) -> Kernel:
    rules = [{"tool": "file_reader", "paths": ["**/*z", "/", "/z"]}]
    return Kernel(probe, {"agents": {"bot": {"allow": rules}}})


@pytest.fixture(scope="module")
def needles(probe: Probe) -> Kernel:
    look = [{"exec": ["/bin/tool"], "args": ["needle"]}, {"exec": ["/bin/plain"]}]
    tools = {"work": {"look": look}}
    return Kernel(probe, {"tools": tools, "agents": {"bot": {"allow": [{"tool": "work"}]}}})


def test_every_length_of_path(long_paths: Kernel) -> None:
    """A path of each length from 1 to 4,096 bytes is read to its last byte."""
    allowed, denied = decide(long_paths.agent, Op.READ, b"/az"), decide(long_paths.agent, Op.READ, b"/ay")
    assert (allowed.decision, denied.decision) == (Decision.ALLOW, Decision.DENY)
    assert long_paths.ask(Op.READ, b"/") == decide(long_paths.agent, Op.READ, b"/")
    for length in range(2, PATH_MAX + 1):
        stem = b"/" + b"a" * (length - 2)
        assert long_paths.ask(Op.READ, stem + b"z") == allowed, length
        assert long_paths.ask(Op.READ, stem + b"y") == denied, length


@pytest.mark.parametrize("length", [2, 63, 64, 65, 127, 128, 129, 4031, 4032, 4033, 4095, 4096])
def test_deep_paths(long_paths: Kernel, length: int) -> None:
    """The same of paths that are nothing but folders, for every operation on a path."""
    for last in (b"z", b"y", b"/", b"\xff"):
        path = (b"/" + b"b/" * (length // 2))[: length - 1] + last
        for op in (Op.EXEC, Op.READ, Op.WRITE, Op.DELETE, Op.UNIX_CONNECT, Op.PTRACE):
            assert long_paths.ask(op, path) == decide(long_paths.agent, op, path), (op, last)


@pytest.mark.parametrize("length", [0, PATH_MAX + 1, 2 * PATH_MAX, 1 << 31, (1 << 32) - 1])
def test_a_path_that_is_too_long_is_unresolved(long_paths: Kernel, probe: Probe, length: int) -> None:
    """What is no complete path is denied as unresolved, whatever rules there are."""
    request = probe.runners[0]._request
    long_paths.ask(Op.READ, b"/az")
    request.len = length
    outcome = probe.runners[0].again().outcome
    assert outcome == decide(long_paths.agent, Op.READ, None)
    assert (outcome.decision, outcome.rule) == (Decision.DENY, RULE_UNRESOLVED)


# -- arguments


def found(needles: Kernel, argv: Sequence[bytes]) -> bool:
    """Whether the kernel saw the argument."""
    yes, no = (decide(needles.agent, Op.EXEC, b"/bin/tool", [b"tool", word]) for word in (b"needle", b"x"))
    outcome = needles.ask(Op.EXEC, b"/bin/tool", argv)
    assert outcome in (yes, no)
    assert yes != no
    return outcome == yes


@pytest.mark.parametrize("position", [1, 2, 4, 20, 64, 2000, 20000])
def test_the_place_of_an_argument_does_not_matter(needles: Kernel, position: int) -> None:
    """An argument is found at any place but the first, among empty and other ones."""
    for filler in (b"", b"x", b"needl", b"needles", b"\xff\xfe"):
        before, after = [b"tool"] + [filler] * (position - 1), [filler] * 3
        assert found(needles, [*before, b"needle"])
        assert found(needles, [*before, b"needle", *after])
        assert not found(needles, [*before, b"needl", b"e", *after])
    assert not found(needles, [b"needle", *[b"x"] * position])


@pytest.mark.parametrize("edge", [64, CHUNK, 2 * CHUNK, 3 * CHUNK, 63 * CHUNK])
def test_an_argument_across_the_edge_of_a_buffer(needles: Kernel, edge: int) -> None:
    """An argument that begins, ends or is cut at the end of a block or of a buffer is found."""
    for begin in range(max(edge - 70, 7), edge + 10):
        filler = begin - len(b"tool\0") - 1
        argv = [b"tool", b"x" * filler, b"needle", b"y"]
        assert sum(len(one) + 1 for one in argv[:2]) == begin
        assert found(needles, argv), begin
        assert not found(needles, [b"tool", b"x" * filler + b"needle", b"y"]), begin
        assert not found(needles, [b"tool", b"x" * filler, b"needlf", b"y"]), begin


def test_arguments_up_to_the_limit(needles: Kernel) -> None:
    """256 KiB of arguments are read to the end; with one byte more, what may stand there is a reason to deny."""
    for size in (ARGV_MAX - CHUNK, ARGV_MAX - 1, ARGV_MAX):
        room = size - len(b"tool\0needle\0")
        argv = [b"tool", b"x" * 100_000, b"y" * (room - 100_002), b"needle"]
        assert sum(len(one) + 1 for one in argv) == size
        assert found(needles, argv)
        assert not found(needles, [*argv[:-1], b"needlf"])
    for size in (ARGV_MAX + 1, ARGV_MAX + CHUNK, 2 * ARGV_MAX):
        argv = [b"tool", b"x" * (size - len(b"tool\0needle\0") - 1), b"needle"]
        outcome = needles.ask(Op.EXEC, b"/bin/tool", argv)
        assert outcome == decide(needles.agent, Op.EXEC, None)
        assert outcome.decision is Decision.DENY


@pytest.mark.parametrize("size", [ARGV_MAX, ARGV_MAX + CHUNK, 2 * ARGV_MAX])
def test_what_is_certain_before_the_limit_stands(needles: Kernel, size: int) -> None:
    """Too many arguments matter only where one of those that were not read could decide otherwise."""
    long = b"x" * size
    assert found(needles, [b"tool", b"needle", long])
    plain = needles.ask(Op.EXEC, b"/bin/plain", [b"plain", long])
    assert plain == decide(needles.agent, Op.EXEC, b"/bin/plain", [b"plain"])
    assert plain.decision is Decision.ALLOW
    git = needles.ask(Op.EXEC, b"/usr/bin/git", [b"git", b"status", long])  # the catalogue looks at git's arguments
    assert git == decide(needles.agent, Op.EXEC, None)


def test_arguments_that_can_not_be_read_are_unresolved(needles: Kernel, probe: Probe) -> None:
    """A page that isn't there makes the program unresolved; the same question with its arguments is answered."""
    assert found(needles, [b"tool", b"needle"])
    runner = probe.runners[0]
    address = runner._request.args
    runner._request.args = 8
    outcome = runner.again().outcome
    assert outcome == decide(needles.agent, Op.EXEC, None)
    runner._request.args = address
    assert runner.again().outcome.decision is Decision.ALLOW


# -- lists


def grouped(count: int) -> dict[str, Any]:
    """A policy with `count` further lists of arguments for one program, each an operation of its own."""
    tools = {"work": {f"o{i}": [{"exec": ["/bin/tool"], "args": [f"g{i}", f"h{i}"]}] for i in range(count)}}
    return {"tools": tools, "agents": {"bot": {"allow": [{"tool": "work"}]}}}


SHIPPED_GROUPS: Final = len(agent_of(grouped(0)).arg_groups)


def test_every_argument_list_is_told_apart(probe: Probe) -> None:
    """With as many different lists as there can be, each is found; the first of several that match decides."""
    own = MAX_GROUPS - SHIPPED_GROUPS
    kernel = Kernel(probe, grouped(own))
    assert len(kernel.agent.arg_groups) == MAX_GROUPS
    names = set()
    for i in range(own):
        outcome = kernel.ask(Op.EXEC, b"/bin/tool", [b"tool", b"h%d" % i])
        assert kernel.agent.toolops[outcome.toolop] == ("work", f"o{i}")
        assert outcome == kernel.ask(Op.EXEC, b"/bin/tool", [b"tool", b"g%d" % (own - 1), b"g%d" % i])
        names.add(outcome.toolop)
    assert len(names) == own
    nothing = kernel.ask(Op.EXEC, b"/bin/tool", [b"tool", b"g"])
    assert nothing == decide(kernel.agent, Op.EXEC, b"/bin/tool", [b"tool", b"g"])
    assert nothing.decision is Decision.DENY


def test_too_many_argument_lists_are_refused() -> None:
    """One list more than the kernel tells apart is refused, and both numbers are named."""
    agent = agent_of(grouped(MAX_GROUPS - SHIPPED_GROUPS + 1))
    with pytest.raises(AgentdError, match=f"{MAX_GROUPS + 1} different .* {MAX_GROUPS} apart"):
        build(agent, max_words=ARENA_WORDS)


def listed(count: int) -> dict[str, Any]:
    """A policy in which one path changes the outcomes of `count` tools; the last of them is what is read there."""
    tools: dict[str, Any] = {f"t{i}": {"look": [{"read": [f"/only/{i}"]}]} for i in range(count - 1)}
    tools[f"t{count - 1}"] = {"look": [{"read": ["/p/**"]}]}
    return {"tools": tools, "agents": {"bot": {"allow": [{"tool": tool, "paths": ["/p/**"]} for tool in tools]}}}


@pytest.mark.parametrize("count", [1, 2, MAX_LIST - 1, MAX_LIST])
def test_a_list_is_walked_to_its_end(probe: Probe, count: int) -> None:
    """The last pair of a list as long as can be is found, and what is not in it is left alone."""
    kernel = Kernel(probe, listed(count))
    for path in (b"/p/x", b"/only/0", b"/p", b"/q"):
        assert kernel.ask(Op.READ, path) == decide(kernel.agent, Op.READ, path)
    last = kernel.ask(Op.READ, b"/p/x")
    assert (last.decision, last.rule) == (Decision.ALLOW, count - 1)
    assert kernel.agent.toolops[last.toolop] == (f"t{count - 1}", "look")


def test_a_list_that_is_too_long_is_refused() -> None:
    """A list that the kernel would not walk to its end is refused, and both numbers are named."""
    with pytest.raises(AgentdError, match=f"changes {MAX_LIST + 1} outcomes; at most {MAX_LIST}"):
        build(agent_of(listed(MAX_LIST + 1)), max_words=ARENA_WORDS)


# -- generations


def test_the_arena_is_used_again(probe: Probe) -> None:
    """Replacing a policy takes no more room each time, and the answer is always the latest policy's."""
    first = build(agent_of({"agents": {"bot": {"allow": [{"tool": "file_reader"}]}}}), max_words=ARENA_WORDS)
    second = build(agent_of({"agents": {"bot": {"deny": [{"tool": "file_reader"}]}}}), max_words=ARENA_WORDS)
    number = probe.install(first)
    used = probe.tables.words_used()
    for turn in range(60):
        tables = second if turn % 2 else first
        assert probe.install(tables) == number
        answer = probe.runners[0].ask(number, Op.READ, b"/srv/file")
        assert answer.outcome.decision is (Decision.DENY if turn % 2 else Decision.ALLOW)
    assert probe.tables.words_used() <= used - len(first.words) + max(len(first.words), len(second.words))


def test_an_agent_that_is_not_there_is_denied(probe: Probe, needles: Kernel) -> None:
    """A slot that no policy was put in, and a number that is no slot, deny everything."""
    for number in (255, 256, 1 << 31, (1 << 32) - 1):
        for op in Op:
            outcome = probe.runners[0].ask(number, op, b"4t\x7f\0\0\1\0\x50").outcome
            assert (outcome.decision, outcome.rule) == (Decision.DENY, RULE_UNRESOLVED)


def test_an_operation_that_is_not_there_is_denied(probe: Probe, needles: Kernel) -> None:
    """A number that is no operation denies."""
    runner = probe.runners[0]
    assert found(needles, [b"tool", b"needle"])
    for number in (len(Op), len(Op) + 1, 1 << 31, (1 << 32) - 1):
        runner._request.op = number
        outcome = runner.again().outcome
        assert (outcome.decision, outcome.rule) == (Decision.DENY, RULE_UNRESOLVED)
