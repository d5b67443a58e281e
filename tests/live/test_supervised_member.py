"""`agentd run` by a member of the group `agentd`: what root's keeps over the end of the service, this keeps too; and
no other process of that user takes the filter from it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel import lsm
from agentd.model import Point
from tests.live.harness import agent
from tests.live.members import temporary_group
from tests.live.service import PYTHON, Service, until
from tests.live.test_supervised_restarts import Talker

pytestmark = pytest.mark.root

# What a process comes to that wants the descriptors of another: their names, and then each of them.
TAKER = r"""
import ctypes, json, os, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
handle, taken = os.pidfd_open(pid), []
for number in range(64):
    got = libc.syscall(438, handle, number, 0)
    taken.append(0 if got >= 0 else ctypes.get_errno())
try:
    names = len(os.listdir(f"/proc/{pid}/fd"))
except OSError as error:
    names = -error.errno
print(json.dumps({"names": names, "taken": taken}))
"""


@pytest.fixture
def member() -> Iterator[dict[str, Any]]:
    """What makes a process one of such a user."""
    if lsm.point() is not Point.NONE:
        pytest.skip("there are LSM hooks on this host: nothing is supervised")
    with temporary_group() as (group, user):
        yield {"user": user, "group": user, "extra_groups": [group], "env": {"PATH": "/usr/bin:/bin", "HOME": "/"}}


def taken(pid: int, member: dict[str, Any]) -> dict[str, Any]:
    """What another process of that user gets of a process."""
    done = subprocess.run([PYTHON, "-I", "-S", "-c", TAKER, str(pid)], capture_output=True, check=True, **member)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_member_keeps_the_filter_and_nobody_takes_it(member: dict[str, Any]) -> None:
    """Denied is denied with the service, without one everything is refused with EPERM, and the next one takes over;
    other processes of the same user get no descriptor of `agentd run`, though they get those of an ordinary process.
    """
    with Service({"bot": agent()}) as service:
        service.folder.chmod(0o755)
        place = service.folder / "place"
        for name in ("kept", "free", "ask"):
            (place / name).mkdir(parents=True)
            (place / name / "file").write_text(name)
        for path in (place, *place.rglob("*")):
            os.chown(path, member["user"], member["user"])
        deny = [{"tool": tool, "paths": [f"{place}/kept/**"]} for tool in ("file", "file_writer")]
        service.write_policy({"bot": agent(deny=deny)})
        assert service.reload().returncode == 0
        # no patience, for this run: what comes while there is no service is refused at once
        (place / "sitecustomize.py").write_text("import agentd.daemon.keeping as k\nk.GRACE_SECONDS = 0\n")
        path = f"{place}:{Path.cwd()}"
        talker = Talker(service, place, **{**member, "env": {**member["env"], "PYTHONPATH": path}})
        assert os.stat(f"/proc/{_command(talker)}").st_uid == member["user"]
        assert talker.tell("kept") == f"kept {errno.EPERM}"

        with subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.DEVNULL, **member) as ordinary:
            control = taken(ordinary.pid, member)
            ordinary.kill()
        assert control["names"] > 0 and 0 in control["taken"], "the control"
        refused = taken(talker.process.pid, member)
        assert refused["names"] == -errno.EACCES and set(refused["taken"]) == {errno.EPERM}, refused

        service.crash()
        for _ in range(2):
            assert talker.tell("kept") == f"kept {errno.EPERM}"
            assert talker.tell("free") == f"free {errno.EPERM}"
            assert talker.tell("read") == "read ok"
        service.start()
        until(lambda: service.records("gap"), "the new service's word for what was refused")
        assert talker.tell("free") == "free ok"
        assert talker.tell("kept") == f"kept {errno.EPERM}"
        assert talker.end() == 0
        assert (place / "kept/file").read_text() == "kept" and (place / "free/file").read_text() == "free"
        (gap,) = service.records("gap")
        assert gap["metadata"]["why"] == "no-agentd" and gap["count"] == 4
        points = {(r["point"], r["guarantee"]) for r in service.records("denied")}
        assert points == {("seccomp", "prevented")}
        (started,) = service.records("workload_started")
        assert f"uid {member['user']}" in json.dumps(started), started


def _command(talker: Talker) -> int:
    """The process that `agentd run` has started."""
    pid = talker.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(child)
