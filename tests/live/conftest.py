"""What the tests of whole programs share."""

from __future__ import annotations

import pytest

from tests.live.probes import Compiler


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes minutes")


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Probes in C, each compiled once."""
    return Compiler(tmp_path_factory.mktemp("probes"))
