"""Hosts that are otherwise than usual, made of namespaces, mounts, capabilities and seccomp: agentd enforces there all
the same, or says in one line why it can't, with the documented exit code, and starts nothing.

What needs another kernel or its command line is tried in a virtual machine: tests/vm/hosts.py.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.live.service import PATIENCE, PYTHON, Line, bot

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
FILTERED = (
    "import os, sys; from agentd.kernel import seccomp; seccomp.refuse_early(); os.execv(sys.argv[1], sys.argv[1:])"
)
# unshare(2) answers EPERM, as with RestrictNamespaces=yes.
NO_NAMESPACES = (
    "import os, sys; from agentd.kernel import canary, seccomp as s; import struct;"
    "code = [(s._LD_ABS, 0, 0, 0), (s._JEQ, 0, 3, 272), (s._LD_ABS, 0, 0, 16), (s._JSET, 0, 1, 0x7e020000),"
    "(s._RET, 0, 0, s.RET_ERRNO | 1), (s._RET, 0, 0, s.RET_ALLOW)];"  # by the flags, as RestrictNamespaces= of systemd
    "canary.restrict(b''.join(struct.pack('HBBI', *one) for one in code)); os.execv(sys.argv[1], sys.argv[1:])"
)
# What ProtectKernelTunables= and ProtectKernelLogs= of systemd do: systemd.exec(5).
NO_TUNABLES = (
    "mount --bind /proc/sys /proc/sys && mount -o bind,remount,ro /proc/sys && mount --bind /dev/null /proc/kallsyms"
    " && mount -o bind,remount,ro /sys"
)
CONNECT = "import socket; socket.create_connection(('127.0.0.1', 9))"

# name -> (shell words before `exec AGENTD...`, in a mount namespace of its own; words that run it; what agentd says).
REFUSED = {
    "no BTF": ("mount -t tmpfs none /sys/kernel/btf", [], "/sys/kernel/btf/vmlinux: this kernel has no BTF"),
    "no bpf file system": (
        "mount -t tmpfs none /sys/fs && mkdir /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
        [],
        "/sys/fs/bpf: no bpf file system: no such file or directory; mount -t bpf",
    ),
    "a bpf file system that can't be written": (
        "mount -o bind,remount,ro /sys/fs/bpf",
        [],
        "read-only file system; give agentd a bpf file system that it can write",
    ),
    "no proc": ("mount -t tmpfs none /proc", [], "/proc: it is not mounted, or hidden"),
    "a pid namespace": (
        "true",
        ["unshare", "-pf", "--mount-proc"],
        "pid namespace: it is not the host's; run agentd on",
    ),
    "a user namespace": ("true", ["unshare", "-Ur"], "user namespace: it is not the host's"),
    "a container's capabilities": (
        "true",
        ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon,-net_admin,-sys_ptrace", "--inh-caps=-all"],
        "capabilities: this root lacks CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN; run agentd on the host, or",
    ),
    "all but one": ("true", ["setpriv", "--bounding-set=-kill", "--inh-caps=-all"], "this root lacks CAP_KILL"),
    "a seccomp filter": (
        "true",
        [sys.executable, "-c", FILTERED],
        "bpf(): operation not permitted: agentd runs under a seccomp filter",
    ),
    "nobody": ("true", ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "needs root"),
}
SERVED = {
    "as it is": "true",
    "cgroup v2 only": "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
    "cgroup v1 only": "umount -R /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/pids"
    " && mount -t cgroup -o pids none /sys/fs/cgroup/pids",
    "no cgroup at all, and sys read-only": "umount -R /sys/fs/cgroup && mount -o bind,remount,ro /sys",
    "a sub-tree of cgroup2 in its place": "; ".join(
        (
            "set -e; umount -R /sys/fs/cgroup",
            "mount -t tmpfs none /sys/fs/cgroup",
            "mkdir /sys/fs/cgroup/all /sys/fs/cgroup/unified",
            "mount -t cgroup2 none /sys/fs/cgroup/all",
            "mkdir -p /sys/fs/cgroup/all/agentd-hosts",
            "mount --bind /sys/fs/cgroup/all/agentd-hosts /sys/fs/cgroup/unified",
            "umount /sys/fs/cgroup/all",
        )
    ),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A policy whose agent may write here, and connect nowhere."""
    folder = tmp_path_factory.mktemp("hosts")
    folder.chmod(0o755)
    path = folder / "policy.yaml"
    rules = bot(allow=[{"tool": tool} for tool in ("shell", "file_reader", "file_writer", "file")])
    path.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": rules}}), encoding="utf-8")
    yield path
    for place in (Path("/sys/fs/cgroup/unified/agentd-hosts"), Path("/sys/fs/cgroup/agentd-hosts")):
        if place.is_dir():
            place.rmdir()


