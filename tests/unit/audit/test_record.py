"""What a record says."""

from __future__ import annotations

import json

import pytest

from agentd.audit import canonical, chain, record
from agentd.audit.record import EVENTS, MEMBERS, Process, Record
from agentd.model import Endpoint, Op
from tests.unit.audit.samples import BOOT, START, allowed, denied


def sealed(item: Record) -> dict[str, object]:
    line, _ = chain.seal(record.body(item, "deb", BOOT), chain.Link())
    assert chain.read(line)[0] == 1
    found: dict[str, object] = json.loads(line)
    return found


def test_a_denial_has_every_member() -> None:
    """A record carries aegize's members and agentd's, under their documented names."""
    made = sealed(denied())
    assert set(made) == set(MEMBERS) - {"count", "first", "last", "objects"}
    assert made["timestamp"] == record.time_text(START)
    assert (made["decision"], made["action"], made["guarantee"], made["point"]) == ("deny", "kill", "contained", "exec")
    process = made["process"]
    assert isinstance(process, dict)
    assert list(process) == sorted(["pid", "start_time", "exe", "argv", "uid", "cgroup", "parent"])


def test_a_summary_has_its_exact_count() -> None:
    """A summary record says how many, from when to when, and its endpoint in parts."""
    made = sealed(allowed())
    assert (made["count"], made["first"]) == (7, record.time_text(START))
    assert made["object"] == {"address": "10.0.0.1", "port": 5432, "protocol": "tcp"}


def test_a_gap_says_what_and_why() -> None:
    """A loss is a record with the number, the kinds and the reason."""
    made = sealed(record.gap(START, "g", {"denied": 2, "allowed": 1}, "ring-full", operations=9))
    assert (made["event"], made["count"]) == ("gap", 3)
    assert made["metadata"] == {"lost": {"denied": 2, "allowed": 1}, "why": "ring-full", "operations": 9}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_can_be_recorded(event: str) -> None:
    """Each listed event makes a valid record with nothing else filled in."""
    assert sealed(Record(timestamp=START, event=event, action_id="a"))["event"] == event


def test_an_unknown_event_is_refused() -> None:
    """An event that isn't in the list can't be recorded."""
    with pytest.raises(ValueError, match="unknown event"):
        Record(timestamp=START, event="happened", action_id="a")


@pytest.mark.parametrize("metadata", [{"hash": 1}, {"a": [{"seq": 1}]}, {"f": 1.5}, {"n": 2**60}])
def test_metadata_cannot_imitate_the_chain(metadata: dict[str, canonical.Json]) -> None:
    """Members of the chain, floats and big integers are refused in metadata, at any depth."""
    with pytest.raises(ValueError, match=r"chain|canonical|integers"):
        Record(timestamp=START, event="denied", action_id="a", metadata=metadata)


def test_hostile_text_cannot_imitate_the_chain() -> None:
    """Strings full of JSON in every member still give one valid line that reads back as written."""
    evil = (
        '"},"guarantee":null,"hash":"'
        + "0" * 64
        + '","host":"x","prev_hash":"'
        + "0" * 64
        + '",\n,"seq":9,"timestamp":"'
    )
    process = Process(1, 1, evil.encode(), (evil.encode(),) * 3, 0, evil.encode())
    made = sealed(denied(agent_id=evil, action_id=evil, reason=evil, process=process, object=evil.encode(), rule=evil))
    assert (made["agent_id"], made["object"]) == (evil, evil)


def test_surrogates_do_not_stop_a_record() -> None:
    """Text that isn't valid Unicode is written out, not refused: a record must not fail on what a workload chose."""
    assert sealed(denied(reason="x\udcff"))["reason"] == "x\\udcff"


def test_a_long_command_line_is_cut_and_says_so() -> None:
    """Arguments beyond the bound are left out and their bytes counted; the record stays within a line's limit."""
    process = Process(1, 1, None, (b"a",) * 10 + (b"\xff" * 70000, b"b"), 0, None)
    made = sealed(denied(process=process))["process"]
    assert isinstance(made, dict)
    assert made["argv"] == ["a"] * 10
    assert made["argv_cut"] == 70003


@pytest.mark.parametrize(
    ("operation", "target", "argv", "text"),
    [
        (Op.EXEC, b"/bin/rm", (b"rm", b"-rf", b"it's"), "exec '/bin/rm' ['rm', '-rf', 'it\\'s']"),
        (Op.READ, b"/a\n\xff", (), "read '/a\\n\\xff'"),
        (Op.CONNECT, Endpoint(b"\x7f\0\0\1", 25), (), "connect 127.0.0.1:25/tcp"),
        (Op.SEND, Endpoint(bytes(15) + b"\1", 53, "udp"), (), "send [::1]:53/udp"),
        (Op.WRITE, None, (), "write (unresolved)"),
    ],
)
def test_the_summary_reads_like_a_repr(
    operation: Op, target: bytes | Endpoint | None, argv: tuple[bytes, ...], text: str
) -> None:
    """input_summary is one visible line with the operation, the object and the arguments."""
    assert record.summarize(operation, target, argv) == text


def test_the_summary_is_short() -> None:
    """input_summary never has more than 200 characters."""
    assert len(record.summarize(Op.EXEC, b"/bin/" + b"x" * 300, (b"\xff" * 100,) * 1000)) == record.SUMMARY_MAX
