"""Ordinary programs of a coding agent, traced for real: nothing they do may be denied by the coding-agent policy.

On a host without BPF LSM a denied open ends the process, so a rule that is a little too narrow is an agent that dies.
What each program opens, runs and changes is read from strace and put to `decide`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.engine.resolvers import read_resolv_conf
from agentd.kernel.hosts import Resolver
from agentd.model import Decision, Endpoint, Op
from agentd.policy import resolve
from agentd.policy.evaluate import decide
from agentd.policy.hosts import RESOLVERS
from agentd.policy.resolve import ResolvedAgent
from agentd.resources import policies_dir

CALLS = (
    "open,openat,creat,execve,unlink,unlinkat,rmdir,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,"
    "mkdirat,chmod,fchmodat,chown,lchown,fchownat,utimensat,truncate,connect,bind,ptrace,unshare,setns,mount,bpf,"
    "io_uring_setup,perf_event_open,userfaultfd,chroot"
)
FORBIDDEN = {"ptrace", "unshare", "setns", "mount", "bpf", "io_uring_setup", "perf_event_open", "userfaultfd", "chroot"}
PATH_CALLS = {
    "unlink": Op.DELETE, "unlinkat": Op.DELETE, "rmdir": Op.DELETE, "rename": Op.RENAME, "renameat": Op.RENAME,
    "renameat2": Op.RENAME, "link": Op.LINK, "linkat": Op.LINK, "symlink": Op.CREATE, "symlinkat": Op.CREATE,
    "mkdir": Op.CREATE, "mkdirat": Op.CREATE, "chmod": Op.SETATTR, "fchmodat": Op.SETATTR, "chown": Op.SETATTR,
    "lchown": Op.SETATTR, "fchownat": Op.SETATTR, "utimensat": Op.SETATTR, "truncate": Op.WRITE,
}  # fmt: skip

RESOLVERS_HERE = read_resolv_conf(Path("/etc/resolv.conf").read_text())
LINE = re.compile(r"^(?:\d+\s+)?(?P<call>\w+)\((?P<args>.*)\)\s+= (?P<result>-?\d+|\?)(?:<(?P<path>.*?)>)?")
STRING = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<dir>[^>]*)>, )?"(?P<text>(?:[^"\\]|\\.)*)"')
INET = re.compile(r'sin6?_port=htons\((?P<port>\d+)\).*?"(?P<address>[0-9a-f.:]+)"')

PROGRAMS = {
    "git": "git init -q r && cd r && git config user.email a@example.org && git config user.name a && echo x > f && "
    "git add f && git commit -qm x && git status && git log && git diff && git clone -q . inner && git stash list",
    "make and gcc": "printf 'int main(void){return 0;}' > m.c && "
    "printf 'm: m.c\\n\\tgcc -o m m.c\\n\\t./m\\n' > Makefile && make",
    "python": f'{sys.executable} -c \'import json, ssl, sqlite3, urllib.request; open("o", "w").write("x")\'',
    "pytest": f"echo 'def test_a(): assert 1' > test_a.py && {sys.executable} -m pytest -q test_a.py",
    "pip": f"{sys.executable} -m pip --version && {sys.executable} -m pip install --no-index no-such-name; true",
    "venv": "/usr/bin/python3 -m venv --without-pip v && v/bin/python -c 'import venv'",
    "node": 'node -e \'require("fs").writeFileSync("o", "x")\'',
    "npm": 'mkdir dep && echo \'{"name": "dep", "version": "1.0.0"}\' > dep/package.json && '
    'echo \'{"name": "x", "version": "1.0.0"}\' > package.json && npm install --offline --no-audit ./dep',
    "curl": "curl -s --max-time 2 http://127.0.0.1:9/; true",
    "shell": "bash -lc 'ls -la ~ / > l; sort l | head -1; mktemp; uname -a; id; date; tar czf a.tgz l; tar xzf a.tgz; "
    "sed -i s/x/y/ l; awk 1 l; find . -name x; rm -rf l a.tgz'",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with nothing in it, like a fresh user's."""
    return tmp_path_factory.mktemp("home")


