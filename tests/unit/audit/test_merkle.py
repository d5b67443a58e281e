"""The Merkle tree of RFC 6962."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.audit import merkle


def mth(items: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, written as it stands there."""
    if not items:
        return hashlib.sha256(b"").digest()
    if len(items) == 1:
        return hashlib.sha256(b"\0" + items[0]).digest()
    split = 1 << ((len(items) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + mth(items[:split]) + mth(items[split:])).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 1023, 1024, 1025, 2047, 3000, 5121])
def test_the_tree_is_that_of_the_rfc(count: int) -> None:
    """Adding leaves one by one gives the root that the recursive definition gives."""
    items = [str(number).encode() for number in range(count)]
    assert merkle.root_of(items) == mth(items).hex()


@given(items=st.lists(st.binary(max_size=8), min_size=1, max_size=40), data=st.data())
def test_every_change_of_the_leaves_changes_the_root(items: list[bytes], data: st.DataObject) -> None:
    """A leaf changed, removed, doubled or moved is another root."""
    at = data.draw(st.integers(0, len(items) - 1))
    root = merkle.root_of(items)
    changed = [
        [*items[:at], items[at] + b"x", *items[at + 1 :]],
        [*items[:at], *items[at + 1 :]],
        [*items[: at + 1], items[at], *items[at + 1 :]],
        [*items, items[-1]],
    ]
    if items != list(reversed(items)):
        changed.append(list(reversed(items)))
    assert root not in {merkle.root_of(other) for other in changed}


def test_a_tree_can_be_used_again() -> None:
    """After the root was taken the tree is empty."""
    tree = merkle.Tree()
    tree.extend([b"a", b"b"])
    first = tree.root()
    assert tree.root() == merkle.EMPTY
    tree.extend([b"a", b"b"])
    assert tree.root() == first
