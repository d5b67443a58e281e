"""What ./dev promises: help, exit codes, packages found missing, silence when there is nothing to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.vm import kernels

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "dev"
JOBS = ("demo", "test", "vm", "vm-systemd", "check", "format", "build", "bench", "setup", "help")


def dev(*args: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DEV), *args], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def shell(code: str, path: str) -> subprocess.CompletedProcess[str]:
    """Runs bash `code` after the functions of ./dev, without its last lines (which run a job)."""
    functions = DEV.read_text(encoding="utf-8").partition("\njob=${1:-help}")[0]
    functions = functions.replace('cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"', f"cd '{ROOT}'")
    return subprocess.run(
        ["bash", "-c", functions + "\nPATH=" + path + ":$PATH\n" + code], capture_output=True, text=True, check=False
    )


@pytest.fixture
def fake_debian(tmp_path: Path) -> Path:
    """A dpkg-query that knows `there` (installed), `gone` (removed, configuration left) and no other package."""
    tool = tmp_path / "dpkg-query"
    tool.write_text(
        "#!/bin/sh\nfor name; do case $name in there) echo 'ii  there';; gone) echo 'rc  gone';; esac; done\nexit 1\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    sudo = tmp_path / "sudo"  # asked only when the tests don't run as root
    sudo.write_text('#!/bin/sh\nexec "$@"\n', encoding="utf-8")
    sudo.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("how", [["help"], ["--help"], ["-h"], []])
def test_help_shows_every_job_with_an_example(how: list[str]) -> None:
    """Help, asked for in any way, shows each job and a command line for it."""
    result = dev(*how)
    assert result.returncode == 0
    assert not result.stderr
    for job in JOBS:
        assert f"\n  {job} " in result.stdout
        assert f"./dev {job}" in result.stdout


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--version"], ["check", "everything"], ["bench", "nothing"]])
def test_a_job_that_does_not_exist_is_a_usage_error(arguments: list[str]) -> None:
    """An unknown job, or an argument to a job that takes none, exits with 2 and one line on stderr."""
    result = dev(*arguments)
    assert result.returncode == 2
    assert not result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert "./dev help" in result.stderr


def test_it_works_from_any_directory(tmp_path: Path) -> None:
    """./dev finds its tree from wherever and through whatever link it is called."""
    link = tmp_path / "link"
    link.symlink_to(DEV)
    result = subprocess.run([str(link), "help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0


def test_missing_packages_are_those_not_installed(fake_debian: Path) -> None:
    """A package that is unknown, or removed with its configuration left, is missing; an installed one isn't."""
    result = shell("missing_packages there gone unknown", str(fake_debian))
    assert result.stdout.split() == ["gone", "unknown"]


def test_apt_is_not_called_when_nothing_is_missing(fake_debian: Path) -> None:
    """With every package there, no package manager runs and nothing is said."""
    apt = fake_debian / "apt-get"
    apt.write_text("#!/bin/sh\necho called; exit 1\n", encoding="utf-8")
    apt.chmod(0o755)
    result = shell("ensure_packages there", str(fake_debian))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_failed_installation_is_shown(fake_debian: Path, tmp_path: Path) -> None:
    """When apt-get fails, its output is shown and ./dev stops with 1."""
    apt = fake_debian / "apt-get"
    apt.write_text("#!/bin/sh\necho no network today; exit 100\n", encoding="utf-8")
    apt.chmod(0o755)
    code = f"LOG={tmp_path}/log; ensure_packages unknown; echo not reached"
    result = shell(code, str(fake_debian))
    assert result.returncode == 1
    assert "no network today" in result.stderr
    assert "not reached" not in result.stdout


