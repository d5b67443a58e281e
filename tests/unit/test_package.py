"""The distribution packages: the same bytes twice, complete, and nothing of the build machine in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.cli import COMMANDS
from agentd.daemon.config import KEYS
from agentd.kernel import abi
from package import __main__ as package
from package import manual

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """agentd's own wheel."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True, timeout=120,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}, capture_output=True,
    )  # fmt: skip
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def built(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both packages, made twice: .deb, .rpm, and again."""
    made: list[Path] = []
    for number in range(2):
        out = tmp_path_factory.mktemp(f"out{number}")
        subprocess.run(
            [sys.executable, "-m", "package", wheel, out], cwd=ROOT, check=True, capture_output=True, timeout=300,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        )  # fmt: skip
        made += sorted(out.iterdir())
    return made


@pytest.fixture(scope="module")
def unpacked(built: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the .deb puts on a host."""
    root = tmp_path_factory.mktemp("root")
    (deb,) = [path for path in built[:2] if path.suffix == ".deb"]
    subprocess.run(["dpkg-deb", "-x", deb, root], check=True, timeout=120)
    yield root
    shutil.rmtree(root)


def test_two_builds_give_the_same_bytes(built: list[Path]) -> None:
    """The .deb and the .rpm of one wheel are the same, byte for byte, wherever and whenever they are made."""
    first, second = built[:2], built[2:]
    assert [path.suffix for path in first] == [".rpm", ".deb"]
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_every_module_imports_with_the_distributions_python_alone(unpacked: Path) -> None:
    """With an isolated interpreter, the private folder has everything that agentd imports but libbpf."""
    script = f"""
import importlib, pkgutil, sys
sys.path.insert(0, {str(unpacked / "usr/lib/agentd")!r})
import agentd
for module in pkgutil.walk_packages(agentd.__path__, "agentd."):
    if module.name not in ("agentd.kernel.canary", "agentd.demo.agent", "agentd.__main__"):
        importlib.import_module(module.name)
import cffi, cryptography.hazmat.primitives.asymmetric.ed25519, prometheus_client, psutil, pyroute2, yaml
assert yaml.__with_libyaml__
foreign = [m.__file__ for m in sys.modules.values() if "-packages" in (getattr(m, "__file__", None) or "")]
assert not foreign, foreign
"""
    done = subprocess.run([PYTHON, "-ISB", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_finds_what_is_shipped(unpacked: Path) -> None:
    """The BPF objects, the automata and the policies are where agentd looks, and its launcher is isolated."""
    share = unpacked / "usr/lib/agentd/agentd/_share"
    assert {"agentd.bpf.o", "canary.bpf.o", "symbols.bpf.o"} <= {path.name for path in (share / "bpf").iterdir()}
    assert (share / "policies/catalogue.yaml").is_file() and any((share / "automata").iterdir())
    assert (unpacked / "usr/bin/agentd").read_text(encoding="utf-8").startswith("#!/usr/bin/python3 -IS\n")
    units = unpacked / "usr/lib/systemd/system"
    assert {"agentd.service", "agentd@.service", "agents.slice"} <= {path.name for path in units.iterdir()}


def test_nothing_of_the_build_machine_is_in_it(unpacked: Path) -> None:
    """No path of this tree, no compiled module, nothing that others may write, nothing with another owner."""
    here = str(ROOT).encode()
    for path in unpacked.rglob("*"):
        assert path.suffix != ".pyc", path
        status = path.lstat()
        assert not status.st_mode & 0o6022 and status.st_uid == status.st_gid == os.getuid(), path
        if path.is_file():
            assert here not in path.read_bytes(), path


def test_modules_for_every_interpreter_lie_side_by_side(unpacked: Path) -> None:
    """What isn't for the stable ABI is there for each Python that the distributions have."""
    folder = unpacked / "usr/lib/agentd"
    for python in package.PYTHONS:
        tag = f"cpython-{python.replace('.', '')}-"
        assert any(tag in path.name for path in folder.glob("_cffi_backend*")), python
        assert any(tag in path.name for path in (folder / "yaml").glob("_yaml*")), python


def test_no_other_interpreter_is_taken(built: list[Path]) -> None:
    """The .deb is kept from a Python that it has no modules for, older or newer, test versions included."""
    shown = subprocess.run(
        ["dpkg-deb", "-f", built[1], "Depends"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    bounds = [one.strip("()\n").split() for one in shown.replace("python3 (", "(").split(", ") if one.startswith("(")]

    def fits(version: str) -> bool:
        return all(
            subprocess.run(["dpkg", "--compare-versions", version, *bound], timeout=60, check=False).returncode == 0
            for bound in bounds
        )

    assert [fits(f"{python}.2-1") for python in package.PYTHONS] == [True] * len(package.PYTHONS), bounds
    assert not fits("3.10.6-1") and not fits("3.15.0~a1-1")


def test_the_rpm_says_what_it_needs_and_ships_the_same(built: list[Path]) -> None:
    """The .rpm's dependencies are those of Fedora, its configuration is kept over an upgrade."""
    (rpm,) = [path for path in built[:2] if path.suffix == ".rpm"]

    def ask(*words: str) -> list[str]:
        done = subprocess.run(["rpm", "-qp", *words, rpm], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    assert {"python3 >= 3.11", "python3 < 3.15~", "libbpf >= 1.1", "systemd"} <= set(ask("--requires"))
    assert {"/usr/bin/agentd", "/usr/lib/systemd/system/agentd.service"} <= set(ask("--list"))
    assert "/etc/agentd/agentd.yaml" in ask("--configfiles")


def test_an_rpm_installs_under_a_root_of_its_own(built: list[Path], tmp_path: Path) -> None:
    """rpm --root puts every file of the package there, runs nothing of it, and takes all of them away again."""
    (rpm,) = [path for path in built[:2] if path.suffix == ".rpm"]
    base = ["rpm", "--root", str(tmp_path), "--nodeps", "--noscripts", "--ignoresize"]
    subprocess.run([*base, "--install", str(rpm)], check=True, timeout=120, capture_output=True)
    assert (tmp_path / "usr/bin/agentd").stat().st_mode & 0o777 == 0o755
    verified = subprocess.run(
        ["rpm", "--root", str(tmp_path), "--verify", "--nodeps", "agentd"], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert verified.stdout == "", verified.stdout
    subprocess.run([*base, "--erase", "agentd"], check=True, timeout=120, capture_output=True)
    left = [path for path in tmp_path.rglob("*agentd*") if "rpm" not in path.parts]
    assert left == [], "no file, and no folder of its own"


def test_an_upgrade_to_another_layout_of_maps_is_refused_before_it_changes_anything(
    built: list[Path], tmp_path: Path
) -> None:
    """While the kernel has maps that this version can't take over, its preinst says what to do and fails; with the same
    layout, or nothing in the kernel, it goes on. Both packages do so.
    """
    rpm, deb = built[:2]
    subprocess.run(["dpkg-deb", "--control", deb, tmp_path / "control"], check=True, timeout=60)

    def upgrade() -> tuple[int, str]:
        done = subprocess.run(
            ["sh", tmp_path / "control/preinst", "upgrade", "0.0.1"], capture_output=True, text=True, timeout=60,
            check=False, env={**os.environ, "DPKG_ROOT": str(tmp_path)},
        )  # fmt: skip
        return done.returncode, done.stderr

    old = tmp_path / "usr/lib/agentd/agentd/kernel/abi.py"
    old.parent.mkdir(parents=True)
    shipped = (ROOT / "agentd/kernel/abi.py").read_text(encoding="utf-8")
    old.write_text(shipped.replace(f"= {abi.ABI_VERSION}\n", "= 7000\n", 1), encoding="utf-8")
    assert upgrade() == (0, ""), "nothing is in the kernel"
    control = tmp_path / "sys/fs/bpf/agentd/maps/control"
    control.parent.mkdir(parents=True)
    control.touch()
    status, said = upgrade()
    assert status == 1 and f"layout {abi.ABI_VERSION}, those in the kernel 7000" in said
    assert "systemctl stop agentd && agentd release --yes" in said and "nothing was changed" in said
    old.write_text(shipped, encoding="utf-8")
    assert upgrade() == (0, "")
    asked = ["rpm", "-qp", "--scripts", rpm]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (
        "preinstall scriptlet" in shown and f"new={abi.ABI_VERSION}\n" in shown and 'same_layout "" || exit 1' in shown
    )


def script(name: str, folder: Path, agentd: str, systemctl: str = "exit 0") -> str:
    """package/NAME, its two programs and its places in `folder`; the programs do what they are told."""
    for program, text in (("agentd", agentd), ("systemctl", f'echo "systemctl $*" >>{folder}/log; {systemctl}')):
        (folder / program).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (folder / program).chmod(0o755)
    text = (ROOT / "package" / name).read_text(encoding="utf-8").replace("/usr/bin/agentd", str(folder / "agentd"))
    text = text.replace("/run/systemd/system", str(folder))
    return text.replace("/etc/agentd", str(folder / "etc")).replace("/sys/fs/bpf/agentd", str(folder / "pins"))


def said(text: str, folder: Path) -> tuple[int, str]:
    """How a script ended, and what it wrote to standard error."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-ec", text], capture_output=True, text=True, timeout=60, check=False, env=environment)
    return done.returncode, done.stderr


def test_an_upgrade_restarts_the_service_only_if_the_new_version_takes_its_files(tmp_path: Path) -> None:
    """Refused, the daemon that runs goes on; a restart that fails is told; a service that is down is left alone."""
    log = tmp_path / "log"

    def upgrade(agentd: str, systemctl: str = "exit 0") -> str:
        log.unlink(missing_ok=True)
        status, words = said(script("restart.sh", tmp_path, agentd, systemctl) + "restart_service\n", tmp_path)
        assert status == 0, "the package is installed all the same"
        return words

    takes = '[ "$*" = "daemon --check" ]'
    assert upgrade(takes) == "" and "try-restart agentd.service" in log.read_text()
    assert "the version\nbefore it goes on" in upgrade("echo '1:1: nonsense' >&2; exit 1")
    assert "restart" not in log.read_text()
    assert "did not start" in upgrade(takes, 'case "$*" in *try-restart*) exit 1;; esac')
    assert upgrade("exit 1", "exit 3") == "" and "restart" not in log.read_text()


def test_a_package_is_not_removed_while_enforcement_can_not_be_ended(tmp_path: Path) -> None:
    """A configuration that can't be read doesn't keep pins in the usual place; pins that stay keep the package."""
    (tmp_path / "etc").mkdir()
    pins = tmp_path / "pins/maps"

    def remove(agentd: str) -> tuple[int, str]:
        return said(script("release.sh", tmp_path, agentd) + "end_enforcement\n", tmp_path)

    defaults = '[ "$*" = "release --yes --config /dev/null" ]'
    pins.mkdir(parents=True)
    assert remove('[ "$*" = "release --yes" ]') == (0, "")
    assert remove(defaults) == (0, "")
    assert remove("exit 1")[0] == 1 and "the package stays" in remove("exit 1")[1]
    (tmp_path / "etc/agentd.yaml").write_text("bpffs_dir: /sys/fs/bpf/else\n  x: [\n", encoding="utf-8")
    assert remove(defaults)[0] == 1, "the pins are where that file says"
    (tmp_path / "etc/agentd.yaml").unlink()
    pins.rmdir()
    assert remove("exit 1") == (0, ""), "nothing is pinned"


def test_a_run_that_outlives_the_package_is_told(tmp_path: Path) -> None:
    """What `agentd run` still holds stays held, with nobody to answer: a removal names its process, and goes on."""
    text = script("release.sh", tmp_path, "exit 0") + "tell_runs\n"
    assert said(text, tmp_path) == (0, ""), "there is none"
    (tmp_path / "pins-run/4711-123456").mkdir(parents=True)
    status, words = said(text, tmp_path)
    assert status == 0 and "pid 4711) goes on" in words and words.count("\n") == 1
    for kind in ("deb", "rpm"):
        calls = (ROOT / "package" / kind / "preremove").read_text(encoding="utf-8")
        assert -1 < calls.rfind("end_enforcement") < calls.rfind("tell_runs"), kind


def test_no_unit_of_a_removed_package_goes_on(built: list[Path], tmp_path: Path) -> None:
    """Agents of agentd@, the service and the canary's socket are stopped before enforcement ends, by both packages."""
    status, _ = said(script("release.sh", tmp_path, "exit 0", "exit 1") + "stop_units\n", tmp_path)
    stopped = (tmp_path / "log").read_text(encoding="utf-8")
    assert status == 0
    wanted = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket")}
    for unit in wanted:
        assert unit.replace("@", "@*") in stopped, unit
    subprocess.run(["dpkg-deb", "--control", built[1], tmp_path / "control"], check=True, timeout=60)
    text = (tmp_path / "control/prerm").read_text(encoding="utf-8")
    asked = ["rpm", "-qp", "--scripts", built[0]]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    for one in (text, shown):
        assert -1 < one.rfind("    stop_units\n") < one.rfind("    end_enforcement"), one


def test_packages_delete_nothing_below_a_mount(built: list[Path], tmp_path: Path) -> None:
    """A cgroup2 that agentd has mounted in its folder is unmounted, and never descended into."""
    subprocess.run(["dpkg-deb", "--control", built[1], tmp_path / "control"], check=True, timeout=60)
    text = (tmp_path / "control/postrm").read_text(encoding="utf-8")
    shown = subprocess.run(
        ["rpm", "-qp", "--scripts", built[0]], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for one in (text, shown):
        removing = [line for line in one.splitlines() if "rm -rf" in line and "/run/agentd" in line]
        assert removing and all("--one-file-system" in line for line in removing)
        assert one.index("umount /run/agentd/cgroup2") < one.index(removing[0])


def test_the_manual_speaks_of_every_command_and_key(tmp_path: Path) -> None:
    """Each verb of the command line and each key of agentd.yaml has its place, and no formatter complains."""
    pages = manual.pages()
    for name, _ in COMMANDS:
        assert f".Ss agentd {name}" in pages["agentd.1"].replace("\\-", "-"), name
    for key in KEYS:
        assert f".It Cm {key}\n" in pages["agentd.yaml.5"], key
        assert key in manual.ABOUT, key
    for name, text in pages.items():
        assert "\n\n" not in text, text.partition("\n\n")[0][-200:]
        (tmp_path / name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["mandoc", "-Tlint", "-Werror", tmp_path / name], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_unit_of_the_template_bears_its_agents_name_as_it_is(tmp_path: Path) -> None:
    """`agentd@my-bot` runs the program `my-bot`, as a user whom systemd makes: escaped names are neither."""
    for name in ("agentd@my-bot.service", "agentd.service", "agents.slice"):
        source = ROOT / "systemd" / name.replace("my-bot", "")
        (tmp_path / name).write_bytes(source.read_bytes())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "agentd@my-bot.service"],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    words = [line for line in done.stderr.splitlines() if "my-bot" in line]
    assert ["Command /usr/local/lib/agents/my-bot is not executable" in line for line in words] == [True], words


def test_the_service_is_as_closed_as_it_says() -> None:
    """systemd-analyze finds an exposure of at most 3.0, and no mistake in the unit."""
    unit = ROOT / "systemd/agentd.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1:]
