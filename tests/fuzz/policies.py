"""Whole policies, by Hypothesis: text, rules, tables; then the kernel's matchers, compiled for this host, and the
evaluator in Python are asked the same questions. `./dev fuzz policies`.

tests/bpf/test_verdict.py does this in the running kernel, for a fixed number of cases; here it is for as long as one
likes, with the sanitizer of undefined behaviour.
"""

from __future__ import annotations

import ctypes
import sys
import time
from ctypes import POINTER, c_char_p, c_uint8, c_uint32
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentd.kernel import abi
from agentd.kernel.tables import _fill
from agentd.model import OP_BY_WORD, Action, Decision, Endpoint, Family, Risk
from agentd.policy import evaluate
from agentd.policy.hosts import host_key
from agentd.policy.resolve import load
from agentd.policy.resolved import Outcome
from agentd.policy.tables import build
from tests.bpf import messages, samples
from tests.bpf.naive import HOST_OPS, PATH_OPS, WORD_OPS, Peer

WORDS: Final = 1 << 21
CASES: Final = 400  # of each policy
LEAST: Final = 3  # policies; without any time always the same ones


class Verdict(ctypes.Structure):
    """struct verdict of bpf/lib/buffer.bpf.h."""

    _fields_ = [
        *((name, c_uint32) for name in ("outcome", "generation", "rule", "toolop", "timeout")),
        *((name, c_uint8) for name in ("decision", "action", "risk", "unresolved")),
    ]


class Matcher:
    """The library that matcher.c makes."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))
        self._lib.matcher_learn.argtypes = [c_char_p, c_uint32]
        self._lib.matcher_ask.argtypes = [
            POINTER(Verdict), c_uint32, c_char_p, c_uint32, c_char_p, c_uint32, c_uint32
        ]  # fmt: skip

    def install(self, words: Any, header: Any) -> None:
        """Puts tables in force."""
        self._arena = (c_uint32 * WORDS)()
        ctypes.memmove(self._arena, memoryview(words).cast("B").tobytes(), len(words) * 4)
        agent = abi.Agent(flags=abi.AGENT_USED)
        agent.generation[0] = 1
        _fill(agent.tables[0], header, 0)
        self._lib.matcher_install(self._arena, ctypes.byref(agent))

    def ask(self, op: int, family: Family, obj: bytes, argv: tuple[bytes, ...], endpoint: Endpoint | None) -> Outcome:
        """The verdict. endpoint: with the names that its address has."""
        self._lib.matcher_forget()
        names = endpoint.names if endpoint else ()
        for name in names:
            message = messages.answer(name, [endpoint.address])  # type: ignore[union-attr]
            self._lib.matcher_learn(message, len(message))
        data = obj[:-1] if family is Family.HOST else obj  # the class of the name is found by it
        block = b"".join(word + b"\0" for word in argv)
        verdict = Verdict()
        self._lib.matcher_ask(ctypes.byref(verdict), op, data, len(data), block, len(block), int(bool(names)))
        rule = verdict.rule - (1 << 32) if verdict.rule >= 1 << 31 else verdict.rule
        return Outcome(
            Decision(verdict.decision),
            Action(verdict.action),
            Risk(verdict.risk),
            rule,
            verdict.toolop,
            verdict.timeout,
        )


def questions(random: Random, document: dict[str, Any], shipped: list[bytes]) -> Any:
    """Operations that are near the policy's patterns: (operation, object, argv, protocol)."""
    own = samples.own_objects(random, document, 60) or shipped
    argvs = samples.argvs(random, document, 30)
    peers = samples.peers(random, 60)
    for _ in range(CASES):
        op = random.choice(["exec", "exec", "read", "write", *HOST_OPS, *PATH_OPS])
        if op in HOST_OPS:
            peer, protocol = random.choice(peers)
            yield op, peer, (), protocol
        else:
            obj = random.choice(own if random.random() < 0.5 and op not in WORD_OPS else shipped)
            yield op, obj, random.choice(argvs) if op == "exec" else (), "tcp"


def check(matcher: Matcher, document: dict[str, Any], seed: int, shipped: list[bytes]) -> int:
    """Raises AssertionError where the two differ; how many questions there were."""
    with patch("agentd.policy.resolve.check_names"):  # also what would be refused must be decided alike
        agent = load(samples.text_of(document), workspace=samples.WORKSPACE).agents["bot"]
    tables = build(agent, max_words=WORDS)
    matcher.install(tables.words, tables.header)
    random = Random(seed)
    for word, obj, argv, protocol in questions(random, document, random.sample(shipped, 100)):
        op = OP_BY_WORD[word]
        endpoint = None
        if isinstance(obj, Peer):
            endpoint = Endpoint(samples.address_of(obj), obj.port, protocol, obj.names)
        python = evaluate.decide(agent, op, endpoint or obj, argv)
        host = matcher.ask(op, op.family, host_key(endpoint) if endpoint else obj, argv, endpoint)
        assert host == python, (word, obj, argv, protocol, document, host, python)
    return CASES


def main(library: str, seconds: float) -> int:
    """0: they agree."""
    matcher, shipped = Matcher(Path(library)), samples.pool(Random(2026), 300)
    deadline = time.monotonic() + seconds
    policies = asked = 0
    while time.monotonic() < deadline or policies < LEAST:

        @settings(
            max_examples=20, deadline=None, derandomize=not seconds, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
        )  # fmt: skip
        @given(samples.documents(), st.integers(0, 2**32))
        def every(document: dict[str, Any], seed: int) -> None:
            nonlocal policies, asked
            if time.monotonic() < deadline or policies < LEAST:
                asked += check(matcher, document, seed, shipped)
                policies += 1

        every()
    print(f"policies: {policies} policies, {asked} questions, the same answers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], float(sys.argv[2])))
