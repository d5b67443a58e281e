"""Rows 3 and 21 on overlayfs: what is asked of the merged folder is judged by its path there, whatever happens below.

A file is copied up when it is first written to, a removed one leaves a whiteout, a folder made again in its place is
opaque, and a renamed one leaves both. Each is tried in an overlay that covers a denied folder, and all of them one
after the other in one that covers a free folder. Why nothing of an overlay is remembered: DECISIONS.md.
"""

from __future__ import annotations

import os
from typing import Final

from tests.containment.files import overlay
from tests.containment.ground import Ground
from tests.containment.suite import Probe, Scenario, came_back

# what `merged HOW FOLDER` does -> (kind, the object below the folder)
HOWS: Final = {
    "reads": ("read", "file"),
    "copies up": ("write, nothing truncated", "file"),
    "truncates": ("write", "file"),
    "reads what was copied up": ("read", "copied"),
    "whites out": ("delete", "file"),
    "makes again": ("create", "gone"),
    "makes an opaque folder": ("create", "below"),
    "renames": ("rename", "file"),
    "links": ("link", "file"),
    "changes the mode": ("setattr", "file"),
    "removes a merged folder": ("delete", "empty"),
}


def lay(ground: Ground, target: str) -> None:
    """An overlay at `target`; what lies below it has what HOWS needs, and some of it has been changed above."""
    lower = ground.dir / "free/lower"
    lower.mkdir()
    for name in ("below", "empty"):
        (lower / name).mkdir()
    for name in ("file", "copied", "gone", "below/file"):
        (lower / name).write_text("text")
    overlay(ground, str(lower), target)
    merged = ground.say(target)
    with open(f"{merged}/copied", "a", encoding="utf-8") as copied:
        copied.write("!")
    os.unlink(f"{merged}/gone")
    os.unlink(f"{merged}/below/file")
    os.rmdir(f"{merged}/below")


def allowed(ground: Ground) -> None:
    """In the free folder."""
    lay(ground, "{free}/mount")


def denied(ground: Ground) -> None:
    """At a place that is denied."""
    lay(ground, "{denied}/below")


PROBES: Final[tuple[Probe | Scenario, ...]] = (
    Probe(3, "all of these in an overlay over a free folder", "", ["merged", "all", "{free}/mount"], prepare=allowed),
    *(
        Probe(3, f"an overlay over a denied folder: {how}", kind, ["merged", how, "{denied}/below"], came_back,
              f"{{denied}}/below/{name}", prepare=denied)
        for how, (kind, name) in HOWS.items()
    ),
)  # fmt: skip
