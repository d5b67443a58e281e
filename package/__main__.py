"""`./dev package`: the .deb and the .rpm, made by nfpm from agentd's wheel and the wheels of requirements.lock.

    python -m package WHEEL OUT [VERSION]

Everything Python goes into one private folder, /usr/lib/agentd, which serves the interpreters of all distributions:
what is compiled is for the stable ABI or carries the interpreter in its file's name, so that those for 3.11 to 3.14 lie
side by side. The same input gives the same bytes: names are sorted, times are SOURCE_DATE_EPOCH, nothing is compiled.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml

import agentd
from agentd.kernel import abi
from agentd.policy.schema import SCHEMA
from package import completion, manual

ROOT: Final = Path(__file__).resolve().parents[1]
PREFIX: Final = "usr/lib/agentd"
WHEELS: Final = Path.home() / ".cache" / "agentd" / "wheels"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")  # of Debian 12, Ubuntu 24.04, Debian 13 and Fedora, the newest Fedora
PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")  # Debian 12 has glibc 2.36
# cffi needs pycparser to build modules, not to run them; rich the others for source code and Markdown.
LEFT_OUT: Final = frozenset({"pycparser", "pygments", "markdown-it-py", "mdurl"})
MACHINES: Final = {"x86_64": "amd64"}  # the BPF objects read this architecture's registers
LAUNCHER: Final = """\
#!/usr/bin/python3 -IS
# Isolated (-I) and without site (-S): neither PYTHON* variables nor anybody's site-packages are in the daemon's path.
import sys

sys.path.insert(0, "/usr/lib/agentd")
from agentd.__main__ import main

main()
"""


def runtime() -> list[str]:
    """What agentd imports, with its page and all sinks, as requirements.lock has it under these headings."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = []
    for heading in ("what agentd imports", "the extra otlp", "the console's page"):
        section = text.partition(f"# {heading}")[2].partition("\n\n")[0]
        found += [line for line in section.splitlines()[1:] if line.partition("==")[0].lower() not in LEFT_OUT]
    return [*found, *re.findall(r"^attrs==.*$", text, re.MULTILINE)]  # it stands under another heading


def fetch(wanted: list[str]) -> list[Path]:
    """The wheels for every interpreter, from the cache or by pip: side by side, because pip waits for the network."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda python: _download(python, wanted), PYTHONS))
    found = {wheel for python in PYTHONS for one in wanted if (wheel := _have(WHEELS / python, one))}
    return sorted(found, key=lambda wheel: (wheel.name, str(wheel)))


def _download(python: str, wanted: list[str]) -> None:
    folder = WHEELS / python
    missing = [one for one in wanted if not _have(folder, one)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform={name}_{platform.machine()}" for name in PLATFORMS]
    subprocess.run(
        [sys.executable, "-m", "pip", "-qqq", "--disable-pip-version-check", "download", "--no-deps",
         "--only-binary=:all:", f"--python-version={python}", *platforms, f"--dest={folder}", *missing],
        check=True,
    )  # fmt: skip


def _have(folder: Path, requirement: str) -> Path | None:
    name, _, version = requirement.partition("==")
    stem = re.sub(r"[-_.]+", "_", name)
    for wheel in sorted(folder.glob("*.whl")):
        parts = wheel.name.split("-")
        if parts[0].lower() == stem.lower() and parts[1] == version:
            return wheel
    return None


def unpack(wheel: Path, target: Path) -> None:
    """A wheel's files; RECORD and scripts stay behind. A second interpreter's wheel adds what has another name."""
    with zipfile.ZipFile(wheel) as archive:
        for info in sorted(archive.infolist(), key=lambda item: item.filename):
            path = Path(info.filename)
            if info.is_dir() or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(".data"):
                continue
            if path.name in ("RECORD", "INSTALLER", "WHEEL") and path.parts[0].endswith(".dist-info"):
                continue
            if "tests" in path.parts and path.parts[0] == "psutil":
                continue
            data = archive.read(info)
            place = target / path
            if place.exists() and place.read_bytes() != data and path.name != "METADATA":
                raise SystemExit(f"package: {path}: {wheel.name} has another one than a wheel before it")
            _write(place, data)


def _write(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def stage(wheel: Path, tree: Path) -> None:
    """The file system of the package."""
    for one in [*fetch(runtime()), wheel]:
        unpack(one, tree / PREFIX)
    _write(tree / "usr/bin/agentd", LAUNCHER, 0o755)
    units = ROOT / "systemd"
    for name in ("agentd.service", "agentd@.service", "agentd-canary.socket", "agentd-canary@.service", "agents.slice"):
        _write(tree / "usr/lib/systemd/system" / name, (units / name).read_bytes())
    _write(tree / "usr/lib/sysusers.d/agentd.conf", (units / "agentd.sysusers").read_bytes())
    _write(tree / "usr/lib/tmpfiles.d/agentd.conf", (units / "agentd.tmpfiles").read_bytes())
    for name in ("agent.conf", "library-calls.conf", "without-hooks.conf"):
        _write(tree / "usr/share/agentd" / name, (units / name).read_bytes())
    _write(tree / "usr/share/agentd/policy.schema.json", json.dumps(SCHEMA, indent=2) + "\n")
    for policy in sorted((ROOT / "policies").glob("*.yaml")):
        _write(tree / "usr/share/agentd/policies" / policy.name, policy.read_bytes())
    for name, text in manual.pages().items():
        _write(tree / "usr/share/man" / f"man{name[-1]}" / f"{name}.gz", manual.compressed(text))
    for place, text in completion.scripts().items():
        _write(tree / place, text)
    documents = tree / "usr/share/doc/agentd"
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"):
        _write(documents / ("copyright" if name == "LICENSE" else name), (ROOT / name).read_bytes())
    _write(tree / "etc/agentd/agentd.yaml", (ROOT / "package" / "agentd.yaml").read_bytes())
    _write(tree / "etc/agentd/policies/10-coding-agent.yaml", (ROOT / "policies" / "coding-agent.yaml").read_bytes())
    for folder, _, _ in os.walk(tree):
        os.chmod(folder, 0o755)


def write_scripts(target: Path) -> Path:
    """What the packages run: deb/ and rpm/ with the functions of *.sh and this version's layout written into them."""
    shared = {
        f"@{path.stem}@\n": path.read_text(encoding="utf-8").replace("@LAYOUT@", str(abi.ABI_VERSION))
        for path in (ROOT / "package").glob("*.sh")
    }
    for kind in ("deb", "rpm"):
        for source in sorted((ROOT / "package" / kind).iterdir()):
            text = source.read_text(encoding="utf-8")
            for mark, functions in shared.items():
                text = text.replace(mark, functions)
            _write(target / kind / source.name, text, 0o755)
    return target


