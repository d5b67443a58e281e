"""Which library calls an agent's rules speak of: only those are judged, and only they have probes."""

from __future__ import annotations

from agentd.policy.ir import AgentSource, CallPoint, EntrySource
from agentd.policy.problem import Problems


class WantedCalls:
    """The calls and texts of one agent, gathered from the entries that count for it."""

    def __init__(self, agent: AgentSource) -> None:
        self._tools = {rule.tool for rule in agent.rules}
        self._points: dict[str, CallPoint] = {}
        self._groups: dict[tuple[str, ...], int] = {}

    def wants(self, entry: EntrySource) -> bool:
        """Does the entry count? That of a library call only where a rule speaks of its tool."""
        return not entry.calls or entry.tool in self._tools

    def take(self, entry: EntrySource, problems: Problems) -> int | None:
        """The number of the entry's text group; None: it has none. A function described in two ways is a problem."""
        for point in entry.calls:
            if self._points.setdefault(point.word, point) != point:
                at = entry.at
                hint = "one function has one text: write the same argument, as, length and language everywhere"
                problems.error(at.line, at.column, at.path, f"{point.word} is described in two ways", hint)
        if entry.text is None:
            return None
        return self._groups.setdefault(tuple(text.text for text in entry.text), len(self._groups))

    @property
    def points(self) -> tuple[CallPoint, ...]:
        """The functions, each once."""
        return tuple(self._points.values())

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The text groups by number."""
        return tuple(self._groups)
