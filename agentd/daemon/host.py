"""The composition root: policy file -> tables -> kernel -> audit log -> engine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import agentd
from agentd.actions import signals
from agentd.audit.opening import open_log
from agentd.audit.signer import LogSigner
from agentd.audit.sinks import Feeds
from agentd.audit.writer import FILE_NAME, AuditWriter
from agentd.daemon.evidence import Evidence
from agentd.daemon.own import guarded
from agentd.daemon.places import BPFFS_RUNS, RUN_DIR
from agentd.engine.core import Engine
from agentd.engine.policies import Compiled, compile_policy
from agentd.engine.records import note
from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi, features, loader
from agentd.kernel.hosts import Resolver
from agentd.kernel.prepare import WORD, Preparation, remember_arena
from agentd.metrics import Metrics
from agentd.policy import resolve
from agentd.workloads.processes import start_ticks, ticks

MIB_WORDS: Final = (1 << 20) // WORD


def read_policy(
    path: Path,
    workspace: str,
    overlay: resolve.Overlay | None = None,
    environment: str = "",
    own: Iterable[Path] = (),
) -> Compiled:
    """A policy file or folder, checked and compiled. own: folders of this agentd that no workload may touch.

    Raises PolicyError, AgentdError `policy-too-large`.
    """
    mine = guarded(own, [path])
    return compile_policy(
        resolve.load(path, workspace=workspace, overlay=overlay, environment=environment, guarded=mine)
    )


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def open_audit(directory: Path, evidence: Evidence) -> AuditWriter:
    """The audit log in `directory`, which is signed, and sent on as configured.

    Raises AgentdError `audit-locked`, `audit-unwritable`, `audit-corrupt`, `audit-key`.
    """
    audit = open_log(directory / FILE_NAME, host=socket.gethostname(), boot_id=boot_id(), limits=evidence.limits)
    try:
        LogSigner(audit, evidence.keys_dir).start()
        if evidence.sinks:
            audit.sinks = feeds = Feeds(evidence.sinks)
            feeds.start()
    except BaseException:
        audit.close()
        raise
    return audit


def start(
    compiled: Compiled,
    *,
    pins: Path,
    audit_dir: Path,
    arena_mib: int = 0,
    metrics: Metrics | None = None,
    preparation: Preparation | None = None,
    resolvers: Sequence[Resolver] | None = None,
    evidence: Evidence | None = None,
    pending_per_agent: int = 1000,
    matching: bool = False,
    slices: bool = False,
) -> Engine:
    """An engine that enforces `compiled`. arena_mib: the size of the policy tables; 0: what this policy wants.
    preparation: the programs of `pins`, begun to be verified earlier. resolvers: whose answers teach host names; None:
    those of resolv.conf. evidence: how the log is kept. pending_per_agent: operations of one
    agent that may wait for an answer. matching: recognise programs that begin by `match:`; slices: by agents.slice too.

    Order: log, kernel, policy. Nothing is enforced by a half: an error leaves no program attached that was not before.
    """
    features.require_host()
    audit = open_audit(audit_dir, evidence or Evidence())
    stood = (pins / "maps").is_dir()
    try:
        arena_words = max(compiled.arena_words(), arena_mib * MIB_WORDS)
        loaded = loader.load(pins, arena_words=arena_words, preparation=preparation)
        try:
            engine = Engine(
                loaded, audit, metrics or Metrics(agentd.__version__), resolvers, matching=matching, slices=slices
            )
            engine.audit.append(
                [note("started", f"agentd {agentd.__version__} enforces", metadata={"pid": os.getpid()})]
            )
            try:
                engine.install(compiled)
                remember_arena(pins, arena_words)
                engine.questions.book.limit = pending_per_agent
                engine.takeover.resume()
            except BaseException:
                engine.abandon()
                raise
            return engine
        except BaseException:
            if stood:
                loaded.close()
            else:
                loaded.release()
            raise
    except BaseException:
        audit.close()
        raise


def stop(engine: Engine, *, release: bool) -> None:
    """Ends an engine. release: ends enforcement too; else the pins keep it."""
    if release:
        engine.takeover.deny_all("enforcement ends (deny)")
    engine.close()
    engine.audit.append([note("stopped", "enforcement ends" if release else "enforcement goes on by the pins")])
    engine.commit()
    if release:
        engine.reasons.forget_all()
        engine.loaded.release()
    else:
        engine.loaded.close()
    engine.audit.close()


@contextlib.contextmanager
def in_charge_of(pins: Path) -> Iterator[None]:
    """Only one process at a time is the service of one set of pins. Raises AgentdError `service-running`."""
    features.bpffs()
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        hint = "give agentd a bpf file system that it can write"
        raise AgentdError("kernel-load", str(pins), why, hint, exit_code=EXIT_CANNOT_ENFORCE) from exc
    fd = os.open(pins, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentdError(
                "service-running", str(pins), "another agentd is in charge", "stop that one first"
            ) from None
        yield
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            pins.rmdir()  # only if nothing is pinned there


def collect_stale_runs() -> list[Path]:
    """Removes the pins of runs whose agentd is gone and that no process is held by any more.

    Returns those that stay: their agentd is gone, their processes are not, and the kernel goes on enforcing.
    """
    kept: list[Path] = []
    with contextlib.suppress(OSError):  # a read-only place: starting tells
        _collect(kept)
    return kept


def _collect(kept: list[Path]) -> None:
    for path in RUN_DIR.glob("run-[0-9]*.sock"):
        pid = path.stem.removeprefix("run-")
        if pid.isdigit() and start_ticks(int(pid)) is None:
            path.unlink(missing_ok=True)
    if not BPFFS_RUNS.is_dir():
        return
    for folder in sorted(BPFFS_RUNS.iterdir()):
        if _lives(folder):
            continue
        if (folder / "tasks").exists() and loader.pinned_tasks(folder):
            kept.append(folder)
            continue
        loader.remove_pins(folder)


def release_everything(service: Path) -> list[Path]:
    """Removes the pins of a service that doesn't run and of every run whose agentd is gone; what they held is free
    then, except what waits for an answer: that is killed. Raises AgentdError `not-root`, `service-running`.
    """
    features.require_root()
    found = []
    if service.is_dir():
        with in_charge_of(service):
            found.append(service)
            _release(service)
    for folder in sorted(BPFFS_RUNS.iterdir()) if BPFFS_RUNS.is_dir() else ():
        if not _lives(folder):
            found.append(folder)
            _release(folder)
    return found


def _release(folder: Path) -> None:
    if (folder / "tasks").exists():
        for line in loader.pinned_tasks(folder):
            started = ticks(line.start_time)
            if line.hold_id or line.flags & abi.TAG_ASKED:  # released, a SIGCONT would be a yes that nobody gave
                signals.send(line.pid, started, signal.SIGKILL, start_ticks)
            elif line.flags & abi.TAG_LOOKED_AT:
                signals.send(line.pid, started, signal.SIGCONT, start_ticks)
    loader.remove_pins(folder)


def _lives(folder: Path) -> bool:
    """Is the agentd of this run's pins alive?"""
    pid, _, start = folder.name.partition("-")
    return pid.isdigit() and str(start_ticks(int(pid))) == start
