"""Runs in the booted kernel: `python -m tests.bench.vm.guest FOLDER`, FOLDER as tests/bench/vm/__main__.py fills it.

Every round measures every arm, next to each other and in turning order. What one operation takes is the median of
single ones, read from the instruction counter around it (inline); what the whole machine does for it is read from the
scheduler's account of all tasks (/proc/schedstat), until the service has written its books, less the same for no
operation at all. One line of JSON a figure; see figures.py.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from agentd.daemon.client import SERVICE_SOCKET, Client
from agentd.daemon.launch import Child, Marked, launch
from agentd.kernel.seccomp import refuse_early
from tests.bench.vm import starts
from tests.bench.vm.arms import ARMS, FRESH, LIBRARIES, OPERATIONS, PROGRAMS, Arm
from tests.bench.vm.jobs import EMPTY, ENVIRONMENT, JOBS, Job, unpack
from tests.bench.vm.service import Service

REST_SECONDS: Final = 5  # on the guest's clock, which jumps over idle time
PATIENCE: Final = 40  # of these pauses, until the service has detached its programs
WARM: Final = 3
JOB_SHARE: Final = 50_000  # instructions; a program that takes fewer of a whole job is not told of
NOP_TICKS: Final = (1000, 1100)  # what a thousand instructions may take with what reading the counter takes


def start(command: Sequence[str], arm: Arm, prepare: Callable[[], None]) -> Child:
    """A process of no workload or of one, from its first instruction. prepare: in the child, before it is that."""

    def mark(pid: int, pidfd: int) -> Marked:
        if arm.agent is not None:
            with Client(SERVICE_SOCKET) as client:
                client.call("run.mark", pid=pid, agent=arm.agent, command=command[0])
        return Marked()  # these machines have LSM hooks: nothing is supervised

    def ready() -> None:
        prepare()
        if arm.run:
            refuse_early()

    return launch(command, mark, prepare=ready)


def ran(job: Job, arm: Arm) -> int:
    """What a job's processes ran, in instructions: their account is exact (cputime_adjust, kernel/sched/cputime.c)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as new:

        def prepare() -> None:
            os.environ.clear()
            os.environ.update(ENVIRONMENT)
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)

        child = start([word.replace("{new}", new) for word in job.command], arm, prepare)
        _, status, used = os.wait4(child.pid, 0)
        os.close(child.pidfd)
        if status:
            raise SystemExit(f"{job.name} ended with {os.waitstatus_to_exitcode(status)} ({arm.name})")
    return round((used.ru_utime + used.ru_stime) * 1e9)


class Runner:
    """A process of ops.c, of no workload or of one."""

    def __init__(self, program: str, arm: Arm) -> None:
        there, back = os.pipe(), os.pipe()

        def prepare() -> None:
            os.dup2(there[0], 0)
            os.dup2(back[1], 1)

        self._child = start([program, "serve"], arm, prepare)
        os.close(there[0])
        os.close(back[1])
        self._to: IO[str] = os.fdopen(there[1], "w")
        self._from: IO[str] = os.fdopen(back[0])

    def run(self, operation: str, count: int, folder: Path) -> list[int]:
        """[median, least, total], instructions."""
        print(operation, count, folder, file=self._to, flush=True)
        line = self._from.readline()
        if not line:
            raise SystemExit(f"the measured process ended at {operation!r}")
        return [int(word) for word in line.split()]

    def close(self) -> None:
        self._to.close()
        self._from.close()
        os.kill(self._child.pid, signal.SIGKILL)
        os.waitpid(self._child.pid, 0)
        os.close(self._child.pidfd)


