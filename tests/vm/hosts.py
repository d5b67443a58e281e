"""Hosts that need another kernel, or one that is told to be otherwise: what happens there, in one boot.

`./dev vm 6.12 --lsm on -- .venv/bin/python -m tests.vm.hosts`; `./dev vm --thorough` does it after everything else in
the machines whose hooks are `lsm`, because the last step, lockdown=confidentiality, can't be taken back. With `--lsm
off`, and with `--append preempt=full` too, it looks at what `fmod_ret` is worth there, or what stands in for it. Exit
status 1: not as it should be. What namespaces can make is tried on the host, in tests/live/test_hosts.py.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentd.engine import report
from agentd.errors import AgentdError
from agentd.kernel import lsm, recursion
from agentd.kernel.pins import shared_pin
from agentd.model import Op, Point
from tests.containment.run import PR_SET_CHILD_SUBREAPER
from tests.live.harness import Host, agent, enforcing

LOCKDOWN = Path("/sys/kernel/security/lockdown")
CONNECT = "import socket; socket.create_connection(('127.0.0.1', 9))"
failures = 0


def check(what: str, fine: object) -> None:
    """One line for who reads along."""
    global failures
    failures += not fine
    print(f"{'ok  ' if fine else 'FAIL'} {what}", flush=True)


def other_host() -> None:
    """cgroup v1 alone, addresses that are not told, lockdown=integrity."""
    subprocess.run(["umount", "-R", "/sys/fs/cgroup"], check=False, capture_output=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"], check=True)
    os.mkdir("/sys/fs/cgroup/pids")
    subprocess.run(["mount", "-t", "cgroup", "-o", "pids", "none", "/sys/fs/cgroup/pids"], check=False)
    Path("/proc/sys/kernel/kptr_restrict").write_text("2", encoding="ascii")
    LOCKDOWN.write_text("integrity", encoding="ascii")


def doctor(host: Host, *, started: bool, least: int, how: str) -> dict[str, Any]:
    """What it says where everything that is claimed holds. started: look at the filter of `agentd run`; least: so many
    operations at least were seen to hold.
    """
    verification = host.engine.verification
    verification.run()
    for proof in verification.failing:
        check(f"{proof.cover.kind.op.word}: {proof.text}", False)
    tried = sum(proof.verified for proof in (verification.started if started else verification.proofs).values())
    check(f"{tried} operations verified {how}", tried > least)
    return report.of(verification, lsm.point())


def proofs(host: Host) -> None:
    """Everything that is claimed holds there; and the connection that is denied does not come about."""
    found = doctor(host, started=False, least=20, how="with cgroup v1 alone, lockdown=integrity and kptr_restrict=2")
    hidden = [spot for spot in found["weak"] if "kptr_restrict" in spot["reason"]]
    check("doctor names kptr_restrict and its remedy", hidden and "sysctl" in hidden[0]["remedy"])
    check(f"doctor's exit code is {found['exit']}", found["exit"] == report.HELD)
    denied = host.run([sys.executable, "-I", "-S", "-c", CONNECT], "bot")
    check("a denied connection fails", b"Operation not permitted" in denied.err)


def passed_by(host: Host) -> None:
    """Whether hooks of fmod_ret hold hangs on how the kernel preempts; doctor and minimum_guarantee say so."""
    engine = host.engine
    engine.verification.run()
    found = report.of(engine.verification, lsm.point())
    open_ = recursion.open_to_all(lsm.point())
    how = "leaves programs out" if open_ else "leaves no program out"
    right = found["exit"] == (report.CANNOT if open_ else report.HELD)
    check(f"this kernel {how}, and doctor's exit code is {found['exit']}", right)
    check("doctor names the remedy, or nothing is weak", ("lsm=" in str(found["weak"])) == open_)
    try:
        status = host.run(["/bin/true"], "careful").status
        check("an agent that demands `prevented` runs", not open_ and status == 0)
    except AgentdError as error:
        check(f"an agent that demands `prevented` is refused: {error}", open_ and error.code == "enforcement-lost")


def done_without(host: Host) -> None:
    """Where fmod_ret could be passed by, the other points hold what they promise, and doctor says why it is they."""
    found = doctor(host, started=True, least=10, how="by the filter of agentd run")
    check(f"hooks: {found['hooks']}, {found['note']}", found["hooks"] == "none" and "fmod_ret" in found["note"])
    check("doctor names the remedy", "lsm=" in found["remedy"] and "lsm=" in str(found["weak"]))
    check(f"doctor's exit code is {found['exit']}", found["exit"] == report.SOME_DETECTED)
    try:
        host.run(["/bin/true"], "careful")
        check("an agent that demands `prevented` is refused", False)
    except AgentdError as error:
        check(f"an agent that demands `prevented` is refused: {error}", error.code == "kernel-unsupported")
    check("an agent that demands nothing runs", host.run(["/bin/true"], "bot").status == 0)


def lost(host: Host) -> None:
    """A pin that another process removes fails the probe; a workload that demands more is paused, new ones refused."""
    engine = host.engine
    running = host.start(["/bin/sleep", "1000"], "careful")
    engine.minimum.follow_up(engine.marks.list())
    check("a workload that demands `prevented` runs", _comes_to(running.pid, "S"))
    pin = engine.loaded.pins / "links" / f"lsm_socket_connect-{engine.loaded.control.epoch}"
    pin.unlink()
    engine.verification.run()
    failing = [proof.cover.kind.op for proof in engine.verification.failing]
    check(f"without the pin {[op.word for op in failing]} fails", failing == [Op.CONNECT])
    engine.minimum.follow_up(engine.marks.list())
    check("the running workload is paused", _comes_to(running.pid, "T"))
    try:
        host.run(["/bin/true"], "careful")
        check("a new one is refused", False)
    except AgentdError as error:
        check(f"a new one is refused: {error}", error.code == "enforcement-lost" and error.exit_code == 125)
    check("an agent that demands nothing goes on", host.run(["/bin/true"], "bot").status == 0)
    running.kill()
    running.wait()


def unshared(host: Host) -> None:
    """A hook that has lost what the hooks share denies, whatever the policy says, and is reported as broken."""
    loaded, name = host.engine.loaded, "lsm_path_mkdir"
    with tempfile.TemporaryDirectory() as folder:
        check("control: mkdir is allowed", host.run(["/bin/mkdir", f"{folder}/one"], "bot").status == 0)
        shared_pin(loaded.pins, name, loaded.control.epoch).unlink()
        os.close(loaded._sharing.pop(name))
        deadline = time.monotonic() + 60
        while (done := host.run(["/bin/mkdir", tempfile.mktemp(dir=folder)], "bot")).status == 0:
            if time.monotonic() > deadline:
                break
        check(f"without what is shared it is denied: {done.err!r}", b"not permitted" in done.err)


def confidential() -> None:
    """Programs may not read the kernel's memory: one line, 125 or 2, and nothing is started."""
    LOCKDOWN.write_text("confidentiality", encoding="ascii")
    with tempfile.TemporaryDirectory() as folder:
        policy, mark = Path(folder, "policy.yaml"), Path(folder, "mark")
        policy.write_text("version: 1\nagents:\n  bot: {allow: [{tool: shell}]}\n", encoding="ascii")
        words = ("run", "--agent", "bot", "--policy", policy, "--state", folder, "--", "touch", mark)
        for command, code in ((words, 125), (("doctor",), 2)):
            done = subprocess.run(
                [sys.executable, "-m", "agentd", *map(str, command)], capture_output=True, text=True, check=False
            )
            one = done.stderr.count("\n") == 1 and "lockdown is confidentiality" in done.stderr
            check(
                f"{command[0]} under lockdown=confidentiality: {done.stderr.strip()}", one and done.returncode == code
            )
        check("the command was not started", not mark.exists())


def _comes_to(pid: int, state: str) -> bool:
    deadline = time.monotonic() + 60
    while _state(pid) != state and time.monotonic() < deadline:
        time.sleep(0.05)
    return _state(pid) == state


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()


def main() -> int:
    """0: all is as it should be."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    other_host()
    if lsm.point() is Point.NONE and not lsm.passed_over():
        check("this kernel has LSM hooks", False)
        return 1
    agents = {"bot": agent(deny=[{"tool": "network"}]), "careful": agent(minimum_guarantee="prevented")}
    with tempfile.TemporaryDirectory() as folder, enforcing(Path(folder), agents) as host:
        if lsm.point() is Point.LSM:
            proofs(host)
            unshared(host)
            lost(host)
        elif lsm.passed_over():
            done_without(host)
        else:
            passed_by(host)
    confidential()
    print(f"{failures} checks failed", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
