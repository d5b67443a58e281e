"""32-bit calls of a command that agentd starts, on hosts without LSM hooks: each is the operation `compat`, and what it
does besides is judged as the same call of 64 bits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import untagged

pytestmark = pytest.mark.root

# narrow(number, word, word, word): int 0x80 from a page below 4 GiB; text(path): its address there.
SETUP = r"""
import ctypes, mmap
page = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
start = ctypes.addressof(ctypes.c_char.from_buffer(page))
page.write(bytes.fromhex('53' '89f8' '89f3' '87ca' 'cd80' '5b' 'c3'))
enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(start)
def text(path):
    page.seek(4096); page.write(path.encode() + b'\0'); return start + 4096
def narrow(number, *words):
    value = enter(number, *words, *(0,) * (3 - len(words))); say(f'errno {-value}' if value < 0 else 'ok')
"""
GETPID, OPEN, UNLINK, MKDIR, IOCTL, CLOSE = 20, 5, 10, 39, 54, 6
NO = f"errno {errno.EPERM}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("narrow")


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    kept = [{"tool": tool, "paths": [f"{folder}/kept/**"]} for tool in ("file", "file_writer")]
    compat = {"tool": "host", "operations": ["compat"]}
    agents = {
        "bot": harness.agent(deny=kept),
        "strict": harness.agent(deny=[compat]),
        "asks": harness.agent(ask=[compat, {"tool": "file", "operations": ["delete"], "paths": [f"{folder}/**"]}]),
    }
    with harness.enforcing(folder, agents) as host:
        if not host.engine.supervises:
            pytest.skip("there are LSM hooks on this host: nothing is supervised")
        yield host


@pytest.fixture
def files(folder: Path) -> Path:
    for name in ("kept", "free"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "file").write_text(name)
    (folder / "free/made").rmdir() if (folder / "free/made").exists() else None
    return folder


def calls(files: Path) -> list[str]:
    lines = [f"narrow({GETPID})", f"narrow({OPEN}, text('{files}/kept/file'), 0)", f"narrow({IOCTL}, 0, 1, 0)"]
    lines += [f"narrow({UNLINK}, text('{files}/{name}/file'))" for name in ("kept", "free")]
    lines += [
        f"narrow({OPEN}, text('{files}/kept/new'), 0o101, 0o600)",
        f"narrow({MKDIR}, text('{files}/free/made'), 0o700)",
    ]
    return probes.python("\n".join([SETUP, *lines, "say('after')"]))


def test_where_32_bit_calls_are_allowed_what_they_do_is_judged(live: Host, files: Path) -> None:
    """Denied changes are prevented, allowed ones and calls that change nothing work as they do untagged."""
    control = untagged(calls(files))
    if control.lines[0] != "ok":
        assert control.status < 0 or control.lines[0].startswith("errno"), control
        return  # this kernel has no 32-bit calls
    assert [line[:2] for line in control.lines] == ["ok", "ok", "er", "ok", "ok", "ok", "ok", "af"]
    (files / "kept/new").unlink()
    (files / "free/made").rmdir()
    for name in ("kept", "free"):
        (files / name / "file").write_text(name)
    run = live.run(calls(files), seccomp=True)
    assert run.lines == ["ok", "ok", control.lines[2], NO, "ok", NO, "ok", "after"], run
    assert sorted(path.name for path in (files / "kept").iterdir()) == ["file"]
    assert sorted(path.name for path in (files / "free").iterdir()) == ["made"]
    found = [(r["kernel_operation"], r["object"], r["point"], r["guarantee"]) for r in run.denials]
    kept = str(files / "kept")
    assert found == [
        ("delete", f"{kept}/file", "seccomp", "prevented"),
        ("create", f"{kept}/new", "seccomp", "prevented"),
    ]


def test_where_they_are_denied_none_happens(live: Host, files: Path) -> None:
    """Each fails with EPERM before its effect, on record as `compat`, and the 64-bit program goes on."""
    run = live.run(calls(files), "strict", seccomp=True)
    if not run.denials:
        assert untagged(calls(files)).lines[0] != "ok"
        return
    assert run.lines == [NO] * 7 + ["after"], run
    assert (files / "kept/file").exists() and (files / "free/file").exists() and not (files / "free/made").exists()
    found = {(r["kernel_operation"], r["object"], r["point"], r["guarantee"]) for r in run.denials}
    assert found == {("compat", "i386", "seccomp", "prevented")} and len(run.denials) == 7


def test_one_call_may_be_two_questions(live: Host, files: Path) -> None:
    """Held for being a 32-bit call, then for what it does: two answers, and it is done; nothing before the second."""
    command = probes.python(f"{SETUP}narrow({UNLINK}, text('{files}/free/file'))\nsay('after')")
    workload = live.start(command, "asks", seccomp=True)
    answered = []
    for operation in ("compat", "delete"):
        live.until(lambda: live.pending() or workload.ended, "a question")
        approval = live.held(workload)
        assert approval["operation"] == operation and (files / "free/file").exists()
        answered.append(approval["id"])
        live.answer(approval, True)
        live.until(lambda: not {p["id"] for p in live.pending()} & set(answered), "the answer")
    run = workload.wait()
    assert run.lines == ["ok", "after"] and not (files / "free/file").exists(), run
