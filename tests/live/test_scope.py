"""A process can't leave its workload, and nobody else is in it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import Compiler, Result, assert_allowed, assert_denied, untagged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has `secret`, which may not be read, and `plain`, which may."""
    made = tmp_path_factory.mktemp("scope")
    (made / "secret").write_text("secret")
    (made / "plain").write_text("plain")
    return made


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """`bot` may do all but read `secret`; `still` neither that nor 32-bit calls."""
    rule = {"tool": "file_reader", "paths": [f"{folder}/secret"]}
    agents = {"bot": harness.agent(deny=[rule]), "still": harness.agent(deny=[rule], but=["host"])}
    with harness.enforcing(folder, agents) as host:
        yield host


# Each defines go(f), which calls f in some process that has tried to get away, and returns its wait status (or None).
LEAVINGS = {
    "nothing": "def go(f): return f()",
    "fork": "def go(f): return child(f)",
    "double fork": """
def go(f):
    # the grandchild has no parent here when it acts
    r, w = os.pipe()
    def middle():
        if os.fork(): os._exit(0)
        os.setsid(); time.sleep(0.05); f()
    child(middle)
    os.close(w); os.read(r, 1)
""",
    "setsid": "def go(f): return child(lambda: (os.setsid(), f()))",
    "daemon": """
def go(f):
    r, w = os.pipe()
    child(lambda: (libc.daemon(0, 1), f()))
    os.close(w); os.read(r, 1)
""",
    "CLONE_PARENT": """
def go(f):
    r, w = os.pipe()
    pid = syscall(56, 0x8000 | 17, 0, 0, 0, 0)
    if not pid: f(); os._exit(0)
    os.close(w); os.read(r, 1)
""",
    "clone3 into a cgroup": """
def go(f):
    group = os.open(GROUP, os.O_PATH)
    r, w = os.pipe()
    args = struct.pack("8Q3Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, group)
    pid = syscall(435, args, 88)
    if not pid: f(); os._exit(0)
    os.close(w); os.read(r, 1); os.waitpid(pid, 0)
""",
    "cgroup move": """
def go(f):
    open(GROUP + "/cgroup.procs", "w").write(str(os.getpid()))
    return child(f)
""",
    "exec": "def go(f): return child(lambda: os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', AGAIN]))",
    "thread": "def go(f):\n    t = threading.Thread(target=f); t.start(); t.join()",
    "fork in a thread": "def go(f):\n    t = threading.Thread(target=lambda: child(f)); t.start(); t.join()",
    "setuid": "def go(f): return child(lambda: (os.setgid(65534), os.setuid(65534), f()))",
    "new pid namespace": "def go(f): syscall(272, 0x20000000); return child(f)",
    "chroot": "def go(f): os.chroot('/'); return f()",
    "prctl name": "def go(f): libc.prctl(15, b'agentd', 0, 0, 0); return f()",
    "subreaper": "def go(f): libc.prctl(36, 1, 0, 0, 0); return child(lambda: child(f))",
}
COMMON = """
def child(f):
    pid = os.fork()
    if not pid:
        f()
        os._exit(0)
    return os.waitpid(pid, 0)[1]
AGAIN = f"import os; os.write(1, b'READ ' + open({PATH!r}, 'rb').read() + bytes([10]))"
def f():
    os.write(1, b"READ " + open(PATH, "rb").read() + b"\\n")
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A new cgroup of the v2 hierarchy."""
    mount = next(
        line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"
    )
    made = Path(mount) / f"agentd-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


@pytest.mark.parametrize("how", LEAVINGS)
def test_nobody_leaves(live: Host, folder: Path, group: Path, how: str) -> None:
    """However a process tries to get away, it is held to the policy there too; untagged, the same works."""
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)  # for the one that becomes another user

    def command(name: str) -> list[str]:
        setup = f"PATH = {str(folder / name)!r}; GROUP = {str(group)!r}\n"
        return probes.python(setup + COMMON + LEAVINGS[how] + "\nsay('attempt')\ngo(f)\nsay('end')")

    assert "READ secret" in untagged(command("secret")).lines
    run = live.run(command("plain"))
    assert "READ plain" in run.lines and not run.denials, run
    run = live.run(command("secret"))
    assert "READ secret" not in run.lines, run
    assert [(record["object"], record["kernel_operation"]) for record in run.denials] == [(f"{folder}/secret", "read")]


