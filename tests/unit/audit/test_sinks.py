"""The queue between the log and a sink: in order, bounded, honest about losses, and never in the way of the log."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agentd.audit.sinks import NAMES, Feeds
from agentd.audit.sinks.base import Feed, Item, Sink
from tests.unit.audit.samples import denied, opened
from tests.unit.audit.waiting import PATIENCE, until


class Receiver:
    """A sink that keeps what it gets, fails or hangs when it is told to."""

    def __init__(self) -> None:
        self.got: list[Item] = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0

    def send(self, items: Sequence[Item]) -> None:
        self.gate.wait()
        if self.broken:
            raise ConnectionError("nobody is there")
        self.got += items

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def feed() -> Iterator[tuple[Feed, Receiver]]:
    """A feed with a small queue."""
    receiver = Receiver()
    made = Feed("test", lambda: receiver, queue_bytes=20_000, back_off=(0.01, 0.02))
    made.start()
    yield made, receiver
    receiver.gate.set()
    made.close(PATIENCE)


def line(number: int) -> bytes:
    return json.dumps({"event": "denied", "seq": number, "timestamp": "2026-11-25T00:00:00.000000Z"}).encode() + b"\n"


def test_records_arrive_in_their_order(feed: tuple[Feed, Receiver]) -> None:
    """Everything that was offered is delivered once, in order."""
    made, receiver = feed
    for number in range(200):
        made.offer([line(number)])
        until(lambda: made.status()["queued"] < 100, "room")  # type: ignore[operator]
    until(lambda: made.sent == 200, "delivery")
    assert [item.record["seq"] for item in receiver.got] == list(range(200))
    assert (made.lost, made.failed) == (0, "")


def test_a_sink_that_fails_gets_the_same_records_again(feed: tuple[Feed, Receiver]) -> None:
    """While it fails the reason is told; afterwards nothing is missing."""
    made, receiver = feed
    receiver.broken = True
    made.offer([line(1), line(2)])
    until(lambda: made.failed == "nobody is there" and receiver.closed > 2, "failures")
    receiver.broken = False
    until(lambda: made.sent == 2, "delivery")
    assert [item.record["seq"] for item in receiver.got] == [1, 2]
    assert made.failed == ""


def test_what_doesnt_fit_is_counted_and_told(feed: tuple[Feed, Receiver]) -> None:
    """A sink that hangs never holds up who offers; what doesn't fit the queue is counted, and the sink is told."""
    made, receiver = feed
    receiver.gate.clear()
    for number in range(1000):
        made.offer([line(number)])
    lost = made.lost
    assert 0 < lost < 1000
    receiver.gate.set()
    until(lambda: made.sent == 1000 - lost, "delivery")
    made.offer([line(5000)])
    until(lambda: receiver.got[-1].record.get("seq") == 5000, "the last one")
    gaps = [item.record for item in receiver.got if item.record["event"] == "gap"]
    assert sum(gap["count"] for gap in gaps) == lost == made.lost
    assert [item.record["seq"] for item in receiver.got if "seq" in item.record] == [*range(1000 - lost), 5000]


def test_the_end_doesnt_wait_for_a_dead_sink() -> None:
    """Closing gives up on a sink that is down, and counts what it never got."""
    receiver = Receiver()
    receiver.broken = True
    made = Feed("test", lambda: receiver, back_off=(60.0, 60.0))
    made.start()
    made.offer([line(1), line(2)])
    until(lambda: made.failed, "a failure")
    made.close(PATIENCE)
    assert (made.sent, made.lost) == (0, 2)


def test_a_sink_that_cannot_be_made_is_a_failing_sink() -> None:
    """A missing library or a bad setting breaks nothing but this sink."""

    def make() -> Sink:
        raise ImportError("no such library")

    made = Feed("test", make, back_off=(0.01, 0.01))
    made.start()
    made.offer([line(1)])
    until(lambda: made.failed == "no such library", "a failure")
    made.close(PATIENCE)
    assert made.lost == 1


def test_a_dead_sink_costs_the_log_nothing(tmp_path: Path) -> None:
    """With sinks that nobody answers, commits go on and everything is in the file."""
    dead = [
        ("journald", {"path": str(tmp_path / "none")}), ("syslog", {"host": "127.0.0.1", "port": 1, "tls": False}),
        ("otlp", {"endpoint": "http://127.0.0.1:1/v1/logs"}),
    ]  # fmt: skip
    writer = opened(tmp_path / "audit.jsonl")
    writer.sinks = feeds = Feeds(dead)
    feeds.start()
    for number in range(300):
        writer.append([denied(number)])
        assert writer.commit() == 1
    until(lambda: all(feed.failed for feed in feeds.feeds), "failures")
    status = writer.status()["sinks"]
    assert isinstance(status, dict)
    assert set(status) == set(NAMES)
    writer.close()
    for feed in feeds.feeds:
        feed._thread.join(PATIENCE)
        assert (feed.sent, feed.lost) == (0, 300)
    assert writer.head.seq == 300
