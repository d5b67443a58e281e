"""What is told of the text of a library call: never the text itself, which may hold what nobody else should see."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from agentd.audit.canonical import Json
from agentd.audit.rawbytes import printable
from agentd.kernel import abi
from agentd.kernel.ring import KernelEvent
from agentd.policy.detectors import shipped_detectors
from agentd.policy.sql import Sql, skeleton
from agentd.policy.texts import matches_text

EXCERPT: Final = 160  # characters
_LONG: Final = re.compile(rb"[A-Za-z0-9_+/=%.~-]{16,}")  # long enough to be a key; shorter words are words
_ADDRESS: Final = re.compile(rb"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")
_DIGIT: Final = re.compile(rb"[0-9]")


def language_of(event: KernelEvent) -> Sql:
    """How the kernel side has read the text."""
    return Sql(event.flags >> abi.SQL_SHIFT & 3)


def excerpt(event: KernelEvent) -> str:
    """The beginning of the text for people:
    SQL without what stands in quotes, digits as #, no addresses, no long words.
    """
    text = event.text
    language = language_of(event)
    if language:
        text = skeleton(text, language) or b"(SQL that can't be told)"
    text = _DIGIT.sub(b"#", _LONG.sub(b"<...>", _ADDRESS.sub(b"<address>", text)))
    shown = printable(text)
    return shown if len(shown) <= EXCERPT else shown[: EXCERPT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def detected(event: KernelEvent) -> list[str]:
    """The detectors that find something in what is kept of the text."""
    language = language_of(event)
    code = skeleton(event.text, language) if language else None
    found = []
    for name, detector in shipped_detectors().items():
        seen = code if name.startswith("sql_") else event.text
        if seen is not None and matches_text(detector.patterns, seen):
            found.append(name)
    return found


def told(event: KernelEvent) -> dict[str, Json]:
    """For a record: an excerpt, what was detected, and a hash of the text that is kept."""
    if not event.text:
        return {}
    made: dict[str, Json] = {
        "excerpt": excerpt(event),
        "detectors": [*detected(event)],
        "sha256": hashlib.sha256(event.text).hexdigest(),
        "bytes": len(event.text),
    }
    if event.flags & abi.FLAG_ARGV_CUT:
        made["cut"] = True
    return {"text": made}
