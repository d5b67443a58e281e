"""Fetches the stock Debian kernels of vagrant/kernels.yaml into a cache, without touching this machine's apt.

The cache is a folder a user, ${XDG_CACHE_HOME:-~/.cache}/agentd/kernels, so that several clones share it. apt gets a
sources.list, lists and a cache of its own there; signatures are checked with the keys of debian-archive-keyring. A
kernel is unpacked with `dpkg -x`, never installed: no maintainer script runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
LIST: Final = ROOT / "vagrant" / "kernels.yaml"
MIRROR: Final = "http://deb.debian.org/debian"
KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT_SECONDS: Final = 600


class FetchError(Exception):
    """A kernel can't be had; one line: what, why, what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of kernels.yaml. packages: regular expressions for whole package names, the first is the image."""

    version: str
    suite: str
    packages: tuple[str, ...]
    vmlinuz: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel. release: as `uname -r` says it."""

    version: str
    release: str
    image: Path


def listed() -> tuple[Source, ...]:
    """Every kernel that agentd supports."""
    document = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return tuple(
        Source(entry["version"], entry["suite"], tuple(entry["packages"]), entry["vmlinuz"])
        for entry in document["kernels"]
    )


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key that takes digits as numbers: 6.1.0-9 comes before 6.1.0-50."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name))


def newest(pattern: str, names: Iterable[str]) -> str | None:
    """The newest of the package names that the whole regular expression matches."""
    return max((name for name in names if re.fullmatch(pattern, name)), key=natural, default=None)


def cache() -> Path:
    """The folder that all clones of this user share."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "agentd" / "kernels"


def fetch(sources: Iterable[Source], *, refresh: bool = False) -> list[Kernel]:
    """The kernels, from the cache or from Debian. refresh: look for newer ones. Raises FetchError."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        apt: _Apt | None = None
        found = []
        for source in sources:
            name = None if refresh else newest(source.packages[0], os.listdir(folder))
            if name is None:
                apt = apt or _Apt(folder / ".apt")
                name = apt.unpack(source, folder)
            found.append(_kernel(source, folder / name))
        return found


def _kernel(source: Source, tree: Path) -> Kernel:
    images = sorted(tree.glob(source.vmlinuz))
    modules = sorted(tree.glob("lib/modules/*/modules.dep"))
    if len(images) != 1 or len(modules) != 1:
        raise FetchError(f"{tree}: no kernel is unpacked there; remove the folder and try again")
    return Kernel(source.version, modules[0].parent.name, images[0])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Apt:
    """apt with nothing of this machine's configuration of sources, and every suite of kernels.yaml."""

    def __init__(self, state: Path) -> None:
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "cache").mkdir(exist_ok=True)
        suites = sorted({source.suite for source in listed()})
        lines = [f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n" for suite in suites]
        (state / "sources.list").write_text("".join(lines), encoding="utf-8")
        self._options = [
            "-o", f"Dir::Etc::SourceList={state}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache",
            "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root", "-q",
        ]  # fmt: skip
        _run(["apt-get", *self._options, "update"])
        self._names = _run(["apt-cache", *self._options, "pkgnames", "linux-"]).split()

    def unpack(self, source: Source, folder: Path) -> str:
        """Downloads and unpacks the newest kernel; the name of its folder, which is there completely or not at all."""
        wanted: list[str] = []
        for pattern in source.packages:
            name = newest(pattern, self._names)
            if name is None:
                raise FetchError(f"{source.version}: no package in {source.suite} matches {pattern}; see {LIST}")
            wanted.append(name)
        if (folder / wanted[0]).is_dir():
            return wanted[0]
        print(f"vm: fetching {' '.join(wanted)} of Debian {source.suite}", flush=True)
        fresh = folder / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / "tree").mkdir(parents=True)
        _run(["apt-get", *self._options, "download", *wanted], cwd=fresh)
        for package in sorted(fresh.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(fresh / "tree")])
        _lay_out(fresh / "tree")
        os.rename(fresh / "tree", folder / wanted[0])
        shutil.rmtree(fresh)
        return wanted[0]


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=APT_SECONDS, check=False)
    if done.returncode:
        shown = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise FetchError(f"{shown}\n{' '.join(command[:1])}: exit status {done.returncode}; is the mirror reachable?")
    return done.stdout


def _lay_out(tree: Path) -> None:
    """Modules where everyone looks for them (lib/modules), with their index."""
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    releases = os.listdir(tree / "lib" / "modules")
    if len(releases) != 1:
        raise FetchError(f"{tree}: {len(releases)} sets of modules instead of one; see {LIST}")
    _run(["depmod", "-b", str(tree), releases[0]])