def settings(tree: Path, arch: str, epoch: int, scripts: Path, version: str) -> dict[str, Any]:
    """What nfpm is told."""
    time = _iso(epoch)
    # An interpreter that the folder has no modules for would end the service at its next start, with the pins in force.
    oldest, beyond = PYTHONS[0], f"3.{int(PYTHONS[-1].removeprefix('3.')) + 1}~"
    contents: list[dict[str, Any]] = [
        {"src": str(path), "dst": "/" + str(path.relative_to(tree)), "file_info": {"mtime": time},
         **({"type": "config|noreplace"} if path.is_relative_to(tree / "etc") else {})}
        for path in sorted(tree.rglob("*")) if path.is_file()
    ]  # fmt: skip
    own = [tree / PREFIX, tree / "usr/share/agentd", tree / "usr/share/doc/agentd"]
    own += [path for top in own[:2] for path in top.rglob("*") if path.is_dir()]
    folders = [f"/{path.relative_to(tree)}" for path in own]
    folders += [f"/etc/agentd{name}" for name in ("", "/agentd.yaml.d", "/policies")]
    contents += [{"dst": name, "type": "dir", "file_info": {"mode": 0o755, "mtime": time}} for name in sorted(folders)]
    return {
        "name": "agentd",
        "arch": arch,
        "platform": "linux",
        "version": version,
        "version_schema": "none",
        "release": "1",
        "section": "admin",
        "priority": "optional",
        "maintainer": "The agentd authors <agentd@localhost>",
        "description": "Holds AI agents on this host to their policy, in the kernel\n"
        "A daemon that decides, by eBPF programs and without any change to the agent,\n"
        "which programs an AI agent may run, which files it may touch and which hosts\n"
        "it may reach; operations can be held until somebody approves.",
        "license": "Apache-2.0",
        "mtime": time,
        "umask": 0o022,
        "contents": contents,
        "deb": {"compression": "zstd", "fields": {"Rules-Requires-Root": "no"}},
        "rpm": {"compression": "zstd", "buildhost": "localhost", "group": "System Environment/Daemons"},
        "overrides": {
            "deb": {
                "depends": [f"python3 (>= {oldest})", f"python3 (<< {beyond})",
                            "libbpf1 (>= 1:1.1)", "systemd", "passwd"],
                "scripts": {path.name: str(path) for path in sorted((scripts / "deb").iterdir())},
            },
            "rpm": {
                "depends": [f"python3 >= {oldest}", f"python3 < {beyond}", "libbpf >= 1.1", "systemd", "shadow-utils"],
                "scripts": {path.name: str(path) for path in sorted((scripts / "rpm").iterdir())},
            },
        },
    }  # fmt: skip


def _iso(epoch: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Writes both packages and says where."""
    wheel, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    version = sys.argv[3] if len(sys.argv) > 3 else agentd.__version__
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    arch = MACHINES.get(platform.machine())
    if arch is None:
        raise SystemExit(f"package: {platform.machine()}: the BPF objects are for {', '.join(MACHINES)}; build there")
    nfpm = shutil.which("nfpm", path=f"{sys.prefix}/bin") or "nfpm"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agentd-package-") as name:
        tree = Path(name) / "tree"
        stage(wheel, tree)
        config = Path(name) / "nfpm.yaml"
        config.write_text(
            yaml.safe_dump(settings(tree, arch, epoch, write_scripts(Path(name)), version), sort_keys=True), "utf-8"
        )
        for packager in ("deb", "rpm"):
            subprocess.run(
                [nfpm, "package", f"--config={config}", f"--packager={packager}", f"--target={out}"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
    for made in sorted(path for suffix in ("*.deb", "*.rpm") for path in out.glob(suffix)):
        print(made)


if __name__ == "__main__":
    main()
