"""Changes of files by a command that agentd starts, on hosts without LSM hooks: judged by the supervisor of its seccomp
filter before they happen, and carried out by it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.daemon.host import collect_stale_runs
from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Run, untagged
from tests.live.test_files_change import CHANGES, lay, looks

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it happens."""
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """An agent that may change anything but what is below `kept`."""
    deny: list[dict[str, Any]] = [{"tool": tool, "paths": [f"{folder}/kept/**"]} for tool in ("file_writer", "file")]
    deny.append({"tool": "host", "operations": ["mount", "namespace"]})
    ask = [{"tool": "file", "operations": ["delete"], "paths": [f"{folder}/ask/**"]}]
    with harness.enforcing(folder, {"bot": harness.agent(deny=deny, ask=ask)}) as host:
        if not host.engine.supervises:
            pytest.skip("there are LSM hooks on this host: nothing is supervised")
        yield host


# In the code: attempt() and say() of every probe, P the denied folder, F the free one, D a descriptor of P.
def program(folder: Path, denied: str, code: str) -> list[str]:
    setup = f"P = {os.fsencode(folder / denied)!r}; F = {os.fsencode(folder / 'free')!r}\nos.chdir(P)\n"
    return probes.python(f"{setup}D = os.open(P, os.O_PATH)\n{code}\nsay('after')")


def outcomes(run: Run) -> list[str]:
    """What each attempt came to."""
    assert run.status == 0 and run.lines[-1] == "after", run
    return [line for line in run.lines if line.startswith(("ok", "errno"))]


JUDGED = {name: change for name, change in CHANGES.items() if change[1] is not None}


def test_no_forbidden_change_happens_and_the_program_goes_on(live: Host, folder: Path) -> None:
    """Each denied change fails with EPERM, changes nothing and is on record, prevented by seccomp."""
    lay(folder)
    os.setxattr(folder / "kept/file", "user.there", b"x")
    before = looks(folder / "kept")
    code = "\n".join(f"say({name!r}); attempt(lambda: {change[0]})" for name, change in JUDGED.items())
    run = live.run(program(folder, "kept", code), seccomp=True)
    assert outcomes(run) == [f"errno {errno.EPERM}"] * len(JUDGED)
    assert looks(folder / "kept") == before
    told = [(r["kernel_operation"], r["object"], r["point"], r["guarantee"], r["action"]) for r in run.denials]
    assert told == [
        (operation, str(folder / "kept" / str(target)), "seccomp", "prevented", "deny")
        for _, operation, target in JUDGED.values()
    ]


def test_the_same_changes_where_they_are_allowed(live: Host, folder: Path) -> None:
    """Every one of these calls does under the supervisor what it does without."""
    results: list[list[str]] = []
    for tagged in (False, True):
        lay(folder)
        code = [f"import shutil; G = {os.fsencode(folder / 'open')!r}"]
        for name, change in CHANGES.items():
            code.append(
                "os.chdir(F); os.close(D); shutil.rmtree(G, ignore_errors=True); os.mkdir(G); os.mkdir(G + b'/below');"
                "open(G + b'/file', 'w').write('text'); os.symlink('file', G + b'/link');"
                "os.setxattr(G + b'/file', 'user.there', b'x'); P = G; os.chdir(P); D = os.open(P, os.O_PATH);"
                "shutil.rmtree(F, ignore_errors=True); os.mkdir(F); open(F + b'/file', 'w').write('text');"
                "os.symlink(P, F + b'/into')\n"
                f"say({name!r}); attempt(lambda: {change[0].replace('/kept', '/open')})\n"
                "say(str(sorted((n, s.st_mode, s.st_uid, s.st_size, s.st_nlink) for n, s in"
                " ((n, os.lstat(P + b'/' + n)) for n in os.listdir(P)))) if os.path.isdir(P) else 'gone')"
            )
        (folder / "open").mkdir(exist_ok=True)
        command = program(folder, "open", "\n".join(code))
        run = live.run(command, seccomp=True) if tagged else untagged(command)
        assert run.status == 0 and not run.denials, run
        results.append([line.partition(" ")[0] if line.startswith("ok") else line for line in run.lines])
        shutil.rmtree(folder / "open")
    assert results[0] == results[1]
    assert results[1].count("ok") == len(CHANGES), results[1]


