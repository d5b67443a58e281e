"""From the start of `agentd daemon` to enforcing, and the memory it then has.

    .venv/bin/python tests/bench/start.py [--json] [--rounds N]

Enforcing is READY=1 on the notify socket: programs attached, policy installed, socket open. `python` is an interpreter
that imports what agentd depends on and nothing else, measured next to it. Targets: 0.5 s, 60 MB.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, show

AGENTD = ROOT / ".venv" / "bin" / "agentd"
IMPORTS = "import asyncio, click, prometheus_client, psutil, yaml"


def started(config: Path, notify: socket.socket, environment: dict[str, str]) -> tuple[float, float]:
    """(Seconds, MB resident)."""
    begun = time.perf_counter()
    process = subprocess.Popen([AGENTD, "daemon", "--config", config], env=environment, stderr=subprocess.DEVNULL)
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
        took = time.perf_counter() - begun
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    notify.setblocking(False)
    try:
        while notify.recv(4096):
            pass  # what it said when it stopped
    except BlockingIOError:
        notify.settimeout(60)
    return took, resident


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 7
    seconds: dict[str, list[float]] = {"python": [], "warm": []}
    resident: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "agentd.yaml"
        config.write_text(
            f"policy: {ROOT / 'policies' / 'coding-agent.yaml'}\naudit_dir: {folder / 'audit'}\n"
            f"socket: {folder / 'agentd.sock'}\nmetrics_port: 0\nbpffs_dir: /sys/fs/bpf/agentd-bench\n"
            "on_stop: release\n"
        )
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        for _ in range(rounds):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", IMPORTS], check=True)
            seconds["python"].append(time.perf_counter() - begun)
            took, memory = started(config, notify, environment)
            seconds["warm"].append(took)
            resident.append(memory)
            shutil.rmtree(folder / "audit")
        notify.close()
    took, least = statistics.median(seconds["warm"]), statistics.median(seconds["python"])
    rows = {
        "start": [f"{took:.3f} s", f"{min(seconds['warm']):.3f} s", f"{least:.3f} s", f"{took / least:.1f}"],
        "resident": [f"{statistics.median(resident):.1f} MB", f"{min(resident):.1f} MB", "-", "-"],
    }
    figures = {"seconds": took, "python_seconds": least, "resident_mb": statistics.median(resident), "rounds": rounds}
    show("agentd daemon (targets: 0.5 s, 60 MB)", ["median", "least", "python", "ratio"], rows, figures)


if __name__ == "__main__":
    main()
