"""What doctor says is what happens, here and in a container; virtual machines do the same (compared.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.containment import compared
from tests.containment.compared import ESCAPED, UNTRIED, Line, Said
from tests.containment.ground import Ground
from tests.containment.suite import Probe, Seen
from tests.live.probes import Run

ROOT = Path(__file__).resolve().parents[2]
# Namespaces of its own but for pid, cgroup and user, and the capabilities of `docker run --cap-add=SYS_ADMIN
# --cap-add=NET_ADMIN --cap-add=SYS_PTRACE --pid=host --cgroupns=host`.
CAPABILITIES = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service", "net_raw",
    "sys_chroot", "mknod", "audit_write", "setfcap", "sys_admin", "net_admin", "sys_ptrace",
)  # fmt: skip
CONTAINER = [
    *(
        "unshare",
        "-m",
        "-u",
        "-i",
        "-n",
        "--propagation",
        "private",
        "sh",
        "-c",
        'ip link set lo up && exec "$@"',
        "sh",
    ),
    *("setpriv", "--bounding-set=-all," + ",".join(f"+{name}" for name in CAPABILITIES), "--inh-caps=-all"),
]
REPORT = {
    "operations": [
        {
            "operation": "read", "point": "trace", "guarantee": "contained (detected: shared descriptors, others)",
            "started_point": "trace", "started": "contained", "tried": True, "verified": True,
        },
        {
            "operation": "delete", "point": "trace", "guarantee": "detected", "tried": True, "verified": False,
            "started_point": "seccomp", "started": "prevented", "started_tried": True, "started_verified": True,
        },
    ]
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("through", [[], CONTAINER], ids=["here", "in a container"])
def test_what_doctor_says_is_what_happens(through: list[str]) -> None:
    """Each kind comes to what doctor says of it, tagged and started by agentd run, by the point it names."""
    words = [*through, sys.executable, "-m", "tests.containment.compared"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differ" in done.stdout and done.stdout.count("ok      ") > 40, done.stdout


def test_what_doctor_says_of_parts() -> None:
    """A part has the guarantee in parentheses, and no point; what agentd run gives has proofs of its own."""
    assert compared.said(REPORT, "read", started=False) == Said("trace", "contained", True, False)
    assert compared.said(REPORT, "read, others", started=False) == Said("", "detected", True, False)
    assert compared.said(REPORT, "read, else", started=False) == Said("", "contained", True, False)
    assert compared.said(REPORT, "delete", started=False) == Said("trace", "detected", True, True)
    assert compared.said(REPORT, "delete", started=True) == Said("seccomp", "prevented", True, False)


@pytest.mark.parametrize(
    ("said", "came", "point", "differs"),
    [
        (Said("trace", "contained", True, False), "contained", "trace", False),
        (Said("trace", "detected", True, False), "contained", "trace", False),  # better than it says
        (Said("trace", "contained", True, False), "detected", "trace", True),
        (Said("trace", "detected", True, False), ESCAPED, "trace", True),
        (Said("trace", "contained", True, False), "contained", "lsm", True),
        (Said("trace", "contained", False, False), "contained", "trace", True),
        (Said("cgroup", "prevented", True, False), "prevented", "", True),
        (Said("none", "none", False, False), ESCAPED, "", True),
        (Said("trace", "contained", False, False), UNTRIED, "", False),
        (Said("fmod_ret", "prevented", True, True), "detected", "fmod_ret", False),  # "don't rely on it"
    ],
)
def test_a_difference_is_one(said: Said, came: str, point: str, differs: bool) -> None:
    """Less than doctor says, another point, no record, or an operation that it could not try differs; more doesn't."""
    line = Line("read", False, said, came, point)
    assert bool(line.problem) == differs and str(line).startswith("DIFFERS" if differs else "ok")


@pytest.mark.parametrize(
    ("records", "effect", "lines", "denied", "came"),
    [
        (1, False, ["errno 1"], True, "prevented"),
        (1, False, [], True, "contained"),
        (1, True, [], True, "detected"),
        (1, True, [], False, ESCAPED),
        (1, False, ["ok 0"], True, ESCAPED),  # it was told that it worked
        (None, False, ["ok 0"], True, "prevented"),  # by the loader, which goes on without the library
        (None, True, ["ok 0"], True, ESCAPED),
        (None, False, [], True, "contained"),
    ],
)
def test_what_an_attempt_comes_to(records: int | None, effect: bool, lines: list[str], denied: bool, came: str) -> None:
    """An effect, a caller that goes on, and a death, each by itself and with a record or without."""
    told = Run(0, "\n".join(lines).encode(), b"", 1, [{"event": "denied"}] if denied else [])
    probe = Probe(1, "made up", "read", "x", lambda seen: effect, records=records)
    assert compared.came(probe, Seen(cast("Ground", None), told, [])) == came
