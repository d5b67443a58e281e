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
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.daemon.client import SERVICE_SOCKET, Client
from agentd.resources import policies_dir

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


# name: script. PORT is the web server's. Whatever it prints must be the same each time.
ORDINARY: Final = {
    "git": """
        git init -q r && cd r && echo one > a && git add a && git commit -qm first && echo two >> a && git diff
        git commit -qam second && git log --oneline && git branch topic && git checkout -q topic && git branch
        git mv a b && git commit -qm third && git checkout -q main && git merge -q topic && git tag v1 && git status
        git stash list; git clone -q . ../clone && git -C ../clone log --oneline && git -C ../clone pull -q
        git rebase -q HEAD~1; git reset -q --hard v1 && git clean -fdq && git gc -q && git fsck && git worktree add -q ../w topic
        git config core.pager cat && git show --stat HEAD && git grep two && git archive HEAD | tar t""",
    "git push to a folder": """
        git init -q --bare origin.git && git clone -q origin.git c 2>/dev/null; cd c && echo x > x && git add x
        git commit -qm x && git push -q origin HEAD:main && git ls-remote origin && git fetch -q && git log origin/main --oneline""",
    "venv and pip": """
        /usr/bin/python3 -m venv v && v/bin/pip install -q --no-index ../hello-1.0-py3-none-any.whl && v/bin/python -c 'import hello'
        v/bin/pip list --format=freeze && v/bin/hello && v/bin/pip uninstall -qy hello && v/bin/pip check""",
    "pytest": f"""
        printf 'import tempfile\\ndef test_a(tmp_path):\\n    (tmp_path / "x").write_text("x")\\n' > test_a.py
        {sys.executable} -m pytest -q test_a.py | sed 's/ in .*//'; ls .pytest_cache""",
    "python": """
        /usr/bin/python3 - <<'END'
import concurrent.futures, hashlib, json, logging, multiprocessing, os, shutil, sqlite3, ssl, subprocess, tempfile, threading
import asyncio, ctypes, pathlib, platform, random, socket, urllib.request, uuid, zoneinfo
with sqlite3.connect("x.db") as base:
    base.execute("create table t (x)"); base.executemany("insert into t values (?)", [(n,) for n in range(100)])
    print(base.execute("select sum(x) from t").fetchone())
threads = [threading.Thread(target=pathlib.Path(f"t{n}").write_text, args=("x",)) for n in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]; print(len(list(pathlib.Path(".").glob("t*"))))
with multiprocessing.Pool(3) as pool: print(pool.map(abs, [-1, -2, -3]))
with concurrent.futures.ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, [-4, -5])))
print(subprocess.check_output(["sort", "-r"], input=b"a\\nb\\n"))
with tempfile.TemporaryDirectory() as folder: shutil.make_archive(folder + "/a", "zip", "."); print(os.listdir(folder))
ssl.create_default_context(); print(asyncio.run(asyncio.sleep(0, "slept"))); print(zoneinfo.ZoneInfo("Europe/Berlin"))
END
        /usr/bin/python3 -m json.tool <<< '{"a": 1}'; /usr/bin/python3 -m unittest 2>&1 | head -1""",
    "gcc and make": """
        printf '#include <stdio.h>\\nint main(void) { puts("hello"); return 0; }\\n' > m.c
        printf 'm: m.o\\n\\tgcc -o m m.o\\nm.o: m.c\\n\\tgcc -O2 -g -c m.c\\nclean:\\n\\trm -f m m.o\\n' > Makefile
        make -s && ./m && make -s clean && gcc -pthread -fsanitize=undefined m.c -o s && ./s && gcc -shared -fPIC -o l.so m.c && ls""",
    "node": """
        node -e 'const fs = require("fs"), cp = require("child_process"), os = require("os");
            fs.writeFileSync("o", "x"); fs.renameSync("o", "p"); fs.mkdirSync("d/e", {recursive: true});
            fs.rmSync("d", {recursive: true}); console.log(cp.execSync("echo from a child").toString(), fs.readdirSync("."));
            const worker = new (require("worker_threads").Worker)("console.log(\\"from a worker\\")", {eval: true});
            worker.on("exit", () => cp.spawn("bash", ["-c", "echo from a late child"], {stdio: "inherit"}));
            require("dns").lookup("localhost", () => {});'
        printf 'const http = require("http"); const s = http.createServer((q, r) => r.end("served\\\\n"));
            s.listen(0, "127.0.0.1", () => http.get({port: s.address().port, host: "127.0.0.1"}, r => {
            r.pipe(process.stdout); r.on("end", () => s.close()); }));' > s.js && node s.js""",
    "npm": """
        npm init -y > /dev/null && npm pkg set scripts.hello='echo hello from npm' && npm run -s hello && mkdir dep
        echo '{"name": "dep", "version": "1.0.0"}' > dep/package.json && npm install -s --offline ./dep && ls node_modules
        npm ls; npm run -s missing; npm pack -s ./dep""",
    "curl": "curl -sS http://127.0.0.1:PORT/ && curl -sS -o page http://127.0.0.1:PORT/x && cat page; curl -s http://127.0.0.1:9/",
    "shell": r"""
        cat <<< here; cat <<END | tr a-z A-Z | sort -r
b
a
END
        diff <(printf '1\n2\n') <(printf '1\n3\n'); f=$(mktemp) && echo x > $f && rm $f; d=$(mktemp -d) && rmdir $d
        for n in 1 2 3; do echo $n; done | while read n; do echo "got $n"; done | tee out | tail -1; wc -l < out
        mkdir -p a/b && touch a/b/c && cp -a a x && mv x y && ln -s b a/link && ln a/b/c a/hard && chmod 755 a/b/c && find . | sort
        trap 'echo bye' EXIT; (sleep 0.1; echo later) & wait; set -o pipefail; false | true; echo $?; echo 5 | awk '{print $1 * 2}'
        seq 5 | xargs -n 2 echo; sed -i s/got/has/ out && grep -c has out; exec 3> three && echo x >&3 && cat three; date +%s > /dev/null
        ls -la / > /dev/null; df . > /dev/null; id -un; uname > /dev/null; env | grep -c HOME; nohup true; timeout 5 echo in time; nproc > n
        printf 'a\0b' | od -c; head -c 100 /dev/urandom | sha256sum > /dev/null; test -w . && echo writable; ulimit -n > n; tty; stty 2> n""",
    "login shell": "bash -lc 'echo in a login shell; cd; pwd; type ls' | sed 's/agentd-test-[^/]*/X/'",
    "archives": """
        mkdir d && echo x > d/a && tar czf d.tgz d && rm -r d && tar xzf d.tgz && cat d/a && tar cf - d | tar tf -
        gzip -k d/a && zcat d/a.gz && /usr/bin/python3 -m zipfile -c d.zip d && /usr/bin/python3 -m zipfile -l d.zip | cut -c1-10""",
    "searching": """
        mkdir -p s/t && echo needle > s/t/f && grep -rn needle . && find . -name f -exec cat {} + && find . -type f -print0 | xargs -0 wc -c
        find . -name f -delete && ls -R s; grep -rl nothing /etc/hosts; perl -ne 'print if /h/' <<< hay; awk 'END {print NR}' /etc/passwd > n""",
    "a server": """
        /usr/bin/python3 -u -m http.server --bind 127.0.0.1 0 > log 2>&1 & server=$!
        until grep -q Serving log; do sleep 0.05; done; p=$(sed 's/.*port \\([0-9]*\\).*/\\1/' log | head -1)
        echo page > index.html; curl -s http://127.0.0.1:$p/; curl -s http://localhost:$p/index.html; kill $server; wait $server; echo $?""",
    "what agents write": """
        mkdir -p ~/.claude/projects ~/.cache/x && echo '{}' > ~/.claude.json.tmp && mv ~/.claude.json.tmp ~/.claude.json
        echo x > ~/.claude/projects/x && rm ~/.claude/projects/x && cat ~/.claude.json; echo cached > ~/.cache/x/y && cat ~/.cache/x/y""",
}  # fmt: skip


