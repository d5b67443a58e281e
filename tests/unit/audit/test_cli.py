"""`agentd audit`, as a person and as a script use it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentd.audit import chain, record
from agentd.cli.audit import audit
from agentd.errors import AgentdError
from agentd.model import Op
from tests.unit.audit.samples import denied, make, opened

HOSTILE = b"/srv/\x1b]0;owned\x07\x1b[2J\xff\xe2\x80\xae"
MAIN = [sys.executable, "-c", "from agentd.cli.audit import audit; audit()"]

SIGINT_AGAIN = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(arg) for arg in args])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 20 records."""
    return make(tmp_path / "audit.jsonl", 20)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A log whose one record tries to take over the terminal."""
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    evil = HOSTILE.decode("utf-8", "surrogateescape")
    summary = record.summarize(Op.READ, HOSTILE)
    writer.append([denied(object=HOSTILE, agent_id=evil, reason=evil, input_summary=summary)])
    writer.close()
    return path


def test_verify_says_what_it_checked(log: Path) -> None:
    """A good log exits 0 and prints the head to note, for the file and for its directory."""
    for path in (log, log.parent):
        result = run("verify", path)
        assert result.exit_code == 0
        assert ": ok\n" in result.stdout
        assert "NOT checked: records cut off at the end" in result.stdout


def test_verify_names_the_first_bad_place(log: Path) -> None:
    """A changed log exits 1 with the line, the number and the byte."""
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:6], lines[6].replace(b"bot", b"bat"), *lines[7:]]))
    result = run("verify", log)
    assert result.exit_code == 1
    assert f"line 7, seq 7, byte {sum(map(len, lines[:6]))}: changed" in result.stdout
    shown = json.loads(run("verify", "--json", log).stdout)
    assert (shown["ok"], shown["bad"]["line"], shown["records"]) == (False, 7, 6)


def test_verify_takes_a_noted_head(log: Path) -> None:
    """With the head noted before, a log cut at its end exits 1; untouched it exits 0."""
    lines = log.read_bytes().splitlines(keepends=True)
    head = json.loads(lines[-1])["hash"]
    assert run("verify", log, "--head", head, "--count", 20, "--strict").exit_code == 0
    log.write_bytes(b"".join(lines[:-1]))
    assert run("verify", log).exit_code == 0
    assert run("verify", log, "--head", head).exit_code == 1
    assert run("verify", log, "--count", 20).exit_code == 1


@pytest.mark.parametrize("args", [["verify"], ["verify", "x", "--head", "ABC"], ["show"], ["show", "0"], ["tail", "-n", "x"]])  # fmt: skip  # noqa: E501
def test_bad_usage_exits_2(args: list[str]) -> None:
    """Wrong arguments exit 2."""
    assert run(*args).exit_code == 2


@pytest.mark.parametrize("command", [["verify"], ["tail"], ["show", "1"]])
def test_a_missing_log_exits_2(tmp_path: Path, command: list[str]) -> None:
    """A log that isn't there is one line and exit code 2."""
    result = run(*command, tmp_path / "none")
    assert isinstance(result.exception, AgentdError)
    assert result.exception.exit_code == 2
    assert "No such file" in str(result.exception)


def test_tail_shows_the_last_records(log: Path) -> None:
    """tail prints the last records, oldest first, one a line with tabs in a pipe."""
    lines = run("tail", "-n", 3, log).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["18", "19", "20"]
    assert lines[1].split("\t")[2:5] == ["allowed", "research_bot", "-"]
    assert lines[1].endswith("\t-\t-\t-")


def test_tail_filters(log: Path) -> None:
    """Filters choose before counting."""
    found = [
        json.loads(line) for line in run("tail", "-n", 4, "--decision", "allow", "--json", log).stdout.splitlines()
    ]
    assert [record["seq"] for record in found] == [10, 13, 16, 19]
    assert run("tail", "--agent", "nobody", log).stdout == ""


@pytest.mark.parametrize("seq", [1, 2, 11, 20])
def test_show_finds_a_record(log: Path, seq: int) -> None:
    """show prints every member of the record with that number, and --json the record itself."""
    assert ["seq", str(seq)] in [line.split() for line in run("show", seq, log).stdout.splitlines()]
    shown = json.loads(run("show", seq, "--json", log).stdout)
    assert shown == json.loads(log.read_bytes().splitlines()[seq - 1])


