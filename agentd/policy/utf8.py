"""Ranges of code points as ranges of bytes: what a set of characters looks like in UTF-8 (RFC 3629)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# Code points of one encoded length, without the surrogates, which have no encoding.
_LENGTHS = ((0x00, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))


def byte_sequences(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The byte sets, in a row, that encode the characters of `ranges` (inclusive; surrogates are left out).

    Each set is a mask of 256 bits. Sequences of one byte are joined to one.
    """
    single = 0
    found: dict[tuple[int, ...], None] = {}
    for low, high in ranges:
        for first, last in _LENGTHS:
            start, end = max(low, first), min(high, last)
            if start > end:
                continue
            for sequence in _split(chr(start).encode(), chr(end).encode()):
                if len(sequence) == 1:
                    single |= sequence[0]
                else:
                    found[sequence] = None
    return ((single,), *found) if single else tuple(found)


def _span(low: int, high: int) -> int:
    return (1 << (high + 1)) - (1 << low)


def _split(low: bytes, high: bytes) -> Iterator[tuple[int, ...]]:
    """Cut [low, high], both of one length, into pieces that are a product of byte ranges."""
    if len(low) == 1:
        yield (_span(low[0], high[0]),)
        return
    rest = len(low) - 1
    first, last = low[0], high[0]
    if first == last:
        for tail in _split(low[1:], high[1:]):
            yield (_span(first, first), *tail)
        return
    if low[1:] != b"\x80" * rest:
        for tail in _split(low[1:], b"\xbf" * rest):
            yield (_span(first, first), *tail)
        first += 1
    if high[1:] != b"\xbf" * rest:
        for tail in _split(b"\x80" * rest, high[1:]):
            yield (_span(last, last), *tail)
        last -= 1
    if first <= last:
        yield (_span(first, last), *((_span(0x80, 0xBF),) * rest))
