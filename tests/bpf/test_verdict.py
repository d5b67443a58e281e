"""Three ways to decide agree: the kernel's, the evaluator's and a naive one that shares no code with either.

The kernel's own look-up code runs (bpf/probe.bpf.c) over tables that were made from the text of a policy in the usual
way. The random cases are the same in every CI run; elsewhere they are new each time, and Hypothesis prints how to have
a failing one again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentd.model import OP_BY_WORD, Endpoint
from agentd.policy import evaluate
from agentd.policy.hosts import host_key
from agentd.policy.resolve import load
from agentd.policy.resolved import Outcome, ResolvedAgent
from agentd.policy.tables import build
from tests.bpf import messages, samples
from tests.bpf.naive import HOST_OPS, PATH_OPS, WORD_OPS, Decided, Naive, Peer
from tests.bpf.probe import Probe, loaded_probe

pytestmark = pytest.mark.root

ARENA_WORDS: Final = 1 << 21
POLICIES: Final = 24
CASES: Final = 4200  # of each policy
WANTED: Final = 100_000
IN_CI: Final = os.environ.get("CI", "") not in ("", "0", "false")

Case = tuple[str, bytes | Peer | None, tuple[bytes, ...], str]
"""(operation, object, argv, protocol)."""


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with loaded_probe(ARENA_WORDS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def shipped_objects() -> list[bytes]:
    return samples.pool(Random(2026), 700)


def cases(random: Random, document: dict[str, Any], shipped: list[bytes]) -> Iterator[Case]:
    shipped = random.sample(shipped, 250)
    own = samples.own_objects(random, document, 100) or shipped
    argvs = samples.argvs(random, document, 60)
    peers = samples.peers(random, 150)
    for _ in range(CASES):
        op = random.choice(["exec", "exec", "exec", "read", "write", *HOST_OPS, *PATH_OPS])
        if random.random() < 0.01:
            yield op, None, (), "tcp"
        elif op in HOST_OPS:
            peer, protocol = random.choice(peers)
            yield op, peer, (), protocol
        else:
            obj = random.choice(own if random.random() < 0.5 and op not in WORD_OPS else shipped)
            yield op, obj, random.choice(argvs) if op == "exec" else (), "tcp"


@contextmanager
def remembered_matches() -> Iterator[None]:
    """The evaluator keeps what one agent's patterns say of an object, which comes up with several operations."""

    def remembered(function: Any) -> Any:
        known: dict[Any, Any] = {}

        def first_time_only(agent: ResolvedAgent, obj: Any) -> Any:
            if obj not in known:
                known[obj] = function(agent, obj)
            return known[obj]

        return first_time_only

    with (
        patch.object(evaluate, "matched_patterns", remembered(evaluate.matched_patterns)),
        patch.object(evaluate, "matched_groups", remembered(evaluate.matched_groups)),
    ):
        yield


def agreed(agent: ResolvedAgent, outcome: Outcome) -> Decided:
    """An outcome in the words of the naive decision."""
    toolop = agent.toolops[outcome.toolop]
    return Decided(outcome.decision, outcome.action, outcome.risk, outcome.rule, toolop, outcome.timeout)


def check_policy(probe: Probe, document: dict[str, Any], random: Random, shipped: list[bytes]) -> set[Decided]:
    """Raises AssertionError at the first case that the three don't agree on. Returns the different decisions."""
    with patch("agentd.policy.resolve.check_names"):  # also what would be refused must be decided alike
        agent = load(samples.text_of(document), workspace=samples.WORKSPACE).agents["bot"]
    tables = build(agent, max_words=ARENA_WORDS // 2)
    number = probe.install(tables, mode=agent.mode)
    naive = Naive(document, "bot", samples.WORKSPACE)
    seen: set[Decided] = set()
    learned: set[tuple[bytes, str]] = set()
    probe.names.forget()
    with remembered_matches():
        for case in cases(random, document, shipped):
            word, obj, argv, protocol = case
            op = OP_BY_WORD[word]
            endpoint = None
            if isinstance(obj, Peer):
                endpoint = Endpoint(samples.address_of(obj), obj.port, protocol, obj.names)
                for name in obj.names:
                    if (endpoint.address, name) not in learned:
                        learned.add((endpoint.address, name))
                        probe.runners[0].learn(number, messages.answer(name, [endpoint.address]))
            python = evaluate.decide(agent, op, endpoint or obj, argv)  # type: ignore[arg-type]
            key = host_key(endpoint) if endpoint else obj
            netns = 1 if isinstance(obj, Peer) and obj.names else 0
            answer = probe.runners[0].ask(number, op, key, argv, netns=netns)  # type: ignore[arg-type]
            kernel = answer.outcome
            assert kernel == python, (case, document)
            assert tables.outcomes[answer.number] == kernel, (case, document)
            assert answer.unresolved is (kernel.rule == -2), (case, document)
            wanted = naive.decide(word, obj, argv)
            assert agreed(agent, kernel) == wanted, (case, document)
            seen.add(wanted)
    return seen


def test_random_policies(probe: Probe, shipped_objects: list[bytes]) -> None:
    """For 100,000 random operations under random policies of both languages, the three decisions are the same."""
    count = 0
    seen: set[Decided] = set()

    @settings(
        max_examples=POLICIES,
        derandomize=IN_CI,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure names its one case; nothing to shrink
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(samples.documents(), st.integers(0, 2**32))
    def every(document: dict[str, Any], seed: int) -> None:
        nonlocal count
        seen.update(check_policy(probe, document, Random(seed), shipped_objects))
        count += CASES

    every()
    assert count >= WANTED
    assert {decided.decision for decided in seen} == {0, 1, 2}
    assert {decided.action for decided in seen} == {0, 1, 2, 3}
    assert {decided.risk for decided in seen} == {0, 1, 2, 3}
    assert len({decided.rule for decided in seen}) > 5
    assert len(seen) > 200
