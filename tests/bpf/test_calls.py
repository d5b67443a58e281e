"""Library calls: the kernel's reading of a text, its skeleton and its automata agree with the evaluator's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from agentd.kernel import abi
from agentd.model import Decision, Op
from agentd.policy.evaluate import decide
from agentd.policy.resolve import load
from agentd.policy.resolved import ResolvedAgent
from agentd.policy.sql import Sql
from agentd.policy.tables import build
from tests.bpf.probe import Probe, loaded_probe

pytestmark = pytest.mark.root

LIMIT: Final = 64 << 10  # bytes that are read of a text by a program that can't sleep
POLICY: Final = r"""
version: 1
tools:
  pg:
    destroy:
      - call: &pg {library: pq, function: PQexec, argument: 2, as: string, language: postgresql}
        detect: [sql_destroy]
    unbounded: [{call: *pg, detect: [sql_unbounded]}]
    query: [{call: *pg}]
  my:
    several:
      - call: &my {library: my, function: q, argument: 2, as: bytes, length: 3, language: mysql}
        detect: [sql_several]
    marked: [{call: *my, text: ["-x$", "/$"]}]
    query: [{call: *my}]
  lite:
    destroy:
      - {call: &lite {library: lite, function: q, argument: 2, as: string, language: sqlite}, detect: [sql_destroy]}
    query: [{call: *lite}]
  out:
    key:
      - call: &out {library: ssl, function: SSL_write, argument: 2, as: bytes, length: 3}
        detect: [private_key]
        text: ['(?i)\bsecret$']
    mail: [{call: *out, detect: [email_list]}]
    send: [{call: *out}]
  other:
    call: [{call: {library: other, function: f, argument: 1, as: string}}]
agents:
  bot:
    allow:
      - {tool: pg, operations: [query]}
      - {tool: my}
      - {tool: lite, operations: [query]}
      - {tool: out, operations: [send]}
    require_approval: [{tool: pg, operations: [destroy]}]
"""
WORDS: Final = {
    b"pq:PQexec": Sql.POSTGRESQL,
    b"my:q": Sql.MYSQL,
    b"lite:q": Sql.SQLITE,
    b"ssl:SSL_write": Sql.PLAIN,
}
PIECES: Final = (
    b"drop ", b"DROP", b"delete", b" from t ", b"where", b" x", b";", b"'", b'"', b"`", b"[", b"]", b"\\", b"$", b"$$",
    b"--", b"-", b"/*", b"/*!50", b"M!", b"*/", b"/", b"*", b"!", b"#", b"\n", b" ", b"E", b"e'", b"1", b"a@b.cd,",
    b"(", b")", b"\xc3\xa9", b"-----BEGIN PRIVATE KEY-----", b"secret", b"SECRET",
)  # fmt: skip


@pytest.fixture(scope="module")
def agent() -> ResolvedAgent:
    return load(POLICY.encode(), workspace="/w").agents["bot"]


@pytest.fixture(scope="module")
def probe(agent: ResolvedAgent) -> Iterator[tuple[Probe, int]]:
    with loaded_probe(1 << 20) as loaded:
        yield loaded, loaded.install(build(agent, max_words=1 << 20))


def test_random_texts_are_judged_as_the_evaluator_judges_them(agent: ResolvedAgent, probe: tuple[Probe, int]) -> None:
    """Thousands of texts made of what matters in SQL and TLS: the kernel's outcome is the evaluator's."""
    random = Random(31)
    runner, number = probe[0].runners[0], probe[1]
    seen: dict[tuple[bytes, Decision], int] = {}
    for turn in range(6000):
        word, language = random.choice(list(WORDS.items()))
        text = b"".join(random.choice(PIECES) for _ in range(random.randrange(14)))
        if not turn % 20:  # over the borders of the pieces that it is read in
            text = b"x" * random.randrange(2000, 9000) + text
        answer = runner.call(number, word, text, language)
        assert answer is not None
        wanted = decide(agent, Op.CALL, word, text=text)
        assert answer.outcome == wanted, (word, text)
        seen[word, wanted.decision] = seen.get((word, wanted.decision), 0) + 1
    assert len(seen) >= 6
    assert min(seen.values()) >= 20, seen


def test_a_string_ends_at_its_nul_and_bytes_don_t(agent: ResolvedAgent, probe: tuple[Probe, int]) -> None:
    """A string is read to its NUL or its limit, bytes as far as their length says."""
    runner, number = probe[0].runners[0], probe[1]
    text = b"select 1\0; drop table x"
    cut = runner.call(number, b"pq:PQexec", text, Sql.POSTGRESQL, flags=abi.CALLED_STRING)
    whole = runner.call(number, b"pq:PQexec", text, Sql.POSTGRESQL)
    assert cut
    assert whole
    assert cut.outcome == decide(agent, Op.CALL, b"pq:PQexec", text=b"select 1")
    assert whole.outcome.decision is Decision.REQUIRE_APPROVAL
    limited = runner.call(number, b"pq:PQexec", text, flags=abi.CALLED_STRING | abi.CALLED_LIMIT)
    assert limited
    assert limited.outcome == cut.outcome


def test_a_text_longer_than_is_read_at_once_is_left_for_later(probe: tuple[Probe, int]) -> None:
    """64 KiB are read without a pause; more is no verdict here, and a denial for whoever takes it for one."""
    runner, number = probe[0].runners[0], probe[1]
    fits = runner.call(number, b"ssl:SSL_write", b"x" * LIMIT)
    assert fits
    assert not runner.later
    assert fits.outcome.decision is Decision.ALLOW
    long = runner.call(number, b"ssl:SSL_write", b"x" * (LIMIT + 4096))
    assert long
    assert runner.later
    assert long.outcome.decision is Decision.DENY


def test_text_that_is_not_there_is_left_for_later(probe: tuple[Probe, int]) -> None:
    """A page that isn't in memory, or nowhere, is for the program that may wait for it; a null pointer is no text."""
    runner, number = probe[0].runners[0], probe[1]
    assert runner.call(number, b"ssl:SSL_write", b"hello")
    assert not runner.later
    runner._request.args = 8
    answer = runner.again()
    assert runner._request.netns == 2
    assert answer.outcome.decision is Decision.DENY
    runner._request.args = 0  # a null pointer is no text
    assert runner.again().outcome.decision is Decision.ALLOW


