"""The log as the console shows it: the last records that match, and how decisions were spread over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agentd.audit import many, reader

READ: Final = 20_000  # records that a search goes back
SHOWN: Final = 300
SLICES: Final = 60  # of the picture
WIDTH, HEIGHT = 720, 120
KINDS: Final = ("allowed", "approval_required", "denied")
# What an event is drawn as: a hold that ended in a no is a denial, and has no other record.
DRAWN_AS: Final = {kind: kind for kind in KINDS} | {"approval_denied": "denied", "approval_expired": "denied"}
_MEMBERS: Final = {"agent": "agent_id", "tool": "tool_name"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; an empty field matches everything. text: stands somewhere in the summary or the reason."""

    agent: str = ""
    event: str = ""
    tool: str = ""
    operation: str = ""
    decision: str = ""
    rule: str = ""
    text: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """From the parameters of a request."""
        return cls(**{item.name: query.get(item.name, "")[:256] for item in fields(cls)})

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Does the record pass?"""
        for item in fields(self):
            value = getattr(self, item.name)
            if value and item.name != "text" and record.get(_MEMBERS.get(item.name, item.name)) != value:
                return False
        said = f"{record.get('input_summary')} {record.get('reason')}"
        return self.text.casefold() in said.casefold()


def search(path: Path, wanted: Wanted) -> dict[str, Any]:
    """The newest records of the log that match, newest first, and the picture of all that were read and match."""
    records, _ = reader.last(path, READ)
    found = [one for one in (many.singles(records) if wanted.text else records) if wanted.matches(one)]
    return {
        "read": len(records),
        "matching": len(found),
        "records": found[: -SHOWN - 1 : -1],
        "picture": picture(found),
    }


def picture(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Decisions over time: an SVG of stacked bars, and what it spans. Nothing of a record's text is in it."""
    dated = [(_seconds(record), record) for record in records if str(record.get("event")) in DRAWN_AS]
    times = [(at, record) for at, record in dated if at is not None]
    if not times:
        return {"svg": "", "from": None, "to": None, "most": 0}
    first, last = min(at for at, _ in times), max(at for at, _ in times)
    slice_seconds = max((last - first) / SLICES, 1e-6)
    counts = [dict.fromkeys(KINDS, 0) for _ in range(SLICES)]
    for at, record in times:
        count = record.get("count")
        number = count if isinstance(count, int) and count > 0 else 1
        counts[min(int((at - first) / slice_seconds), SLICES - 1)][DRAWN_AS[record["event"]]] += number
    most = max(sum(slice_.values()) for slice_ in counts)
    bars, step = [], WIDTH / SLICES
    for index, slice_ in enumerate(counts):
        top = float(HEIGHT)
        for kind in KINDS:
            tall = slice_[kind] / most * (HEIGHT - 4)
            if tall:
                tall = max(tall, 1.5)  # one denial among a million is seen
                top -= tall
                bars.append(
                    f'<rect class="{kind}" x="{index * step + 0.5:.1f}" y="{max(top, 0):.1f}"'
                    f' width="{step - 1:.1f}" height="{tall:.1f}"/>'
                )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
        f' role="img" aria-label="decisions over time">{"".join(bars)}</svg>'
    )
    return {"svg": svg, "from": first, "to": last, "most": most}


def _seconds(record: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(record.get("timestamp")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
