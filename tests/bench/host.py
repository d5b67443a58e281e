"""What agentd costs everybody else: operations of a process that belongs to no workload, with the programs attached and
without, in one run.

    .venv/bin/python tests/bench/host.py [--json] [--rounds N]

Each round times every arm once, next to each other and in turning order; a figure is the median over the rounds of the
ratio to the bare arm of the same round. Arms:

    bare     nothing attached
    agentd   all programs
    exit     only the one at the exit of system calls
    rest     all but that
    empty    in its place, a program that does nothing: the least that this hook can cost
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from _common import EmptyHook, Hooks, Timed, compiled, ratio, show

OPERATIONS = {"call": 20_000, "open": 5_000, "connect": 5_000, "fork": 60, "exec": 25}
TARGET = 1.03
EXIT = "syscall_returned"


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 40
    with compiled() as folder:
        hooks, empty = Hooks(), EmptyHook(folder)
        arms: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "bare": (lambda: None, lambda: None),
            "agentd": (lambda: hooks.attach(lambda _: True), hooks.detach),
            "exit": (lambda: hooks.attach(lambda name: name == EXIT), hooks.detach),
            "rest": (lambda: hooks.attach(lambda name: name != EXIT), hooks.detach),
            "empty": (empty.attach, empty.detach),
        }
        timed = Timed(folder / "cost", str(folder / "file"))
        found: dict[str, dict[str, list[float]]] = {arm: {op: [] for op in OPERATIONS} for arm in arms}
        try:
            for number in range(rounds):
                names = list(arms)
                for arm in names[number % len(names) :] + names[: number % len(names)]:
                    attach, detach = arms[arm]
                    attach()
                    try:
                        for operation, count in OPERATIONS.items():
                            timed.run(operation, count // 10)
                            found[arm][operation].append(timed.run(operation, count))
                    finally:
                        detach()
        finally:
            timed.close()
    bare = found["bare"]
    ratios = {arm: {op: ratio(found[arm][op], bare[op]) for op in OPERATIONS} for arm in arms if arm != "bare"}
    rows = {
        op: [f"{statistics.median(bare[op]):,.0f} ns", *(f"{ratios[arm][op]:.3f}" for arm in ratios)]
        for op in OPERATIONS
    }
    show(f"untagged, ratio to bare (target {TARGET})", ["bare", *ratios], rows, {"ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    main()
