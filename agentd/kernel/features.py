"""What this host has: found by looking and trying, never by version number."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel.libbpf import check, library, mount

BTF = Path("/sys/kernel/btf/vmlinux")
BPF_STATS_RUN_TIME = 0
BPFFS = Path("/sys/fs/bpf")
PRIVATE_CGROUP2 = Path("/run/agentd/cgroup2")


def require_root() -> None:
    """Raises AgentdError `not-root` for anybody else."""
    if os.geteuid() != 0:
        raise AgentdError(
            "not-root", "agentd", "needs root to load BPF programs", "run it with sudo", exit_code=EXIT_CANNOT_ENFORCE
        )


def require_btf() -> None:
    """Raises AgentdError `kernel-unsupported` where the kernel does not describe its own types."""
    if not BTF.exists():
        raise AgentdError(
            "kernel-unsupported",
            str(BTF),
            "this kernel has no BTF",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF",
            exit_code=EXIT_CANNOT_ENFORCE,
        )


def bpffs() -> Path:
    """The bpf file system, mounted if it isn't. Raises AgentdError `kernel-unsupported`."""
    if not any(line.split()[1:3] == [str(BPFFS), "bpf"] for line in _mounts()):
        mount("bpf", str(BPFFS), "bpf")
    return BPFFS


def cgroup2_root() -> Path:
    """Where the v2 hierarchy is mounted at its root (also in a hybrid set-up); mounted privately if it isn't."""
    for line in _mounts():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1].replace("\\040", " "))
    PRIVATE_CGROUP2.mkdir(parents=True, exist_ok=True)
    mount("cgroup2", str(PRIVATE_CGROUP2), "cgroup2")
    return PRIVATE_CGROUP2


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()


@contextlib.contextmanager
def program_times() -> Iterator[None]:
    """While it is entered the kernel measures how long each BPF program of the host runs, which costs every run some
    20 to 40 ns (bpf(2), BPF_ENABLE_STATS). Raises KernelError.
    """
    fd = check(library().bpf_enable_stats(BPF_STATS_RUN_TIME), "measuring of program times")
    try:
        yield
    finally:
        os.close(fd)