@pytest.fixture
def folder(place: Place, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder in the project."""
    made = place.project / "work"
    made.mkdir()
    with zipfile.ZipFile(place.project / "hello-1.0-py3-none-any.whl", "w") as wheel:
        info = "hello-1.0.dist-info"
        wheel.writestr("hello.py", "def main():\n    print('hello from a wheel')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nhello = hello:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_work_simply_works(place: Place, folder: Path, port: int, name: str) -> None:
    """An ordinary program ends and prints as it does untagged, and nothing is on record against it."""
    for word in ("node", "npm", "gcc", "make", "curl"):
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
    "rm -rf elsewhere": ("rm -rf ../../other", "file/delete", "default-deny", "detected"),
    "rmtree elsewhere": (f"{PYTHON} 'import shutil; shutil.rmtree(\"../../other\")'", "file/delete", "default-deny", "detected"),
    "find -delete elsewhere": ("find ../../other -delete", "file/delete", "default-deny", "detected"),
    "mv elsewhere": ("mv ../../other/src/main.py .", "file/rename", "default-deny", "detected"),
    "chmod elsewhere": ("chmod 777 ../../other/src", "file/setattr", "default-deny", "detected"),
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
    """What works untagged is stopped, with one record that names it; what is detected loses one file at most."""
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
        (row,) = [row for row in records if f"{row['tool_name']}/{row['operation']}" == toolop]
        assert (row["event"], row["decision"], row["rule"]) == ("denied", "deny", rule)
        assert guarantee in (None, row["guarantee"])
        assert "SECRET" not in done.out + done.err and "WORKED" not in done.out
        after = contents(place.home)
        assert "evil" not in "".join(after.values())
        changed = [path for path in before if after.get(path) != before[path]]
        assert len(changed) <= (row["guarantee"] == "detected"), changed
    finally:
        shutil.rmtree(place.home / "other", ignore_errors=True)
        furnish(place.home)
        (place.home / ".ssh/authorized_keys").unlink(missing_ok=True)