def local_files(shared: Path, work: Path) -> None:
    """Puts what a program opens when it starts into memory, where no symbolic link leads to it: the root is the host's,
    and waiting for the host is no work. /etc as a whole, because what is not there is asked for again every time.

    Raises OSError, subprocess.CalledProcessError.
    """
    etc = work / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "resolv.conf", "hosts", "localtime"):
        if os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", etc)
    shutil.copy(shared / "ld.so.cache", etc)
    for name in LIBRARIES:
        shutil.copy(name, work)
        subprocess.run(["mount", "-n", "--bind", work / os.path.basename(name), name], check=True)
    subprocess.run(["mount", "-n", "--bind", etc, "/etc"], check=True)


def busy() -> int:
    """Nanoseconds that tasks have run on this machine's one CPU: proc(5), schedstat, the seventh number of a CPU."""
    for line in Path("/proc/schedstat").read_text(encoding="ascii").splitlines():
        if line.startswith("cpu0 "):
            return int(line.split()[7])
    raise SystemExit("/proc/schedstat has no cpu0: this kernel keeps no account of its tasks")


def programs() -> dict[str, tuple[int, int]]:
    """{name: (calls, instructions)} of every BPF program that is loaded, since kernel.bpf_stats_enabled is on."""
    done = subprocess.run(["bpftool", "--json", "prog", "show"], capture_output=True, text=True, check=True)
    found: dict[str, tuple[int, int]] = {}
    for program in json.loads(done.stdout):
        calls, took = found.get(program.get("name", "?"), (0, 0))
        found[program.get("name", "?")] = calls + program.get("run_cnt", 0), took + program.get("run_time_ns", 0)
    return found


