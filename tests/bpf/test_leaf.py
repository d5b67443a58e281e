"""How a name is compared with the one that is kept of a folder's (bpf/lib/leaf.bpf.h)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bpf.probe import KEPT_NAME, Runner, loaded_probe

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with loaded_probe(1 << 20) as made:
        yield made.runners[0]


@pytest.mark.parametrize("length", range(1, KEPT_NAME))
def test_every_byte_of_a_name_counts_and_none_behind_it(runner: Runner, length: int) -> None:
    """The same bytes are the same name, whatever stands behind them; with one bit of one byte another they are not."""
    name = bytes(range(1, length + 1))
    for behind in (b"\0" * 8, b"\xff" * 8):
        assert not runner.differs(name, name, behind)
        for at in range(length):
            for bit in (1, 0x80):
                assert runner.differs(name, name[:at] + bytes([name[at] ^ bit]) + name[at + 1 :], behind)
