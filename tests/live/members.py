"""A user who is in the group `agentd` while a test wants it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def temporary_group() -> Iterator[tuple[int, int]]:
    """The group agentd (made if it isn't there) with a user of its own in it: their numbers."""
    name = f"agentd-test-{os.getpid()}"
    made = subprocess.run(["getent", "group", "agentd"], capture_output=True, check=False).returncode != 0
    if made:
        subprocess.run(["groupadd", "--system", "agentd"], check=True)
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", "--groups", "agentd", name], check=True)
        try:
            yield grp.getgrnam("agentd").gr_gid, pwd.getpwnam(name).pw_uid
        finally:
            subprocess.run(["userdel", name], check=True)
    finally:
        if made:
            subprocess.run(["groupdel", "agentd"], check=True)
