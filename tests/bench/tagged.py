"""What a workload pays for what it may do, and that it does not depend on the number of rules.

    .venv/bin/python tests/bench/tagged.py [--json] [--rounds N]

Three processes run the same operations in turn: one that belongs to no workload and two that are marked, one under 10
rules and one under 10,000. All of it is allowed. Figures are medians over the rounds:

    /untagged   ratio to the process without a mark, programs attached for all
    deciding    nanoseconds inside the verdict (walk of the path, automata, outcome), as the kernel's own counters say
    flat        10,000 rules against 10, target 1.05: of the deciding part
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _common import Timed, compiled, ratio, show

from agentd.daemon import host
from agentd.daemon.places import run_pins
from agentd.engine.core import Engine
from agentd.kernel import abi

OPERATIONS = {"call": 20_000, "open": 2_000, "connect": 2_000, "fork": 50, "exec": 20}
TARGET = 1.05
FEW, MANY = 10, 10_000

ALLOW = """    allow:
"""


def policy(folder: Path) -> Path:
    """Two agents that may do everything but what `rules` deny, which nothing here touches."""
    from agentd.policy.resolve import shipped_catalogue

    tools = sorted({entry.tool for entry in shipped_catalogue().entries} - {"runtime"})
    lines = ["version: 1", "agents:"]
    for name, count in (("few", FEW), ("many", MANY)):
        lines += [f"  {name}:", "    deny:"]
        for number in range(count // 2):
            lines.append(f'      - {{tool: file_reader, paths: ["/srv/tenant-{number}/private/**"]}}')
            address = f"10.{number >> 8 & 255}.{number & 255}.0/24:443"
            lines.append(f'      - {{tool: network, hosts: ["{address}"]}}')
        lines.append("    allow:")
        lines += [f"      - {{tool: {tool}}}" for tool in tools]
    path = folder / "policy.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def deciding(engine: Engine, timed: Timed, operation: str, count: int) -> tuple[float, float]:
    """(ns per operation, ns per verdict)."""
    before = engine.loaded.stats.read()
    took = timed.run(operation, count)
    after = engine.loaded.stats.read()
    verdicts = after[abi.STAT_VERDICTS] - before[abi.STAT_VERDICTS]
    spent = after[abi.STAT_VERDICT_NS] - before[abi.STAT_VERDICT_NS]
    return took, spent / verdicts if verdicts else 0.0


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 30
    with compiled() as folder, tempfile.TemporaryDirectory() as state:
        begun = time.perf_counter()
        compiled_policy = host.read_policy(policy(folder), "/")
        loading = time.perf_counter() - begun
        engine = host.start(compiled_policy, pins=run_pins(), audit_dir=Path(state))
        timed = {name: Timed(folder / "cost", str(folder / "file")) for name in ("untagged", "few", "many")}
        took: dict[str, dict[str, list[float]]] = {name: {op: [] for op in OPERATIONS} for name in timed}
        spent: dict[str, dict[str, list[float]]] = {name: {op: [] for op in OPERATIONS} for name in timed}
        try:
            for name in ("few", "many"):
                pidfd = os.pidfd_open(timed[name].pid)
                engine.tagging.started(pidfd, name, "bench", ["cost"])
                engine.marks.mark_process(pidfd, engine.policies.slot(name), 1000)
                os.close(pidfd)
            for number in range(rounds):
                names = list(timed)
                for operation, count in OPERATIONS.items():
                    for name in names[number % 3 :] + names[: number % 3]:
                        timed[name].run(operation, count // 10)
                        one, verdict = deciding(engine, timed[name], operation, count)
                        took[name][operation].append(one)
                        spent[name][operation].append(verdict)
                engine.pump()
                engine.tick()
        finally:
            for process in timed.values():
                process.close()
            engine.pump()
            host.stop(engine, release=True)
    rows: dict[str, list[str]] = {}
    figures: dict[str, dict[str, float]] = {}
    for op in OPERATIONS:
        few, many = (ratio(took[name][op], took["untagged"][op]) for name in ("few", "many"))
        figures[op] = {"few": few, "many": many}
        cells = [f"{statistics.median(took['untagged'][op]):,.0f} ns", f"{few:.2f}", f"{many:.2f}"]
        if any(spent["few"][op]):
            flat = statistics.median(spent["many"][op]) / statistics.median(spent["few"][op])
            figures[op]["flat"] = flat
            figures[op]["deciding_ns"] = statistics.median(spent["few"][op])
            cells += [f"{figures[op]['deciding_ns']:,.0f} ns", f"{flat:.3f}"]
        else:
            cells += ["-", "-"]
        rows[op] = cells
    title = f"tagged, allowed ({FEW} and {MANY:,} rules; loading both took {loading:.1f} s; flat target {TARGET})"
    columns = ["untagged", f"{FEW}/untagged", f"{MANY}/untagged", "deciding", "flat"]
    show(title, columns, rows, {"operations": figures, "rounds": rounds, "loading_s": loading})


if __name__ == "__main__":
    main()
