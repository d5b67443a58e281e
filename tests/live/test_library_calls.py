"""Library calls as tools: judged at the call by what they are told, in unmodified programs."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host, Workload
from tests.live.probes import Run, untagged
from tests.live.tls import CARD, TLS, Sink

pytestmark = pytest.mark.root

TOOLS = {"zlib": {"open": [{"call": {"library": "z", "function": "gzopen", "argument": 1, "as": "string"}}]}}
ASKED = [{"tool": "sqlite", "operations": ["destroy"]}, {"tool": "zlib"}]

# Argument 1: the database. It says what it has done; what came before a kill is on disk.
SQLITE = """
import sqlite3
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("create table if not exists kept (a)")
say("made " + str(db.execute("select count(*) from sqlite_master").fetchone()[0]))
say("attempt")
db.execute(sys.argv[2])
say("ok " + str(db.execute("select count(*) from sqlite_master").fetchone()[0]))
"""
# The same by ctypes, in one call of sqlite3_exec.
EXEC = """
library = ctypes.CDLL("libsqlite3.so.0")
db = ctypes.c_void_p()
assert library.sqlite3_open(sys.argv[1].encode(), ctypes.byref(db)) == 0
assert library.sqlite3_exec(db, b"create table kept (a)", None, None, None) == 0
say("attempt")
say(f"ok {library.sqlite3_exec(db, sys.argv[2].encode(), None, None, None)}")
"""
# The same by ctypes, which calls all functions of six arguments from one place (sqlite3_prepare_v2 takes five), with
# one buffer for two statements. sqlite3_get_table is not judged, and calls sqlite3_exec, which is.
BUFFER = """
library = ctypes.CDLL("libsqlite3.so.0")
db, table = ctypes.c_void_p(), ctypes.create_string_buffer(8)
assert library.sqlite3_open(sys.argv[1].encode(), ctypes.byref(db)) == 0
assert library.sqlite3_exec(db, b"create table kept (a)", None, None, None) == 0
text = ctypes.create_string_buffer(sys.argv[2].encode(), 100)
made = library.sqlite3_prepare_v2(db, text, -1, table, None, None)
say("prepared")
text.value = sys.argv[3].encode()
say("attempt")
made = library.sqlite3_get_table(db, text, table, None, None, None)
say(f"ok {made}")
"""
# zlib opens the file with its first system call behind the hold.
GZOPEN = """
library = ctypes.CDLL("libz.so.1")
say("attempt")
library.gzopen.restype = ctypes.c_void_p
say(f"ok {bool(library.gzopen(sys.argv[1].encode(), b'wb'))}")
say(f"there {os.path.exists(sys.argv[1])}")
"""
# A library whose only function connects. Arguments: it, a port of loopback.
FIRST_C = """
#include <sys/socket.h>
int first(const char *what, int fd, const void *to, unsigned int len) { return connect(fd, to, len); }
"""
FIRST = """
library, s = ctypes.CDLL(sys.argv[1]), socket.socket()
to = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(int(sys.argv[2])), socket.inet_aton("127.0.0.1"))
say("attempt")
say(f"ok {library.first(b'anything', s.fileno(), to, len(to))}")
"""
# The same, in a session with a terminal that is gone when argument 3 is there as a file: the kernel sends the session's
# leader SIGHUP and SIGCONT itself (drivers/tty/tty_jobctl.c, tty_signal_session_leader), and asks nobody.
HUNG_UP = (
    """
import fcntl, termios
master, slave = os.openpty()
leader = os.fork()
if leader:
    while not os.path.exists(sys.argv[3]):
        time.sleep(0.01)
    os.close(slave)
    os.close(master)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]) != 0)
os.setsid()
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
os.close(master)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGCONT, lambda *_: say("continued"))
"""
    + EXEC
)
# Argument 3: a Python expression of texts, each for one write of a connection that doesn't block; 4: it says when
# writes have been tried again that often; 5: connections, one behind the other.
UNBLOCKED = """
import mmap, select, ssl
context = ssl.create_default_context(cafile=sys.argv[2])
tried = 0
for _ in range(int(sys.argv[5])):
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    plain.connect(("127.0.0.1", int(sys.argv[1])))
    made = context.wrap_socket(plain, server_hostname="localhost")
    made.setblocking(False)
    for text in eval(sys.argv[3]):
        left = memoryview(text)
        while left:
            try:
                left = left[made.send(left):]
            except ssl.SSLWantWriteError:
                tried += 1
                if tried == int(sys.argv[4]):
                    say(f"tried {tried}")
                select.select([], [made], [], 0.02)
    made.setblocking(True)
    made.sendall(b"HTTP/1")
    answer = b""
    while not answer.endswith(b"\\r\\n\\r\\nthanks"):
        answer += made.recv(1000)
    made.close()
    del made
