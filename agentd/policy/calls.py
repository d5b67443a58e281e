"""The parts of a catalogue entry that speak of a library's function: which one, where the text is, what is looked for.

{call: {library: pq, function: [PQexec, PQsendQuery], argument: 2, as: string}, text: ["(?i)^drop "], detect: [card]}
{call: {library: python3, usdt: "python:audit", argument: 1, as: string}, text: ["^socket\\.connect$"]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import Final

from agentd.model import Op
from agentd.policy.detectors import shipped_detectors
from agentd.policy.ir import CallPoint, TextAt, TextKind
from agentd.policy.patterns import MAX_GLOB_BYTES
from agentd.policy.reader import Reader, shown, suggestion
from agentd.policy.source import Scalar
from agentd.policy.source import Sequence as List
from agentd.policy.sql import Sql
from agentd.policy.texts import fragment

REGISTERS: Final = 6  # arguments that the x86-64 calling convention passes in registers
USDT_ARGUMENTS: Final = 12  # of <sys/sdt.h>
_KEYS: Final = ("library", "function", "usdt", "argument", "as", "length", "signed", "language", "stream", "ends")
_LIBRARY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,30}")
_FUNCTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_@.]{0,60}")
_USDT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,24}:[A-Za-z_][A-Za-z0-9_]{0,34}")


def parse_call(reader: Reader) -> tuple[tuple[CallPoint, ...], tuple[TextAt, ...]]:
    """The functions of `call:` and their words, as the entry's patterns. A list is of words alone and adds no probe."""
    if isinstance(reader.node, List):
        return (), reader.texts() or ()
    keys = reader.keys(_KEYS)
    if keys is None:
        return (), ()
    usdt = "usdt" in keys
    if usdt and "function" in keys:
        keys["usdt"].error("a call is a function or a USDT probe", "write function or usdt")
        return (), ()
    if usdt and "signed" in keys:
        keys["signed"].error("a USDT probe says by itself which type its arguments have", "leave signed out")
        return (), ()
    for word in ("library", "usdt" if usdt else "function", "argument", "as"):
        if word not in keys:
            reader.error(f"the call says no {word}", "write {library: pq, function: PQexec, argument: 2, as: string}")
            return (), ()
    library = _name(keys["library"], _LIBRARY, "a library is named as in libNAME.so")
    kind = keys["as"].choice({kind.value: kind for kind in TextKind})
    most = USDT_ARGUMENTS if usdt else REGISTERS
    argument = _argument(keys["argument"], most)
    length = _argument(keys["length"], most) if "length" in keys else 0
    signed = bool(keys["signed"].choice({"int": True, "size_t": False})) if "signed" in keys else False
    language = keys["language"].choice({one.word: one for one in Sql if one}) if "language" in keys else Sql.PLAIN
    stream = _argument(keys["stream"], most) if "stream" in keys else 0
    ends = _functions(keys["ends"], _FUNCTION) if "ends" in keys else ()
    if ends and (usdt or not stream):
        keys["ends"].error("only a stream of a function ends", "say which argument is the stream: `stream: 1`")
        return (), ()
    if stream and language:
        reader.error("SQL is no stream: each text is a statement", "write language or stream")
        return (), ()
    if kind is TextKind.BYTES and "length" not in keys:
        reader.error("bytes have no end of their own", "say which argument is their length: `length: 3`")
        return (), ()
    functions = _functions(keys["usdt"], _USDT) if usdt else _functions(keys["function"], _FUNCTION)
    if library is None or kind is None or argument is None or length is None or language is None:
        return (), ()
    if stream is None or not functions:
        return (), ()
    told = argument, kind, length, signed, language, stream, usdt, tuple(end.text for end in ends)
    points = tuple(CallPoint(library, text.text, *told) for text in functions)
    return points, tuple(TextAt(point.word, text.at) for point, text in zip(points, functions, strict=True))


def parse_text(reader: Reader, keys: AnyMapping[str, Reader], ops: Sequence[Op]) -> tuple[TextAt, ...] | None:
    """The patterns of `text:` and of the detectors of `detect:`, any of which suffices; None: neither is there."""
    if "text" not in keys and "detect" not in keys:
        return None
    if list(ops) != [Op.CALL]:
        reader.error("only a call has a text", "write call in an entry of its own with text or detect")
        return None
    found: list[TextAt] = []
    for text in keys["text"].texts() or () if "text" in keys else ():
        if len(text.text) > MAX_GLOB_BYTES or _malformed(text.text):
            why = _malformed(text.text) or "it is too long"
            reader.problems.error(text.at.line, text.at.column, text.at.path, f"{shown(text.text)}: {why}")
            continue
        found.append(text)
    for text in keys["detect"].texts() or () if "detect" in keys else ():
        detectors = shipped_detectors()
        if text.text not in detectors:
            hint = suggestion(text.text, detectors, f"there are {', '.join(detectors)}")
            reader.problems.error(
                text.at.line, text.at.column, text.at.path, f"no detector is called {shown(text.text)}", hint
            )
            continue
        found += [TextAt(pattern, text.at) for pattern in detectors[text.text].patterns]
    return tuple(found)


def _malformed(pattern: str) -> str:
    try:
        fragment(pattern)
    except ValueError as error:
        return str(error)
    return ""


def _functions(reader: Reader, allowed: re.Pattern[str]) -> tuple[TextAt, ...]:
    texts = reader.texts() if isinstance(reader.node, List) else None
    if texts is None:
        one = reader.text_at()
        texts = (one,) if one is not None else ()
    for text in texts:
        if not allowed.fullmatch(text.text):
            at = text.at
            what, hint = ("a function", "as `nm -D` shows it")
            if allowed is _USDT:
                what, hint = ("a USDT probe", "write PROVIDER:NAME, as `readelf -n` shows them")
            reader.problems.error(at.line, at.column, at.path, f"{shown(text.text)} can't be the name of {what}", hint)
            return ()
    return texts


def _name(reader: Reader, allowed: re.Pattern[str], hint: str) -> str | None:
    text = reader.text()
    if text is not None and not allowed.fullmatch(text):
        reader.error(f"{shown(text)} can't be a name here", hint)
        return None
    return text


def _argument(reader: Reader, most: int) -> int | None:
    value = reader.node.value if isinstance(reader.node, Scalar) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        hint = "arguments count from 1" + ("; later ones are not in registers" if most == REGISTERS else "")
        reader.expected(f"a number from 1 to {most}", hint)
        return None
    return value
