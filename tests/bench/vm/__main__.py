"""`./dev bench --vm [KERNEL]`: what agentd costs, in instructions, counted in one boot of an emulated machine.

QEMU's -icount makes one nanosecond of the guest's clock one instruction, on one CPU. So figures repeat to a few
instructions, whatever else this host does, and the whole machine's work is counted. See guest.py for how.
"""

from __future__ import annotations

import argparse
import copyreg
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agentd.daemon import host
from tests.bench.vm import arms, figures, jobs, starts
from tests.vm import kernels, table
from tests.vm.boot import Arm, boot
from tests.vm.kernels import ROOT, FetchError

HERE: Final = Path(__file__).resolve().parent
ICOUNT: Final = "-icount shift=0,sleep=off -accel tcg,thread=single"
QUICK: Final = ("getppid", "open3", "open12", "change", "udp", "tcp", "fork", "exec", starts.NAME)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev bench --vm", description=__doc__)
    parser.add_argument(
        "kernel", nargs="?", default="6.12", metavar="KERNEL", help="of vagrant/kernels.yaml (%(default)s)"
    )
    parser.add_argument(
        "--lsm", choices=("on", "off"), default="on", help="with bpf among the LSMs: lsm, else fmod_ret"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there")
    parser.add_argument("--quick", action="store_true", help="one round, fewer operations")
    names = every()
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"measure these: {', '.join(names)}")
    parser.add_argument(
        "--programs",
        action="store_true",
        help="count each BPF program's calls and instructions (they take longer then)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="show two kept runs, measure nothing")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for the machine (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave console, output and reports there")
    options = parser.parse_args(words)
    known = sorted(source.version for source in kernels.listed())
    if options.kernel not in known:
        parser.error(f"no kernel {options.kernel} in {kernels.LIST.relative_to(ROOT)}; there are {', '.join(known)}")
    return options


def every() -> list[str]:
    """What can be measured."""
    return [operation.name for operation in arms.OPERATIONS] + [job.name for job in jobs.JOBS] + [starts.NAME]


def commit() -> str:
    """The tree that is measured; `+` if it was changed."""
    git = ["git", "-c", f"safe.directory={ROOT}", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def fill(folder: Path, options: argparse.Namespace) -> None:
    """What the guest needs and the host makes faster: the measured program, and the policy, compiled."""
    for name in ("ops", "fresh"):
        gcc = ["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-o", folder / name]
        subprocess.run([*gcc, HERE / f"{name}.c"], check=True)
    (folder / "true.c").write_text("int main(void) { return 0; }\n", encoding="ascii")
    linked = ["gcc", "-O2", f"-Wl,--dynamic-linker={arms.LIBRARIES[0]}", "-o", folder / "true", folder / "true.c"]
    subprocess.run(linked, check=True)
    (folder / "ld.so.conf").write_text(f"{os.path.dirname(arms.LIBRARIES[0])}\n", encoding="utf-8")
    subprocess.run(["ldconfig", "-X", "-f", folder / "ld.so.conf", "-C", folder / "ld.so.cache"], check=True)
    arms.write_policy(folder / "policy.yaml")
    copyreg.pickle(MappingProxyType, lambda view: (arms.read_only, (dict(view),)))
    with open(folder / "policy.pickle", "wb") as file:
        pickle.dump(host.read_policy(folder / "policy.yaml", "/"), file)
    wanted = options.only or (QUICK if options.quick else every())
    if any(job.name in wanted for job in jobs.JOBS):
        (folder / "tools").mkdir()
        jobs.pack(folder / "tools.tar", folder / "tools")
        shutil.rmtree(folder / "tools")
    rounds = 1 if options.quick else options.rounds
    told = {"rounds": rounds, "operations": [*wanted], "programs": options.programs}
    (folder / "options.json").write_text(json.dumps(told), encoding="utf-8")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """One boot; None if it failed, which has been said then."""
    (source,) = [source for source in kernels.listed() if source.version == options.kernel]
    arm = Arm(kernels.fetch([source])[0], options.lsm == "on")
    fill(folder, options)
    begun = time.monotonic()
    outcome = boot(
        arm, [f"{sys.prefix}/bin/python", "-m", "tests.bench.vm.guest", "/run/agentd-vm"], folder,
        cpus=1, memory="3G", timeout=options.timeout, qemu=ICOUNT,
        show=lambda line: print(f"[{arm.name}] {time.monotonic() - begun:.0f} s: {line}", file=sys.stderr),
    )  # fmt: skip
    for problem in outcome.problems:
        print(f"bench: {arm.name}: {problem}", file=sys.stderr)
    if not outcome.passed:
        return None
    print(f"bench: {arm.name} took {outcome.seconds:.0f} s", file=sys.stderr)
    return figures.document(
        table.parse(outcome.reports), commit=commit(), kernel=arm.kernel.release,
        point="lsm" if arm.bpf_lsm else "fmod_ret", rounds=1 if options.quick else options.rounds,
    )  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    """A kept run. Raises SystemExit."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["figures"], found["commit"], found["kernel"], found["point"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"bench: {path}: not a kept run: {error}; make one with ./dev bench --vm --json FILE"
        ) from None
    return dict(found)


def main() -> int:
    """0: measured and shown."""
    options = parse(sys.argv[1:])
    if options.compare:
        print(figures.compare(*(load(path) for path in options.compare)))
        return 0
    try:
        if options.keep:
            options.keep.mkdir(parents=True)
            found = measure(options, options.keep.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="agentd-bench-") as name:
                found = measure(options, Path(name))
    except FetchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if found is None:
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(figures.render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
