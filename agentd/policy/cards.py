"""Numbers of payment cards: 13 to 19 digits with a valid check digit (ISO/IEC 7812-1, annex B, "Luhn").

The check digit makes it no pattern that one would write down, but an automaton can count it: a position is how many
digits were read, the sum so far modulo 10, and whether the length is taken to be odd or even.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from agentd.policy.regex import DIGIT, GAP, WORD, Fragment, between

CARD: Final = "{card}"
LENGTHS: Final = range(13, 20)
_FIRST_DIGITS: Final = b"23456"  # of the networks' ranges; 0, 1, 7, 8 and 9 are airlines, fuel, health, national
_SEPARATORS: Final = b" -"
_RUN: Final = re.compile(rb"(?<![0-9A-Za-z_])(?<![0-9][ -])[0-9](?:[ -]?[0-9])*")
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")


def luhn(digits: bytes) -> bool:
    """Is the last of these digits the check digit of the others?"""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 0x30) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def card_found(text: bytes) -> bool:
    """Whether `text` has a card's number: digits, single spaces or hyphens between them, at the start of such a run."""
    return any(_begins(match[0], text[match.end() : match.end() + 1]) for match in _RUN.finditer(text))


def _begins(run: bytes, behind: bytes) -> bool:
    digits = bytearray()
    for i, byte in enumerate(run):
        if byte in _SEPARATORS:
            continue
        digits.append(byte)
        following = run[i + 1 : i + 2] or behind
        whole = not following or following[0] not in _WORD
        if whole and len(digits) in LENGTHS and digits[0] in _FIRST_DIGITS and luhn(bytes(digits)):
            return True
    return False


@cache
def card_fragment() -> Fragment:
    """The same as positions and edges."""
    out = Fragment()
    out.start, out.accept = out.position(), out.position()
    alone = between(lambda before, behind: before not in (DIGIT, WORD, GAP))
    ended = between(lambda before, behind: behind not in (DIGIT, WORD))
    separators = sum(1 << byte for byte in _SEPARATORS)
    for odd in (0, 1):
        begin = out.position()
        out.jump(out.start, begin, alone)
        places: dict[tuple[int, int], int] = {(0, 0): begin}  # (digits read, sum modulo 10)
        for count in range(LENGTHS[-1]):
            for total in range(10):
                at = places.get((count, total))
                if at is None:
                    continue
                if count in LENGTHS and count % 2 == odd and total == 0:
                    out.jump(at, out.accept, ended)
                after = out.read(at, separators) if count else at
                for digit in range(10):
                    if count == 0 and 0x30 + digit not in _FIRST_DIGITS:
                        continue
                    value = digit * (1 + (odd - count + 1) % 2)
                    key = (count + 1, (total + value - 9 * (value > 9)) % 10)
                    if key not in places:
                        places[key] = out.position()
                    mask = 1 << (0x30 + digit)
                    out.edges[at].append((mask, places[key]))
                    if after != at:
                        out.edges[after].append((mask, places[key]))
        last = places.get((LENGTHS[-1], 0))
        if last is not None and LENGTHS[-1] % 2 == odd:
            out.jump(last, out.accept, ended)
    return out
