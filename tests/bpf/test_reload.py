"""A policy that is replaced while it is asked: every answer is one policy's or the other's, whole."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from agentd.model import Endpoint, Mode, Op
from agentd.policy.evaluate import decide
from agentd.policy.hosts import host_key
from agentd.policy.resolve import load
from agentd.policy.resolved import ResolvedAgent
from agentd.policy.tables import build
from tests.bpf.probe import Answer, Runner, loaded_probe

pytestmark = pytest.mark.root

RELOADS: Final = 2000
ARENA_WORDS: Final = 1 << 19

# Two policies that agree on nothing: other outcomes for every object below, and the numbers of argument groups,
# entries, rules, outcomes and automaton classes all mean something else.
FIRST: Final = b"""version: 1
tools:
  work:
    start: [{exec: ["/opt/tool"], args: ["alpha"]}]
    stop: [{exec: ["/opt/tool"], args: ["beta"], risk: low}]
    look: [{read: ["/srv/**"]}]
agents:
  bot:
    allow:
      - {tool: work, operations: [start]}
      - {tool: work, paths: ["/srv/data/**"]}
      - {tool: network, hosts: ["10.0.0.0/8"]}
    deny: [{tool: work, operations: [stop], action: kill}]
"""
SECOND: Final = b"""version: 1
tools:
  other:
    never: [{exec: ["/opt/**"], args: ["gamma*", "delta"]}, {read: ["/opt/**"], write: ["/srv/*/*.txt"]}]
  work:
    stop: [{exec: ["/opt/tool"], args: ["beta"], risk: low}]
    start: [{exec: ["/opt/tool"], args: ["alpha"], risk: critical}]
    look: [{read: ["/srv/**"], risk: medium}]
agents:
  bot:
    on_violation: kill
    require_approval: [{tool: work, operations: [start], timeout: 17}, {tool: network, hosts: ["10.1.0.0/16"]}]
    deny: [{tool: work, operations: [look], paths: ["/srv/data/*"]}, {tool: other}]
    allow: [{tool: work, operations: [stop]}]
"""


@dataclass(frozen=True, slots=True)
class Question:
    op: Op
    obj: bytes | Endpoint | None
    argv: Sequence[bytes] = ()

    @property
    def key(self) -> bytes | None:
        return host_key(self.obj) if isinstance(self.obj, Endpoint) else self.obj


QUESTIONS: Final = (
    Question(Op.EXEC, b"/opt/tool", [b"tool", b"alpha"]),
    Question(Op.EXEC, b"/opt/tool", [b"tool", *[b"x" * 1000] * 60, b"alpha"]),
    Question(Op.EXEC, b"/opt/tool", [b"tool", b"alpha", *[b"x" * 1000] * 60]),
    Question(Op.READ, b"/srv/data/report"),
    Question(Op.READ, b"/srv/data/" + b"long/" * 800 + b"x"),
    Question(Op.CONNECT, Endpoint(bytes((10, 1, 2, 3)), 443)),
    Question(Op.EXEC, None),
)


class Hammer(threading.Thread):
    """Asks its questions again and again and keeps each different answer."""

    def __init__(self, runner: Runner, agent: int, questions: Sequence[Question], go_on: threading.Event) -> None:
        super().__init__()
        self.asked = 0
        self.answers: set[tuple[int, Answer]] = set()
        self._runner, self._agent, self._questions, self._go_on = runner, agent, questions, go_on

    def run(self) -> None:
        while True:
            for number, question in enumerate(self._questions):
                answer = self._runner.ask(self._agent, question.op, question.key, question.argv)
                self.answers.add((number, answer))
            self.asked += 1
            if not self._go_on.is_set():
                return


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """The interpreter hands over often: else the reloads wait for the threads that ask."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


def agent_of(text: bytes) -> ResolvedAgent:
    return load(text, workspace="/home/me").agents["bot"]


def test_the_policies_differ_for_every_question() -> None:
    """The stress test can tell the two policies apart by each of its questions."""
    for question in QUESTIONS:
        outcomes = {decide(agent_of(text), question.op, question.obj, question.argv) for text in (FIRST, SECOND)}
        assert len(outcomes) == 2, question


def test_every_answer_during_reloads_is_whole(eager_threads: None) -> None:
    """Through 2,000 reloads each answer is what the generation that gave it says: never a mixture, never a default."""
    policies = [agent_of(FIRST), agent_of(SECOND)]
    tables = [build(policy, max_words=ARENA_WORDS) for policy in policies]
    expected = [[decide(policy, q.op, q.obj, q.argv) for policy in policies] for q in QUESTIONS]
    generations: dict[int, int] = {}
    with loaded_probe(ARENA_WORDS) as probe:

        def install(which: int) -> int:
            installed = probe.tables.install("bot", tables[which], mode=Mode.ENFORCE, strict=False)
            generations[installed.generation] = which
            return installed.agent

        agent = install(0)
        go_on = threading.Event()
        go_on.set()
        hammers = [Hammer(runner, agent, QUESTIONS, go_on) for runner in probe.runners[:2]]
        for hammer in hammers:
            hammer.start()
        try:
            for turn in range(1, RELOADS + 1):
                install(turn % 2)
        finally:
            go_on.clear()
            for hammer in hammers:
                hammer.join()
    assert len(generations) == RELOADS + 1
    answers = set().union(*(hammer.answers for hammer in hammers))
    wrong = [
        (QUESTIONS[number].op, answer)
        for number, answer in answers
        if answer.outcome != expected[number][generations[answer.generation]]
    ]
    assert wrong == []
    seen = {answer.generation for _, answer in answers}
    assert {generations[generation] for generation in seen} == {0, 1}
    assert min(hammer.asked for hammer in hammers) > RELOADS // 10
