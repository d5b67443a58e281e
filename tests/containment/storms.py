"""Row 50, remembered verdicts: what they depend on is changed all the time while a workload uses them.

An engine of its own in the checking mode (bpf/lib/check.bpf.h): each verdict taken from memory is worked out in full as
well, and the kernel counts where the two differ. The controls make it careless: it then overlooks a rename, a mount or
another name (of the file; in its folder), and the same storms must find that.

Rounds by default and in full: 20,000 and 1,000,000 files and folders used, by each of two processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentd.kernel import abi, prepare
from agentd.kernel.libbpf import check, library, pointer
from agentd.kernel.maps import MappedArray
from agentd.model import Point
from tests.containment import files
from tests.containment.suite import Probe, Scenario, Suite, Told, numbers, touch
from tests.live.harness import Host

USERS: Final = 2
BATCH: Final = 100  # rounds after which a control looks whether the difference was found
BATCHES: Final = 100  # at most
BLIND: Final = {
    # what is overlooked: (bit, the change that must show it: its number in stormchange)
    "a rename": (abi.CARELESS_RENAMES, 3),
    "a mount": (abi.CARELESS_MOUNTS, 8),
    "another name": (abi.CARELESS_DENTRY, 5),
    "a folder's new path": (abi.CARELESS_FOLDER, 3),
    "the next name": (abi.CARELESS_NAME, 3),
}


class Checked:
    """A host in the checking mode, and what the kernel has counted."""

    def __init__(self, suite: Suite) -> None:
        folder = suite.ground.dir / "state/checked"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        agents, tools = suite.ground.policy()
        prepare.CHECK_MEMORY = True
        try:
            self.host = Host(folder, agents, tools, pins=Path(f"/sys/fs/bpf/agentd-run/{os.getpid()}-checked"))
        finally:
            prepare.CHECK_MEMORY = False
        found = pointer(library().bpf_object__find_map_by_name(self.host.engine.loaded._obj, b"checks"), "map checks")
        fd = check(library().bpf_map__fd(found), "map checks")
        self._map = MappedArray(fd, ctypes.sizeof(abi.Checks))
        self.counted = self._map.view(abi.Checks)

    def careless(self, what: int) -> None:
        """What is overlooked from now on; forgets what was counted."""
        ctypes.memset(ctypes.addressof(self.counted), 0, ctypes.sizeof(abi.Checks))
        self.counted.careless = what

    def difference(self) -> str:
        """The first one, in words."""
        said, judged = self.counted.remembered, self.counted.judged
        return (
            ", ".join(
                f"{name}: memory {value(said)}, walk {value(judged)}"
                for name, value in {
                    "operation": lambda key: key.op,
                    "outcome": lambda key: key.outcome,
                    "generation": lambda key: key.generation,
                    "object": lambda key: [f"{half:x}" for half in key.object],
                }.items()
            )
            + f", path ...{self.counted.path!r}"
        )


@contextlib.contextmanager
def checked(suite: Suite) -> Iterator[Checked]:
    """A Checked, closed at the end."""
    made = Checked(suite)
    try:
        yield made
    finally:
        made.counted = None  # type: ignore[assignment]
        made.host.close()


@contextlib.contextmanager
def changing(suite: Suite, folder: Path, changers: int, only: int | None = None, *, lay: bool = True) -> Iterator[None]:
    """Processes outside the workload that change the tree in `folder`, which is laid first unless it is there."""
    if lay:
        subprocess.run(suite.probe("stormlay", folder), check=True)
    stop = suite.ground.dir / "state/storm.stop"
    stop.unlink(missing_ok=True)
    words = suite.probe("stormchange", folder, stop, *([] if only is None else [only]))
    running = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(changers)]
    try:
        yield
    finally:
        touch(stop)
        for child in running:
            try:
                child.wait(60)
            finally:
                child.kill()
                child.wait()
                assert child.stdout
                child.stdout.close()
        stop.unlink()
        suite.ground.unmount()


def used(suite: Suite, host: Host, folder: Path, rounds: int) -> int:
    """Lets the workload use the tree; how much of it was there."""
    workloads = [host.start(suite.probe("stormuse", folder, rounds)) for _ in range(USERS)]
    ends = [workload.wait() for workload in workloads]
    for end in ends:  # what a mount was taken away from under it has no path, and may be refused for that
        wrong = [record for record in end.denials if record["object"] is not None]
        assert end.status == 0 and not wrong, f"nothing in it is denied: {end}"
    return sum(numbers(end, "done")[0] for end in ends)


def storm(suite: Suite, where: Checked, folder: Path, rounds: int) -> str:
    """All changes at once, with nothing overlooked: no difference."""
    where.careless(0)
    with changing(suite, folder, 2):
        done = used(suite, where.host, folder, rounds)
    counted = where.counted
    assert not counted.different, f"{counted.different} differences, the first: {where.difference()}"
    assert counted.files and counted.names and done, "memory was never asked"
    return f"{done} uses, {counted.files} files and {counted.names} names compared, {counted.unsure} unsure"


def control(suite: Suite, where: Checked, folder: Path, blind: str) -> None:
    """What is overlooked is found."""
    bit, change = BLIND[blind]
    where.careless(bit)
    with changing(suite, folder, 1, change):
        for _ in range(BATCHES):
            used(suite, where.host, folder, BATCH)
            if where.counted.different:
                return
    raise AssertionError(f"the check does not find that {blind} was overlooked")


def overlaid(suite: Suite, where: Checked, rounds: int) -> None:
    """The same on an overlay, whose files are copied up, whited out and made again."""
    where.careless(0)
    suite.ground.fresh()
    lower, target = suite.ground.dir / "free/below", suite.ground.dir / "free/mount"
    subprocess.run(suite.probe("stormlay", lower), check=True)
    files.overlay(suite.ground, str(lower), str(target))
    with changing(suite, target, 1, lay=False):
        done = used(suite, where.host, target, rounds)
    counted = where.counted
    assert done and not counted.different, f"{counted.different} differences, the first: {where.difference()}"


def remembered(suite: Suite) -> Told:
    """What memory says is what a walk says, in storms of renames, links, mounts and removals."""
    if not suite.points & {Point.LSM, Point.FMOD_RET}:
        return Told("read", detail="nothing is remembered without LSM hooks")
    suite.ground.fresh()
    folder = suite.ground.dir / "free/storm"
    folder.mkdir()
    with checked(suite) as where:
        for blind in BLIND:
            control(suite, where, folder, blind)
        said = storm(suite, where, folder, suite.rounds(20_000, 1_000_000))
        overlaid(suite, where, suite.rounds(3_000, 100_000))
    shutil.rmtree(folder, ignore_errors=True)  # gone already if the ground was made fresh
    point = suite.host.engine.loaded.control.point
    return Told("read", Point(point).word, "prevented", said)


PROBES: Final[tuple[Probe | Scenario, ...]] = (Scenario(50, "remembered verdicts in a storm of changes", remembered),)
