"""A message of the ring `seen`: the key of a count, and behind it what it stands for."""

from __future__ import annotations

from agentd.kernel import abi
from agentd.kernel.ring import parse_name


def test_the_key_stands_in_front_of_the_object() -> None:
    """The object is all that stands behind the key, byte for byte."""
    key = abi.CountKey(agent=1, generation=2, outcome=3, op=4, object=(5, 6))
    for name in (b"/srv/a b", b"", b"4t\x7f\0\0\1\0\0P"):
        assert parse_name(bytes(key) + name) == ((1, 2, 3, 4, 5, 6), name)
