"""The shipped catalogue, as it is read."""

from __future__ import annotations

import functools

from agentd.policy import source
from agentd.policy.ir import EntrySource
from agentd.policy.parse import parse_policy
from agentd.policy.problem import PolicyError, Problem, Problems
from agentd.resources import policies_dir


class ShippedCatalogue:
    """The shipped catalogue, parsed once."""

    __slots__ = ("data", "entries", "file")

    def __init__(self, data: bytes, file: str, entries: tuple[EntrySource, ...]) -> None:
        self.data = data
        self.file = file
        self.entries = entries


@functools.cache
def shipped_catalogue() -> ShippedCatalogue:
    """policies/catalogue.yaml. Raises PolicyError if the installation's catalogue is broken."""
    path = policies_dir() / "catalogue.yaml"
    data = source.read_file(path)
    problems = Problems(path.name)
    node = source.parse(data, problems)
    problems.raise_errors()
    if node is None:
        raise PolicyError([Problem(path.name, 0, 0, "", "the shipped catalogue is empty", "install agentd again")])
    parsed = parse_policy(node, problems, catalogue=True)
    problems.raise_errors()
    return ShippedCatalogue(data, path.name, parsed.tools)
