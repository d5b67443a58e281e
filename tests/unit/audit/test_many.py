"""Records of many objects: what is written comes back object by object, through every reader and every sink."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.audit import many, rawbytes, reader
from agentd.audit.export import csv_header, csv_rows
from agentd.audit.record import Record, object_from_json, object_json
from agentd.audit.sinks.base import Item
from agentd.audit.sinks.journald import fields
from agentd.audit.sinks.syslog import Syslog
from agentd.audit.verify import verify
from agentd.daemon.console.search import Wanted, search
from agentd.engine.replay import operations
from agentd.model import Decision, Endpoint, Op
from tests.unit.audit.samples import START, opened

ROWS: list[many.Row] = [
    ["/srv/a", 2, 0, 1_500_000],
    [rawbytes.encode(b"/srv/\xff\n"), 1, 20, 20],
    ["/srv/'=b\"]\\", 3, 30, 86_400_000_000],
]


def record_of(rows: list[many.Row], op: Op = Op.READ, **changes: Any) -> Record:
    """A record of these objects."""
    members: dict[str, Any] = {
        "timestamp": START, "event": "allowed", "action_id": "many", "agent_id": "bot", "tool_name": "file_reader",
        "operation": "read", "decision": Decision.ALLOW, "rule": "bot/allow/0", "kernel_operation": op,
        "input_summary": many.summarize(op.word, rows), "count": sum(row[1] for row in rows),  # type: ignore[misc]
        "first": START, "last": START, "objects": rows,
    }  # fmt: skip
    return Record(**{**members, **changes})


def line_of(record: Record, path: Path) -> bytes:
    """It, in a log."""
    writer = opened(path)
    writer.append([record])
    writer.close()
    assert verify(path, strict=True).ok
    return path.read_bytes().splitlines(keepends=True)[0]


def read_back(rows: list[many.Row], path: Path, op: Op = Op.READ) -> list[dict[str, Any]]:
    """The objects of a record, from the log it was written to."""
    return [dict(one) for one in many.each(json.loads(line_of(record_of(rows, op), path)))]


def test_each_object_comes_back(tmp_path: Path) -> None:
    """With its own count, its own times, its own summary; the rest is the whole record's."""
    found = read_back(ROWS, tmp_path / "log")
    assert [(one["object"], one["count"]) for one in found] == [(row[0], row[1]) for row in ROWS]
    whole = json.loads((tmp_path / "log").read_bytes())
    assert found[0]["first"] == whole["first"] == "2026-11-21T21:00:00.123456Z"
    assert found[0]["last"] == found[0]["timestamp"] == "2026-11-21T21:00:01.623456Z"
    assert found[2]["last"] == "2026-11-22T21:00:00.123456Z"
    assert [one["input_summary"] for one in found] == [
        "read '/srv/a'",
        r"read '/srv/\xff\n'",
        r"""read '/srv/\'=b"]\\'""",
    ]
    assert all(one["hash"] == whole["hash"] and "objects" not in one for one in found)
    assert whole["object"] is None and whole["count"] == 6


def test_a_record_of_one_is_given_as_it_is() -> None:
    """And so is what pretends to be one of many."""
    one = {"object": "/a", "count": 1}
    assert list(many.each(one)) == [one] and many.objects(one) == ["/a"]
    assert many.objects({"object": None}) == many.objects({}) == []


@pytest.mark.parametrize(
    "rows",
    [None, 7, "x", {}, [], [7], [["/a"]], [["/a", 1, 0]], [["/a", True, 0, 0]], [["/a", -1, 0, 0]],
     [["/a", 1, 0, 1 << 60]], [[7, 1, 0, 0]], [["/a", 1.5, 0, 0]], [[None, 1, 0, 0]]],
)  # fmt: skip
def test_entries_that_no_agentd_wrote(rows: object) -> None:
    """A damaged record stays one record, and ends nobody."""
    assert list(many.each({"objects": rows, "seq": 1})) == [{"objects": rows, "seq": 1}]
    good = [["/a", 1, 0, 0], *(rows if isinstance(rows, list) else [])]
    assert [one["object"] for one in many.each({"objects": good, "first": "never"})] == ["/a"]
    assert next(iter(many.each({"objects": good, "first": "9999-12-31T23:59:59Z"})))["last"]
    assert next(iter(many.each({"objects": [["/a", 1, 0, 1 << 52]], "first": "9999-12-31T23:59:59Z"})))["last"] is None


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=2, max_size=40, unique=True))
def test_names_of_any_bytes(names: list[bytes]) -> None:
    """The summary is one visible line of at most 200 characters, and each name comes back."""
    rows: list[many.Row] = [[object_json(name), 1, 0, 0] for name in names]
    said = many.summarize("read", rows)
    assert len(said) <= 200 and said.isprintable() and said.startswith(f"read {len(names)} objects: ")
    assert [object_from_json(one["object"]) for one in many.each({"objects": rows})] == names


def test_addresses(tmp_path: Path) -> None:
    """Objects of connections are endpoints."""
    ends = [Endpoint(b"\x0a\x00\x00\x01", 25), Endpoint(bytes(15) + b"\x01", 443, "udp", ("a.example",))]
    found = read_back([[object_json(end), 1, 0, 0] for end in ends], tmp_path / "log", Op.CONNECT)
    assert [object_from_json(one["object"]) for one in found] == ends
    assert [one["input_summary"] for one in found] == ["connect 10.0.0.1:25/tcp", "connect [::1]:443/udp (a.example)"]
    assert many.summarize("connect", [[object_json(end), 1, 0, 0] for end in ends]).endswith(
        "[::1]:443/udp (a.example)"
    )


def test_readers_see_single_objects(tmp_path: Path) -> None:
    """`policy diff`, the table of `audit export`, and the console's search for a name."""
    line = line_of(record_of(ROWS), tmp_path / "log")
    record = json.loads(line)
    seen = operations([record])
    assert {(operation.obj, times.count) for operation, times in seen.items()} == {
        (b"/srv/a", 2), (b"/srv/\xff\n", 1), (b"/srv/'=b\"]\\", 3),
    }  # fmt: skip
    table = list(csv.DictReader(io.StringIO(csv_header() + csv_rows(record))))
    assert [(row["seq"], row["count"]) for row in table] == [("1", "2"), ("1", "1"), ("1", "3")]
    assert table[0]["input_summary"] == "read '/srv/a'"
    assert search(tmp_path / "log", Wanted())["records"] == reader.last(tmp_path / "log", 9)[0]
    assert [one["object"] for one in search(tmp_path / "log", Wanted(text="srv/A"))["records"]] == ["/srv/a"]
    assert search(tmp_path / "log", Wanted(text="/etc/shadow"))["matching"] == 0


def test_sinks_tell_each_object(tmp_path: Path) -> None:
    """journald has a field for each, syslog a message for each."""
    line = line_of(record_of(ROWS), tmp_path / "log")
    told = b"".join(fields(Item(json.loads(line), line)))
    assert told.count(b"\nAGENTD_OBJECT=") == 3 and b"\nAGENTD_OBJECT=/srv/a\n" in told
    sent: list[bytes] = []

    class Taker:
        def sendall(self, data: bytes) -> None:
            sent.append(data)

    sink = Syslog("127.0.0.1", 1, tls=False)
    sink._socket = Taker()  # type: ignore[assignment]
    sink._still_open = lambda connection: None  # type: ignore[method-assign]
    sink.send([Item(json.loads(line), line)])
    assert sent[0].count(b' seq="1" ') == 3 and b' object="/srv/a" ' in sent[0] and b' count="3"' in sent[0]
