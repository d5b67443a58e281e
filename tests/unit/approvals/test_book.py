"""The bookkeeping of held operations and their answers, with a clock of the test's own."""

from __future__ import annotations

import pytest

from agentd.approvals.book import Answer, ApprovalBook, Approver, Carried, Hold, Question
from agentd.approvals.journal import GROWN, Journal
from agentd.approvals.standing import Scope, Standing, StandingAnswers
from agentd.errors import AgentdError

SECOND = 1_000_000_000


def hold(number: int, pid: int = 0, key: tuple[int, int] = (1, 2)) -> Hold:
    pid = pid or 1000 + number
    return Hold(number, pid, pid, 7, True, key)


def asked(action: str = "a", agent: str = "bot", workload: int = 1) -> Question:
    return Question(agent, workload, action)


def test_the_same_action_is_one_question() -> None:
    """Holds of one action share an approval, by workload; without a known action each stands alone."""
    book: ApprovalBook[str] = ApprovalBook()
    first, fresh = book.add(asked(), hold(1), 0, SECOND, "x")
    second, again = book.add(asked(), hold(2), 0, SECOND, "x")
    assert first is second and (fresh, again) == (True, False) and len(book) == 1
    book.add(asked(workload=2), hold(3), 0, SECOND, "x")
    book.add(asked(""), hold(4), 0, SECOND, "x")
    book.add(asked(""), hold(5), 0, SECOND, "x")
    assert len(book) == 4 and book.count("bot") == 4 and book.counts() == {"bot": 4}
    assert first is not None
    assert {one.hold_id for one in book.close(first, Answer.APPROVED)} == {1, 2}
    with pytest.raises(AgentdError, match="approved already"):
        book.get("1")
    with pytest.raises(AgentdError, match="there is none"):
        book.get("77")
    assert book.answered(1) and book.answered(2) and not book.knows(2)


def test_a_process_waits_as_long_as_one_of_its_threads_does() -> None:
    """waiting() counts threads; a thread that asks anew has given up what it asked before."""
    book: ApprovalBook[str] = ApprovalBook()
    book.add(asked("a"), Hold(1, 50, 50, 7, True), 0, SECOND, "x")
    book.add(asked("b"), Hold(2, 50, 51, 7, True), 0, SECOND, "x")
    book.take(1)
    assert book.waiting(50, 7) and not book.waiting(50, 8)
    book.add(asked("c"), Hold(3, 50, 51, 7, True), 0, SECOND, "x")
    assert not book.knows(2) and book.waiting(50, 7)
    book.take(3)
    assert not book.waiting(50, 7) and len(book) == 0


def test_the_limit_is_of_each_agent_and_counts_what_it_refuses() -> None:
    """One agent's flood is refused and counted; it takes no room from another one, nor from the same question."""
    book: ApprovalBook[str] = ApprovalBook(limit=3)
    for number in range(1, 6):
        book.add(asked(f"a{number}"), hold(number), number, SECOND, "x")
    assert len(book) == 3 and book.floods["bot"].denied == 2 and book.floods["bot"].first == 4
    assert book.add(asked("a1"), hold(10), 9, SECOND, "x")[0] is not None
    assert book.add(asked("z", agent="other"), hold(11), 9, SECOND, "x")[0] is not None
    assert "other" not in book.floods


def test_late_is_given_once_and_in_time() -> None:
    """late() gives what is over, not what was answered, and each once."""
    book: ApprovalBook[str] = ApprovalBook()
    for number in (1, 2, 3):
        book.add(asked(f"a{number}"), hold(number), 0, number * SECOND, "x")
    book.close(book.get("1"), Answer.DENIED)
    assert book.late(SECOND) == []
    (over,) = book.late(2 * SECOND)
    book.close(over, Answer.EXPIRED)
    assert over.id == "2" and book.late(2 * SECOND) == []
    assert [pending.id for pending in book.late(99 * SECOND)] == ["3"]


def test_split_keeps_both_parts_whole() -> None:
    """What came later is a question of its own, found by its holds, with the same deadline and no votes."""
    book: ApprovalBook[str] = ApprovalBook()
    pending = book.add(asked(), hold(1), 0, SECOND, "x")[0]
    assert pending is not None
    book.add(asked(), hold(2), 0, SECOND, "x")
    pending.votes["uid 1"] = "ann"
    later = book.split(pending, 1)
    assert later is not None and later.id == "2" and later.votes == {} and later.expires == pending.expires
    assert book.split(pending, 1) is None and len(book) == 2
    book.close(pending, Answer.APPROVED)
    assert book.knows(2) and not book.knows(1)
    assert book.add(asked(), hold(3), 0, SECOND, "x")[0] is later
    assert {item.id for item in book.late(SECOND)} == {"2"}


def test_a_carried_question_keeps_number_deadline_and_votes() -> None:
    """Asked again it is the same question; not asked again it lapses, once."""
    book: ApprovalBook[str] = ApprovalBook()
    book.carry(asked(), Carried("4", 1, 5 * SECOND, {"uid 1": "ann"}, until=10))
    book.carry(asked("b"), Carried("5", 1, 5 * SECOND, {}, until=10))
    pending, fresh = book.add(asked(), hold(9), 3, SECOND, "x", 2)
    assert fresh and pending is not None
    assert (pending.id, pending.since, pending.expires, pending.votes) == ("4", 1, 5 * SECOND, {"uid 1": "ann"})
    assert [carried.id for _, carried in book.lapsed(10)] == ["5"] and book.lapsed(10) == []


