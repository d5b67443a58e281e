"""Canonical JSON against RFC 8785."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.audit import canonical
from agentd.audit.canonical import CanonicalError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_strings_and_literals_are_those_of_the_rfc_example() -> None:
    """The strings and literals of RFC 8785, section 3.2.2, come out byte for byte."""
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical.dumps(value) == expected.encode()


def test_keys_are_ordered_by_utf16_code_units() -> None:
    """The key-order example of RFC 8785, section 3.2.3: an astral key sorts before U+FB33."""
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    order = list(json.loads(canonical.dumps(value)).values())
    assert order == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), 2**53, -(2**53), "\ud800", {"\udc80": 1}, {1: 2}, b"x", {"a": [0.5]}, object()],
    ids=repr,
)
def test_what_has_no_exact_form_is_refused(value: object) -> None:
    """Floats, integers beyond 2^53 - 1, lone surrogates and foreign types are refused, not approximated."""
    with pytest.raises(CanonicalError):
        canonical.dumps(value)


def test_nesting_is_bounded() -> None:
    """A value nested deeper than the bound is refused; one at the bound is not."""
    value: object = 1
    for _ in range(canonical.MAX_DEPTH):
        value = [value]
    assert canonical.dumps(value)
    with pytest.raises(CanonicalError):
        canonical.dumps([value])


@given(VALUES)
def test_the_fast_and_the_slow_path_agree(value: object) -> None:
    """Wherever the fast encoder is used, the slow one gives the same bytes."""
    if canonical.check(value):
        assert canonical.dumps_checked(value) == canonical._slow(value).encode()


@given(VALUES)
def test_the_form_is_a_fixed_point(value: object) -> None:
    """Parsing a canonical form and writing it again changes nothing."""
    text = canonical.dumps(value)
    assert json.loads(text) == value
    assert canonical.dumps(json.loads(text)) == text
