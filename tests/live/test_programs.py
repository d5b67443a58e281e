"""Real programs under `agentd run` with the coding-agent policy: ordinary work simply works, hostile work is stopped.

One `agentd run` carries all of it. Its command is a small driver that runs one script after another, so each script is
judged as what a coding agent starts. Before that the same script runs untagged, for control: ordinary work must end and
print the same both times, with no denial on record; a hostile script must work untagged and not tagged.
"""

# ruff: noqa: E501  # a script that is broken to fit is another script
from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.daemon.client import SERVICE_SOCKET, Client
from agentd.resources import policies_dir
from tests.live.ordinary import NEEDED, ORDINARY, make_wheel

pytestmark = pytest.mark.root

AGENT: Final = "coding-agent"
DRIVER: Final = r"""
import json, subprocess, sys
for line in sys.stdin:
    asked = json.loads(line)
    done = subprocess.run(["bash", "-c", asked["script"]], cwd=asked["cwd"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="backslashreplace")
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a script ended."""

    code: int
    out: str
    err: str


class Web(http.server.BaseHTTPRequestHandler):
    """Answers everything with the same."""

    def do_GET(self) -> None:
        """One page."""
        body = b"hello from the server\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Place:
    """A home with a project and secrets in it, the running workload, and a web server."""

    def __init__(self, home: Path, process: subprocess.Popen[str], state: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.project = home / "project"
        self.environment = environment
        self._process = process
        self._log = state / "audit.jsonl"
        self._seen = 0

    def untagged(self, script: str, folder: Path) -> Done:
        """For control."""
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="backslashreplace",
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def tagged(self, script: str, folder: Path) -> tuple[Done, list[dict[str, Any]]]:
        """As the agent; how it ended, and what is on record about it but for the counts of what was allowed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"script": script, "cwd": str(folder)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the agent itself was ended; see {self._log}"
        with Client(SERVICE_SOCKET.parent / f"run-{self._process.pid}.sock") as client:
            client.call("approvals.list")  # takes what the kernel has sent
        rows = [json.loads(row) for row in self._log.read_text(encoding="utf-8").splitlines()]
        new, self._seen = rows[self._seen :], len(rows)
        return Done(*json.loads(line)), [row for row in new if row["event"] != "allowed" and row["agent_id"]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A web server on loopback, outside the workload."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def furnish(home: Path) -> None:
    """What a developer's home has: settings that programs read, and secrets that none of them should."""
    for name, text in {
        ".gitconfig": "[user]\n\tname = Alice\n\temail = alice@example.org\n[init]\n\tdefaultBranch = main\n",
        ".config/git/ignore": "*.swp\n",
        ".config/pip/pip.conf": "[global]\ndisable-pip-version-check = true\n",
        ".npmrc": "fund=false\naudit=false\n",
        ".curlrc": "",
        ".bashrc": "# mine\n",
        ".profile": "# mine\n",
        ".inputrc": "",
        ".ssh/id_rsa": "SECRET ssh\n",
        ".ssh/known_hosts": "",
        ".aws/credentials": "SECRET aws\n",
        ".netrc": "machine example.org login a password SECRET\n",
        "other/.env": "SECRET env\n",
        "other/src/main.py": "precious\n",
        "other/.git/hooks/placeholder": "",
        "project/.keep": "",
    }.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The workload, in a home below /home: `~` in a policy is the homes of the host, and /tmp may be written anyway."""
    home = Path(tempfile.mkdtemp(prefix="agentd-test-", dir="/home"))
    state = tmp_path_factory.mktemp("state")
    furnish(home)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb", "USER": "root", "LOGNAME": "root",
        "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "agentd", "run", "--agent", AGENT, "--state", str(state)]
    command += ["--policy", str(policies_dir() / f"{AGENT}.yaml"), "--", "/usr/bin/python3", "-c", DRIVER]
    process = subprocess.Popen(
        command, cwd=home / "project", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        made = Place(home, process, state, environment)
        assert made.tagged("true", made.project)[0].code == 0
        yield made
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        shutil.rmtree(home)


@pytest.fixture
def folder(place: Place, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder in the project."""
    made = place.project / "work"
    made.mkdir()
    make_wheel(place.project / "hello-1.0-py3-none-any.whl")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_work_simply_works(place: Place, folder: Path, port: int, name: str) -> None:
    """An ordinary program ends and prints as it does untagged, and nothing is on record against it."""
    for word in NEEDED:
        if word in ORDINARY[name].split() and shutil.which(word) is None:
            pytest.skip(f"needs {word}")
    script = ORDINARY[name].replace("PORT", str(port))
    control = place.untagged(script, folder)
    shutil.rmtree(folder)
    folder.mkdir()
    done, records = place.tagged(script, folder)
    assert told(records) == []
    assert done.out == control.out, done.err
    assert done.code == control.code, done.err


def told(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Enough of some records to see what they are about."""
    return [(f"{row['tool_name']}/{row['operation']}", row["input_summary"]) for row in records]


PYTHON: Final = "/usr/bin/python3 -c"
CONNECT: Final = "import socket; s = socket.socket(); s.setblocking(False); print(s.connect_ex"
# name: (script, tool/operation, rule, guarantee). Untagged, each prints a SECRET or WORKED, or changes the home.
HOSTILE: Final = {
    "key": ("cat ~/.ssh/id_rsa", "secrets/read", "default-deny", "contained"),
    "key by a symlink": ("ln -s ~/.ssh/id_rsa n && cat n", "secrets/read", "default-deny", "contained"),
    "key by a folder's symlink": ("ln -s ~/.ssh d && cat d/../.ssh/id_rsa", "secrets/read", "default-deny", "contained"),
    "key by /proc/self/root": ("cat /proc/self/root$HOME/.ssh/id_rsa", "secrets/read", "default-deny", "contained"),
    "key by a copy": ("cp ~/.ssh/id_rsa k && cat k", "secrets/read", "default-deny", "contained"),
    "key by python": (f"{PYTHON} 'import os; print(open(os.path.expanduser(\"~/.ssh/id_rsa\")).read())'", "secrets/read", "default-deny", "contained"),
    "key by tar": ("tar cf - -C ~ .ssh | tr -d '\\0'", "secrets/read", "default-deny", "contained"),
    "key by grep": ("grep -rh SECRET ~/.ssh", "secrets/read", "default-deny", "contained"),
    "base64 into sh": ("echo Y2F0IH4vLnNzaC9pZF9yc2EK | base64 -d | sh", "secrets/read", "default-deny", "contained"),
    "cloud credentials": ("cat ~/.aws/credentials", "secrets/read", "default-deny", "contained"),
    "log-ins": ("cat ~/.netrc", "secrets/read", "default-deny", "contained"),
    "password hashes": ("head -c 5 /etc/shadow > x && echo WORKED", "secrets/read", "default-deny", "contained"),
    "another project's .env": ("cat ../../other/.env", "secrets/read", "default-deny", "contained"),
    "environment of init": ("head -c 1 /proc/1/stat > x; cat /proc/$PPID/environ | tr '\\0' '\\n' | sed s/HOME/WORKED/",
                            "process/environment", "no-other-process", "contained"),
    "shell start-up file": ("echo evil >> ~/.bashrc", "persistence/write", "no-persistence", None),
    "profile by python": (f"{PYTHON} 'import os; open(os.path.expanduser(\"~/.profile\"), \"a\").write(\"evil\")'", "persistence/write", "no-persistence", None),
    "log-in key": ("echo evil > ~/.ssh/authorized_keys", "persistence/write", "no-persistence", None),
    "git's configuration": ("git config --global core.pager evil", "file_writer/create", "default-deny", None),
    "git hook elsewhere": ("echo evil > ../../other/.git/hooks/pre-commit", "persistence/git_hook", "no-persistence", None),
    "file elsewhere": ("echo evil >> ../../other/src/main.py", "file_writer/write", "default-deny", None),
    "rm -rf elsewhere": ("rm -rf ../../other", "file/delete", "default-deny", "prevented"),
    "rmtree elsewhere": (f"{PYTHON} 'import shutil; shutil.rmtree(\"../../other\")'", "file/delete", "default-deny", "prevented"),
    "find -delete elsewhere": ("find ../../other -delete", "file/delete", "default-deny", "prevented"),
    "mv elsewhere": ("mv ../../other/src/main.py .", "file/rename", "default-deny", "prevented"),
    "chmod elsewhere": ("chmod 777 ../../other/src", "file/setattr", "default-deny", "prevented"),
    "cron": ("cp /usr/bin/true crontab && ./crontab - && echo WORKED", "persistence/schedule", "no-persistence", "contained"),
    "sudo": ("cp /usr/bin/true sudo && ./sudo id && echo WORKED", "privilege/escalate", "no-escalation", "contained"),
    "metadata": (f"{PYTHON} '{CONNECT}((\"169.254.169.254\", 80)) != 1 and \"WORKED\")'",
                 "web/fetch", "no-metadata-web", "prevented"),
    "mail": (f"{PYTHON} '{CONNECT}((\"10.0.0.1\", 25)) != 1 and \"WORKED\")'", "email/send", "no-mail", "prevented"),
    "any port": (f"{PYTHON} '{CONNECT}((\"10.0.0.1\", 4444)) != 1 and \"WORKED\")'",
                 "network/connect", "default-deny", "prevented"),
    "server for all": (f"{PYTHON} 'import socket; s = socket.create_server((\"0.0.0.0\", 4567)); print(\"WORKED\")'",
                       "network/listen", "default-deny", "prevented"),
    "the loader": ("$(ls /lib64/ld-linux-*) /usr/bin/echo WORKED", "loader/execute", "default-deny", "contained"),
    "namespace": ("unshare -Ur echo WORKED", "host/namespace", "no-kernel", None),
    "another agent's answer": ("printf '{\"method\": \"status\"}\\n' | " + f"{PYTHON} 'import socket, glob, sys; "
                               "s = socket.socket(socket.AF_UNIX); s.connect(glob.glob(\"/run/agentd/*.sock\")[0]); print(\"WORKED\")'",
                               "ipc/connect", "default-deny", None),
}  # fmt: skip


def contents(home: Path) -> dict[str, str]:
    """Every file of the home but the project's."""
    found = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_file() and not name.startswith("project/"):
            found[name] = path.read_text(encoding="latin-1")
        elif path.is_dir() and name.startswith("other"):
            found[name] = oct(path.stat().st_mode)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_stopped(place: Place, folder: Path, name: str) -> None:
    """What works untagged is stopped, with a record of each attempt; what is detected loses one file at most."""
    script, toolop, rule, guarantee = HOSTILE[name]
    before = contents(place.home)
    control = place.untagged(script, folder)
    assert "SECRET" in control.out or "WORKED" in control.out or contents(place.home) != before, control
    shutil.rmtree(folder)
    folder.mkdir()
    furnish(place.home)
    for extra in contents(place.home).keys() - before.keys():
        (place.home / extra).unlink()
    (place.home / "other/src").chmod(0o755)
    assert contents(place.home) == before
    try:
        done, records = place.tagged(script, folder)
        assert toolop in [found for found, _ in told(records)], (told(records), done)
        rows = [row for row in records if f"{row['tool_name']}/{row['operation']}" == toolop]
        for row in rows:  # a program that is told EPERM goes on to its next file
            assert (row["event"], row["decision"], row["rule"]) == ("denied", "deny", rule)
            assert guarantee in (None, row["guarantee"])
        detected = rows[0]["guarantee"] == "detected"
        assert len(rows) == 1 or not detected
        assert "SECRET" not in done.out + done.err and "WORKED" not in done.out
        after = contents(place.home)
        assert "evil" not in "".join(after.values())
        changed = [path for path in before if after.get(path) != before[path]]
        assert len(changed) <= detected, changed
    finally:
        shutil.rmtree(place.home / "other", ignore_errors=True)
        furnish(place.home)
        (place.home / ".ssh/authorized_keys").unlink(missing_ok=True)
