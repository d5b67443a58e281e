"""Installs agentd's package on a stock Debian in a virtual machine, as an operator would, and looks at the result.

    ./dev vm-systemd              Debian 12: install, enable, reboot, upgrade under load, downgrade, remove, purge, the
                                  README's commands, and then vagrant/provision.sh, as Vagrant would
    ./dev vm-systemd 13           Debian 13
    ./dev vm-systemd 12 --until reboot     only up to there
    ./dev vm-systemd 12 --only upgrade remove     install, and then only that
    ./dev vm-systemd 12 --only readme provision   the README's commands as they stand, by somebody who has nothing yet

What is done in the machine, step by step, is the script `start`. Emulated (TCG), one machine, no network.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Final

from agentd.kernel import abi
from tests.vm import kernels
from tests.vm.boot import scan
from tests.vm.system.image import SUITES, Image, image, prometheus

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
KERNELS: Final = {"12": "6.1", "13": "6.12"}
NEXT: Final = "0.1.0+next"
STAGES: Final = ("doctor", "template", "reboot", "upgrade", "remove", "provision", "readme")


def build(folder: Path) -> None:
    """The package, the next version of it, and the program that agents run."""
    environment = {"SOURCE_DATE_EPOCH": "1700000000", **os.environ}
    wheel = folder / "wheel"
    python = f"{sys.prefix}/bin/python"
    subprocess.run(
        [python, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheel)], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    (built,) = wheel.glob("*.whl")
    for name, version in (("agentd", []), ("agentd-next", [NEXT])):
        out = folder / name
        subprocess.run(
            [python, "-m", "package", str(built), str(out), *version], cwd=ROOT, check=True, env=environment,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (deb,) = out.glob("*.deb")
        deb.rename(folder / f"{name}.deb")
    _other_layout(folder)
    flags = ["-O1", "-static", "-nostdlib", "-fno-stack-protector"]
    subprocess.run(["gcc", *flags, "-o", str(folder / "first"), str(HERE / "first.c")], check=True)


def _other_layout(folder: Path) -> None:
    """A next version whose maps are laid out otherwise: its scripts alone, because nothing of it is to be unpacked."""
    tree = folder / "agentd-other"
    tree.mkdir()
    subprocess.run(["dpkg-deb", "--control", folder / "agentd-next.deb", tree / "DEBIAN"], check=True)
    (tree / "DEBIAN" / "conffiles").unlink()
    script = tree / "DEBIAN" / "preinst"
    text = script.read_text(encoding="utf-8")
    other = text.replace(f"new={abi.ABI_VERSION}\n", "new=7000\n")
    assert other != text
    script.write_text(other, encoding="utf-8")
    subprocess.run(["dpkg-deb", "--build", tree, folder / "agentd-other.deb"], check=True, stdout=subprocess.DEVNULL)


def second_disk(system: Image, more: Path, folder: Path, until: str, only: str) -> Path:
    """What the machine gets, as a tar file that is a disk. more: packages for provision.sh."""
    path = folder / "disk.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("agentd.deb", "agentd-next.deb", "agentd-other.deb", "first"):
            archive.add(folder / name, name)
        for name in ("start", "policy.yaml"):
            archive.add(HERE / name, name)
        archive.add(ROOT / "README.md", "README.md")
        archive.add(ROOT / "vagrant" / "provision.sh", "provision/vagrant/provision.sh")
        archive.add(ROOT / "vagrant" / "demo", "provision/vagrant/demo")
        for deb in sorted(system.packages.glob("*.deb")):
            archive.add(deb, f"packages/{deb.name}")
        for deb in sorted(more.glob("*.deb")):
            archive.add(deb, f"provision/packages/{deb.name}")
        control = subprocess.run(
            ["dpkg-deb", "-f", str(folder / "agentd.deb"), "Version"], capture_output=True, text=True, check=True
        )
        for name, text in (("until", until), ("only", only), ("version", control.stdout.strip())):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    with open(path, "ab") as file:
        file.truncate(-(-path.stat().st_size // 4096) * 4096)
    return path


def boot(system: Image, disk: Path, folder: Path, seconds: float) -> str:
    """Runs the machine until it is off; what it said on its second serial port.

    One processor whose time is counted in instructions (4 ns each, -icount): on a busy host the timers of two
    processors in real time come faster than the guest can handle them, and it stands still.
    """
    said = folder / "said"
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=2",
        "-m", "1536", "-nodefaults", "-display", "none",
        "-kernel", str(system.kernel.image), "-initrd", str(system.initrd),
        "-append", "console=ttyS0 loglevel=4 mitigations=off nowatchdog systemd.show_status=0 net.ifnames=0",
        "-drive", f"file={system.disk},format=raw,if=virtio,snapshot=on,cache=unsafe",
        "-drive", f"file={disk},format=raw,if=virtio,readonly=on",
        "-serial", f"file:{folder / 'console'}", "-serial", f"file:{said}",
    ]  # fmt: skip
    deadline = time.monotonic() + seconds
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    shown = 0
    try:
        while machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
            end = text.rfind("\n") + 1
            if end > shown:
                print(text[shown:end].replace("\r", ""), end="", flush=True)
                shown = end
    finally:
        if machine.poll() is None:
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()
    return said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""


def main() -> int:
    """0: everything was as it should be, to the end."""
    parser = argparse.ArgumentParser(prog="./dev vm-systemd", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("debian", nargs="?", default="12", choices=SUITES)
    parser.add_argument("--until", choices=("reboot", "purge"), default="purge")
    parser.add_argument("--only", choices=STAGES, nargs="+", default=[], help="install, then only these")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for the machine (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the console and what the machine said there")
    options = parser.parse_args()
    source = [one for one in kernels.listed() if one.version == KERNELS[options.debian]]
    system = image(options.debian, kernels.fetch(source)[0])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentd-vm-") as name:
        folder = Path(name)
        build(folder)
        more = prometheus(options.debian, system)
        disk = second_disk(system, more, folder, options.until, " ".join(options.only))
        said = boot(system, disk, folder, options.timeout)
        console = (folder / "console").read_text(encoding="utf-8", errors="replace")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for report in ("console", "said"):
                shutil.copy(folder / report, options.keep)
    failed = [line for line in said.splitlines() if line.startswith("FAIL")] + scan(console)
    passed = sum(line.startswith("ok ") for line in said.splitlines())
    if "END after" not in said:
        failed.append(
            "the machine did not come to the end; its console ends:\n" + "\n".join(console.splitlines()[-25:])
        )
    for line in failed:
        print(line)
    print(f"Debian {options.debian}: {passed} passed, {len(failed)} failed, {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
