"""Records of many objects: one record for what an agent was allowed by one rule in one interval, object by object.

Such a record has `object: null` and the member `objects`, a list with one entry for each of several objects:

    [object, count, first, last]    object: as in `object`; count: operations on it, exactly; first, last: when the
                                    first and the last of them were, in microseconds after the record's `first`

Its `count` is the sum of theirs, its `first` and `last` span them. Whoever asks for single objects reads it through
`each`, which gives what the log would say if every object had a record of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from agentd.audit.canonical import Json
from agentd.audit.record import SUMMARY_MAX, object_from_json, short, shown

Row = list[Json]  # object, count, first, last

OBJECTS_MAX: Final = 256  # of one record
BYTES_MAX: Final = 16384  # of their names: a record stays small enough to be sent to other systems


def summarize(operation: str, rows: Sequence[Row]) -> str:
    """input_summary of a record of many: `read 12 objects: '/a/b', '/a/c', …`."""
    text = f"{operation} {len(rows)} objects: "
    for number, row in enumerate(rows):
        one = shown(object_from_json(row[0]))
        comma = ", " if number else ""
        if len(text) + len(comma) + len(one) > SUMMARY_MAX - len(", …"):
            return f"{text}{comma}…"
        text += comma + one
    return text


def singles(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """`each` of all of them."""
    for record in records:
        yield from each(record)


def each(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The record as it is, or, of one of many, one for each object, with the number and the hash of the whole. What
    can't be a time is null.

    Entries that no agentd wrote are left out; a record without any that can be read is given as it is.
    """
    found = _rows(record)
    if not found:
        yield record
        return
    rest = {name: value for name, value in record.items() if name != "objects"}
    word = record.get("kernel_operation")
    begin = _moment(record.get("first"))
    for value, count, first, last in found:
        end = _later(begin, last)
        yield {
            **rest,
            "timestamp": end,
            "object": value,
            "count": count,
            "first": _later(begin, first),
            "last": end,
            "input_summary": short(f"{word} {shown(object_from_json(value))}"),
        }


def objects(record: Mapping[str, Any]) -> list[Json]:
    """The objects of a record, one or many, as they stand in it; without null."""
    found = [row[0] for row in _rows(record)]
    return found or ([] if record.get("object") is None else [record["object"]])


def _rows(record: Mapping[str, Any]) -> list[Row]:
    rows = record.get("objects")
    return [row for row in rows if _is_row(row)] if isinstance(rows, list) else []


def _is_row(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 4
        and isinstance(row[0], (str, dict))
        and all(type(number) is int and 0 <= number < 1 << 53 for number in row[1:])
    )


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        return None


def _later(begin: datetime | None, microseconds: Any) -> str | None:
    try:
        moment = None if begin is None else begin + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
