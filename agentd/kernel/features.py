"""What this host has: found by looking and trying, never by version number. Whatever is missing is one sentence.

`require_host` is asked before anything else is done to the kernel: agentd sees and signals processes by their numbers,
and its programs act on the whole host, so it must stand where the host's root stands. What can't be had is an error
with exit code 125; nothing falls back to less than the enforcement points give (lsm.py, prepare.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel.libbpf import KernelError, check, filesystem, library, mount, unmount

BTF = Path("/sys/kernel/btf/vmlinux")
BPF_STATS_RUN_TIME = 0
BPFFS = Path("/sys/fs/bpf")
PRIVATE_CGROUP2 = Path("/run/agentd/cgroup2")
BPF_FS_MAGIC: Final = 0xCAFE4A11  # linux/magic.h
CGROUP2_SUPER_MAGIC: Final = 0x63677270
LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")
# The inode numbers of the first namespaces: include/linux/proc_ns.h. agentd may have others of the other kinds.
FIRST_NAMESPACES: Final = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}
ROOT_CGROUP: Final = 1  # the inode number of a hierarchy's own root; that of a cgroup namespace has another
# linux/capability.h. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON.
CAPABILITIES: Final = {"CAP_KILL": 5, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}
CONTAINER: Final = "run agentd on the host, or in a container with --privileged --pid=host --cgroupns=host"
BPF_PROG_TYPE_RAW_TRACEPOINT: Final = 17
BPF_FUNC_PROBE_READ_KERNEL: Final = 113


def require_root() -> None:
    """Raises AgentdError `not-root` for anybody else."""
    if os.geteuid() != 0:
        raise AgentdError(
            "not-root", "agentd", "needs root to load BPF programs", "run it with sudo", exit_code=EXIT_CANNOT_ENFORCE
        )


def require_host() -> None:
    """Raises AgentdError `not-root` or `kernel-unsupported` where agentd can't do its work, with the reason."""
    require_root()
    _look()


@cache
def _look() -> None:
    """Once is enough: what it looks at doesn't change for a process, or only for the better."""
    try:
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        namespaces = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in FIRST_NAMESPACES}
    except (OSError, ValueError) as exc:
        raise _unsupported("/proc", "it is not mounted, or hidden", "mount -t proc proc /proc") from exc
    for kind, number in namespaces.items():
        if number != FIRST_NAMESPACES[kind]:
            raise _unsupported(f"{kind} namespace", "it is not the host's", CONTAINER)
    held = int(status["CapEff"], 16)
    if missing := [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]:
        why = f"this root lacks {', '.join(missing)}"
        raise AgentdError("not-root", "capabilities", why, CONTAINER, exit_code=EXIT_CANNOT_ENFORCE)
    require_btf()
    _require_bpf(status.get("Seccomp", "0"))


def require_btf() -> None:
    """Raises AgentdError `kernel-unsupported` where the kernel does not describe its own types."""
    if not BTF.exists():
        raise _unsupported(
            str(BTF), "this kernel has no BTF, or it is hidden", "boot a kernel built with CONFIG_DEBUG_INFO_BTF"
        )


def _require_bpf(seccomp: str) -> None:
    """Tried: a map of four bytes, and a program that may read the kernel's memory."""
    lib = library()
    made = lib.bpf_map_create(2, b"agentd_try", 4, 4, 1, None)
    if made < 0:
        number = ctypes.get_errno() or -made
        why = os.strerror(number).lower()
        if seccomp != "0" and number in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise _unsupported(
                "bpf()", f"{why}: agentd runs under a seccomp filter", f"allow bpf() there, or {CONTAINER}"
            )
        hint = "boot a kernel built with CONFIG_BPF_SYSCALL" if number == errno.ENOSYS else "see the kernel's LSMs"
        raise _unsupported("bpf()", why, hint)
    os.close(made)
    # r1 = r10 - 8; r2 = 8; r3 = r10; call probe_read_kernel; r0 = 0; exit
    code = bytes.fromhex("bfa100000000000007010000f8ffffffb702000008000000bfa3000000000000")
    code += b"\x85\0\0\0" + BPF_FUNC_PROBE_READ_KERNEL.to_bytes(4, "little") + bytes.fromhex("b700000000000000")
    code += bytes.fromhex("9500000000000000")
    made = lib.bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, b"agentd_try", b"GPL", code, len(code) // 8, None)
    if made < 0:
        number = ctypes.get_errno() or -made
        why, hint = f"the kernel refuses a program: {os.strerror(number).lower()}", "see the kernel's messages"
        if number == errno.EINVAL:  # lockdown hides the helper: kernel/trace/bpf_trace.c, bpf_tracing_func_proto
            why = f"BPF programs may not read the kernel's memory here{_lockdown()}"
            hint = "boot without lockdown, or with lockdown=integrity"
        raise _unsupported("bpf()", why, hint)
    os.close(made)


def _lockdown() -> str:
    with contextlib.suppress(OSError):
        return f" (lockdown is {LOCKDOWN.read_text('ascii').partition('[')[2].partition(']')[0]})"
    return ""


def bpffs() -> Path:
    """The bpf file system, mounted if it isn't. Raises AgentdError `kernel-unsupported`."""
    try:
        if filesystem(BPFFS) != BPF_FS_MAGIC:
            mount("bpf", str(BPFFS), "bpf")
    except (KernelError, OSError) as exc:
        why = exc.why if isinstance(exc, KernelError) else exc.strerror or str(exc)
        raise _unsupported(str(BPFFS), f"no bpf file system: {why.lower()}", "mount -t bpf bpf /sys/fs/bpf") from exc
    return BPFFS


def cgroup2_root() -> Path:
    """Where the v2 hierarchy is mounted at its root (also in a hybrid set-up); mounted privately if it isn't.

    Raises AgentdError `kernel-unsupported` in a cgroup namespace: programs on its root would not see other cgroups.
    """
    for line in _mounts():
        fields = line.split()
        if fields[2] == "cgroup2" and _is_root(place := Path(fields[1].replace("\\040", " "))):
            return place
    try:
        PRIVATE_CGROUP2.mkdir(parents=True, exist_ok=True)
        mount("cgroup2", str(PRIVATE_CGROUP2), "cgroup2")
    except (KernelError, OSError) as exc:
        why = exc.why if isinstance(exc, KernelError) else exc.strerror or str(exc)
        raise _unsupported("cgroup2", f"it is not mounted, and can't be: {why.lower()}", CONTAINER) from exc
    if not _is_root(PRIVATE_CGROUP2):
        unmount(str(PRIVATE_CGROUP2))
        raise _unsupported("cgroup namespace", "it is not the host's", CONTAINER)
    return PRIVATE_CGROUP2


def _is_root(place: Path) -> bool:
    """Is it the root of the whole hierarchy?"""
    try:
        return filesystem(place) == CGROUP2_SUPER_MAGIC and place.stat().st_ino == ROOT_CGROUP
    except OSError:
        return False


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


def _unsupported(what: str, why: str, hint: str) -> AgentdError:
    return AgentdError("kernel-unsupported", what, why, hint, exit_code=EXIT_CANNOT_ENFORCE)