def test_show_of_a_missing_record_is_an_error(log: Path) -> None:
    """A number that isn't in the log is an error, not an empty answer."""
    assert isinstance(run("show", 21, log).exception, AgentdError)


def test_show_warns_of_a_damaged_record(log: Path) -> None:
    """A record whose hash doesn't fit is shown with a warning; an intact one without."""
    assert run("show", 3, log).stderr == ""
    log.write_bytes(log.read_bytes().replace(b"action-2", b"action-x"))
    assert "hash doesn't fit" in run("show", 3, log).stderr


@pytest.mark.parametrize("command", [["tail"], ["tail", "--json"], ["show", "1"], ["show", "1", "--json"]])
def test_nothing_hostile_reaches_the_terminal(hostile: Path, command: list[str]) -> None:
    """Escape sequences, bidirectional marks and raw bytes of a record come out as escapes."""
    out = run(*command, hostile).stdout
    assert all(line.replace("\t", "").isprintable() for line in out.splitlines())
    assert "owned" in out


def test_on_a_terminal_it_is_a_table(hostile: Path) -> None:
    """On a terminal tail prints a table with headings, and still nothing hostile."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*MAIN, "tail", str(hostile)], stdout=slave, stdin=slave, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(slave)
        out = b""
        try:
            while data := os.read(master, 4096):
                out += data
        except OSError:  # the terminal's other end is closed
            pass
    os.close(master)
    assert b"event" in out
    assert b"\x1b]" not in out
    assert b"\x07" not in out
    assert b"\x1b[2J" not in out


def test_a_long_verification_shows_progress(log: Path) -> None:
    """Verifying shows a bar when it takes long and somebody is watching, and none otherwise."""
    code = "import agentd.cli.audit as it, agentd.cli.progress as bar; bar.PROGRESS_AFTER = {}; it.audit()"
    for after, shown in ((0, True), (60, False)):
        master, slave = pty.openpty()
        command = [sys.executable, "-c", code.format(after), "verify", str(log)]
        environment = {**os.environ, "TERM": "xterm"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, env=environment, check=True)
        os.write(slave, b".")  # so that there is something to read
        out = os.read(master, 1 << 16)
        os.close(slave)
        os.close(master)
        assert (b"verifying" in out) == shown
        assert b": ok\n" in done.stdout


def test_unreadable_lines_are_shown(log: Path) -> None:
    """A damaged line is shown as unreadable, not skipped."""
    with log.open("ab") as file:
        file.write(b"\x1bjunk\n[1]\n")
    lines = run("tail", "-n", 3, log).stdout.splitlines()
    assert "unreadable" in lines[1]
    assert "\\x1bjunk" in lines[1]


def test_show_survives_damaged_lines(log: Path) -> None:
    """A record is found by number although lines before it are damaged."""
    log.write_bytes(b"junk\n" * 30 + log.read_bytes())
    assert json.loads(run("show", 5, "--json", log).stdout)["seq"] == 5


def test_follow_shows_what_is_written_and_what_replaces_it(log: Path) -> None:
    """tail -f prints records as they are committed, goes on with a new log, and ends quietly when interrupted."""
    command = [*MAIN, "tail", "-n", "1", "-f", "--json", str(log)]
    # a job in the background of a script ignores SIGINT, and its children with it
    command = [sys.executable, "-c", SIGINT_AGAIN, *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["seq"] == 20
        make(log, 2)
        assert [json.loads(child.stdout.readline())["seq"] for _ in range(2)] == [21, 22]
        log.unlink()
        make(log, 1)
        assert json.loads(child.stdout.readline())["seq"] == 1
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert child.returncode == 0


def test_an_empty_log_shows_nothing(tmp_path: Path) -> None:
    """An empty log verifies and has no records to show."""
    path = tmp_path / "audit.jsonl"
    path.touch()
    assert run("tail", path).stdout == ""
    assert chain.GENESIS in run("verify", path).stdout
    assert isinstance(run("show", 1, path).exception, AgentdError)