say("ok thanks")
"""


def stopped(workload: Workload) -> bool:
    """Is its first process in state T?"""
    return probes.state(workload.pid) == "T"


def switches(pid: int) -> str:
    """How often the process gave its processor up; a stop is once (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next(line for line in status.splitlines() if line.startswith("voluntary"))


def hung_up(host: Host, pid: int, gone: Path) -> None:
    """The terminal of HUNG_UP's leader goes away, which wakes the leader; it stops again."""
    host.until(lambda: probes.state(pid) == "T", "the stop")
    before = switches(pid)
    gone.touch()
    host.until(lambda: switches(pid) != before and probes.state(pid) == "T", "the second stop")


def waked_without_charge(host: Host, workload: Workload) -> None:
    """A SIGCONT while no set of programs is in charge; the process stops again, or has run on."""
    control, stops = host.engine.loaded.control, [switches(workload.pid)]
    host.until(lambda: stopped(workload), "the stop")
    control.epoch += 1
    try:
        os.kill(workload.pid, signal.SIGCONT)
        host.until(lambda: switches(workload.pid) not in stops and stopped(workload), "the second stop")
    finally:
        control.epoch -= 1


def opens_at_once(host: Host, made: Path) -> Run:
    """gzopen() of a new file, approved."""
    workload = host.start(probes.python(GZOPEN, made), "asking")
    host.answer(host.held(workload), True)
    run = workload.wait()
    assert run.lines == ["attempt", "ok True", "there True"] and not run.denials, run
    return run


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` may query and send; it may not destroy or tell personal data. `asking` must ask before it destroys."""
    allow = [{"tool": "sqlite", "operations": ["query"]}, {"tool": "tls", "operations": ["send"]}]
    agents = {
        "bot": harness.agent(allow=allow, on_violation="kill"),
        "asking": harness.agent(allow=allow, ask=ASKED, on_violation="kill"),
        "other": harness.agent(),
    }
    agents["asking"]["require_approval"].append({"tool": "first"})
    first = {"first": {"call": [{"call": {"library": "first", "function": "first", "argument": 1, "as": "string"}}]}}
    with harness.enforcing(tmp_path_factory.mktemp("calls"), agents, TOOLS | first) as host:
        compile_ = ["gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-o", host.folder / "libfirst.so", "-"]
        subprocess.run(compile_, input=FIRST_C.encode(), check=True)
        yield host


def test_a_statement_that_destroys_ends_the_program_before_it_is_made(live: Host, tmp_path: Path) -> None:
    """The table is there afterwards; untagged, and for an agent whose rules don't speak of SQLite, it is gone."""
    probe = probes.python(SQLITE, tmp_path / "a.db", "DROP/**/TABLE kept")
    run = live.run(probe)
    assert run.killed, run
    assert run.lines == ["made 1", "attempt"]
    (denial,) = run.denials
    assert (denial["tool_name"], denial["operation"], denial["guarantee"], denial["point"]) == (
        "sqlite", "destroy", "contained", "uprobe",
    )  # fmt: skip
    assert denial["object"].startswith("sqlite3:sqlite3_prepare_v")
    text = denial["metadata"]["text"]
    assert text["excerpt"] == "drop table kept"
    assert text["detectors"] == ["sql_destroy"]
    kept = subprocess.run(
        ["sqlite3", tmp_path / "a.db", "select name from sqlite_master"], capture_output=True, check=True
    )
    assert kept.stdout == b"kept\n"
    assert live.run(probe, "other").value == "0"
    assert untagged(probes.python(SQLITE, tmp_path / "b.db", "drop table kept")).value == "0"


@pytest.mark.parametrize(
    "statement", ["select 'drop table kept'", "insert into kept values ('; drop table kept')", "-- drop\nselect 1"]
)
def test_ordinary_statements_go_on(live: Host, tmp_path: Path, statement: str) -> None:
    """What only mentions a dangerous word is allowed, and counted."""
    assert live.run(probes.python(SQLITE, tmp_path / "a.db", statement)).value == "1"
    assert any(r["kernel_operation"] == "call" and r["tool_name"] == "sqlite" for r in live.counted("bot"))


def test_another_text_in_the_same_buffer(live: Host, tmp_path: Path) -> None:
    """What a judged call left behind on the stack doesn't make another statement a part of it."""
    run = live.run(probes.python(BUFFER, tmp_path / "a.db", "select 1", "drop table kept"))
    assert run.killed, run
    assert live.run(probes.python(BUFFER, tmp_path / "b.db", "select 1", "select 2")).value == "0"
    assert untagged(probes.python(BUFFER, tmp_path / "c.db", "select 1", "drop table kept")).value == "0"


def test_the_same_text_once_more_is_another_call(live: Host, tmp_path: Path) -> None:
    """An approval of one call is used up when it has returned, though the next has the same text, place and frame.
    Control: sqlite3_exec, which gives its text to sqlite3_prepare_v2, is asked about once.
    """
    drop = "drop table kept"
    workload = live.start(probes.python(BUFFER, tmp_path / "a.db", drop, drop), "asking")
    live.answer(live.held(workload), True)
    live.until(lambda: b"attempt" in workload.output or workload.ended, "the second call")
    live.answer(live.held(workload), False)
    run = workload.wait()
    assert run.killed and run.lines == ["prepared", "attempt"], run
    workload = live.start(probes.python(EXEC, tmp_path / "b.db", drop), "asking")
    live.answer(live.held(workload), True)
    run = workload.wait()
    assert run.value == "0" and len(run.of("approval_required")) == 1, run


def test_another_client_of_the_same_library(live: Host, tmp_path: Path) -> None:
    """The sqlite3 shell, several statements in one text, and a text of 10 KB."""
    base = tmp_path / "a.db"
    assert live.run(["sqlite3", base, "create table kept (a); select 7;"]).out == b"7\n"
    run = live.run(["sqlite3", base, f"select '{'x' * 10_000}' is null; drop table kept;"])
    assert run.killed, run
    assert live.run(["sqlite3", base, "select name from sqlite_master"]).out == b"kept\n"


def test_a_held_statement_is_made_when_it_is_approved(live: Host, tmp_path: Path) -> None:
    """Stopped at the call, whatever SIGCONT comes; the approval lets this very statement go on, a denial ends it."""
    for allow in (True, False):
        base = tmp_path / f"{allow}.db"
        workload = live.start(probes.python(SQLITE, base, "drop table kept"), "asking")
        asked = live.held(workload)
        assert "drop table kept" in asked["words"]
        for _ in range(5):
            time.sleep(0.02)  # two in one millisecond are a storm, and end it
            os.kill(workload.pid, signal.SIGCONT)
            live.until(functools.partial(stopped, workload), "the stop")
        assert b"ok" not in workload.output
        live.answer(asked, allow)
        run = workload.wait()
        assert (run.killed, "ok 0" in run.lines) == (not allow, allow), run


def test_a_held_statement_stays_held_when_the_kernel_wakes_its_process(live: Host, tmp_path: Path) -> None:
    """A terminal that is hung up sends SIGCONT to its session's leader, which runs nothing by it, no handler either."""
    for allow in (True, False):
        gone = tmp_path / f"gone-{allow}"
        workload = live.start(probes.python(HUNG_UP, tmp_path / f"{allow}.db", "drop table kept", gone), "asking")
        asked = live.held(workload)
        hung_up(live, asked["processes"][0], gone)
        assert workload.output.endswith(b"attempt\n"), workload.output
        live.answer(asked, allow)
        run = workload.wait()
        assert (run.status, "ok 0" in run.lines, "continued" in run.lines) == (int(not allow), allow, allow), run


@pytest.mark.leaves("descriptors", reason="the probes of a library that is mapped for the first time")
def test_the_first_thing_that_a_held_call_does_is_judged_as_always(live: Host, tmp_path: Path) -> None:
    """The system call behind an approved call may be one that is judged before its effect; it goes on."""
    opens_at_once(live, tmp_path / "a.gz")
    with socket.create_server(("127.0.0.1", 0)) as server:
        workload = live.start(probes.python(FIRST, live.folder / "libfirst.so", str(server.getsockname()[1])), "asking")
        live.answer(live.held(workload), True)
        run = workload.wait()
    assert run.value == "0" and not run.of("ended"), run


def test_a_held_statement_stays_held_while_other_programs_take_charge(live: Host, tmp_path: Path) -> None:
    """An agentd that takes over is in charge before it has set its own probes: a SIGCONT in between changes nothing."""
    workload = live.start(probes.python(SQLITE, tmp_path / "a.db", "drop table kept"), "asking")
    asked = live.held(workload)
    waked_without_charge(live, workload)
    assert b"ok" not in workload.output
    live.answer(asked, True)
    assert "ok 0" in workload.wait().lines


def test_personal_data_does_not_leave_through_tls(live: Host, sink: Sink) -> None:
    """Of a card's number nothing arrives at the server; other text does, and untagged the number too."""
    sink.got.clear()
    clean = live.run(probes.python(TLS, str(sink.port), sink.certificate, "pay with 4111 1111 1111 1112 now"))
    assert clean.value == "thanks", clean
    run = live.run(probes.python(TLS, str(sink.port), sink.certificate, CARD))
    assert run.killed, run
    (denial,) = run.denials
    assert (denial["tool_name"], denial["operation"]) == ("tls", "personal")
    assert "4111 1111" not in str(denial)  # four digits alone may be part of a time
    assert denial["metadata"]["text"]["detectors"] == ["card"]
    parts = CARD[:17], CARD[17:21], CARD[21:]
    run = live.run(probes.python(TLS, str(sink.port), sink.certificate, *parts))
    assert run.killed and [denial["operation"] for denial in run.denials] == ["personal"], run
    assert untagged(probes.python(TLS, str(sink.port), sink.certificate, CARD)).value == "thanks"
    live.until(lambda: len(sink.got) == 4, "the server")
    assert sorted(CARD.encode() in got for got in sink.got) == [False, False, False, True]


@pytest.mark.parametrize("client", ["curl", "node"])
def test_other_clients_of_tls(live: Host, sink: Sink, client: str) -> None:
    """curl over libssl, Node over the OpenSSL it is linked with: the text ends the program before it is sent."""
    url = f"https://localhost:{sink.port}/"
    script = (
        "const https=require('https');const r=https.request(process.argv[1],{method:'POST',"
        "ca:require('fs').readFileSync(process.argv[2])},s=>{console.log('ok');process.exit(0)});r.end(process.argv[3]);"
    )
    for text, sent in (("an ordinary order", True), (CARD, False)):
        sink.got.clear()
        if client == "curl":
            command = ["curl", "-sS", "--cacert", sink.certificate, "--data", text, url]
        else:
            command = ["node", "-e", script, url, str(sink.certificate), text]
        run = live.run(command)
        assert run.killed is not sent, run
        live.until(lambda: bool(sink.got), "the server")
        assert any(text.encode() in got for got in sink.got) is sent


def unblocked(sink: Sink, texts: str, *, tries: int = 0, connections: int = 1) -> list[str]:
    """The program that writes without blocking."""
    return probes.python(UNBLOCKED, str(sink.port), sink.certificate, texts, str(tries), str(connections))


@pytest.mark.parametrize("size", [50_000, 400_000])
def test_a_write_that_is_tried_again_is_judged_once(live: Host, sink: Sink, size: int) -> None:
    """OpenSSL wants the same text again while the other side doesn't read: its two addresses are two, however often. In
    three texts they are a list, and a card's number that begins in one text is found in the next.
    """
    sink.got.clear()
    text = f"b'a@b.cd, b@b.cd ' + b'x' * {size}"
    sink.reading.clear()
    try:
        workload = live.start(unblocked(sink, f"[b'y' * 400_000, {text}]", tries=8))
        live.until(lambda: b"tried 8" in workload.output, "eight tries")
    finally:
        sink.reading.set()
    run = workload.wait()
    assert run.value == "thanks", run
    live.until(lambda: bool(sink.got), "the server")
    assert sink.got == [b"y" * 400_000 + b"a@b.cd, b@b.cd " + b"x" * size + b"HTTP/1"]
    assert live.run(unblocked(sink, f"[{text}, b'1' + {text}, b'2' + {text}]")).killed
    assert live.run(unblocked(sink, f"[b'4111 1111', {text}, b' 1111 1111']")).value == "thanks"
    assert live.run(unblocked(sink, f"[{text} + b' 4111 1111', b' 1111 1111 ']")).killed


def test_a_connection_that_gets_the_handle_of_another_begins_anew(live: Host, sink: Sink) -> None:
    """Six connections one behind the other with an address each are six texts; six writes to one are a list."""
    assert live.run(unblocked(sink, "[b' a@b.cd ']", connections=6)).value == "thanks"
    assert live.run(unblocked(sink, "[b' a@b.cd '] * 6")).killed


def test_texts_of_any_length_are_judged(live: Host, sink: Sink) -> None:
    """Five million bytes in one write, and memory that nobody has touched yet; a card's number at the end is found."""
    for text in ("b'x' * 5_000_000", "mmap.mmap(-1, 20_000)"):
        assert live.run(unblocked(sink, f"[{text}]")).value == "thanks", text
        assert live.run(unblocked(sink, f"[{text}, b' 4111 1111', b' 1111 1111 ']")).killed, text
    assert live.run(unblocked(sink, "[b'x' * 5_000_000 + b' 4111 1111 1111 1111 ']")).killed
