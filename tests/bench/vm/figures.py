"""What a run found, as a document that is kept, and as tables: next to the targets and to other systems' figures.

A document: {"commit", "kernel", "point", "rounds", "service": {...}, "figures": {OPERATION: {ARM: {"inline": [one a
round], "whole": [one a round]}}}}, in instructions. An operation is called as in arms.py, with `-first` behind it for a
new object each time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tests.bench.vm.arms import ARMS, FEW, MANY, OPERATIONS
from tests.bench.vm.jobs import JOBS
from tests.vm.table import grid

Document = Mapping[str, Any]

# Added instructions, inline, for an allowed operation of a process under a policy; Debian 6.12, measured side by side
# in one boot of the same emulator. Columns as OPERATIONS has them.
PEERS: Final = {
    "Tetragon 1.7 (LSM)": ("0", "0", "0", "10.6k", "15.7k", "10.5k", "0", "5.5k", "14k", "48k"),
    "AegisBPF 0.9": ("0.1-0.4k", "0.1-0.4k", "0.1-0.4k", "1.34k", "1.34k", "1.4k", "3.9k", "4.9k", "10k", "23k"),
    "Leash (LSM part)": ("0.1-0.4k", "0.1-0.4k", "0.1-0.4k", "2.9k", "4.5k", "4.5k", "1.5k", "-", "0", "19k"),
    "KubeArmor (LSM)": ("0-3.5k", "0-3.5k", "0-3.5k", "22k", "27k", "108k", "0.4k", "42k", "2k", "39k"),
    "fapolicyd": ("0", "0", "0", "7.9k", "8.0k", "7.1k", "0", "0", "0.6k", "16k"),
    "auditd, watches": ("0.8-3.3k", "0.8-3.3k", "0.8-3.3k", "3.3k", "3.4k", "12k", "1.8k", "5.1k", "4k", "18k"),
}
# (arm, first): at most so many added instructions, inline.
TARGETS: Final[dict[str, dict[tuple[str, bool], int]]] = {
    "getppid": {("bystander", False): 0, ("tagged", False): 0},
    "stat": {("bystander", False): 0, ("tagged", False): 0},
    "pipe": {("bystander", False): 0, ("tagged", False): 0},
    "open3": {("bystander", False): 200, ("tagged", False): 500, ("tagged", True): 4000},
    "open12": {("bystander", False): 200, ("tagged", False): 500, ("tagged", True): 4000},
    "change": {("tagged", False): 1200},
    "udp": {("tagged", False): 600},
    "tcp": {("bystander", False): 200, ("tagged", False): 900},
    "fork": {("tagged", False): 1200},
    "exec": {("bystander", False): 1500, ("tagged", False): 6000},
}
ABOUT: Final = (
    "bare: instructions of the operation while no workload exists. The others: what is added to it, in the same boot.",
    *(f"{arm.name}: {arm.about}." for arm in ARMS[1:]),
    "These are inline: the median of single operations, with all they wait for on the one CPU.",
    "whole: all that the machine ran until the service had written its books, for each operation; added to bare, too.",
    f"{MANY:,}/{FEW}: the whole operation under {MANY:,} rules as a multiple of the same under {FEW}.",
    "ratio: the operation of `tagged`, as a multiple of bare. target: of `tagged`. [In brackets]: above its target.",
    "spread: the largest distance between two rounds of any inline figure of this row.",
    "Rows: the same object over and over, or (first) each time one that nobody has met.",
    "Below: whole jobs, done for the third time: all that their processes ran is inline. Others: untar AegisBPF 3.5M, "
    "Tetragon 22M.",
)  # fmt: skip


def document(reports: Iterable[Mapping[str, Any]], **about: Any) -> dict[str, Any]:
    """What the guest reported, put together."""
    figures: dict[str, dict[str, dict[str, list[int]]]] = {}
    service: dict[str, Any] = {}
    for report in reports:
        if report["kind"] == "figure":
            arm = figures.setdefault(report["operation"], {}).setdefault(report["arm"], {"inline": [], "whole": []})
            arm["inline"].append(report["inline"])
            arm["whole"].append(report["whole"])
        elif report["kind"] == "service":
            service |= {key: value for key, value in report.items() if key != "kind"}
    return {**about, "figures": figures, "service": service}


def value(found: Document, operation: str, arm: str, kind: str = "inline") -> float | None:
    """The median over the rounds."""
    values = found["figures"].get(operation, {}).get(arm, {}).get(kind)
    return statistics.median(values) if values else None


def added(found: Document, operation: str, arm: str, kind: str = "inline") -> float | None:
    """The median over the rounds of what the arm adds to the bare arm of the same round."""
    mine = found["figures"].get(operation, {}).get(arm, {}).get(kind)
    bare = found["figures"].get(operation, {}).get("bare", {}).get(kind)
    if not mine or not bare:
        return None
    return statistics.median(a - b for a, b in zip(mine, bare, strict=True))


def spread(found: Document, operation: str) -> int:
    """The largest distance between two rounds of an inline figure of this operation."""
    arms = found["figures"].get(operation, {}).values()
    return max((max(arm["inline"]) - min(arm["inline"]) for arm in arms), default=0)


def number(amount: float | None) -> str:
    """Instructions, for a table."""
    return "-" if amount is None else f"{amount:,.0f}"


def judged(amount: float | None, target: int | None) -> str:
    """With brackets when it is above the target."""
    text = number(amount)
    return f"[{text}]" if amount is not None and target is not None and amount > target else text


def names(found: Document) -> list[tuple[str, str, bool]]:
    """(name, title, first) of every operation that was measured."""
    every = []
    for operation in OPERATIONS:
        every.append((operation.name, operation.title, False))
        every.append((f"{operation.name}-first", f"{operation.title}, first", True))
    every += [(job.name, job.title, False) for job in JOBS]
    return [entry for entry in every if entry[0] in found["figures"]]


def table(found: Document) -> str:
    """Operations down, arms across."""
    columns = [
        "bare",
        *(arm.name for arm in ARMS[1:]),
        "whole",
        f"{MANY:,}/{FEW}",
        "ratio",
        "target",
        "spread",
    ]
    rows = []
    for name, title, first in names(found):
        targets = TARGETS.get(name.removesuffix("-first"), {})
        bare, tagged = value(found, name, "bare"), value(found, name, "tagged")
        many = value(found, name, "many")
        cells = [number(bare)]
        cells += [judged(added(found, name, arm.name), targets.get((arm.name, first))) for arm in ARMS[1:]]
        cells.append(number(added(found, name, "tagged", "whole")))
        cells.append(f"{many / tagged:.3f}" if many and tagged else "-")
        cells.append(f"x{tagged / bare:.2f}" if tagged and bare else "-")
        cells.append("-" if (target := targets.get(("tagged", first))) is None else f"<= {target:,}")
        cells.append(number(spread(found, name)))
        rows.append((title, cells))
    return grid("instructions", columns, rows)


def peers(found: Document) -> str:
    """The same operations, done under other systems."""
    own = [number(added(found, operation.name, "tagged")) for operation in OPERATIONS]
    first = [number(added(found, f"{operation.name}-first", "tagged")) for operation in OPERATIONS]
    lines = [("agentd, again", own), ("agentd, first", first), *((name, list(cells)) for name, cells in PEERS.items())]
    return grid("added, inline", [operation.name for operation in OPERATIONS], lines)


def render(found: Document) -> str:
    """Everything for a person."""
    title = (
        f"agentd {found['commit']} on Linux {found['kernel']} ({found['point']}), {found['rounds']} interleaved rounds "
        "in one boot; one CPU, emulated, whose clock counts instructions"
    )
    parts = [title, "\n".join(ABOUT), table(found)]
    parts.append("Others (Debian 6.12, equal policies, same emulator; agentd as above)\n\n" + peers(found))
    if found["service"]:
        parts.append("service: " + ", ".join(f"{key} {value}" for key, value in found["service"].items()))
    return "\n\n".join(parts)


def compare(one: Document, other: Document) -> str:
    """Two runs side by side: what each adds, and the difference."""
    lines = [
        f"A: {one['commit']}, {one['kernel']} ({one['point']})",
        f"B: {other['commit']}, {other['kernel']} ({other['point']})",
    ]
    rows: list[tuple[str, Sequence[str]]] = []
    for name, title, _ in names(one):
        cells = [number(value(one, name, "bare")), number(value(other, name, "bare"))]
        for arm in ("bystander", "tagged", "many"):
            a, b = added(one, name, arm), added(other, name, arm)
            cells += [number(a), number(b), "-" if a is None or b is None else f"{b - a:+,.0f}"]
        rows.append((title, cells))
    columns = ["bare A", "bare B"]
    for arm in ("bystander", "tagged", "many"):
        columns += [f"{arm} A", "B", "B-A"]
    return "\n".join(lines) + "\n\n" + grid("added, inline", columns, rows)
