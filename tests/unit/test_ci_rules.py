"""The rules of tests/conftest.py, tried on little suites of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parent.parent / "conftest.py"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite under the rules of this one, run in CI."""
    monkeypatch.setenv("CI", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\ntestpaths = .\nmarkers =\n    root: x\n    leaves: x\n")
    return pytester


def run(suite: pytest.Pytester, *args: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "no:cacheprovider", *args)


def test_a_passing_suite_passes(suite: pytest.Pytester) -> None:
    """A suite that skips nothing and leaves nothing behind passes in CI."""
    suite.makepyfile(test_fine="def test_fine(): pass")
    result = run(suite)
    assert result.ret == 0
    result.assert_outcomes(passed=1)


SKIPS = {
    "mark": "import pytest\n@pytest.mark.skip(reason='too hard')\ndef test_x(): pass\ndef test_y(): pass",
    "call": "import pytest\ndef test_x(): pytest.skip('too hard')\ndef test_y(): pass",
    "fixture": (
        "import pytest\n@pytest.fixture\ndef f(): pytest.skip('too hard')\ndef test_x(f): pass\ndef test_y(): pass"
    ),
    "module": "import pytest\npytest.skip('too hard', allow_module_level=True)\ndef test_x(): pass",
    "importorskip": "import pytest\npytest.importorskip('no_such_module')\ndef test_x(): pass",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='too hard', run=False)\ndef test_x(): pass\ndef test_y(): pass",
}


@pytest.mark.parametrize("how", SKIPS)
def test_an_unlisted_skip_fails_in_ci(suite: pytest.Pytester, how: str) -> None:
    """A skip that nobody listed fails the run in CI, whichever way it was asked for."""
    suite.makepyfile(test_skips=SKIPS[how])
    result = run(suite)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*skipped in CI: *"])


def test_a_skip_passes_outside_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same skip is only a skip on somebody's own machine."""
    monkeypatch.delenv("CI")
    suite.makepyfile(test_skips=SKIPS["mark"])
    result = run(suite)
    assert result.ret == 0
    result.assert_outcomes(passed=1, skipped=1)


def test_a_listed_skip_passes_in_ci(suite: pytest.Pytester) -> None:
    """A skip whose test and reason are listed passes in CI; with another reason it fails."""
    suite.makepyfile(test_skips=SKIPS["mark"])
    listed = suite.path / "allowed_skips.txt"
    listed.write_text("# comment\ntest_skips.py::test_x | too hard\n", encoding="utf-8")
    assert run(suite).ret == 0
    listed.write_text("test_skips.py::test_x | another reason\n", encoding="utf-8")
    assert run(suite).ret != 0


def test_a_required_file_must_have_passed(suite: pytest.Pytester) -> None:
    """A file that ci_required.txt lists and that is gone fails a run of the whole suite, not a run of one file."""
    suite.makepyfile(test_fine="def test_fine(): pass")
    (suite.path / "ci_required.txt").write_text("test_gone.py\n", encoding="utf-8")
    result = run(suite)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["no test of test_gone.py passed"])
    assert run(suite, "test_fine.py").ret == 0


def test_a_part_of_the_suite_requires_its_own_files(suite: pytest.Pytester) -> None:
    """Where testpaths are a part of the suite, what is required of the other part is not asked for."""
    (suite.path / "here").mkdir()
    (suite.path / "here/test_fine.py").write_text("def test_fine(): pass\n", encoding="utf-8")
    (suite.path / "ci_required.txt").write_text("elsewhere/test_gone.py\n", encoding="utf-8")
    assert run(suite, "-o", "testpaths=here").ret == 0
    (suite.path / "ci_required.txt").write_text("here/test_gone.py\n", encoding="utf-8")
    result = run(suite, "-o", "testpaths=here")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["no test of here/test_gone.py passed"])


def test_an_empty_suite_fails_in_ci(suite: pytest.Pytester) -> None:
    """A suite of testpaths that is gone fails a run of the whole suite."""
    suite.makeini("[pytest]\ntestpaths = here gone\nmarkers =\n    root: x\n    leaves: x\n")
    (suite.mkdir("here") / "test_fine.py").write_text("def test_fine(): pass", encoding="utf-8")
    result = run(suite)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["no test of gone passed"])


def test_an_empty_file_fails_in_ci(suite: pytest.Pytester) -> None:
    """A test file none of whose tests ran fails a run of the whole suite."""
    suite.makepyfile(test_fine="def test_fine(): pass", test_empty="")
    result = run(suite)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["no test of test_empty.py passed"])


LEAKS = """
import os, subprocess, threading

CHILDREN = []
EVENT = threading.Event()

def test_child():
    CHILDREN.append(subprocess.Popen(["sleep", "60"]))

def test_after_child():
    assert not os.path.exists(f"/proc/{CHILDREN[0].pid}")

def test_orphan():
    subprocess.run(["sh", "-c", "setsid sleep 60 & exit 0"], check=True, stdin=subprocess.DEVNULL)

def test_after_orphan():
    pass

def test_thread():
    threading.Thread(target=EVENT.wait, name="forgotten").start()

def test_after_thread():
    EVENT.set()

def test_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_after_descriptor():
    pass
"""


def test_what_is_left_behind_fails_the_test(suite: pytest.Pytester) -> None:
    """A test that leaves a child, an orphan, a thread or a descriptor behind fails, and the next one starts clean."""
    suite.makepyfile(test_leaks=LEAKS)
    # A process of its own: these leaks would be this test's.
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-ra")
    result.assert_outcomes(passed=8, errors=4)
    result.stdout.fnmatch_lines(
        [
            "ERROR test_leaks.py::test_child *left behind: child process * sleep 60",
            "ERROR test_leaks.py::test_orphan *left behind: child process * sleep 60",
            "ERROR test_leaks.py::test_thread *left behind: thread forgotten",
            "ERROR test_leaks.py::test_descriptor *left behind: descriptor * /dev/null",
        ]
    )


@pytest.mark.leaves("descriptors", reason="the suite that it runs in this process does, on purpose")
def test_a_leak_with_a_reason_passes(suite: pytest.Pytester) -> None:
    """A test may opt out of one kind of leak, and only by giving a reason."""
    leak = "import os, pytest\n@pytest.mark.leaves('descriptors'{})\ndef test_x(): os.open('/dev/null', os.O_RDONLY)"
    suite.makepyfile(test_reason=leak.format(", reason='shows it'"))
    assert run(suite).ret == 0
    suite.makepyfile(test_reason=leak.format(""))
    assert run(suite).ret != 0
