"""What is found in texts: the automaton says what Python's own `re` says, and the detectors find what they name."""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.automaton import Dfa, StateLimit
from agentd.policy.cards import CARD, luhn
from agentd.policy.detectors import shipped_detectors
from agentd.policy.regex import regex
from agentd.policy.sql import Sql, skeleton
from agentd.policy.texts import compile_texts, matches_text

PATTERNS = (
    r"drop", r"(?i)^\s*(drop|truncate)\b", r"a+b?c{2,3}", r"\bx\b", r"\By", r"(?m)^a.b$", r"(?s)a.b", r"[^a-c ]z",
    r"a(b|c(d|))*e", r"x$", r"\Ab|c\Z", r"(?i)[a-c]D", r"\d{3}-\d\w", r"(?:ab){2}|\n\n", r"é", CARD,
    r"(?<!x )(?<!(?i:\bA-))[ab-]b?",
)  # fmt: skip
PIECES = st.sampled_from(
    [b"drop", b"DROP", b"truncate", b" ", b"\n", b"a", b"b", b"c", b"cc", b"d", b"e", b"x", b"y", b"z", b"_", b"1",
     b"23", b"-", b"4111 1111 1111 1111", b"4111111111111111", b"378282246310005", "é".encode(), b"\xff"]
)  # fmt: skip
SAMPLE = Path(__file__).parent / "detected.yaml"


@functools.cache
def alone(pattern: str) -> Dfa:
    """The automaton of one pattern, as group 0."""
    return compile_texts([(0, pattern)], max_states=20_000)


def found(dfa: Dfa, text: bytes) -> set[int]:
    """The groups that the automaton gathers on its way, as the kernel does."""
    state, seen = dfa.start, set()
    for byte in text:
        i = dfa.base[state] + dfa.classes[byte]
        state = dfa.comb_next[i] if dfa.comb_check[i] == state else dfa.default[state]
        seen |= set(dfa.payloads[dfa.accept[state]].here)  # type: ignore[attr-defined]
    return seen | set(dfa.payloads[dfa.accept[state]].at_end)  # type: ignore[attr-defined]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_pattern_is_found_where_python_finds_it(pattern: str) -> None:
    """For any text, the automaton of a pattern finds it just when `re.search` does."""
    dfa = alone(pattern)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(PIECES, max_size=9))
    def same(pieces: list[bytes]) -> None:
        text = b"".join(pieces)
        assert (0 in found(dfa, text)) is matches_text((pattern,), text), text

    same()


def test_patterns_together_don_t_disturb_one_another() -> None:
    """One automaton of many patterns finds each as if it were alone."""
    together = [pattern for pattern in PATTERNS if pattern != CARD]
    dfa = compile_texts(list(enumerate(together)), max_states=20_000)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(PIECES, max_size=12))
    def same(pieces: list[bytes]) -> None:
        text = b"".join(pieces)
        assert found(dfa, text) == {i for i, pattern in enumerate(together) if matches_text((pattern,), text)}, text

    same()


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(a)\1", "back references"),
        (r"(?=a)b", "look-ahead"),
        (r"b(?<!a)c", "look-around"),
        (r"(?<!ab|cd)e", "look-around"),
        (r"(?<!a)c*", "matches the empty text"),
        (r"(?<=a)b", "look-behind"),
        (r"a*", "matches the empty text"),
        (r"(", "no regular expression"),
        (r"", "empty pattern"),
        (r"a{20001}", "too large"),
        (r"a" * 5000, "at most"),
    ],
)
def test_what_no_automaton_can_do_is_refused(pattern: str, why: str) -> None:
    """A pattern that can't be judged byte by byte is an error with a reason, never something else quietly."""
    with pytest.raises(ValueError, match=why):
        regex(pattern)


def test_too_many_states_are_refused_early() -> None:
    """States that multiply end the work with StateLimit."""
    with pytest.raises(StateLimit):
        compile_texts([(0, r"a[ab]{14}c")], max_states=2000)


def test_a_check_digit_is_checked() -> None:
    """Of random numbers of a card's length one in ten is a card's; each of those is found, and no other."""
    random = Random(7)
    dfa = alone(CARD)
    kinds = {True: 0, False: 0}
    for _ in range(2000):
        first, length = random.choice(
            (("4", 16), ("25", 16), ("53", 16), ("37", 15), ("36", 14), ("62", 19), ("62", 17))
        )
        digits = first + "".join(random.choice("0123456789") for _ in range(length - len(first)))
        text, valid = f"to {digits}.".encode(), luhn(digits.encode())
        kinds[valid] += 1
        assert matches_text((CARD,), text) is valid, digits
        assert (0 in found(dfa, text)) is valid, digits
    assert min(kinds.values()) > 100


def test_numbers_of_ordinary_traffic_are_no_cards() -> None:
    """Fractions, times, lists and long numbers of other lengths, one in ten of which has a valid check digit."""
    random = Random(8)
    texts = [repr(random.gauss(0, 10)) for _ in range(2000)]
    texts += [
        f"20{random.randrange(20, 30)}-{random.randrange(10**4):04}-{random.randrange(10**8):08}" for _ in range(200)
    ]
    texts += [f"20{random.randrange(10**12):012}" for _ in range(200)]
    texts += [" ".join(str(random.randrange(100)) for _ in range(20)) for _ in range(200)]
    assert [text for text in texts if matches_text((CARD,), text.encode())] == []


def test_every_detector_finds_what_its_sample_says() -> None:
    """The labelled sample: recall is whole, and precision is, on texts that are near misses or ordinary."""
    sample = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    assert set(sample) == set(shipped_detectors())
    wrong = []
    for name, texts in sample.items():
        patterns = shipped_detectors()[name].patterns
        assert len(texts["yes"]) >= 5
        assert len(texts["no"]) >= 5
        for wanted, listed in ((True, texts["yes"]), (False, texts["no"])):
            for text in listed:
                data = text.encode()
                seen = skeleton(data, Sql.POSTGRESQL) if name.startswith("sql_") else data
                if seen is None or matches_text(patterns, seen) is not wanted:
                    wrong.append((name, text))
    assert not wrong