def emit(**what: Any) -> None:
    """One line for the host."""
    with open(os.environ["AGENTD_VM_REPORT"], "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


class Bench:
    """The service, and one measured process an arm."""

    def __init__(self, shared: Path, work: Path) -> None:
        self.options = json.loads((shared / "options.json").read_text(encoding="utf-8"))
        self.ops, self._fresh, self._program = (shutil.copy(shared / name, work) for name in ("ops", "fresh", "true"))
        Path("/proc/sys/kernel/randomize_va_space").write_text("0")  # as many page tables in every process
        self._folders = 0
        self._check()
        local_files(shared, work)
        if (shared / "tools.tar").exists():
            unpack(shared / "tools.tar")
        self.service = Service(shared / "policy.pickle", work / "state")
        print("enforcing", flush=True)
        if self.options["programs"]:
            Path("/proc/sys/kernel/bpf_stats_enabled").write_text("1")
        self.rest()

    def _check(self) -> None:
        with os.popen(f"{self.ops} check") as said:
            median = int(said.read().split()[0])
        if not NOP_TICKS[0] <= median <= NOP_TICKS[1]:
            raise SystemExit(f"1,000 instructions take {median} ticks: the clock of this machine doesn't count them")

    def folder(self) -> Path:
        """One with objects that nobody has met: below /tmp, so that a file in it is at depth 3."""
        self._folders += 1
        made = Path("/tmp") / f"bench{self._folders}"
        subprocess.run([self._fresh, made, str(FRESH), self._program, str(PROGRAMS)], check=True)
        return made

    def round(self, number: int) -> None:
        """Every arm once; the arm without a workload first or last, so that one attaches and detaches once."""
        attached = [arm for arm in ARMS if arm.attached]
        turned = attached[number % len(attached) :] + attached[: number % len(attached)]
        self.arm([arm for arm in ARMS if not arm.attached], number)
        self.arm(turned, number)

    def arm(self, arms: Sequence[Arm], number: int) -> None:
        """These arms, all of their processes alive together."""
        attached = any(arm.attached for arm in arms)
        runners = {arm.name: Runner(self.ops, arm) for arm in arms}
        folders = {arm.name: self.folder() for arm in arms}
        wanted = self.options["operations"]
        if self.service.settle() != attached:
            raise SystemExit(f"the programs are {'not ' * attached}attached, and that is what is measured")
        try:
            for operation in OPERATIONS:
                if operation.name not in wanted:
                    continue
                forms = [(operation.name, operation.count)]
                if operation.first:  # before the same objects are met again
                    forms.insert(0, (f"{operation.name}-first", operation.first))
                for name, count in forms:
                    for arm in arms:
                        self.one(runners[arm.name], arm.name, name, count, folders[arm.name], number)
            for job in JOBS:
                if job.name in wanted:
                    for arm in arms:
                        self.job(job, arm, number)
        finally:
            for runner in runners.values():
                runner.close()
        for folder in folders.values():
            shutil.rmtree(folder)
        self.rest()

    def rest(self) -> None:
        """Until the service has detached its programs: no workload is left."""
        for _ in range(PATIENCE):
            time.sleep(REST_SECONDS)
            if not self.service.settle():
                return
        raise SystemExit("the programs stay attached, and a measurement without them would be none")

    def one(self, runner: Runner, arm: str, name: str, count: int, folder: Path, number: int) -> None:
        """One figure: inline and whole."""
        runner.run(name, 0 if name.endswith("-first") else WARM, folder)
        self.service.settle()
        empty = self.whole(runner, name, 0, folder)[1]
        before = programs() if self.options["programs"] else {}
        (median, least, _), total = self.whole(runner, name, count, folder)
        if self.options["programs"]:
            self.each_program(name, arm, before, count)
        emit(
            kind="figure",
            round=number,
            arm=arm,
            operation=name,
            inline=median,
            least=least,
            whole=round((total - empty) / count),
        )

    def job(self, job: Job, arm: Arm, number: int) -> None:
        """The figure of a whole job, which has been done twice before: what can be remembered of it is."""
        for one in (EMPTY, job, job):
            ran(one, arm)
            self.service.settle()
        begun = busy()
        ran(EMPTY, arm)
        self.service.settle()
        between = busy()
        before = programs() if self.options["programs"] else {}
        inline = ran(job, arm)
        if before:
            self.whole_job(job.name, arm.name, before)
        self.service.settle()
        whole = busy() - between - (between - begun)
        emit(kind="figure", round=number, arm=arm.name, operation=job.name, inline=inline, least=inline, whole=whole)

    def each_program(self, name: str, arm: str, before: dict[str, tuple[int, int]], count: int) -> None:
        """Says what each program took for one operation, with what the kernel takes to count it and bpftool's own."""
        for program, (calls, took) in sorted(programs().items()):
            calls, took = (now - then for now, then in zip((calls, took), before.get(program, (0, 0)), strict=True))
            if calls * 10 > count:
                print(f"{name} {arm} {program}: {calls / count:.2f} calls, {took / calls:.0f} each", flush=True)

    def whole_job(self, name: str, arm: str, before: dict[str, tuple[int, int]]) -> None:
        """Says what each program took for all of a job, with the same on top, the most expensive first."""
        spent = []
        for program, (calls, took) in programs().items():
            then = before.get(program, (0, 0))
            spent.append((took - then[1], calls - then[0], program))
        for took, calls, program in sorted(spent, reverse=True):
            if took >= JOB_SHARE:
                print(f"{name} {arm} {program}: {calls} calls, {took / calls:.0f} each, {took} in all", flush=True)

    def whole(self, runner: Runner, name: str, count: int, folder: Path) -> tuple[list[int], int]:
        """(what the process says, what all tasks ran until the service has nothing left to do)."""
        begun = busy()
        said = runner.run(name, count, folder)
        self.service.settle()
        return said, busy() - begun


def main() -> int:
    """0: every figure was taken."""
    gc.disable()
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        bench = Bench(Path(sys.argv[1]), Path(work))
        try:
            for number in range(bench.options["rounds"]):
                bench.round(number)
                print(f"round {number + 1} of {bench.options['rounds']}", flush=True)
            emit(kind="service", resident_mb_with_all_rules=round(bench.service.resident(), 1))
        finally:
            bench.service.stop()
        if starts.NAME in bench.options["operations"]:
            emit(kind="service", **starts.started(Path(work), busy))
    return 0


if __name__ == "__main__":
    sys.exit(main())
