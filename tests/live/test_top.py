"""`agentd top` on a real service: in a pipe, as JSON, and on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.live.service import PATIENCE, Service, Sleeper, agentd, bot, listening

pytestmark = pytest.mark.root

RULES = bot(
    require_approval=[{"tool": "network", "operations": ["connect"], "timeout": "10m"}],
    deny=[{"tool": "secrets"}, {"tool": "shell", "operations": ["rm"]}],
)


def test_numbers_are_those_of_the_log() -> None:
    """Denied and asked as many times as the log says; what is held is shown; a pipe gets text, --json a line a look."""
    with Service({"bot": RULES}) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        for _ in range(3):
            sleeper.do("run", "/usr/bin/rm", "--version")
        sleeper.send("connect", str(port))
        (row,) = service.held()
        done = agentd("top", "--json", "--count", "2", "--interval", "0.2", "--socket", service.socket)
        assert done.returncode == 0, done
        looks = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(looks) == 2
        (shown,) = looks[-1]["agents"]
        assert shown["decisions"]["deny"] == len(service.records("denied")) == 3
        assert shown["decisions"]["require_approval"] == 1 and shown["pending"] == 1
        assert (shown["workloads"], shown["processes"]) == (1, 1)
        assert [one["id"] for one in looks[-1]["held"]] == [row["id"]]
        text = agentd("top", "--interval", "0.1", "--socket", service.socket).stdout.splitlines()
        assert text[0].startswith("1 workloads, ") and text[0].endswith("1 operations held")
        assert text[1].split()[:3] == ["agent", "workloads", "processes"] and text[2].split()[-2:] == ["3", "1"]
        assert text[3].startswith(f"held {row['id']:>5} bot ")
        service.call("approvals.deny", id=row["id"])
        assert sleeper.answer() == "errno 1"


def test_a_terminal() -> None:
    """The screen is drawn, q ends it with 0, and the terminal is as it was; without a service it is one line."""
    with Service({"bot": RULES}) as service:
        master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 90, 0, 0))
            before = termios.tcgetattr(slave)
            command = [sys.executable, "-m", "agentd", "top", "--interval", "0.1", "--socket", str(service.socket)]
            with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE) as child:
                drawn = b""
                deadline = time.monotonic() + PATIENCE
                while b"verdicts/s" not in drawn:
                    assert time.monotonic() < deadline, drawn
                    if select.select([master], [], [], 0.1)[0]:
                        drawn += os.read(master, 65536)
                os.write(master, b"q")
                assert child.wait(PATIENCE) == 0 and child.stderr and child.stderr.read() == b""
            while select.select([master], [], [], 0)[0]:
                drawn += os.read(master, 65536)
            assert re.search(rb"0 workloads, \d+ verdicts/s, 0 operations held", drawn)
            assert drawn.endswith(b"\x1b[?25h\x1b[?1049l") and termios.tcgetattr(slave) == before
        finally:
            os.close(master)
            os.close(slave)
    gone = agentd("top", "--socket", service.socket)
    assert gone.returncode != 0 and gone.stderr.count("\n") == 1 and "Traceback" not in gone.stderr
