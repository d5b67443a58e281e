"""One boot of one kernel: a command runs in it, and its exit status, output and kernel messages come back.

The machine is QEMU's software emulation (TCG), set up by virtme-ng: the kernel of the arm over this machine's own root
file system. Everything passes through a folder of the host that the guest mounts at /run/agentd-vm; enter.sh is the
guest's side.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.vm import blocked
from tests.vm.kernels import ROOT, Kernel

SHARED: Final = "/run/agentd-vm"
WITHOUT_BPF: Final = "lsm=lockdown,yama,apparmor"  # Ubuntu's and others' default: no bpf
# Warnings and worse, of the kernel; a TCG machine is slow enough for false alarms of the watchdogs that measure time.
# One stays: who holds up RCU is told, and shown when an arm has failed, because everything else waits for it then.
APPEND: Final = ("loglevel=5", "mitigations=off", "nowatchdog", "rcupdate.rcu_cpu_stall_timeout=60", *blocked.APPEND)
POLL_SECONDS: Final = 0.2
TROUBLE: Final = re.compile(
    r"^(?:\[ *[\d.]+\] )?(?:\[ *T\d+\] )?"
    r"(?:Kernel panic|BUG:|WARNING:|Oops|general protection fault|kernel BUG at"
    r"|INFO: (?:possible|suspicious|inconsistent|task)"
    r"|Unable to handle|.*unable to handle|UBSAN:|KASAN|=+ *WARNING|.*lock held when returning to user space)"
)


@dataclass(frozen=True, slots=True)
class Arm:
    """A kernel, with bpf in its list of LSMs or without."""

    kernel: Kernel
    bpf_lsm: bool

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"{self.kernel.version} {'lsm' if self.bpf_lsm else 'no-lsm'}"


@dataclass(slots=True)
class Outcome:
    """How a boot ended. status: of the command, None: it never said; seconds: on the host's clock, with the boot."""

    arm: Arm
    status: int | None
    seconds: float
    problems: list[str] = field(default_factory=list)
    reports: str = ""  # JSON lines

    @property
    def passed(self) -> bool:
        """The command ended with 0 and the kernel had nothing to complain about."""
        return self.status == 0 and not self.problems


def scan(console: str) -> list[str]:
    """The kernel's cries in a console log: panic, BUG, WARNING, oops, lockdep; each with the lines that follow it."""
    lines = [line.rstrip() for line in console.replace("\r", "").splitlines()]
    hits = [i for i, line in enumerate(lines) if TROUBLE.match(line)]
    shown: list[str] = []
    end = 0
    for hit in hits:
        if hit >= end:
            end = hit + 25
            shown.append("\n".join(lines[hit:end]))
    return shown


def command_line(
    arm: Arm, folder: Path, *, cpus: int, memory: str, qemu: str = "", append: Sequence[str] = ()
) -> list[str]:
    """The call of virtme-ng. qemu: more options for the emulator; append: more words for the kernel."""
    enter = shlex.join(["sh", str(ROOT / "tests" / "vm" / "enter.sh"), str(ROOT)])
    append = [*APPEND, *(() if arm.bpf_lsm else (WITHOUT_BPF,)), *append]
    qemu = f"{blocked.options(folder)} {qemu}"
    root = "-fsdev local,id=agentd,path=/,security_model=none,readonly=on,multidevs=remap"
    device = "-device virtio-9p-pci,fsdev=agentd,mount_tag=agentd-root"
    return [
        f"{sys.prefix}/bin/vng", "--disable-kvm", "--force-9p", "--verbose", "--user", "root",
        "--run", str(arm.kernel.image), "--cpus", str(cpus), "--memory", memory,
        f"--rwdir={SHARED}={folder}", f"--qemu-opts={root} {device} {qemu}".rstrip(),
        *[f"--append={word}" for word in append], "--", enter,
    ]  # fmt: skip


def boot(
    arm: Arm,
    command: Sequence[str],
    folder: Path,
    *,
    cpus: int = 2,
    memory: str = "2G",
    timeout: float = 600,
    qemu: str = "",
    show: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
    append: Sequence[str] = (),
) -> Outcome:
    """Boots the kernel and runs `command` in the tree. folder: empty, on the host; show: gets each line of output.

    qemu: more options for the emulator. append: more words for the kernel. stop: when it is set the machine is switched
    off. timeout: seconds for all of it; then its kernel is asked what it waits for, it is switched off and has failed.
    """
    stop = stop or threading.Event()
    (folder / "command").write_text(f"exec {shlex.join(command)}\n", encoding="utf-8")
    begun = time.monotonic()
    with open(folder / "console", "wb") as console, open(folder / "vng", "wb") as said:
        machine = subprocess.Popen(
            command_line(arm, folder, cpus=cpus, memory=memory, qemu=qemu, append=append),
            stdin=subprocess.DEVNULL, stdout=said, stderr=console, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PATH": f"{sys.prefix}/bin:/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"},
        )  # fmt: skip
        try:
            ended = _follow(machine, folder / "out", begun + timeout, show, stop)
            waits = [] if ended or stop.is_set() else blocked.ask(folder, folder / "console")
        finally:
            try:
                os.killpg(machine.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            machine.wait()
    outcome = Outcome(arm, _number(folder / "status"), time.monotonic() - begun)
    messages = _text(folder / "console")
    outcome.problems += scan(messages)
    outcome.reports = _text(folder / "report.jsonl")
    if not ended:
        outcome.problems.append(f"not done after {outcome.seconds:.0f} s; the machine was switched off")
        outcome.problems += ["it waits for:\n" + "\n".join(waits)] if waits else []
    elif outcome.status is None:
        tail = "\n".join((_text(folder / "vng") + messages).splitlines()[-15:])
        outcome.problems.append(f"the machine ended and said no exit status; the end of its console:\n{tail}")
    elif outcome.status:
        outcome.problems.append(f"the command ended with {outcome.status}")
    if outcome.problems:
        outcome.problems += [line for line in messages.replace("\r", "").splitlines() if "rcu:" in line][:40]
    outcome.problems += wrong_kernel(arm, _text(folder / "release"), _text(folder / "lsm"))
    return outcome


def wrong_kernel(arm: Arm, release: str, lsm: str) -> list[str]:
    """Is what ran the kernel that was asked for? What it said of itself, compared."""
    if release.strip() and release.strip() != arm.kernel.release:
        return [f"kernel {release.strip()} ran instead of {arm.kernel.release}"]
    if lsm.strip() and ("bpf" in lsm.strip().split(",")) != arm.bpf_lsm:
        return [f"the LSMs are {lsm.strip()}, that is not what this arm is for"]
    return []


def _follow(
    machine: subprocess.Popen[bytes], path: Path, deadline: float, show: Callable[[str], None], stop: threading.Event
) -> bool:
    """Hands on each line of output until the machine is off. False: it wasn't at the deadline."""
    shown = 0
    while True:
        over = machine.poll() is not None
        text = path.read_bytes() if path.exists() else b""
        end = len(text) if over else text.rfind(b"\n") + 1
        if end > shown:
            for line in text[shown:end].decode("utf-8", "replace").splitlines():
                show(line)
            shown = end
        if over:
            return True
        if time.monotonic() > deadline or stop.wait(POLL_SECONDS):
            return False


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