@pytest.fixture
def asked(folder: Path) -> Path:
    """A file that may be deleted if somebody says so."""
    (folder / "ask").mkdir(exist_ok=True)
    file = folder / "ask/file"
    file.write_text("asked about")
    return file


def remover(file: Path) -> list[str]:
    return probes.python(f"attempt(lambda: os.unlink({str(file)!r})); say('after')")


@pytest.mark.parametrize("allow", [True, False])
def test_a_held_change_waits_for_its_answer(live: Host, asked: Path, allow: bool) -> None:
    """Nothing has happened while it waits; a yes carries it out, a no is EPERM."""
    workload = live.start(remover(asked), seccomp=True)
    approval = live.held(workload)
    assert (approval["kernel_operation"], approval["object"]) == ("delete", str(asked))
    assert (approval["point"], approval["guarantee"]) == ("seccomp", "prevented")
    assert asked.exists() and not workload.ended
    live.answer(approval, allow)
    run = workload.wait()
    assert outcomes(run) == ["ok None" if allow else f"errno {errno.EPERM}"]
    assert asked.exists() is not allow
    kinds = [r["event"] for r in run.records if r["kernel_operation"] == "delete"]
    assert kinds == ["approval_required", "approved", "allowed"] if allow else ["approval_required", "approval_denied"]


def test_many_threads_ask_one_question(live: Host, asked: Path) -> None:
    """Twenty threads that want the same are one question, and one answer serves them all."""
    code = f"""
done = []
def remove():
    try:
        os.unlink({str(asked)!r}); done.append(0)
    except OSError as error:
        done.append(error.errno)
threads = [threading.Thread(target=remove) for _ in range(20)]
attempt(lambda: [t.start() for t in threads] and [t.join() for t in threads] and None)
say(str(sorted(done))); say('after')
"""
    workload = live.start(probes.python(code), seccomp=True)
    approval = live.held(workload)
    live.until(lambda: live.pending()[0]["waiting_threads"] == 20, "twenty threads")
    assert len(live.pending()) == 1
    live.answer(approval, True)
    run = workload.wait()
    assert run.lines[-2] == str([0] + [errno.ENOENT] * 19), run


def test_an_approval_is_for_the_file_that_was_asked_about(live: Host, folder: Path, asked: Path) -> None:
    """Another file in its place is another question, and the approval of the first does nothing."""
    workload = live.start(remover(asked), seccomp=True)
    approval = live.held(workload)
    (folder / "other").write_text("another")
    (folder / "other").rename(asked)
    live.answer(approval, True)
    again = live.held(workload)
    assert again["id"] != approval["id"] and asked.read_text() == "another"
    live.answer(again, False)
    assert outcomes(workload.wait()) == [f"errno {errno.EPERM}"]
    assert asked.exists()


def test_a_held_process_that_is_killed_is_asked_about_no_more(live: Host, asked: Path) -> None:
    """Its question ends, and its file stays."""
    workload = live.start(remover(asked), seccomp=True)
    live.held(workload)
    workload.kill()
    live.until(lambda: not live.pending(), "the end of the question")
    workload.wait()
    assert asked.exists()


def test_a_signal_does_not_end_a_call_that_waits(live: Host, asked: Path) -> None:
    """A handler runs when the held call has come to its end, which it does as if there had been no signal."""
    code = f"""
signal.signal(signal.SIGUSR1, lambda *_: say('handled'))
def remove():
    try:
        os.unlink({str(asked)!r})
        say('removed')
    except OSError as error:
        say(f'errno {{error.errno}}')
attempt(remove); say('after')
"""
    workload = live.start(probes.python(code), seccomp=True)
    approval = live.held(workload)
    for _ in range(20):
        os.kill(workload.pid, 10)
    live.answer(approval, True)
    run = workload.wait()
    assert run.lines == ["attempt", "removed", "handled", "ok None", "after"] or run.lines.count("handled") == 1, run
    assert "removed" in run.lines and not asked.exists()


