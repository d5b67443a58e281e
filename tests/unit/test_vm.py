"""The pure parts of ./dev vm: which package is the newest, what in a console is trouble, how the table looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import __main__ as vm
from tests.vm import table
from tests.vm.boot import Arm, Outcome, scan, wrong_kernel
from tests.vm.kernels import Kernel, listed, newest

KERNEL = Kernel("6.1", "6.1.0-50-amd64", Path("/boot/vmlinuz"))


def test_the_newest_package_counts_by_its_numbers() -> None:
    """50 is newer than 9, and a name that only begins like the expression is no match."""
    names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-50-amd64", "linux-image-6.1.0-51-amd64-dbg"]
    assert newest(r"linux-image-6\.1\.0-[0-9]+-amd64", names) == "linux-image-6.1.0-50-amd64"
    assert newest(r"linux-image-7.*", names) is None


def test_every_supported_kernel_is_listed_completely() -> None:
    """vagrant/kernels.yaml gives each kernel a suite, packages and the place of its image."""
    assert [source.version for source in listed()] == ["6.1", "6.12", "7.2"]
    assert all(source.suite and source.packages and source.vmlinuz for source in listed())


@pytest.mark.parametrize(
    "line",
    [
        "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[    1.000000] Kernel panic - not syncing: Attempted to kill init!",
        "[   33.000001] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1 f+0x1/0x2",
        "[    5.500000] WARNING: possible circular locking dependency detected",
        "[    5.500000] INFO: task agentd:1 blocked for more than 120 seconds.",
        "[    5.500000] Oops: 0000 [#1] PREEMPT SMP",
    ],
)
def test_a_kernel_in_trouble_is_seen(line: str) -> None:
    """A panic, an oops, a BUG, a WARNING or lockdep is found, and shown with what follows it."""
    assert scan(f"[    0.1] fine\r\n{line}\r\nCall Trace:\r\n") == [f"{line}\nCall Trace:"]


def test_ordinary_messages_are_no_trouble() -> None:
    """What a healthy boot under emulation prints isn't reported."""
    assert not scan(
        "[    0.040000] tsc: Unable to calibrate against PIT\n"
        "[    0.857194] mtrr: your CPUs had inconsistent fixed MTRR settings\n"
        "[    4.283820] Invalid ELF header magic: != ELF\n"
        "[    1.0] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable\n"
    )


def test_another_kernel_or_list_of_lsms_is_noticed() -> None:
    """An arm that ran something else than it is named for has failed."""
    arm = Arm(KERNEL, bpf_lsm=True)
    assert not wrong_kernel(arm, "6.1.0-50-amd64\n", "lockdown,capability,bpf")
    assert wrong_kernel(arm, "6.12.0-1-amd64\n", "lockdown,capability,bpf")
    assert wrong_kernel(arm, "6.1.0-50-amd64\n", "lockdown,capability,yama")


def test_the_table_has_an_arm_a_column() -> None:
    """A refused program and a failed row stand in their arm's column; an arm that never said anything has dashes."""
    told = (
        '{"kind": "program", "object": "a.o", "program": "hook", "instructions": null, "error": "no"}\n'
        '{"kind": "row", "row": "steals", "point": "exec", "result": "failed", "seconds": 1}\n{"cut'
    )
    arms = [
        Outcome(Arm(KERNEL, bpf_lsm=True), 1, 30.0, ["it failed"], told),
        Outcome(Arm(KERNEL, bpf_lsm=False), None, 2.0),
    ]
    lines = [line.split() for line in table.render(arms).splitlines()]
    assert ["a.o", "hook", "REFUSED", "-"] in lines
    assert ["exec", "steals", "failed", "-"] in lines
    assert ["6.1", "lsm", "FAILED", "30", "s", "1"] in lines


def test_a_thorough_run_leaves_nothing_out() -> None:
    """Machines but the first kernel's are brief, unless all of it is asked for."""
    assert vm.flags(True, False) == [] and vm.flags(False, False) == ["--brief"]
    assert vm.flags(True, True) == vm.flags(False, True) == ["--thorough"]
