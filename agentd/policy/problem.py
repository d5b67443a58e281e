"""What is wrong with a policy (or case) file, and where: collected while reading, raised together.

A reader never stops at the first mistake it can step over, so that a person corrects a file in one round.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentd.errors import EXIT_FAILURE, AgentdError


class Severity(enum.Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake (or one warning). `line` and `column` count from 1, in characters; 0 means the file as a whole."""

    file: str
    line: int
    column: int
    path: str  # `agents.bot.allow[0].operations`; empty at the top of the document
    message: str
    hint: str = ""
    severity: Severity = Severity.ERROR

    @property
    def where(self) -> str:
        """`policy.yaml:12:7`, or only the file's name for a problem of the whole file."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        warning = "warning: " if self.severity is Severity.WARNING else ""
        path = f"{self.path}: " if self.path else ""
        tail = f"; {self.hint}" if self.hint else ""
        return f"{self.where}: {warning}{path}{self.message}{tail}"


class PolicyError(AgentdError):
    """A policy or case file that can't be loaded. `problems` has every mistake found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem], *, exit_code: int = EXIT_FAILURE) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        more = len(self.problems) - 1
        why = f"{first.path}: {first.message}" if first.path else first.message
        hint = first.hint
        if more:
            also = f"{more} more mistake{'s' if more > 1 else ''}: see `agentd policy check`"
            hint = f"{hint} ({also})" if hint else also
        super().__init__("policy-invalid", first.where, why, hint, exit_code=exit_code)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each problem once (an aliased node is read in every place it stands for), in the order of the files."""
    each = dict.fromkeys(problems)
    files = {file: number for number, file in enumerate(dict.fromkeys(problem.file for problem in each))}
    return tuple(sorted(each, key=lambda problem: (files[problem.file], problem.line, problem.column)))


@dataclass(slots=True)
class Problems:
    """The collector that every stage of one file's reading shares."""

    file: str
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def place(self, line: int, column: int) -> tuple[str, int, int]:
        """(file, line, column) of a place in what is read."""
        return self.file, line, column

    def where(self, line: int, column: int) -> str:
        """`policy.yaml:12:7`."""
        file, line, column = self.place(line, column)
        return f"{file}:{line}:{column}"

    def error(self, line: int, column: int, path: str, message: str, hint: str = "") -> None:
        self.errors.append(Problem(self.file, line, column, path, message, hint))

    def warn(self, line: int, column: int, path: str, message: str, hint: str = "") -> None:
        self.warnings.append(Problem(self.file, line, column, path, message, hint, Severity.WARNING))

    def raise_errors(self) -> None:
        """Raise PolicyError with all errors, in the order of the file; return if there is none."""
        if self.errors:
            raise PolicyError(in_order(self.errors))
