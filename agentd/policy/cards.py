"""Numbers of payment cards: digits as the network has them, the last a valid check digit (ISO/IEC 7812-1, "Luhn").

Written without a gap, or in the groups that are printed on cards. Other gaps would make cards of lists of numbers, and
a dot before it would make them of fractions: one in ten numbers has a valid check digit.

The check digit makes it no pattern that one would write down, but an automaton can count it: a position is how many
digits were read, and the sum so far modulo 10.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from agentd.policy.regex import DIGIT, GAP, GAPS, WORD, Fragment, between

CARD: Final = "{card}"
# First two digits, and how many there are in all.
_NETWORKS: Final = (
    (range(40, 50), (16,)),  # Visa
    ((22, 23, 24, 25, 26, 27, *range(51, 56)), (16,)),  # Mastercard
    ((50, *range(56, 60)), (16, 18)),  # Maestro
    ((60, 61, *range(63, 70)), (16, 18)),  # Discover, RuPay, Maestro
    ((62,), (16, 17, 18, 19)),  # UnionPay
    ((34, 37), (15,)),  # American Express
    ((30, 36, 38, 39), (14, 16)),  # Diners Club
    ((35,), (16,)),  # JCB
)
_LENGTHS: Final = {first: lengths for firsts, lengths in _NETWORKS for first in firsts}
_GROUPS: Final = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}
_SHAPES: Final = tuple(
    re.compile(
        rb"(?:(?<![0-9A-Za-z_])(?<![0-9][ .+-])|(?<=\\[nrt]))(?=(%s)(?![0-9A-Za-z_]))"
        % b"[ .+-]".join(b"[0-9]{%d}" % count for count in groups)
    )
    for groups in (*((length,) for length in range(14, 20)), *_GROUPS.values())
)
_GAPS: Final = sum(1 << byte for byte in GAPS)


def luhn(digits: bytes) -> bool:
    """Is the last of these digits the check digit of the others?"""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 0x30) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_card(digits: bytes) -> bool:
    """Could a card have this number?"""
    return len(digits) in _LENGTHS.get(int(digits[:2]), ()) and luhn(digits)


def card_found(text: bytes) -> bool:
    """Whether `text` has a card's number, which no digit, letter or number with a gap stands before."""
    return any(is_card(re.sub(rb"[^0-9]", b"", found[1])) for shape in _SHAPES for found in shape.finditer(text))


@cache
def card_fragment() -> Fragment:
    """The same as positions and edges."""
    out = Fragment()
    out.start, out.accept = out.position(), out.position()
    begin = out.position()
    out.jump(out.start, begin, between(lambda before, behind: before not in (DIGIT, WORD, GAP)))
    out.jump(
        out.read(out.read(out.start, 1 << 0x5C), sum(1 << byte for byte in b"nrt")), begin
    )  # as JSON writes a line's end
    for firsts, lengths in _NETWORKS:
        for length in lengths:
            _digits(out, begin, tuple(firsts), length, (length,))
            if length in _GROUPS:
                _digits(out, begin, tuple(firsts), length, _GROUPS[length])
    return out


def _digits(out: Fragment, begin: int, firsts: tuple[int, ...], length: int, groups: tuple[int, ...]) -> None:
    """From `begin` to the end of a number that begins with one of `firsts`."""
    gaps = {sum(groups[:count]) for count in range(1, len(groups))}
    places: dict[int, int] = {}  # sum modulo 10: behind so many digits
    for first in sorted({pair // 10 for pair in firsts}):
        behind = out.read(begin, 1 << (0x30 + first))
        for second in [pair % 10 for pair in firsts if pair // 10 == first]:
            total = (_value(first, length) + _value(second, length - 1)) % 10
            if total not in places:
                places[total] = out.position()
            out.edges[behind].append((1 << (0x30 + second), places[total]))
    for count in range(2, length):
        after: dict[int, int] = {}
        for total, place in places.items():
            at = out.read(place, _GAPS) if count in gaps else place
            for digit in range(10):
                made = (total + _value(digit, length - count)) % 10
                if made not in after:
                    after[made] = out.position()
                out.edges[at].append((1 << (0x30 + digit), after[made]))
        places = after
    if 0 in places:
        out.jump(places[0], out.accept, between(lambda before, behind: behind not in (DIGIT, WORD)))


def _value(digit: int, left: int) -> int:
    """What a digit counts, with so many digits from it to the end."""
    value = digit * (1 + (left + 1) % 2)
    return value - 9 * (value > 9)
