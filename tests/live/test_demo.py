"""`agentd demo` as a user runs it: the whole story, in a pipe and on a terminal, and when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.audit import verify

PINS = Path("/sys/fs/bpf/agentd-run")
COMMAND = [sys.executable, "-m", "agentd", "demo"]
# As the packages start it: isolated, and where it lies is known to the launcher alone.
PACKAGED = [
    "/usr/bin/python3", "-IS", "-c",
    f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; from agentd.__main__ import main; main()",
    "demo",
]  # fmt: skip
LET_RM_THROUGH = """
import sys
from agentd.demo import stage, story
story.PATIENCE = 2.0
write = stage.Stage.write_policy
def weaker(self, servers):
    path = write(self, servers)
    text = path.read_text().replace('operations: ["rm", "delete"]', 'operations: ["delete"]')
    more = 'operations: ["execute", "rm"]\\n      - {tool: file}\\n      - {tool: file_reader}'
    path.write_text(text.replace('operations: ["execute"]', more))
    return path
stage.Stage.write_policy = weaker
from agentd.cli import main
main(["demo", *sys.argv[1:]])
"""


def environment(folder: Path) -> dict[str, str]:
    """What is left behind in TMPDIR is easy to see."""
    return {**os.environ, "TMPDIR": str(folder)}


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.root
def test_the_story_goes_as_it_should(tmp_path: Path, scratch: Path) -> None:
    """In a pipe the demo prints plain text, finds every step as it should be, and leaves the audit log only."""
    before = set(os.listdir(PINS)) if PINS.is_dir() else set()
    done = subprocess.run(
        [*COMMAND, "--state", str(tmp_path / "state")],
        capture_output=True, text=True, env=environment(scratch), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert " BAD " not in done.stdout
    assert re.findall(r"^\[(\d)\]", done.stdout, re.MULTILINE) == list("123456")
    assert left(scratch) == []
    assert "audit.jsonl" in left(tmp_path / "state")
    if PINS.is_dir():
        assert not {name for name in os.listdir(PINS) if name not in before and _gone(name)}
    log = tmp_path / "state" / "audit.jsonl"
    assert verify.verify(log).ok
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [
        (row["event"], row["tool_name"]) for row in rows if row["event"] in ("denied", "approved", "approval_denied")
    ] == [
        ("approved", "email"),
        ("approval_denied", "email"),
        ("denied", "shell"),
        ("denied", "secrets"),
        ("denied", "network"),
    ]


def _gone(name: str) -> bool:
    return not Path(f"/proc/{name.partition('-')[0]}").exists()


@pytest.mark.root
def test_the_story_on_a_terminal_has_colours(tmp_path: Path, scratch: Path) -> None:
    """On a terminal the demo colours what it says and draws the audit trail."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, "--state", str(tmp_path / "state")],
            stdin=theirs, stdout=theirs, stderr=theirs, env={**environment(scratch), "TERM": "xterm-256color"},
        )  # fmt: skip
    finally:
        os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:
        pass  # the other end of the terminal is closed: the program has ended
    finally:
        os.close(ours)
    text = shown.decode()
    assert process.wait() == 0, text
    assert "\x1b[1m" in text and "\x1b[32m" in text and "┃" in text


@pytest.mark.root
def test_a_step_that_goes_wrong_fails_the_demo(tmp_path: Path, scratch: Path) -> None:
    """With a policy that lets rm through, the demo sees that the files are gone, says so and exits with 1."""
    done = subprocess.run(
        [sys.executable, "-c", LET_RM_THROUGH, "--state", str(tmp_path / "state")],
        capture_output=True, text=True, env=environment(scratch), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BAD proof    0 of 6 files are there" in done.stdout
    assert "NOT everything went as it should" in done.stdout
    assert left(scratch) == []


@pytest.mark.root
def test_the_demo_needs_root(tmp_path: Path) -> None:
    """Without root the demo says so in one line, and starts nothing."""
    code = "import os, sys; os.setgid(65534); os.setuid(65534); from agentd.cli import main; main(['demo'])"
    done = subprocess.run([sys.executable, "-c", f"import agentd.cli.demo, agentd.kernel.features; {code}"],
                          capture_output=True, text=True, cwd="/", env=environment(tmp_path))  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "") or (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("agentd: ") and "root" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.root
def test_a_relative_place_for_the_log_is_below_where_the_demo_was_started(tmp_path: Path, scratch: Path) -> None:
    """--state is taken from the caller's directory, not from the agent's; by a launcher as the packages have it."""
    done = subprocess.run([*PACKAGED, "--state", "here"], capture_output=True, text=True, cwd=tmp_path,
                          env=environment(scratch))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "here/audit.jsonl").exists()


@pytest.mark.root
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    """Interrupted while its agent is held, the demo ends the agent and cleans up."""
    process = subprocess.Popen([*COMMAND, "--state", str(tmp_path / "state")], stdout=subprocess.PIPE, text=True,
                               env=environment(scratch))  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2]"):
            process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait() != 0
    assert left(scratch) == []


@pytest.mark.root
def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path, scratch: Path) -> None:
    """With no place for the log, the demo says in one line what the matter is, and leaves nothing."""
    (tmp_path / "file").write_text("")
    done = subprocess.run([*COMMAND, "--state", str(tmp_path / "file")],
                          capture_output=True, text=True, env=environment(scratch))  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.startswith("agentd: ") and done.stderr.count("\n") == 1, done.stderr
    assert left(scratch) == []
