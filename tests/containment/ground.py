"""Where the probes do what they do: files, programs, servers, and the policy about them.

The folder's name is always the same, because a policy that was compiled before is not compiled again (and that is what
costs most on a slow machine); a lock keeps two suites apart. It is a tmpfs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import yaml

from agentd.engine import automata
from agentd.resources import policies_dir
from tests.live import harness

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = HERE.parents[1] / ".cache/containment"
FOLDER: Final = Path("/tmp/agentd-containment")
SECRET: Final = "secret: not for you"
PLAIN: Final = "plain text"
RESERVED: Final = 61234  # a port that nobody may bind
LENGTHS: Final = (65, 255, 1000)  # of rules


Looks = list[tuple[object, ...]]


def looks(folder: str) -> Looks:
    """Everything of a folder that a change could show in: names, kinds, modes, owners, sizes, times."""
    found: Looks = []
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = f"{place}/{name}"
            facts = os.lstat(path)
            changed = (facts.st_mode, facts.st_uid, facts.st_size, facts.st_nlink, facts.st_mtime_ns, facts.st_ctime_ns)
            found.append((path, *changed))
    return found


def build() -> Path:
    """Compiles the probes if their sources are newer; the folder with `probe`, `effect` and `effect.so`."""
    sources = sorted((HERE / "c").glob("*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, HERE / "c/probe.h", HERE.parent / "live/probe.h"])
    made = BUILD / "probe"
    if made.exists() and made.stat().st_mtime > newest:
        return BUILD
    BUILD.mkdir(parents=True, exist_ok=True)
    effect, loader = HERE / "c/effect.c", HERE / "c/loader.c"
    probes = [path for path in sources if path not in (effect, loader)]
    bare = ["-nostdlib", "-fno-stack-protector"]
    for target, flags, files in (
        ("effect", ["-static"], [effect]),
        ("effect.so", ["-shared", "-fPIC", "-DLIBRARY"], [effect]),
        ("loader", ["-static-pie", "-fPIE", *bare], [loader]),
        ("loaded", ["-pie", "-fPIE", *bare, f"-Wl,--dynamic-linker={FOLDER}/denied/loader"], [loader]),
        ("probe", ["-static", "-pthread"], probes),
    ):
        subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", BUILD / f"{target}.new", *files], check=True)
        (BUILD / f"{target}.new").rename(BUILD / target)
    return BUILD


class Sinks:
    """Servers on every loopback address, TCP and UDP: on a port that is allowed, one denied, and two asked about."""

    NAMES: Final = ("free", "denied", "ask", "ask2")

    def __init__(self, stack: ExitStack) -> None:
        self.port: dict[str, int] = {}
        self._tcp: dict[str, socket.socket] = {}
        self._udp: dict[str, socket.socket] = {}
        for number, name in enumerate(self.NAMES):
            # A v6 socket that takes v4 too. The same ports every time: they stand in the policy.
            server, datagrams = (
                stack.enter_context(socket.socket(socket.AF_INET6, kind))
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            )
            port = 61240 + number
            for each in (server, datagrams):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                each.bind(("::", port))
                each.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
            server.listen(128)
            self._tcp[name], self._udp[name], self.port[name] = server, datagrams, port

    def seen(self, name: str, wait: float = 0.0) -> int:
        """How much has arrived at the servers of `name` since the last call. wait: seconds for the first to come."""
        found = 0
        select.select([self._tcp[name], self._udp[name]], [], [], wait)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._tcp[name].accept()[0].close()
                found += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                self._udp[name].recv(100)
                found += 1
        return found


class Ground:
    """The files. `fresh` puts them back into their first state."""

    def __init__(self, programs: Path, sinks: Sinks) -> None:
        self.dir = FOLDER
        self.programs = programs
        self.sinks = sinks
        self.mark = self.dir / "mark"
        self._pristine: tuple[Looks, Looks] | None = None
        self.names: dict[str, Any] = {
            name: self.dir / name
            for name in ("denied", "free", "bin", "nobin", "ask", "askbin", "work", "names", "long", "chains", "state")
        }
        home = Path("/home/agentd-containment")  # `~/` in a policy is every folder in /home
        self.names |= {
            "dir": self.dir, "home": home, "mark": self.mark, "pid": os.getpid(), "reserved": RESERVED,
            **{f"{name}_port": port for name, port in sinks.port.items()},
        }  # fmt: skip
        self.names |= {f"long{size}{last}": self.long(size, last) for size in LENGTHS for last in "xy"}
        self.lay_once()
        self.fresh()

    def lay_once(self) -> None:
        """What no probe changes for good."""
        for name in ("bin", "nobin", "ask", "askbin", "work/.git/hooks", "names", "long", "state", "chains"):
            (self.dir / name).mkdir(parents=True)
        for name in (
            "bin/good", "bin/tool", "bin/busybox", "bin/ld-linux-x86-64.so.2", "bin/sudo", "bin/at", "bin/crontab",
            "bin/systemd-run", "bin/ssh", "bin/suid", "nobin/suid", "askbin/prog",
        ):  # fmt: skip
            shutil.copy(self.programs / "effect", self.dir / name)
        for name in ("bin/suid", "nobin/suid"):
            (self.dir / name).chmod(0o4755)
        shutil.copy(self.programs / "loaded", self.dir / "bin/loaded")
        for name in ("denied.pub", "deniedfoo"):  # look like the denied folder
            (self.dir / name).mkdir()
            (self.dir / name / "key").write_text(SECRET)
        (self.dir / "ask/file").write_text("asked for")
        for size in LENGTHS:
            for last in "xy":
                made = self.long(size, last)
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_text(SECRET)

    def long(self, size: int, last: str) -> Path:
        """A path of `size` bytes below long/, whose last one is `last`."""
        path = str(self.dir / "long" / str(size))
        while size - len(path) > 220:
            path += "/" + "x" * 199
        return Path(path + "/" + "x" * (size - len(path) - 2) + last)

    def unmount(self) -> None:
        """Takes away what a probe has mounted here."""
        while mine := [
            line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if f" {self.dir}/" in line
        ]:
            subprocess.run(["umount", "-l", mine[-1]], check=True)

    def fresh(self) -> None:
        """Small files as at the beginning, and no mark."""
        self.unmount()
        self.mark.unlink(missing_ok=True)
        if (self.dir / "askbin/prog").stat().st_size < 10000:  # a probe has put a script there
            shutil.copy(self.programs / "effect", self.dir / "askbin/prog")
        for name in ("nobin/bad", "nobin/doomed"):
            if not (self.dir / name).exists():
                shutil.copy(self.programs / "effect", self.dir / name)
        if not self._pristine or self._pristine != (looks(f"{self.dir}/denied"), looks(f"{self.dir}/free")):
            self._lay()
            self._pristine = looks(f"{self.dir}/denied"), looks(f"{self.dir}/free")

    def _lay(self) -> None:
        """The denied and the free folder anew."""
        for name in ("denied", "free", "moved"):
            shutil.rmtree(self.dir / name, ignore_errors=True)
        for name in ("denied", "free"):
            (self.dir / name / "below").mkdir(parents=True)
            (self.dir / name / "file").write_text("text")
            (self.dir / name / "link").symlink_to("file")
            os.setxattr(self.dir / name / "file", "trusted.there", b"x")
        for name in ("upper", "workdir", "mount", "socks"):
            (self.dir / "free" / name).mkdir()
        (self.dir / "denied/key").write_text(SECRET)
        shutil.copy(self.programs / "loader", self.dir / "denied/loader")
        (self.dir / "denied/sub").mkdir()
        (self.dir / "denied/sub/key").write_text(SECRET)
        (self.dir / "free/plain").write_text(PLAIN)
        (self.dir / "free/alias").symlink_to(self.dir / "denied/key")
        (self.dir / "free/into").symlink_to(self.dir / "denied")

    def say(self, template: str) -> str:
        """`template` with {names} filled in."""
        return template.format(**self.names)

    def policy(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(agents, tools) of the one policy of the suite."""
        d, port = self.dir, self.sinks.port
        paths = [
            f"{d}/denied/**",
            f"{d}/free/mount/in/key",
            f"{d}/chains/kept/**",
            f"{d}/names/**",
            "anon:mqueue/agentd-denied",
            *(str(self.long(n, "x")) for n in LENGTHS),
        ]
        files = [{"tool": tool, "paths": paths} for tool in ("file_reader", "file_writer", "file")]
        files.append({"tool": "file", "operations": ["rename", "link"], "paths": [f"{d}/nobin/**"]})
        programs = [{"tool": "bad"}, {"tool": "loader"}, {"tool": "shell", "operations": ["rm"]}]
        net: list[dict[str, Any]] = [
            {"tool": "network", "hosts": [f"*:{port['denied']}", f"*:{RESERVED}"]},
            {"tool": "network", "operations": ["raw"]},
            {"tool": "ipc", "paths": ["**/denied.sock", "@agentd-denied"]},
            {"tool": "container"},
        ]
        deny = [*files, *programs, *net]
        ask: list[dict[str, Any]] = [
            {"tool": "asked"},
            {"tool": "network", "hosts": [f"127.0.0.1:{port['ask']}", f"127.0.0.1:{port['ask2']}"]},
            {"tool": "file_reader", "paths": [f"{d}/ask/**"]},
            {"tool": "file", "operations": ["rename"], "paths": [f"{d}/ask/**"]},
        ]
        tools = {
            "bad": {
                "run": [{"exec": [f"{d}/nobin/**", "**/*.no"]}],
                "argument": [
                    {"exec": ["**/tool"], "args": ["--forbidden*"]},
                    {"exec": ["**/dash"], "args": ["*.inner"]},
                    {"exec": ["**/python3*"], "args": ["-c"]},
                ],
            },
            "asked": {"run": [{"exec": [f"{d}/askbin/**"]}]},
            "deaf": {"listen": [{"listen": ["*"]}], "accept": [{"accept": ["*"]}]},
        }
        coding = yaml.safe_load((policies_dir() / "coding-agent.yaml").read_text(encoding="utf-8"))
        out = ("host", "process", "loader")
        hears = [{"tool": "deaf"}]
        agents = {
            "bot": harness.agent(deny=deny, but=out, allow=hears),
            # everything about namespaces, mounts, io_uring, old system calls is allowed, and the files are not
            "roamer": harness.agent(deny=[*files, *net, {"tool": "bad"}]),
            "walker": harness.agent(deny=[*files, {"tool": "host", "operations": ["mount"]}]),
            "reader": harness.agent(deny=[rule for rule in files if rule["tool"] != "file_reader"]),
            "sender": harness.agent(deny=[{"tool": "ipc", "paths": ["**/docker.datagram.sock"]}]),
            "wire": harness.agent(deny=[{"tool": "network", "operations": ["send"], "hosts": ["::1"]}]),
            "sailor": harness.agent(
                deny=[{"tool": "network", "hosts": [f"*:{port['denied']}", f"*:{RESERVED}", "127.9.9.9"]}]
            ),
            # old system calls, and else as bot
            "old": harness.agent(deny=deny, but=out, allow=[*hears, {"tool": "host", "operations": ["compat"]}]),
            "pure": harness.agent(deny=[{"tool": "runtime", "operations": ["generate", "code"]}]),
            "deaf": harness.agent(deny=[{"tool": "deaf"}]),
            "asker": harness.agent(deny=deny, ask=ask, but=["host"]),
            "named": harness.agent(
                but=["network"], allow=[{"tool": "network", "hosts": ["example.com", "*.example.com"]}]
            ),
            "surfer": harness.agent(
                but=["network", "web"],
                allow=[
                    {"tool": "web", "operations": ["fetch"], "hosts": ["*.example.test:443"]},
                    {"tool": "web", "paths": ["**"]},
                    {
                        "tool": "network",
                        "operations": ["connect", "send"],
                        "hosts": ["resolvers:53", "127.0.0.1", "127.6.6.6:53"],
                    },
                    {"tool": "network", "operations": ["listen", "raw"]},
                ],
            ),
            "coder": {**coding["agents"]["coding-agent"], "workspace": str(d / "work")},
        }
        return agents, tools


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A Ground, for one suite at a time."""
    # Beside the probes: a virtual machine that mounts this tree finds them there, and need not compile.
    automata.HOST_DIR = BUILD / "automata"  # type: ignore[misc]
    with ExitStack() as stack:
        lock = stack.enter_context(FOLDER.with_suffix(".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        FOLDER.mkdir(exist_ok=True)
        while os.path.ismount(FOLDER):  # of a suite that was killed
            subprocess.run(["umount", "-l", FOLDER], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "agentd-test", FOLDER], check=True)
        stack.callback(FOLDER.rmdir)
        stack.callback(subprocess.run, ["umount", "-l", FOLDER], check=True)
        made = Ground(build(), Sinks(stack))
        try:
            yield made
        finally:
            made.unmount()
            subprocess.run(["rm", "-rf", made.names["home"]], check=True)
