"""The form of a line: is it the canonical JSON (RFC 8785) of a whole record (`audit verify --strict`), is it whole?"""

from __future__ import annotations

import json
import time
from typing import Any, BinaryIO, Final

from agentd.audit import canonical, chain
from agentd.audit.record import MEMBERS

_KNOWN: Final = frozenset(MEMBERS)
_TORN_WAIT: Final = 5, 0.02  # tries and seconds a writer gets to finish the line it is writing
_REQUIRED: Final = _KNOWN - {"count", "first", "last", "objects"}


def _refuse(text: str) -> int:
    raise chain.Damage(f"not canonical JSON: {text} is a number that no record holds")


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 17 else canonical.MAX_INTEGER + 1
    return value if -canonical.MAX_INTEGER <= value <= canonical.MAX_INTEGER else _refuse(text[:40])


_decode = json.JSONDecoder(parse_float=_refuse, parse_int=_integer, parse_constant=_refuse).decode


def check_form(line: bytes) -> dict[str, Any]:
    """The record in the line. Raises Damage unless that is the canonical JSON of an object with all its members."""
    try:
        value = _decode(line.decode())
        # The decoder has seen to the numbers, and keys of plain ASCII have one order only.
        same = (canonical.dumps_checked(value) if line.isascii() else canonical.dumps(value)) == line[:-1]
    except chain.Damage:
        raise
    except (ValueError, RecursionError) as error:
        raise chain.Damage(f"not canonical JSON: {error}") from None
    if not same:
        raise chain.Damage("not canonical JSON: the same record has another canonical form")
    if not isinstance(value, dict) or not _REQUIRED <= value.keys() <= _KNOWN:
        raise chain.Damage("not a record: members are missing or unknown")
    return value


def rest(log: BinaryIO, limit: int) -> bytes:
    """The rest of a last line that a live writer is just writing, if it comes."""
    found = b""
    for _ in range(_TORN_WAIT[0]):
        time.sleep(_TORN_WAIT[1])
        found += log.readline(limit - len(found))
        if found[-1:] == b"\n":
            break
    return found


def claimed_seq(line: bytes) -> int | None:
    """The seq that a bad line claims, if it is JSON at all."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    seq = value.get("seq") if isinstance(value, dict) else None
    return seq if isinstance(seq, int) else None