def test_two_jobs_at_once_fetch_once(fake_debian: Path, tmp_path: Path) -> None:
    """In a fresh tree the second job waits for what the first one fetches, and finds it."""
    apt = tmp_path / "apt-get"
    apt.write_text(
        f"#!/bin/sh\necho x >>{tmp_path}/asked\nsleep 0.3\nmkdir -p p/usr/bin p/DEBIAN\ntouch p/usr/bin/served\n"
        "chmod +x p/usr/bin/served\nprintf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\n"
        "Description: x\\n' >p/DEBIAN/control\ndpkg-deb -b p p_1_all.deb\nrm -r p\n",
        encoding="utf-8",
    )
    apt.chmod(0o755)
    job = "locked ensure_unpacked served usr/bin/served p"
    code = f"LOG={tmp_path}/log LOCK={tmp_path}/lock TOOLS={tmp_path}/tools\n{job} & first=$!\n{job} && wait $first"
    result = shell(code, str(fake_debian))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "tools/served/usr/bin/served").exists()
    assert (tmp_path / "asked").read_text() == "x\n"


def test_the_fingerprint_follows_the_lock_file(tmp_path: Path) -> None:
    """A changed lock file, declaration, package list or directory means setting up again."""
    code = f"""
        cp requirements.lock pyproject.toml {tmp_path}; cd {tmp_path}
        fingerprint; fingerprint; echo >> requirements.lock; fingerprint; echo >> pyproject.toml; fingerprint
        PACKAGES+=(more); fingerprint; mkdir x; cp requirements.lock pyproject.toml x; cd x; fingerprint
    """
    result = shell(code, "/usr/bin")
    assert result.returncode == 0, result.stderr
    first, again, *changed = result.stdout.splitlines()
    assert first == again
    assert len({first, *changed}) == 1 + len(changed) == 5


def test_set_up_is_silent_when_there_is_nothing_to_do() -> None:
    """A second set-up says nothing."""
    assert dev("setup").returncode == 0
    result = dev("setup")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_ci_runs_the_same_jobs() -> None:
    """.ci/run calls ./dev check, ./dev test and ./dev vm with CI=1, and ends in less than 40 minutes whatever hangs."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = [line.split() for line in text.splitlines() if line.lstrip().startswith("step ")]
    assert "export CI=1" in text
    assert [job for _, _, dev_, job, *_ in steps if dev_ == "./dev"] == [
        "setup", "check", "build", *["test", "vm"] * 2
    ]  # fmt: skip
    machines = [word for step in steps if step[3] == "vm" for word in step[4 : step.index("--jobs")]]
    assert sorted(machines) == sorted(source.version for source in kernels.listed())
    given = [path for paths in re.findall(r"-o testpaths='([^']*)'", text) for path in paths.split()]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert sorted(given) == sorted(settings["testpaths"])  # two runs, which are the whole suite together
    assert 'wait "$beside" || status=$?' in text and '((status == 0)) || exit "$status"' in text
    (whole,) = (line for line in text.splitlines() if line.startswith("readonly WHOLE="))
    assert int(whole.split("=")[1].split()[0]) + 30 < 40 * 60  # and what ending a step may take
    assert all(int(limit) < 40 * 60 for _, limit, *_ in steps)


@pytest.mark.parametrize(("failing", "status"), [("", 0), ("tests/unit", 5), ("7.2", 6), ("tests/bpf", 7)])
def test_ci_fails_with_either_lane(tmp_path: Path, failing: str, status: int) -> None:
    """What fails beside fails all of it, and so does what fails here, which ends what still runs beside."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    jobs = f"""#!/bin/bash
    echo "ran $*"
    case "$*" in
    *tests/bpf*) while ! test -e begun; do sleep 0.01; done ;;& # what it ends is there
    *tests/unit*) touch begun ;;&
    *"{failing or "nothing"}"*) exit {status} ;;
    *tests/unit*) {"exec sleep 60" if failing == "tests/bpf" else ""} ;;
    esac
    """
    (tmp_path / "dev").write_text(jobs, encoding="utf-8")
    (tmp_path / "dev").chmod(0o755)
    ended = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == status, ended.stdout + ended.stderr
    ran = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("ran ")]
    assert status or sorted(ran) == ["build", "check", "setup", "test", "test", "vm", "vm"]