def there(prelude: str, through: Sequence[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """agentd, on such a host."""
    program = shlex.join([*through, sys.executable, "-m", "agentd", *map(os.fspath, words)])
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{prelude} && exec {program}"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_not_started(policy: Path, name: str) -> None:
    """`run` ends with 125 and `doctor` with 2, both with the same one line; the command was not started."""
    prelude, through, expected = REFUSED[name]
    mark, state = policy.parent / f"mark-{name}", policy.parent / f"state-{name}"
    run = there(prelude, through, "run", "--agent", "bot", "--policy", policy, "--state", state, "--", "touch", mark)
    assert expected in Line.of(run, 125).text
    assert not mark.exists()
    assert expected in Line.of(there(prelude, through, "doctor"), 2).text


@pytest.mark.parametrize("name", SERVED)
def test_cgroups_need_not_be_mounted_as_usual(policy: Path, name: str) -> None:
    """With cgroup v1, v2, both or none mounted the command runs, does what it may, and connects nowhere."""
    mark, state = policy.parent / f"mark-{name}", policy.parent / f"state-{name}"
    script = f"touch '{mark}'; {PYTHON} -I -S -c \"{CONNECT}\" 2>&1 | tail -n 1"
    run = there(
        SERVED[name], [], "run", "--agent", "bot", "--policy", policy, "--state", state, "--", "sh", "-c", script
    )
    assert (run.returncode, run.stderr) == (0, ""), run
    assert mark.exists() and "Operation not permitted" in run.stdout, run
    control = there(SERVED[name], ["true"])
    assert control.returncode == 0, "such a host can be made"


def test_a_cgroup_namespace_is_no_host(policy: Path) -> None:
    """Programs on the root of a cgroup namespace would not see other cgroups: agentd refuses."""
    unified = next(p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (p / "cgroup.procs").exists())
    own = unified / "agentd-namespace"
    own.mkdir(exist_ok=True)
    try:
        prelude = f"echo $$ > {own}/cgroup.procs"
        inner = 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
        through = ["unshare", "-C", "-m", "sh", "-c", inner, "sh"]
        mark = policy.parent / "mark-cgroup"
        run = there(
            prelude, through, "run", "--agent", "bot", "--policy", policy, "--state", policy.parent / "state-cgroup",
            "--", "touch", mark,
        )  # fmt: skip
        assert "cgroup namespace: it is not the host's" in Line.of(run, 125).text
        assert not mark.exists()
        assert "cgroup namespace" in Line.of(there(prelude, through, "doctor"), 2).text
    finally:
        own.rmdir()


def test_a_hardened_unit_proves_less_and_fails_nothing() -> None:
    """Where a hardened unit forbids the canary some calls, these are not tried, with the reason, and the rest is; what
    it hides of the kernel, its settings and names, changes no guarantee.
    """
    hidden = ["setpriv", "--bounding-set=-syslog", "--inh-caps=-all", sys.executable, "-c", NO_NAMESPACES]
    done = there(NO_TUNABLES, hidden, "doctor", "--json")
    assert done.returncode in (0, 1), done
    rows = {row["operation"]: row for row in json.loads(done.stdout)["operations"]}
    assert not rows["mount"]["tried"] and not rows["namespace"]["tried"]
    assert "untagged it fails here" in rows["mount"]["proof"]
    assert rows["delete"]["verified"] and rows["connect"]["verified"]
    promised = {
        row["operation"]: [row[key] for key in ("point", "guarantee", "started_point", "started")]
        for row in json.loads(there("true", [], "doctor", "--json").stdout)["operations"]
    }
    assert promised == {
        name: [row[key] for key in ("point", "guarantee", "started_point", "started")] for name, row in rows.items()
    }
