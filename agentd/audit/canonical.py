"""Canonical JSON (RFC 8785, JCS) for the values that records are made of.

Records hold strings, integers, booleans, null, lists and objects. Floating point numbers are refused rather than
formatted as ECMAScript would: nothing a record says is approximate, and no two libraries may disagree about a digit.
Integers outside +-(2^53 - 1) are refused too, because RFC 8785 numbers are IEEE doubles (RFC 7493, section 2.2).

The escapes of RFC 8785 (section 3.2.2.2: the two-character forms, lower-case \\u00xx for other control characters,
everything else literally) are those of the standard library's encoder with ensure_ascii off. Its key order is by code
point, RFC 8785's by UTF-16 code unit; the two differ only where a key goes beyond U+D7FF, so such objects take the
slow path.
"""

from __future__ import annotations

import json
from typing import Final

Json = str | int | bool | None | list["Json"] | dict[str, "Json"]

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 64

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode
_encode_string = json.JSONEncoder(ensure_ascii=False).encode


class CanonicalError(ValueError):
    """A value that has no canonical form here: a float, a big integer, a lone surrogate, too deep, a foreign type."""


def check(value: object, depth: int = MAX_DEPTH) -> bool:
    """True if the fast encoder gives the canonical form, False if keys need UTF-16 order. Raises CanonicalError."""
    if value is None or isinstance(value, (str, bool)):
        return True
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise CanonicalError(f"{value} is beyond the integers that every JSON reader keeps exact (2^53 - 1)")
        return True
    if depth == 0:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        simple = True
        for item in value:
            simple &= check(item, depth - 1)
        return simple
    if isinstance(value, dict):
        simple = True
        for key, item in value.items():
            if not isinstance(key, str):
                raise CanonicalError(f"an object key is a {type(key).__name__}, not a string")
            simple &= key.isascii() or max(key) < "\ud800"
            simple &= check(item, depth - 1)
        return simple
    raise CanonicalError(f"a {type(value).__name__} has no canonical form in a record")


def dumps(value: object) -> bytes:
    """The canonical UTF-8 bytes of `value`. Raises CanonicalError."""
    return _utf8(_encode(value) if check(value) else _slow(value))


def dumps_checked(value: object) -> bytes:
    """The same for a value that `check` has answered True for (the record builder knows its own types)."""
    return _utf8(_encode(value))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CanonicalError("a string holds a lone surrogate, which UTF-8 can't carry") from None


def _slow(value: object) -> str:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_encode_string(key)}:{_slow(value[key])}" for key in keys) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_slow(item) for item in value) + "]"
    return _encode(value)
