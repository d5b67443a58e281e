"""What is found in texts: the automaton says what Python's own `re` says, and the detectors find what they name."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.automaton import Dfa, StateLimit
from agentd.policy.cards import CARD, luhn
from agentd.policy.detectors import DETECTORS
from agentd.policy.regex import regex
from agentd.policy.sql import Sql, skeleton
from agentd.policy.texts import compile_texts, matches_text

PATTERNS = (
    r"drop", r"(?i)^\s*(drop|truncate)\b", r"a+b?c{2,3}", r"\bx\b", r"\By", r"(?m)^a.b$", r"(?s)a.b", r"[^a-c ]z",
    r"a(b|c(d|))*e", r"x$", r"\Ab|c\Z", r"(?i)[a-c]D", r"\d{3}-\d\w", r"(?:ab){2}|\n\n", r"é", CARD,
)  # fmt: skip
PIECES = st.sampled_from(
    [b"drop", b"DROP", b"truncate", b" ", b"\n", b"a", b"b", b"c", b"cc", b"d", b"e", b"x", b"y", b"z", b"_", b"1",
     b"23", b"-", b"4111 1111 1111 1111", b"4111111111111111", b"378282246310005", "é".encode(), b"\xff"]
)  # fmt: skip
SAMPLE = Path(__file__).parent / "detected.yaml"


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
    dfa = compile_texts([(0, pattern)], max_states=20_000)

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
        (r"(?<!a)b", "look-around"),
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
    """Of random numbers one in ten is a card's; every one of those is found, and no other."""
    random = Random(7)
    kinds = {True: 0, False: 0}
    for _ in range(2000):
        length = random.randrange(13, 20)
        digits = str(random.randrange(2, 7)) + "".join(random.choice("0123456789") for _ in range(length - 1))
        valid = luhn(digits.encode())
        kinds[valid] += 1
        assert matches_text((CARD,), f"to {digits}.".encode()) is valid, digits
    assert min(kinds.values()) > 100


def test_every_detector_finds_what_its_sample_says() -> None:
    """The labelled sample: recall is whole, and precision is, on texts that are near misses or ordinary."""
    sample = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    assert set(sample) == set(DETECTORS)
    wrong = []
    for name, texts in sample.items():
        patterns = DETECTORS[name].patterns
        assert len(texts["yes"]) >= 5
        assert len(texts["no"]) >= 5
        for wanted, listed in ((True, texts["yes"]), (False, texts["no"])):
            for text in listed:
                data = text.encode()
                seen = skeleton(data, Sql.POSTGRESQL) if name.startswith("sql_") else data
                if seen is None or matches_text(patterns, seen) is not wanted:
                    wrong.append((name, text))
    assert not wrong
