"""What the seccomp point adds to a call, on a host without LSM hooks.

    .venv/bin/python tests/bench/supervised.py [--json] [--rounds N] [--files N]

Three processes run the same operations in turn: one that belongs to no workload, one that is marked, and one that
agentd has started, whose changes wait for the supervisor. All of it is allowed. Then the last makes and removes --files
files (100,000), and what is left of descriptors and memory is looked at.

    marked, supervised  ratio to the process without a mark, medians over the rounds
    notified            calls that reached the supervisor, per operation; 0: the filter lets them pass
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _common import Timed, compiled, ratio, show

from agentd.daemon import host
from agentd.daemon.launch import Marked, launch
from agentd.daemon.places import run_pins
from agentd.engine.core import Engine
from agentd.kernel.notify.device import take_listener
from agentd.kernel.seccomp import restrict

OPERATIONS = {"call": 20_000, "open": 2_000, "change": 200, "rename": 200, "fork": 50, "exec": 20}


class Supervised(Timed):
    """The same process, started by agentd."""

    def __init__(self, engine: Engine, program: Path, argument: str) -> None:
        ins, outs = os.pipe(), os.pipe()

        def mark(pid: int, pidfd: int) -> Marked:
            self.number = engine.tagging.started(pidfd, "bench", "bench", ["cost"], supervised=True).number
            return Marked(supervised=True)

        def listen(pid: int, pidfd: int, listener: int) -> None:
            engine.supervision.supervise(pidfd, take_listener(pidfd, listener))

        def prepare() -> None:
            os.dup2(ins[0], 0)
            os.dup2(outs[1], 1)

        child = launch([str(program), argument], mark, prepare=prepare, restrict=restrict, listen=listen)
        os.close(child.pidfd)
        os.close(ins[0])
        os.close(outs[1])
        self.pid = child.pid
        self._in, self._out = os.fdopen(ins[1], "w"), os.fdopen(outs[0])

    def run(self, operation: str, count: int) -> float:
        print(operation, count, file=self._in, flush=True)
        line = self._out.readline()
        if not line:
            raise SystemExit(f"the supervised process ended at {operation!r}")
        return float(line)

    def close(self) -> None:
        self._in.close()
        self._out.close()
        os.waitpid(self.pid, 0)


def policy(folder: Path) -> Path:
    """An agent that may do everything, library calls left alone."""
    from tests.live.harness import every_tool

    path = folder / "policy.yaml"
    allow = "".join(f"      - {{tool: {tool}}}\n" for tool in every_tool())
    path.write_text(f"version: 1\nagents:\n  bench:\n    allow:\n{allow}")
    return path


def many(engine: Engine, supervised: Supervised, files: int, fds: int) -> dict[str, float]:
    """Makes and removes that many files, a thousand between two looks of the engine; the workload ends with it."""
    supervised.run("change", 1000)
    engine.pump()
    engine.flush()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls, begun, cpu = engine.supervision.calls, time.perf_counter(), time.process_time()
    for _ in range(files // 1000):
        supervised.run("change", 1000)
        engine.pump()
    took, spent = time.perf_counter() - begun, time.process_time() - cpu
    asked = engine.supervision.calls - calls
    engine.flush()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    supervised.close()
    while engine.supervision.of(supervised.number):
        engine.pump()
        time.sleep(0.01)
    return {
        "files": files, "calls": asked, "seconds": took,
        "call_us": took / asked * 1e6, "agentd_us": spent / asked * 1e6,
        "descriptors_left": len(os.listdir("/proc/self/fd")) - fds, "memory_grown_kib": grown - memory,
    }  # fmt: skip


def main() -> None:
    def option(name: str, default: int) -> int:
        return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default

    rounds, files = option("--rounds", 20), option("--files", 100_000)
    with compiled() as folder, tempfile.TemporaryDirectory() as state:
        engine = host.start(host.read_policy(policy(folder), "/"), pins=run_pins(), audit_dir=Path(state))
        if not engine.supervises:
            host.stop(engine, release=True)
            raise SystemExit("supervised: there are LSM hooks on this host: nothing is supervised")
        timed = {name: Timed(folder / "cost", str(folder / "file")) for name in ("untagged", "marked")}
        pidfd = os.pidfd_open(timed["marked"].pid)
        engine.tagging.started(pidfd, "bench", "bench", ["cost"])
        os.close(pidfd)
        fds = len(os.listdir("/proc/self/fd"))
        timed["supervised"] = supervised = Supervised(engine, folder / "cost", str(folder / "file"))
        took: dict[str, dict[str, list[float]]] = {name: {op: [] for op in OPERATIONS} for name in timed}
        asked = dict.fromkeys(OPERATIONS, 0.0)
        try:
            for number in range(rounds):
                names = list(took)
                for operation, count in OPERATIONS.items():
                    before = engine.supervision.calls
                    for name in names[number % 3 :] + names[: number % 3]:
                        took[name][operation].append(timed[name].run(operation, count))
                    asked[operation] += (engine.supervision.calls - before) / count / rounds
                engine.pump()
                engine.tick()
            del timed["supervised"]
            left = many(engine, supervised, files, fds)
        finally:
            for process in timed.values():
                process.close()
            engine.pump()
            host.stop(engine, release=True)
    rows, figures = {}, {}
    for op in OPERATIONS:
        marked, point = (ratio(took[name][op], took["untagged"][op]) for name in ("marked", "supervised"))
        bare, full = (statistics.median(took[name][op]) for name in ("untagged", "supervised"))
        figures[op] = {"marked": marked, "supervised": point, "notified": asked[op], "added_ns": full - bare}
        rows[op] = [f"{bare:,.0f} ns", f"{marked:.2f}", f"{point:.2f}", f"{asked[op]:.1f}", f"{full - bare:,.0f} ns"]
    columns = ["untagged", "marked", "supervised", "notified", "added"]
    show("supervised, allowed", columns, rows, {"operations": figures, "rounds": rounds, "many": left})
    if "--json" not in sys.argv:
        print(
            f"{left['files']:,.0f} files made and removed: {left['seconds']:.1f} s, {left['call_us']:.0f} us a call,"
            f" of it {left['agentd_us']:.0f} us of agentd's processor time;"
            f" descriptors left: {left['descriptors_left']:.0f},"
            f" memory grown: {left['memory_grown_kib'] / 1024:.1f} MiB"
        )


if __name__ == "__main__":
    main()
