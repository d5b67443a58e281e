"""Rules that hold for every test: nothing is left behind, and in CI nothing is skipped silently.

Two mechanisms:

- An autouse fixture fails a test that leaves a live child process, a thread or an open descriptor behind. pytest adopts
  orphans for this (PR_SET_CHILD_SUBREAPER), so a grandchild that a double fork cut loose is seen as well.
  `@pytest.mark.leaves("children", reason="...")` opts out, per kind.
- With CI=1 in the environment a skip is a failure, unless tests/allowed_skips.txt lists it, and a run of the whole
  suite fails when a test file on disk, or a file that tests/ci_required.txt lists, had no test that passed.
"""

from __future__ import annotations

import ctypes
import fnmatch
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).resolve().parent
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
GRACE_SECONDS = 2.0
KINDS = ("children", "threads", "descriptors")
PR_SET_CHILD_SUBREAPER = 36

# A slow machine is not a failing test.
settings.register_profile("agentd", deadline=None, print_blob=True)
settings.load_profile("agentd")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for every folder of tests."""
    parser.addoption("--slow", action="store_true", help="also run what takes minutes")


# --- nothing is left behind -------------------------------------------------------------------------------------------


def _children() -> set[int]:
    """Pids of this process's children, zombies included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # the usual case, in one system call
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # the thread has just ended
    return found


def _stat_fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []


def _live(pids: set[int]) -> set[int]:
    return {pid for pid in pids if (_stat_fields(pid) or ["Z"])[0] not in ("Z", "X")}


def _descriptors() -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor that listdir itself used
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _kill_and_reap(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _reap(pids)


def _reap(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def _opted_out(request: pytest.FixtureRequest) -> set[str]:
    kinds: set[str] = set()
    for mark in request.node.iter_markers("leaves"):
        if not mark.kwargs.get("reason") or not mark.args or not set(mark.args) <= set(KINDS):
            pytest.fail(f"write @pytest.mark.leaves(KIND, ..., reason='...'), KIND one of {', '.join(KINDS)}")
        kinds.update(mark.args)
    return kinds


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    opted_out = _opted_out(request)
    children, threads, descriptors = _children(), set(threading.enumerate()), _descriptors()
    yield
    problems: list[str] = []
    deadline = time.monotonic() + GRACE_SECONDS

    def settled() -> bool:
        new_children = _live(_children() - children) if "children" not in opted_out else set()
        new_threads = set(threading.enumerate()) - threads if "threads" not in opted_out else set()
        new_descriptors = _descriptors() - descriptors if "descriptors" not in opted_out else set()
        problems[:] = [f"child process {pid}: {_command_line(pid)}" for pid in sorted(new_children)]
        problems.extend(f"thread {thread.name}" for thread in new_threads)
        problems.extend(f"descriptor {fd}: {target}" for fd, target in sorted(new_descriptors))
        return not problems

    if not settled():
        gc.collect()
        while not settled() and time.monotonic() < deadline:
            time.sleep(0.02)
    if "children" not in opted_out:
        left = _children() - children
        _reap(left - _live(left))  # orphans that have ended meanwhile
        _kill_and_reap(_live(left))  # so that the next test starts clean
    if problems:
        pytest.fail("the test left behind: " + "; ".join(problems), pytrace=False)


# --- no silent skips --------------------------------------------------------------------------------------------------


def _list_file(name: str) -> list[str]:
    path = HERE / name
    if not path.is_file():
        return []
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _allowed(nodeid: str, reason: str) -> bool:
    """Whether tests/allowed_skips.txt has a line `NODE-ID-GLOB | REASON` for this skip."""
    for line in _list_file("allowed_skips.txt"):
        pattern, _, wanted = line.partition("|")
        if fnmatch.fnmatchcase(nodeid, pattern.strip()) and wanted.strip() and wanted.strip() == reason:
            return True
    return False


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    return str(text).removeprefix("Skipped: ")


class CiRules:
    """Registered in CI only."""

    def __init__(self, config: pytest.Config) -> None:
        # Naming paths or selecting tests is somebody looking for something, not the run that decides.
        self.whole_run = config.args_source is not pytest.Config.ArgsSource.ARGS and not (
            config.option.keyword or config.option.markexpr
        )
        self.passed_files: set[str] = set()
        self.complaints: list[str] = []

    def _refuse_skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = _reason(report)
        if report.skipped and not _allowed(report.nodeid, reason):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason or 'no reason given'} (tests/allowed_skips.txt doesn't list it)"
            if hasattr(report, "wasxfail"):
                del report.wasxfail

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report: pytest.TestReport = yield  # type: ignore[misc]
        self._refuse_skip(report)
        if report.when == "call" and report.passed:
            self.passed_files.add(report.nodeid.partition("::")[0])
        return report  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Iterator[None]:
        report: pytest.CollectReport = yield  # type: ignore[misc]
        self._refuse_skip(report)
        return report  # type: ignore[return-value]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if not self.whole_run or session.config.option.collectonly:
            return
        root = session.config.rootpath
        paths = session.config.getini("testpaths")  # .ci/run gives a part of them to each of two runs
        required = _list_file("ci_required.txt")
        wanted = {name for name in required if any(Path(name).is_relative_to(path) for path in paths)}
        for name in paths:
            # A suite that has lost all its files names itself.
            wanted |= {str(file.relative_to(root)) for file in (root / name).rglob("test_*.py")} or {name}
        self.complaints = [f"no test of {name} passed" for name in sorted(wanted - self.passed_files)]
        if self.complaints and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.complaints:
            terminalreporter.section("required in CI", sep="=", red=True, bold=True)
            for line in self.complaints:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if IN_CI:
        config.pluginmanager.register(CiRules(config), "agentd-ci-rules")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