def test_ten_thousand_cost_what_one_costs() -> None:
    """No step of a question's life looks at all the others: counted in steps of the interpreter, not in time."""
    import sys

    def steps(others: int) -> int:
        book: ApprovalBook[str] = ApprovalBook(limit=100_000)
        for number in range(1, others + 1):
            book.add(asked(f"a{number}"), hold(number), 0, 1000 * SECOND, "x")
        count = 0

        def trace(frame: object, event: str, argument: object) -> object:
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            pending = book.add(asked("mine"), hold(99_999), 0, SECOND, "x")[0]
            assert pending is not None
            book.waiting(1, 1)
            book.count("bot")
            book.late(SECOND)
            book.close(pending, Answer.APPROVED)
        finally:
            sys.settrace(None)
        return count

    assert steps(10_000) <= steps(10) + 20


def test_who_is_the_same_person() -> None:
    """A login makes a person, whatever sudo made of the user; without a login it is the user."""
    assert Approver("root", 0, 1, 1001).person == Approver("ann", 1001, 2, 1001).person
    assert Approver("root", 0, 1, 1001).person != Approver("root", 0, 1, 1002).person
    assert Approver("root", 0, 1).person == Approver("root", 0, 2).person


def standing(name: str, scope: Scope, **how: object) -> Standing:
    base = {"id": name, "agent": "bot", "action": "a", "scope": scope, "allow": True, "by": "ann", "reason": ""}
    return Standing(**{**base, "summary": "", "since": 0, "workload": 1, **how})  # type: ignore[arg-type]


def test_what_a_standing_answer_covers() -> None:
    """Each scope covers its own, never another action or agent, and not after its time; a no goes before a yes."""
    answers = StandingAnswers()
    answers.add(standing("s1", Scope.PROCESS, pid=5, start=7))
    assert answers.find(asked(), 5, 7, 0) and not answers.find(asked(), 5, 8, 0) and not answers.find(asked(), 6, 7, 0)
    assert not answers.find(asked(workload=2), 5, 7, 0)
    answers.add(standing("s2", Scope.WORKLOAD))
    assert answers.find(asked(), 6, 7, 0) and not answers.find(asked(workload=2), 6, 7, 0)
    answers.add(standing("s3", Scope.TIME, expires=10, workload=0))
    assert answers.find(asked(workload=2), 6, 7, 9) and not answers.find(asked(workload=2), 6, 7, 10)
    for question in (asked("b"), asked(agent="other"), asked("")):
        assert answers.find(question, 5, 7, 0) is None
    answers.add(standing("s4", Scope.WORKLOAD, allow=False))
    found = answers.find(asked(), 5, 7, 0)
    assert found is not None and not found.allow
    assert {one.id for one in answers.over(10, {(5, 7)}, {2})} == {"s2", "s3", "s4"}
    answers.remove("s4")
    with pytest.raises(AgentdError, match="there is none"):
        answers.remove("s4")
    assert answers.new_id() == "s5"


def test_the_journal_gives_back_what_was_written(tmp_path: object) -> None:
    """Open questions, their votes, standing answers and unlogged answers come back; what is closed doesn't, nor a
    torn last line, nor anything that another set of pins had held.
    """
    from pathlib import Path

    folder = Path(str(tmp_path))
    journal = Journal(folder, "set-1")
    journal.open([], 1)
    ask = {"t": "ask", "agent": "bot", "workload": 1, "since": 1, "expires": 9}
    journal.write({**ask, "id": "1", "action": "a"}, {**ask, "id": "2", "action": "b"})
    journal.write({"t": "hold", "id": "1", "hold": 3}, {"t": "vote", "id": "1", "person": "uid 1", "by": "ann"})
    journal.write({"t": "stand", "standing": standing("s7", Scope.TIME, expires=10).to_json()})
    journal.write({"t": "stand", "standing": standing("s8", Scope.TIME).to_json()}, {"t": "drop", "id": "s8"})
    journal.write({"t": "answer", "id": "2", "agent": "bot", "answer": "approved"}, {"t": "end", "id": "2"})
    journal.close()
    with journal.path.open("ab") as torn:
        torn.write(b'{"t": "end", "id": "1')
    left = Journal(folder, "set-1").load(99)
    assert left.questions == {asked(): Carried("1", 1, 9, {"uid 1": "ann"}, 99)} and left.holds == {3: "1"}
    assert [one.id for one in left.standing] == ["s7"] and left.next_standing == 9
    assert [line["id"] for line in left.unlogged] == ["2"]
    with journal.path.open("ab") as log:
        log.write(b'\n{"t": "logged"}\n')
    assert Journal(folder, "set-1").load(99).unlogged == []
    other = Journal(folder, "set-2").load(99)
    assert not other.questions and not other.standing and not other.holds and len(other.past) == 1


def test_a_full_disk_keeps_the_lines(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that can't be written wait, half a line is cut, and the next try writes all of them."""
    import errno
    import os
    from pathlib import Path

    journal = Journal(Path(str(tmp_path)), "set")
    journal.open([], 1)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not journal.write({"t": "drop", "id": "s1"}) and "space" in journal.failed
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:5]))
    assert not journal.write({"t": "drop", "id": "s2"})
    monkeypatch.undo()
    assert journal.retry() and journal.failed == ""
    lines = journal.path.read_text(encoding="ascii").splitlines()
    assert [line for line in lines if "drop" in line] == ['{"t":"drop","id":"s1"}', '{"t":"drop","id":"s2"}']
    assert not journal.grown and GROWN > 1 << 20
    journal.close()
