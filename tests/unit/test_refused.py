"""What an agent was refused most often, in a table of a fixed size."""

from __future__ import annotations

from agentd.engine.refused import KEPT, MAX_AGENTS, Refused


def key(number: object) -> tuple[str, str, str]:
    return ("read", f"/x/{number}", "default-deny")


def test_counts_are_exact_while_there_is_room() -> None:
    """The most refused objects come first, with how often; other agents have their own."""
    refused = Refused()
    for number in (3, 1, 2):
        refused.note("bot", key(number), number)
    refused.note("bot", key(2), 5)
    refused.note("other", key(9))
    assert refused.top("bot", 2) == [(key(2), 7), (key(3), 3)]
    assert refused.changed() == {"bot", "other"} and refused.changed() == set()


def test_a_flood_of_objects_takes_bounded_room_and_hides_nothing_frequent() -> None:
    """However many objects a workload names, few are kept, and the one that is refused all the time stays first."""
    refused = Refused()
    for number in range(20 * KEPT):
        refused.note("bot", key(number))
        if number % 10 == 0:
            refused.note("bot", key("often"))
    first, count = refused.top("bot", 1)[0]
    assert first == key("often") and count >= 2 * KEPT
    assert len(refused.top("bot", 10 * KEPT)) == KEPT


def test_agents_are_bounded_too() -> None:
    """Names of agents come from policies, and reloads without end don't fill the memory."""
    refused = Refused()
    for number in range(2 * MAX_AGENTS):
        refused.note(str(number), key(1))
    assert len(refused.agents()) == MAX_AGENTS
