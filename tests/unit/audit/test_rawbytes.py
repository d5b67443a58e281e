"""Raw bytes in records and on terminals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.audit import canonical, rawbytes


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_every_byte_string_survives(raw: bytes) -> None:
    """Encoding to JSON and back gives the same bytes, whatever they are."""
    value = rawbytes.encode(raw)
    assert rawbytes.decode(value) == raw
    assert b"\n" not in canonical.dumps(value)


def test_utf8_stays_readable() -> None:
    """Valid UTF-8 is a plain string, anything else base64."""
    assert rawbytes.encode("/srv/é".encode()) == "/srv/é"
    assert rawbytes.encode(b"/srv/\xff") == {"b64": "L3Nydi//"}
    assert rawbytes.encode("/srv/\udcff") == {"b64": "L3Nydi//"}


@pytest.mark.parametrize(
    "value", [None, 1, {}, {"b64": 1}, {"b64": "*"}, {"b64": "YQ=="}, {"b64": "/w"}, {"b64": "/x=="}]
)
def test_what_encode_never_returns_is_refused(value: object) -> None:
    """A second spelling of the same bytes is refused."""
    with pytest.raises(ValueError, match="base64"):
        rawbytes.decode(value)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain text", "plain text"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"a\nb\tc\r\0\x7f", "a\\nb\\tc\\r\\x00\\x7f"),
        ("a\u202eb\u200b\u2028".encode(), "a\\u202eb\\u200b\\u2028"),
        ("\U000e0041".encode(), "\\U000e0041"),
        (b"\xff\xc2", "\\xff\\xc2"),
        (b"\\x1b", "\\\\x1b"),
        ("né \U0001f600".encode(), "né \U0001f600"),
    ],
)
def test_nothing_moves_the_terminal(raw: bytes, shown: str) -> None:
    """Control, bidirectional and invisible characters are shown as escapes that can't be forged."""
    assert rawbytes.printable(raw) == shown


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    """Whatever goes in, only printable characters come out."""
    assert rawbytes.printable(text).isprintable()