def test_with_agentd_dead_nothing_is_changed(asked: Path, folder: Path) -> None:
    """Killed, it leaves callers EPERM, those that wait and those that come: never success."""
    free, go = folder / "free-for-all", folder / "go"
    free.write_text("free")
    policy = folder / "dead.yaml"
    ask = [{"tool": "file", "operations": ["delete"], "paths": [str(asked)]}]
    policy.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": harness.agent(ask=ask)}}), encoding="utf-8")
    code = f"""
def waits():
    try:
        os.unlink({str(asked)!r}); say('removed')
    except OSError as error:
        say(f'waited {{error.errno}}')
thread = threading.Thread(target=waits); thread.start()
while not os.path.exists({str(go)!r}): time.sleep(0.02)
thread.join()
attempt(lambda: os.unlink({str(free)!r})); attempt(lambda: os.mkdir({str(folder / "made")!r}))
attempt(lambda: os.open({str(free)!r}, os.O_WRONLY) and 0); attempt(lambda: len(open({str(free)!r}).read()))
"""
    words = ["run", "--agent", "bot", "--policy", policy, "--state", folder / "dead", "--", *probes.python(code)]
    run = subprocess.Popen([sys.executable, "-m", "agentd", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout and run.stderr
    with run.stdout, run.stderr:
        said = run.stderr.readline()
        while b"held:" not in said:
            assert said, "it ended without a question"
            said = run.stderr.readline()
        run.kill()
        run.wait()
        go.touch()
        lines = run.stdout.read().decode().split("\n")
    assert lines[0] == f"waited {errno.EPERM}"
    assert [line for line in lines[1:-1] if line != "attempt"] == [f"errno {errno.EPERM}"] * 3 + ["ok 4"]
    assert asked.exists() and free.exists() and not (folder / "made").exists()
    collect_stale_runs()


def test_thousands_of_files_leave_nothing_behind(live: Host, folder: Path) -> None:
    """What is created and removed comes out right, and neither side keeps a descriptor or a thread."""
    code = f"""
os.mkdir({str(folder / "many")!r}); os.chdir({str(folder / "many")!r})
before = len(os.listdir('/proc/self/fd'))
for i in range(3000):
    fd = os.open(f'f{{i}}', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b'%d' % i); assert os.pread(fd, 9, 0) == b'%d' % i; os.close(fd); os.unlink(f'f{{i}}')
say(f"{{len(os.listdir('/proc/self/fd')) - before}} {{os.listdir('.')}}")
"""
    before, calls = len(os.listdir("/proc/self/fd")), live.engine.supervision.calls
    workload = live.start(probes.python(code), seccomp=True)
    live.until(lambda: live.engine.supervision.calls > calls + 1000, "a thousand calls")
    during = len(os.listdir("/proc/self/fd"))
    run = workload.wait()
    assert run.lines == ["0 []"] and not run.denials, run
    assert len(os.listdir("/proc/self/fd")) <= before < during < before + 100
    mine = [r for r in live.counted("bot") if "/many/f" in str(r["object"]) and r["point"] == "seccomp"]
    counts = Counter(r["kernel_operation"] for r in mine for _ in range(r["count"]))
    assert counts == {"create": 3000, "write": 3000, "read": 3000, "delete": 3000}


def test_what_changes_nothing_is_not_notified(live: Host, folder: Path) -> None:
    """Reading, looking, listing, mapping, starting threads and programs pass the supervisor by."""
    code = f"""
import subprocess
def work():
    for _ in range(200):
        os.stat({str(folder)!r}); os.listdir({str(folder)!r}); open('/etc/hostname').read(); os.access('/etc', 4)
        os.readlink('/proc/self/exe'); os.pipe(); socket.socketpair()
work()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
for _ in range(5): os.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}), 0)
say('done'); os.read(READ, 1)
"""
    read, write = os.pipe()
    workload = live.start(probes.python(code.replace("READ", str(read))), keep=[read], seccomp=True)
    live.until(lambda: b"done" in workload.output, "the work")
    assert live.engine.supervision.calls == 0
    os.write(write, b"x")
    run = workload.wait()
    for fd in (read, write):
        os.close(fd)
    assert run.status == 0 and not run.denials, run
