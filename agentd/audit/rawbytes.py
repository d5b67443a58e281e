"""Raw bytes from the kernel in JSON and on a terminal.

Paths and arguments are bytes. In a record they are

    a plain string       when they are valid UTF-8 (NUL, newlines, control characters through JSON's own escapes)
    {"b64": "..."}       otherwise: RFC 4648 base64 with padding

so `decode(encode(raw)) == raw` for every byte string, and a plain string never needs a second look.

On a terminal nothing that a workload chose may move the cursor, change a colour or reorder the line: `printable` shows
every character that isn't visible (control, bidirectional and zero-width formatting, separators other than the space,
unassigned) as an escape, and doubles the backslash so that an escape can't be forged.
"""

from __future__ import annotations

import base64
import binascii
import os

RawJson = str | dict[str, str]


def encode(raw: bytes | str) -> RawJson:
    """The JSON value of `raw`; a str is taken as the file system gives it (surrogateescape)."""
    data = os.fsencode(raw) if isinstance(raw, str) else raw
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode("ascii")}


def decode(value: object) -> bytes:
    """The bytes that `encode` was given. Raises ValueError for anything it can't have returned."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            data = base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"bad base64: {error}") from None
        if encode(data) == value:
            return data
    raise ValueError("neither a string nor the base64 of bytes that aren't UTF-8")


def clean(text: str) -> str:
    """`text` with lone surrogates written out (`\\udc80`), so that it can be UTF-8: for messages, not for objects."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def printable(value: bytes | str) -> str:
    """One line of visible characters for people; bytes that aren't UTF-8 show as `\\xff`."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
