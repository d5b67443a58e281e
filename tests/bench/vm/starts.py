"""What a start of `agentd daemon` takes under a policy of a few rules, and the memory that it has then.

Next to it what Python takes to start and to import what agentd depends on, which is no part of agentd and not little.
Modules are compiled before, by the first start here, as the packages do it when they are installed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

NAME: Final = "start"
IMPORTS: Final = "import asyncio, click, prometheus_client, psutil, yaml"
POLICY: Final = """
version: 1
agents:
  bot:
    allow:
      - {tool: file_reader, paths: ["/**"]}
    deny:
      - {tool: secrets, paths: ["/etc/secret/**", "~/.ssh/**"]}
      - {tool: network, hosts: ["10.0.0.0/8:25"]}
"""
PATIENCE: Final = 600.0  # seconds, in an emulated machine


def started(work: Path, busy: Callable[[], int]) -> dict[str, float]:
    """Of the second start, when its files are in memory: million instructions of the whole machine, and MB."""
    folder = work / "start"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    (folder / "policy.yaml").write_text(POLICY, encoding="ascii")
    config = folder / "agentd.yaml"
    config.write_text(
        f"policy: {folder / 'policy.yaml'}\naudit_dir: {folder / 'audit'}\nsocket: {folder / 'agentd.sock'}\n"
        "metrics_port: 0\nbpffs_dir: /sys/fs/bpf/agentd-bench\non_stop: release\n",
        encoding="ascii",
    )
    for _ in range(2):
        python = _counted(busy, lambda: subprocess.run([sys.executable, "-c", IMPORTS], env=environment, check=True))
        whole, resident = _one(config, {**environment, "NOTIFY_SOCKET": str(folder / "notify")}, busy)
    return {
        "start_million": round(whole / 1e6),
        "python_million": round(python / 1e6),
        "resident_mb": round(resident, 1),
    }


def _counted(busy: Callable[[], int], job: Callable[[], object]) -> int:
    begun = busy()
    job()
    return busy() - begun


def _one(config: Path, environment: dict[str, str], busy: Callable[[], int]) -> tuple[int, float]:
    notify = Path(environment["NOTIFY_SOCKET"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(notify))
        told.settimeout(PATIENCE)
        begun = busy()
        process = subprocess.Popen(
            [sys.executable, "-m", "agentd", "daemon", "--config", config],
            env=environment,
        )
        try:
            while b"READY=1" not in told.recv(4096):
                pass
            took = busy() - begun
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            return took, int(status.split("VmRSS:")[1].split()[0]) / 1024
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            notify.unlink()
