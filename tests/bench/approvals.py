"""What lies between an answer and the first instruction of what was held, as a ratio to a bare SIGCONT.

A service of its own holds a connect, an open, an unlink and an exec, one after the other; this process answers over
the socket as a bot would, with one connection that stays. The times are read by the held program itself. In the same
rounds a process that has stopped itself is resumed by SIGCONT. `acknowledged` is when whoever answered is told (the
record is on the disk then); `standing` is how long an operation takes that a standing answer covers, from its call to
its return.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agentd.daemon.client import Client
from tests.bench._common import BENCH, compiled, ratio, show
from tests.live.service import Service, bot, listening, state

ROUNDS = 60
OPERATIONS = ("connect", "open", "unlink", "exec")


def main() -> None:
    """Prints medians in ms and their ratios to the bare SIGCONT."""
    with compiled() as folder, listening() as port:
        for name in ("held", "now"):
            subprocess.run(
                ["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", folder / name, BENCH / "held.c"],
                check=True,
            )
        (folder / "asked").touch()
        agents = {
            "bot": bot(
                allow=[
                    {"tool": "shell", "operations": ["execute"]}, {"tool": "file_reader"}, {"tool": "file_writer"},
                    {"tool": "network", "operations": ["socket"]}, {"tool": "file"},
                ],
                deny=[],
                require_approval=[
                    {"tool": "network", "operations": ["connect"], "timeout": "10m"},
                    {"tool": "file_reader", "paths": [str(folder / "asked")], "timeout": "10m"},
                    {"tool": "file", "operations": ["delete"], "timeout": "10m"},
                    {"tool": "shell", "paths": [str(folder / "now")], "timeout": "10m"},
                ],
            )
        }  # fmt: skip
        with Service(agents) as service:
            report(service, folder, port)


def report(service: Service, folder: Path, port: int) -> None:
    """Measures, and prints."""
    command = [folder / "held", str(port), folder / "asked", folder / "now"]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    bare = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    resumed: dict[str, list[float]] = defaultdict(list)
    told: dict[str, list[float]] = defaultdict(list)
    try:
        service.tag(held.pid)
        with Client(service.socket) as client:
            for _ in range(ROUNDS):
                for operation in OPERATIONS:
                    send(held, operation)
                    row = question(client)
                    begun = time.monotonic_ns()
                    client.call("approvals.approve", id=row["id"])
                    told[operation].append((time.monotonic_ns() - begun) / 1e6)
                    resumed[operation].append((answer(held) - begun) / 1e6)
                send(bare, "bare")
                while state(bare.pid) != "T":
                    time.sleep(0.001)
                time.sleep(0.02)
                begun = time.monotonic_ns()
                os.kill(bare.pid, signal.SIGCONT)
                resumed["bare SIGCONT"].append((answer(bare) - begun) / 1e6)
            send(held, "connect")
            client.call("approvals.approve", id=question(client)["id"], scope="workload")
            answer(held)
            for _ in range(ROUNDS):
                begun = time.monotonic_ns()
                send(held, "connect")
                resumed["standing"].append((answer(held) - begun) / 1e6)
                time.sleep(0.02)
    finally:
        for process in (held, bare):
            process.kill()
            process.communicate()
    rows = {}
    what: dict[str, object] = {}
    for name, times in resumed.items():
        over = ratio(times, resumed["bare SIGCONT"])
        median, worst = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        acknowledged = f"{statistics.median(told[name]):.2f} ms" if name in told else ""
        rows[name] = (f"{median:.2f} ms", f"{worst:.2f} ms", f"{over:.1f}", acknowledged)
        what[name] = {"median_ms": median, "p95_ms": worst, "ratio": over}
    show("from an answer to the next instruction", ("median", "95 %", "ratio", "acknowledged"), rows, what)


def send(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    print(word, file=process.stdin, flush=True)


def answer(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def question(client: Client) -> dict[str, object]:
    """The one thing that waits, once its process has stopped and agentd is idle again."""
    while True:
        rows = client.call("approvals.list")
        if rows and state(rows[0]["processes"][0]) == "T":
            time.sleep(0.02)
            found: dict[str, object] = rows[0]
            return found
        time.sleep(0.001)


if __name__ == "__main__":
    if os.geteuid() or not shutil.which("gcc"):
        raise SystemExit("bench approvals: needs root and gcc")
    main()
