"""What the tests of whole programs share."""

from __future__ import annotations

import pytest

from tests.live.probes import Compiler


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Probes in C, each compiled once."""
    return Compiler(tmp_path_factory.mktemp("probes"))