def test_a_stream_is_looked_through_as_one_text(probe: tuple[Probe, int]) -> None:
    """What is split over two texts of one stream is found in the second, wherever it is split; not across streams."""
    runner, number, word = probe[0].runners[0], probe[1], b"ssl:SSL_write"
    secret = b"say: -----BEGIN PRIVATE KEY-----\n"
    for at in range(10, 30):
        answers = [
            runner.call(number, word, part, stream=at) for part in (b"x" * 3000, secret[:at], secret[at:], b"more")
        ]
        assert [answer and answer.outcome.decision for answer in answers] == [
            Decision.ALLOW, Decision.ALLOW, Decision.DENY, Decision.ALLOW,
        ]  # fmt: skip
        for one, other in ((0, 0), (1000 + at, 2000 + at)):
            split = [
                runner.call(number, word, secret[:at], stream=one),
                runner.call(number, word, secret[at:], stream=other),
            ]
            assert [answer and answer.outcome.decision for answer in split] == [Decision.ALLOW, Decision.ALLOW]


def test_a_write_that_is_repeated_is_no_news(probe: tuple[Probe, int]) -> None:
    """The same text again, elsewhere in memory too, or the rest of it at the same place: judged once, and the stream
    goes on behind it. Short texts, and others at the same place, are new.
    """
    runner, number, word = probe[0].runners[0], probe[1], b"ssl:SSL_write"
    text = b"1234567890 two addresses: a@b.cd, b@b.cd, and then more text"
    assert runner.call(number, word, text, stream=70)
    for _ in range(5):
        assert runner.call(number, word, text, stream=70) is None
    for taken in (1, 10, 25):
        runner.call(number, word, text, stream=71 + taken)
        request = runner._request
        request.args, request.args_len = request.args + taken, request.args_len - taken
        runner.again()
        assert request.netns == 0, "the rest of it"
        ctypes.memset(request.args, ord("z"), 1)
        runner.again()
        assert request.netns == 1, "the same place, another text"
    assert runner.call(number, word, b"c@b.cd, d@b.cd", stream=70)
    last = runner.call(number, word, b"e@b.cd", stream=70)
    assert last
    assert last.outcome.decision is Decision.DENY, "the fifth"
    for part in b"a@b.cd," * 4:
        assert runner.call(number, word, bytes((part,)), stream=69)
    assert runner.call(number, word, text + b"!", stream=68)
    assert runner.call(number, word, text + b"?", stream=68)
    assert runner.call(number, word, text, stream=67)
    assert runner.call(number, word, text, stream=66), "of another stream"
    assert runner.call(number, word, text)
    assert runner.call(number, word, text), "no stream"


def test_a_stream_that_was_forgotten_begins_anew(probe: tuple[Probe, int]) -> None:
    """Of more streams than are remembered those used last are."""
    runner, number, word = probe[0].runners[0], probe[1], b"ssl:SSL_write"
    secret = b"-----BEGIN PRIVATE KEY-----"
    first, last = 1, 20_000
    for stream in range(first, last + 1):
        assert runner.call(number, word, secret[:15], stream=stream)
    assert runner.call(number, word, secret[15:], stream=last).outcome.decision is Decision.DENY
    assert runner.call(number, word, secret[15:], stream=first).outcome.decision is Decision.ALLOW


def test_what_no_rule_speaks_of_is_not_judged(probe: tuple[Probe, int]) -> None:
    """A function that no rule's tool has isn't judged at all."""
    runner, number = probe[0].runners[0], probe[1]
    assert runner.call(number, b"other:f", b"x") is None
    assert runner.call(number, b"pq:PQexec", b"x") is not None
    assert ctypes.sizeof(abi.Call) == 8 + abi.CALL_WORD