def questions(log: str, cwd: str) -> Iterator[tuple[Op, bytes | Endpoint, list[bytes], str]]:
    """The kernel operations that succeeded in a trace, each with the line it was read from."""
    for line in log.splitlines():
        match = LINE.match(line)
        if match is None or match["result"].startswith(("-", "?")):
            continue
        call, args = match["call"], match["args"]
        assert call not in FORBIDDEN, f"the program makes a call that the policy denies: {line}"
        strings = [(found["dir"], found["text"]) for found in STRING.finditer(args)]
        if call in ("open", "openat", "creat"):
            path = (match["path"] or "").removesuffix("(deleted)").encode()
            if not path.startswith(b"/"):
                continue
            write = call == "creat" or "O_WRONLY" in args or "O_RDWR" in args
            if "O_RDWR" in args or not write:
                yield Op.READ, path, [], line
            if write:
                yield Op.WRITE, path, [], line
                if "O_CREAT" in args:
                    yield Op.CREATE, path, [], line
        elif call == "execve":
            argv = [text.encode() for _, text in strings[1:]]
            yield Op.EXEC, os.path.realpath(os.path.join(cwd, strings[0][1])).encode(), argv, line
        elif call in ("connect", "bind"):
            inet = INET.search(args)
            if inet is not None:
                family = socket.AF_INET6 if ":" in inet["address"] else socket.AF_INET
                place = Resolver(socket.inet_pton(family, inet["address"]), int(inet["port"]))
                asks = place in RESOLVERS_HERE  # over UDP; the trace doesn't tell, and TCP would be denied
                how = ("udp", (RESOLVERS,)) if asks else ("tcp", ())
                yield Op[call.upper()], Endpoint(place.address, place.port, *how), [], line
        elif call in PATH_CALLS:
            changed = strings[1:] if call.startswith("symlink") else strings
            for folder, text in changed:
                joined = os.path.join(folder or cwd, text)
                parent, name = os.path.split(joined.rstrip("/"))
                yield PATH_CALLS[call], os.path.join(os.path.realpath(parent), name).encode(), [], line


def refused(agent: ResolvedAgent, log: str, cwd: str) -> list[str]:
    found: dict[str, None] = {}
    for op, obj, argv, line in questions(log, cwd):
        outcome = decide(agent, op, obj, argv)
        if outcome.decision is not Decision.ALLOW:
            tool, operation = agent.toolops[outcome.toolop]
            found[f"{op.word} {obj!r} is {tool}/{operation}: {line[:160]}"] = None
    return list(found)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_ordinary_program_is_left_alone(name: str, tmp_path: Path, home: Path) -> None:
    """Whatever an ordinary program opens, runs or changes in a workspace is allowed by coding-agent."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    for word in ("git", "gcc", "make", "node", "npm", "curl", "bash"):
        if re.search(rf"\b{word}\b", name) and shutil.which(word) is None:
            pytest.skip(f"needs {word}")
    log = tmp_path / "trace.log"
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
    if sys.executable in PROGRAMS[name]:
        # This interpreter stands outside the workspace, where the policy lets nobody write byte code: an installed one
        # has it already, so this one gets it before the trace.
        once = tmp_path / "once"
        once.mkdir()
        subprocess.run(
            ["sh", "-c", PROGRAMS[name]], cwd=once, env=environment, capture_output=True, timeout=300, check=True
        )
    done = subprocess.run(
        ["strace", "-f", "-qq", "-y", "-s", "400", "-e", f"trace={CALLS}", "-o", log, "sh", "-c", PROGRAMS[name]],
        cwd=work, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the program itself failed, so its trace proves nothing: {done.stderr[-2000:]}"
    trace = log.read_text(errors="replace")
    # The test's folders stand for a real home and workspace.
    for folder, meant in ((str(home), "/home/somebody"), (str(work), "/home/somebody/work")):
        trace = trace.replace(folder, meant)
    agent = resolve.load(policies_dir() / "coding-agent.yaml", workspace="/home/somebody/work").agents["coding-agent"]
    assert "/home/somebody/work" in trace
    assert refused(agent, trace, "/home/somebody/work") == []


def test_the_trace_reader_sees_what_is_denied() -> None:
    """A trace with forbidden operations is found out, line by line."""
    agent = resolve.load(policies_dir() / "coding-agent.yaml", workspace="/w").agents["coding-agent"]
    trace = "\n".join(
        [
            '7 openat(AT_FDCWD</w>, "/etc/shadow", O_RDONLY) = 3</etc/shadow>',
            '7 openat(AT_FDCWD</w>, "x", O_WRONLY|O_CREAT, 0666) = 3</home/a/.bashrc>',
            '7 unlink("/usr/bin/ls") = 0',
            '7 connect(3, {sa_family=AF_INET, sin_port=htons(25), sin_addr=inet_addr("192.0.2.1")}, 16) = 0',
            '7 execve("/nowhere/sudo", ["sudo", "id"], 0x7ffc) = 0',
            '7 openat(AT_FDCWD</w>, "ok", O_WRONLY|O_CREAT, 0666) = 3</w/ok>',
        ]
    )
    assert [line.split(":")[0].split(" is ")[1] for line in refused(agent, trace, "/w")] == [
        "secrets/read",
        "persistence/write",
        "persistence/write",
        "file/delete",
        "email/send",
        "privilege/escalate",
    ]
