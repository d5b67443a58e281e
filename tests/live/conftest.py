"""What the tests of whole programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.probes import Compiler
from tests.live.tls import Sink


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Probes in C, each compiled once."""
    return Compiler(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """A TLS server on 127.0.0.1."""
    made = Sink(tmp_path_factory.mktemp("tls"))
    yield made
    made.close()
