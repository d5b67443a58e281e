"""Database servers of the tests' own, from Debian's packages, that log every statement they are sent."""

from __future__ import annotations

import abc
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.live.probes import PATIENCE

TOOLS: Final = Path(__file__).parents[2] / ".cache/tools"  # ./dev unpacks them there
NOBODY: Final = 65534  # a database server refuses to be root


def driver(packages: Path, module: str, connect: str) -> str:
    """The beginning of a probe that has connected as `db`, by a Python driver. connect: the arguments; sys.argv[1] is
    the server's socket or its folder.
    """
    return (
        f"sys.path.append({str(packages)!r})\nimport {module}\ndb = {module}.connect({connect})\n"
        "say('connected')\nsay('attempt')\n"
    )


class Server(abc.ABC):
    """Listens on a unix socket in its folder. `log`: every statement, as it came."""

    programs: Path
    libraries: Path

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-database-"))
        os.chown(self.folder, NOBODY, NOBODY)
        self.folder.chmod(0o755)
        self.log = self.folder / "log"
        self.data = self.folder / "data"
        assert self._as_nobody(*self.making()).wait() == 0, self.log.read_text()
        self._process = self._as_nobody(*self.serving())
        until = time.monotonic() + PATIENCE
        while self.query("select 1") != "1":
            assert self._process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    @abc.abstractmethod
    def making(self) -> list[str]:
        """The command line that makes an empty database."""

    @abc.abstractmethod
    def serving(self) -> list[str]:
        """The server's command line."""

    @abc.abstractmethod
    def client(self, statement: str) -> list[str]:
        """The command line of the server's own client for one statement; it prints bare values."""

    def _as_nobody(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {
            "LC_ALL": "C.UTF-8",
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(self.libraries),
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", stdout=log, stderr=log, env=environment
            )

    def query(self, statement: str) -> str:
        """What the server answers to somebody who is in no workload."""
        return subprocess.run(self.client(statement), capture_output=True, text=True, check=False).stdout.strip()

    def was_sent(self, statement: str) -> bool:
        """Has the server been sent this text since it started?"""
        return statement in self.log.read_text()

    def close(self) -> None:
        """Ends it and takes its folder away."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    """PostgreSQL 15; user `tester`, database `postgres`."""

    programs = TOOLS / "postgresql/usr/lib/postgresql/15/bin"
    libraries = TOOLS / "postgresql/usr/lib/x86_64-linux-gnu"

    def making(self) -> list[str]:
        options = ["-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        return [f"{self.programs}/initdb", "-D", str(self.data), *options]

    def serving(self) -> list[str]:
        options = {
            "unix_socket_directories": self.folder, "listen_addresses": "", "log_statement": "all", "fsync": "off",
            "shared_buffers": "16MB", "log_min_messages": "log", "autovacuum": "off",
        }  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [f"{self.programs}/postgres", "-D", str(self.data), *settings]

    def client(self, statement: str) -> list[str]:
        where = ["-h", str(self.folder), "-U", "tester", "-d", "postgres"]
        return [f"{self.programs}/psql", *where, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement]


class MariaDB(Server):
    """MariaDB 10.11; user `root`, database `test`. Its client has the client library inside."""

    root = TOOLS / "mariadb/usr"
    programs = root / "bin"
    libraries = root / "lib/x86_64-linux-gnu"

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def making(self) -> list[str]:
        where = [f"--basedir={self.root}", f"--datadir={self.data}"]
        return [
            f"{self.programs}/mariadb-install-db",
            "--no-defaults",
            *where,
            "--auth-root-authentication-method=normal",
        ]

    def serving(self) -> list[str]:
        where = [f"--basedir={self.root}", f"--datadir={self.data}", f"--lc-messages-dir={self.root}/share/mysql"]
        log = ["--general-log=1", f"--general-log-file={self.folder}/statements"]
        return [
            f"{self.root}/sbin/mariadbd",
            "--no-defaults",
            *where,
            *log,
            f"--socket={self.socket}",
            "--skip-networking",
        ]

    def client(self, statement: str) -> list[str]:
        where = ["--no-defaults", "-S", str(self.socket), "-u", "root", "-D", "test"]
        return [f"{self.programs}/mariadb", *where, "-BN", "--comments", "-e", statement]

    def was_sent(self, statement: str) -> bool:
        """Has the server been sent this text since it started?"""
        return statement in (self.folder / "statements").read_text()
