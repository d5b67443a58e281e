"""`./dev vm [KERNEL...] [-- CMD]`: boots stock Debian kernels and runs the tests, or CMD, in each."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.vm import kernels, table
from tests.vm.boot import Arm, Outcome, boot
from tests.vm.kernels import ROOT, FetchError

stop = threading.Event()
LSM = {"on": (True,), "off": (False,), "both": (True, False)}


def parse(words: list[str]) -> argparse.Namespace:
    """The command line. Everything behind `--` is the command for the guest."""
    own, command = words, None
    if "--" in words:
        own, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="./dev vm", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="of vagrant/kernels.yaml; none: all of them")
    parser.add_argument("--lsm", choices=LSM, default="both", help="with bpf among the LSMs, without, or both")
    parser.add_argument(
        "--append", action="append", default=[], metavar="WORD", help="of the kernel's command line, too"
    )
    parser.add_argument("--jobs", type=int, default=2, help="machines at a time (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="of each machine (default: %(default)s)")
    parser.add_argument("--memory", default="2G", help="of each machine (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each machine (default: %(default)s)")
    parser.add_argument(
        "--thorough", action="store_true", help="also storms on remembered verdicts, overlays, ordinary programs"
    )
    parser.add_argument("--refresh", action="store_true", help="look for newer kernels than those in the cache")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave consoles, outputs and reports there")
    options = parser.parse_args(own)
    options.command = command
    known = {source.version for source in kernels.listed()}
    if unknown := [version for version in options.kernels if version not in known]:
        parser.error(
            f"no kernel {unknown[0]} in {kernels.LIST.relative_to(ROOT)}; there are {', '.join(sorted(known))}"
        )
    if command == []:
        parser.error("a command belongs behind --")
    return options


def flags(first: bool, thorough: bool) -> list[str]:
    """What the guest of an arm leaves out, and does besides: see tests/vm/guest.py. first: of the first kernel."""
    return [*([] if first or thorough else ["--brief"]), *(["--thorough"] if thorough else [])]


def run(options: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Every arm, `jobs` at a time, in the order of the list."""
    wanted = [s for s in kernels.listed() if not options.kernels or s.version in options.kernels]
    found = kernels.fetch(wanted, refresh=options.refresh)
    arms = [Arm(kernel, bpf_lsm) for kernel in found for bpf_lsm in LSM[options.lsm]]
    command = options.command or [f"{sys.prefix}/bin/python", "-m", "tests.vm.guest"]
    if not options.command:  # for all of them, on the faster machine
        subprocess.run([f"{sys.prefix}/bin/python", "-m", "tests.containment.run", "--build"], cwd=ROOT, check=True)
    speaking = threading.Lock()

    def one(arm: Arm) -> Outcome:
        def show(line: str) -> None:
            with speaking:
                print(f"[{arm.name}] {line}", flush=True)

        own = folder / arm.name.replace(" ", "-")
        own.mkdir(parents=True)
        words = [*command, *(() if options.command else flags(arm in arms[: len(LSM[options.lsm])], options.thorough))]
        outcome = boot(
            arm, words, own, cpus=options.cpus, memory=options.memory, timeout=options.timeout, show=show, stop=stop,
            append=options.append,
        )  # fmt: skip
        for problem in outcome.problems:
            show(f"FAILED: {problem}")
        show(f"{'ok' if outcome.passed else 'FAILED'} after {outcome.seconds:.0f} s")
        return outcome

    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            return list(pool.map(one, arms))
        finally:
            stop.set()  # an interrupted run ends its machines


def main() -> int:
    """0: every command ended with 0, every program loaded, and no kernel complained."""
    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):  # no machine outlives this
        signal.signal(number, lambda *_: stop.set())
    try:
        if options.keep:
            outcomes = run(options, options.keep.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="agentd-vm-") as name:
                outcomes = run(options, Path(name))
    except KeyboardInterrupt:
        return 130
    except FetchError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    if not options.command:
        print(table.render(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
