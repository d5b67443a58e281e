"""A PostgreSQL server of the test's own, from Debian's package, that logs every statement it is sent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.live.probes import PATIENCE

ROOT: Final = Path(__file__).parents[2] / ".cache/tools/postgresql"  # ./dev unpacks it there
BIN: Final = ROOT / "usr/lib/postgresql/15/bin"
NOBODY: Final = 65534  # the server refuses to be root


class Server:
    """Listens on a unix socket in its folder. `log`: every statement, as it came."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-postgres-"))
        os.chown(self.folder, NOBODY, NOBODY)
        self.folder.chmod(0o755)
        data = self.folder / "data"
        self.log = self.folder / "log"
        self._as_nobody(
            BIN / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        ).wait()
        options = {
            "unix_socket_directories": self.folder, "listen_addresses": "", "log_statement": "all", "fsync": "off",
            "shared_buffers": "16MB", "log_min_messages": "log", "autovacuum": "off",
        }  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = self._as_nobody(BIN / "postgres", "-D", data, *settings)
        until = time.monotonic() + PATIENCE
        while not (self.folder / ".s.PGSQL.5432").exists() or self.query("select 1") != "1":
            assert self._process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def _as_nobody(self, *command: str | os.PathLike[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", stdout=log, stderr=log,
                env={"LC_ALL": "C.UTF-8", "PATH": f"{BIN}:/usr/bin:/bin"},
            )  # fmt: skip

    def psql(self, statement: str) -> list[str]:
        """psql's command line for one statement."""
        where = ["-h", str(self.folder), "-U", "tester", "-d", "postgres"]
        return [str(BIN / "psql"), *where, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement]

    def query(self, statement: str) -> str:
        """What the server answers to somebody who is in no workload."""
        return subprocess.run(self.psql(statement), capture_output=True, text=True, check=False).stdout.strip()

    def was_sent(self, statement: str) -> bool:
        """Has the server been sent this text since it started?"""
        return statement in self.log.read_text()

    def close(self) -> None:
        """Ends it and takes its folder away."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        shutil.rmtree(self.folder)
