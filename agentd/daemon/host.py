"""The composition root: policy file -> tables -> kernel -> audit log -> engine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import agentd
from agentd.audit.writer import FILE_NAME, AuditWriter, open_log
from agentd.engine.core import Engine
from agentd.engine.policies import Compiled, compile_policy
from agentd.engine.records import note
from agentd.kernel import features, loader
from agentd.metrics import Metrics
from agentd.policy import resolve
from agentd.workloads.processes import start_ticks

BPFFS_SERVICE: Final = Path("/sys/fs/bpf/agentd")
BPFFS_RUNS: Final = Path("/sys/fs/bpf/agentd-run")
MIB_WORDS: Final = (1 << 20) // loader.WORD


def read_policy(path: Path, workspace: str) -> Compiled:
    """A policy file, checked and compiled. Raises PolicyError, AgentdError `policy-too-large`."""
    return compile_policy(resolve.load(path, workspace=workspace))


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def open_audit(directory: Path) -> AuditWriter:
    """The audit log in `directory`. Raises AgentdError `audit-locked`, `audit-unwritable`, `audit-corrupt`."""
    return open_log(directory / FILE_NAME, host=socket.gethostname(), boot_id=boot_id())


def start(
    compiled: Compiled, *, pins: Path, audit_dir: Path, arena_mib: int = 0, metrics: Metrics | None = None
) -> Engine:
    """An engine that enforces `compiled`. arena_mib: the size of the policy tables; 0: what this policy wants.

    Order: log, kernel, policy. Nothing is enforced by a half: an error leaves no program attached that was not before.
    """
    features.require_root()
    audit = open_audit(audit_dir)
    try:
        loaded = loader.load(pins, arena_words=max(compiled.arena_words(), arena_mib * MIB_WORDS))
        try:
            engine = Engine(loaded, audit, metrics or Metrics(agentd.__version__))
            engine.audit.append(
                [note("started", f"agentd {agentd.__version__} enforces", metadata={"pid": os.getpid()})]
            )
            engine.install(compiled)
            engine.commit()
            return engine
        except BaseException:
            loaded.close()
            raise
    except BaseException:
        audit.close()
        raise


def stop(engine: Engine, *, release: bool) -> None:
    """Ends an engine. release: ends enforcement too; else the pins keep it."""
    engine.close()
    engine.audit.append([note("stopped", "enforcement ends" if release else "enforcement goes on by the pins")])
    engine.commit()
    if release:
        engine.loaded.release()
    else:
        engine.loaded.close()
    engine.audit.close()


def run_pins() -> Path:
    """A folder of bpffs for the engine of this one process."""
    return BPFFS_RUNS / f"{os.getpid()}-{start_ticks(os.getpid())}"


def collect_stale_runs() -> list[Path]:
    """Removes the pins of runs whose agentd is gone and that no process is held by any more.

    Returns those that stay: their agentd is gone, their processes are not, and the kernel goes on enforcing.
    """
    kept = []
    if not BPFFS_RUNS.is_dir():
        return []
    for folder in sorted(BPFFS_RUNS.iterdir()):
        pid, _, start = folder.name.partition("-")
        if pid.isdigit() and str(start_ticks(int(pid))) == start:
            continue  # its agentd lives
        if (folder / "tasks").exists() and loader.pinned_tasks(folder):
            kept.append(folder)
            continue
        loader.remove_pins(folder)
    return kept


def release_everything() -> list[Path]:
    """Removes the pins of the service and of every run: nothing is enforced afterwards. Raises AgentdError
    `not-root`.
    """
    features.require_root()
    found = [BPFFS_SERVICE] if BPFFS_SERVICE.is_dir() else []
    found += sorted(BPFFS_RUNS.iterdir()) if BPFFS_RUNS.is_dir() else []
    for folder in found:
        loader.remove_pins(folder)
    return found