def test_bystanders_are_left_alone(live: Host, folder: Path, compiler: Compiler) -> None:
    """While tagged processes are killed for it, an untagged process does the same things all the time, undisturbed."""
    loop = f"""
n = 0
import socket
while not os.path.exists({str(folder / "enough")!r}):
    assert open({str(folder / "secret")!r}).read() == "secret"
    os.stat("/"); n += 1
    pid = os.fork()
    if not pid: os._exit(7)
    assert os.waitpid(pid, 0)[1] == 7 << 8
say(str(n))
"""
    bystander = subprocess.Popen(probes.python(loop), stdout=subprocess.PIPE)
    code = probes.python(f"attempt(lambda: open({str(folder / 'secret')!r}).read())")
    for _ in range(20):
        assert_denied(live.run(code), killed_by=signal.SIGKILL)
    (folder / "enough").touch()
    out, _ = bystander.communicate(timeout=probes.PATIENCE)
    (folder / "enough").unlink()
    assert bystander.returncode == 0 and int(out) > 0
    assert not [record for record in live.records() if (record["process"] or {}).get("pid") == bystander.pid]


THREADS = r"""
static void *nothing(void *unused)
{
	return 0;
}
int main(int argc, char **argv)
{
	pthread_t thread;
	pthread_attr_t small;
	char text[100];
	int fd;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int i = 0; i < atoi(argv[2]); i++) {
		if (pthread_create(&thread, &small, nothing, 0) || pthread_join(thread, 0))
			return 5;
	}
	say("attempt\n");
	fd = open(argv[1], O_RDONLY);
	if (fd >= 0 && read(fd, text, sizeof(text)) > 0)
		say("ok READ\n");
	return 0;
}
"""


def test_many_short_threads(live: Host, folder: Path, compiler: Compiler, request: pytest.FixtureRequest) -> None:
    """After thousands of threads that came and went the process is still tagged, and nothing of them is left."""
    number = "20000" if request.config.getoption("--slow", default=False) else "2000"
    program = compiler.program(THREADS)
    assert untagged([program, folder / "secret", number]).result() is Result.ALLOWED
    assert_allowed(live.run([program, folder / "plain", number]))
    assert_denied(live.run([program, folder / "secret", number]), killed_by=signal.SIGKILL)
    assert live.engine.marks.list() == []


INT80 = r"""
int main(int argc, char **argv)
{
	/* the address must fit in 32 bits */
	char *low = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	long fd, n;

	strcpy(low, argv[1]);
	say("attempt\n");
	__asm__ volatile("int $0x80" : "=a"(fd) : "a"(5), "b"(low), "c"(0), "d"(0) : "memory");
	if (fd < 0) {
		errno = -fd;
		result(-1);
		return 0;
	}
	__asm__ volatile("int $0x80" : "=a"(n) : "a"(3), "b"(fd), "c"(low), "d"(100) : "memory");
	if (n > 0)
		say("ok READ\n");
	return 0;
}
"""


def test_a_call_of_32_bits(live: Host, folder: Path, compiler: Compiler) -> None:
    """A 32-bit system call is an operation of its own, and where that is allowed it is judged as what it does."""
    program = compiler.program(INT80)
    tried = untagged([program, folder / "secret"])
    if tried.result() is not Result.ALLOWED:  # CONFIG_IA32_EMULATION is off: it ends with a signal or an error
        assert live.run([program, folder / "secret"], "still").result() is not Result.ALLOWED
        return
    assert_allowed(live.run([program, folder / "plain"]))
    record = assert_denied(live.run([program, folder / "secret"]), killed_by=signal.SIGKILL)
    assert (record["object"], record["kernel_operation"]) == (f"{folder}/secret", "read")
    assert record["metadata"]["compat"] is True
    record = assert_denied(live.run([program, folder / "plain"], "still"), killed_by=signal.SIGKILL)
    assert (record["object"], record["kernel_operation"]) == ("i386", "compat")
