"""The parts of ./dev vm without a machine: the newest package, trouble in a console, the table, who is blocked."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.vm import __main__ as vm
from tests.vm import blocked, table
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


def test_a_machine_that_is_not_done_is_asked_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys go to the emulator's monitor; what the kernel prints behind them is the answer, and where it runs."""
    monkeypatch.setattr(blocked, "QUIET_SECONDS", 0.1)
    console = tmp_path / "console"
    console.write_text("before\n")
    assert blocked.ask(tmp_path, console) == []  # nobody listens
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "monitor"))
    server.listen()
    heard: list[str] = []

    def emulator() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                heard.append(line.strip())
                if line == "sendkey alt-sysrq-w\n":
                    with console.open("a") as file:
                        file.write("task:probe state:D\r\n")
                if line == "info registers\n":
                    lines.write("RAX=0\r\nRIP=12 RFL=0\r\n")
                    lines.flush()

    with server:
        thread = threading.Thread(target=emulator)
        thread.start()
        assert blocked.ask(tmp_path, console) == ["task:probe state:D", "RIP=12 RFL=0"]
        thread.join()
    assert heard == [*(f"sendkey alt-sysrq-{key}" for key in "8wly"), "info registers"]


def test_no_monitor_where_its_path_is_no_address() -> None:
    """A folder too deep for a unix socket's path gets a machine all the same, which can't be asked."""
    assert blocked.options(Path("/f")) == "-monitor unix:/f/monitor,server=on,wait=off"
    assert blocked.options(Path("/" + 100 * "f")) == ""
