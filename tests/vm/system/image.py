"""The disk of a stock Debian: made once by mmdebstrap into the cache, an ext4 image that boots leave as it was.

It is a minimal installation with systemd, apt and python3, and the modules of the kernel that boots it; no compiler,
and nothing of agentd. `libbpf1`, which the package wants, lies beside it as files, because the machine has no network.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.kernels import KEYS, MIRROR, Kernel, cache

INCLUDE: Final = "systemd,systemd-sysv,dbus,apt,python3,udev,kmod,procps,iproute2,netbase,libzstd1"
WANTED: Final = ("libbpf1", "libelf1", "libelf1t64")  # whichever the suite has
SUITES: Final = {"12": "bookworm", "13": "trixie"}
MODULES: Final = (
    *("kernel/net", "kernel/fs", "kernel/lib", "kernel/crypto", "kernel/arch/x86/crypto"),
    *("kernel/drivers/block", "kernel/drivers/virtio"),
)
INITRD_MODULES: Final = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
INIT: Final = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root /sbin /bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /$module; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root || /bin/busybox poweroff -f
/bin/busybox mount --move /proc /root/proc
/bin/busybox mount --move /sys /root/sys
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
# Runs what the second disk holds, at the end of every boot, and says on the second serial port what came of it.
UNIT: Final = """[Unit]
Description=What the host wants to be done
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=file:/dev/ttyS1
StandardError=inherit
ExecStart=/bin/sh -c 'mkdir -p /run/vm && tar -x -C /run/vm -f /dev/vdb && exec sh /run/vm/start'
TimeoutStartSec=infinity
[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What boots a system. disk: left as it is; packages: a folder of .deb files."""

    kernel: Kernel
    disk: Path
    initrd: Path
    packages: Path


def image(version: str, kernel: Kernel) -> Image:
    """The image of Debian `version`, from the cache or made now. Needs root, mmdebstrap, e2fsprogs, busybox-static."""
    folder = cache().parent / "systems"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        name = f"{SUITES[version]}-{kernel.release}"
        made = Image(kernel, folder / f"{name}.ext4", folder / f"{name}.cpio", folder / f"{SUITES[version]}-packages")
        if not (made.disk.exists() and made.initrd.exists() and made.packages.is_dir()):
            _make(SUITES[version], kernel, made, folder)
        return made


def prometheus(version: str, system: Image) -> Path:
    """A folder of .deb files: Prometheus and what it needs that the image hasn't. From the cache or the mirror."""
    suite = SUITES[version]
    folder = system.disk.parent / f"{suite}-prometheus"
    with _locked(folder.parent):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as name:
                _download(suite, system.disk, Path(name))
                os.rename(Path(name) / "archives", folder)
    return folder


def _download(suite: str, disk: Path, state: Path) -> None:
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "archives" / "partial").mkdir(parents=True)
    _run(["debugfs", "-R", f"dump /var/lib/dpkg/status {state}/status", str(disk)])
    (state / "sources.list").write_text(f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n", encoding="utf-8")
    apt = [
        "apt-get", "-q", "-o", f"Dir::Etc::SourceList={state}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
        "-o", f"Dir::State={state}", "-o", f"Dir::State::Lists={state}/lists",
        "-o", f"Dir::State::Status={state}/status", "-o", f"Dir::Cache={state}",
        "-o", f"Dir::Cache::Archives={state}/archives", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3",
    ]  # fmt: skip
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", "prometheus"])


def _make(suite: str, kernel: Kernel, made: Image, folder: Path) -> None:
    tree = folder / f"{suite}.new"
    shutil.rmtree(tree, ignore_errors=True)
    print(f"vm: installing Debian {suite} into the cache", flush=True)
    packages = folder / f"{suite}-packages"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    download = (
        'cd "$1/tmp" && for p in '
        + " ".join(WANTED)
        + '; do chroot "$1" sh -c "cd /tmp && apt-get -q download $p" || :; done'
    )
    _run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDE}",
         '--aptopt=Acquire::Retries "3"', f"--customize-hook={download.replace('$1', '$1')}",
         f'--customize-hook=mv "$1"/tmp/*.deb {packages}/ && chmod 644 {packages}/*', suite, str(tree), MIRROR],
    )  # fmt: skip
    modules = kernel.image.parent
    while not (modules / "lib" / "modules").is_dir():
        modules = modules.parent
    source, target = modules / "lib" / "modules" / kernel.release, tree / "lib" / "modules" / kernel.release
    for name in MODULES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    for file in source.glob("modules.*"):
        shutil.copy2(file, target / file.name)
    _run(["depmod", "-b", str(tree), kernel.release])
    (tree / "etc" / "fstab").write_text("/dev/vda / ext4 rw,noatime 0 1\n", encoding="utf-8")
    (tree / "etc" / "hostname").write_text("stock\n", encoding="utf-8")
    (tree / "etc" / "systemd" / "system" / "host.service").write_text(UNIT, encoding="utf-8")
    wants = tree / "etc" / "systemd" / "system" / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "host.service").symlink_to("/etc/systemd/system/host.service")
    for unit in ("systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
                 "e2scrub_all.timer", "fstrim.timer", "systemd-networkd.service"):  # fmt: skip
        (tree / "etc" / "systemd" / "system" / unit).unlink(missing_ok=True)
        (tree / "etc" / "systemd" / "system" / unit).symlink_to("/dev/null")
    _initrd(kernel, source, folder / "initrd.new", made.initrd)
    disk = made.disk.with_suffix(".new")
    disk.unlink(missing_ok=True)
    _run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(disk), "3G"])
    os.rename(disk, made.disk)
    shutil.rmtree(tree)


def _initrd(kernel: Kernel, source: Path, tree: Path, made: Path) -> None:
    """A small one by hand: busybox, and the modules that find the disk."""
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "bin").mkdir(parents=True)
    shutil.copy2("/bin/busybox", tree / "bin" / "busybox")
    shown = subprocess.run(
        ["modprobe", "-d", str(source.parents[2]), "-S", kernel.release, "--show-depends", "-a", *INITRD_MODULES],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    files = list(dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")))
    names = []
    for number, file in enumerate(files):
        name = f"{number:02}.ko"
        data = Path(file).read_bytes()
        if file.endswith(".xz"):
            data = subprocess.run(["xz", "-dc", file], capture_output=True, check=True).stdout
        (tree / name).write_bytes(data)
        names.append(name)
    (tree / "modules").write_text("\n".join(names) + "\n", encoding="ascii")
    (tree / "init").write_text(INIT, encoding="utf-8")
    (tree / "init").chmod(0o755)
    with open(made, "wb") as out:
        subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=tree, stdout=out, check=True)
    shutil.rmtree(tree)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vm: {command[0]}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
