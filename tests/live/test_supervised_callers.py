"""The supervisor acts as the caller would have: its user, umask and limits, its view of /proc, its descriptors."""

# ruff: noqa: E501  # programs in strings

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import untagged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="agentd-callers-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Host]:
    """An agent that may do anything but change what is below `kept`."""
    deny = [{"tool": tool, "paths": [f"{folder}/kept/**"]} for tool in ("file_writer", "file")]
    with harness.enforcing(folder, {"bot": harness.agent(deny=deny)}) as host:
        if not host.engine.supervises:
            pytest.skip("there are LSM hooks on this host: nothing is supervised")
        yield host


def both(live: Host, folder: Path, code: str) -> list[list[str]]:
    """What a program prints without agentd, and supervised, in a fresh folder `F` each time."""
    printed = []
    for tagged in (False, True):
        for name in ("work", "kept"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir()
        (folder / "kept/file").write_text("kept")
        command = probes.python(f"F = {str(folder / 'work')!r}; K = {str(folder / 'kept')!r}\nos.chdir(F)\n{code}")
        run = live.run(command, seccomp=True) if tagged else untagged(command)
        assert run.status == 0 and (not tagged or not run.denials), run
        printed.append(run.lines)
    return printed


SAME = {
    "user, group and umask": """
os.chmod(F, 0o777); os.mkdir('roots'); os.mkdir('group', 0o770); os.chown('group', 0, 1234); os.chmod('group', 0o2770)
os.setgroups([1234]); os.setresgid(2345, 2345, 2345); os.setresuid(3456, 3456, 3456); os.umask(0o027)
for name in ('file', 'roots/file', 'group/file'):
    attempt(lambda: os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o666)))
attempt(lambda: os.mkdir('folder')); attempt(lambda: os.chown('file', 0, 0)); attempt(lambda: os.mknod('null', 0o20666, 259))
attempt(lambda: os.unlink('roots')); attempt(lambda: os.chmod('roots', 0o777)); attempt(lambda: os.rmdir('roots/x'))
for name in ('file', 'group/file', 'folder', 'roots'):
    s = os.stat(name); say(f'{name} {oct(s.st_mode)} {s.st_uid} {s.st_gid}')
""",
    "one capability less": """
libc.prctl(24, 1, 0, 0, 0)  # CAP_DAC_OVERRIDE out of the bounding set
header = struct.pack('Ii', 0x20080522, 0); data = ctypes.create_string_buffer(24); libc.capget(header, data)
words = list(struct.unpack('6I', data.raw)); words[0] &= ~6; libc.capset(header, struct.pack('6I', *words))
os.mkdir('other'); os.chown('other', 77, 77); os.chmod('other', 0o700)
attempt(lambda: os.mkdir('other/x')); attempt(lambda: os.chown('other', 78, 78)); say(str(os.stat('other').st_uid))
""",
    "limits": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)); held = [os.open('a', os.O_WRONLY | os.O_CREAT)]
def fill():
    while True: held.append(os.open('a', os.O_WRONLY))
attempt(fill)
for fd in held: os.close(fd)
signal.signal(signal.SIGXFSZ, lambda *_: say('SIGXFSZ'))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); attempt(lambda: os.truncate('a', 200)); say(str(os.stat('a').st_size))
""",
    "its own view of /proc": """
open('/proc/self/comm', 'w').write('renamed'); say(open('/proc/self/comm').read().strip())
open('/proc/thread-self/comm', 'w').write('again'); say(open('/proc/thread-self/comm').read().strip())
fd = os.open('there', os.O_RDWR | os.O_CREAT, 0o600)
for name in (f'/proc/self/fd/{fd}', f'/dev/fd/{fd}', f'/proc/{os.getpid()}/fd/{fd}', f'/proc/self/task/{os.getpid()}/fd/{fd}'):
    again = os.open(name, os.O_WRONLY | os.O_APPEND); os.write(again, b'x'); os.close(again)
say(os.read(fd, 99).decode()); os.chmod(f'/proc/self/fd/{fd}', 0o640); say(oct(os.stat('there').st_mode))
say(os.path.realpath('/proc/self/cwd') == F and 'cwd' or 'not'); open('/proc/self/cwd/here', 'w').close(); say(str(os.listdir(F)))
os.unlink('there'); again = os.open(f'/proc/self/fd/{fd}', os.O_WRONLY); os.write(again, b'gone'); say(os.pread(fd, 4, 0).decode())
fd = os.memfd_create('m'); again = os.open(f'/proc/self/fd/{fd}', os.O_RDWR); os.write(again, b'mem'); say(os.pread(fd, 3, 0).decode())
r, w = os.pipe(); again = os.open(f'/dev/fd/{w}', os.O_WRONLY); os.write(again, b'pipe'); say(os.read(r, 4).decode())
attempt(lambda: os.open('/dev/fd/77', os.O_WRONLY)); attempt(lambda: os.open('/dev/tty', os.O_RDWR) and 0)
say(str(open('/dev/null', 'w').write('x')))
master, slave = os.openpty(); say(str(os.isatty(os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY))))
""",
    "names": """
os.mkdir('a'); os.symlink('a', 'b'); os.symlink('nowhere', 'dangling'); os.symlink('loop', 'loop'); os.symlink('made', 'makes')
for call in (lambda: os.mkdir('b/c'), lambda: os.mkdir('a/'), lambda: os.rmdir('b/'), lambda: os.unlink('a/'),
             lambda: os.rmdir('a/.'), lambda: os.rmdir('.'), lambda: os.unlink(''), lambda: os.mkdir('x' * 256),
             lambda: os.mkdir('y/' * 2100), lambda: os.rename('a', 'a/d'), lambda: os.open('loop', os.O_WRONLY) and 0,
             lambda: os.open('dangling/x', os.O_WRONLY | os.O_CREAT) and 0, lambda: os.open('b', os.O_WRONLY) and 0,
             lambda: os.close(os.open('makes', os.O_WRONLY | os.O_CREAT)), lambda: os.open('made/', os.O_WRONLY) and 0,
             lambda: os.open('made', os.O_WRONLY | os.O_CREAT | os.O_EXCL) and 0,
             lambda: os.open('makes', os.O_WRONLY | os.O_NOFOLLOW) and 0, lambda: os.link('made', 'b/c/l'),
             lambda: os.open('new/', os.O_WRONLY | os.O_CREAT) and 0, lambda: os.rename('made', 'b/c/l'),
             lambda: os.chmod('dangling', 0o600), lambda: os.unlink('no/no'), lambda: os.unlink('made/no'),
             lambda: os.rename('nothing', 'x'), lambda: os.mkdir('b'), lambda: os.truncate('a', 0),
             lambda: syscall(83, None, 0o700), lambda: os.open('made', os.O_RDWR | os.O_DIRECTORY) and 0,
             lambda: os.unlink('/'), lambda: os.mkdir('/'), lambda: os.mkdir('a/../a/./../e'), lambda: os.mkdir('//tmp/..')):
    attempt(call)
say(str(sorted(os.listdir('.')))); os.mkdir('/proc/self/cwd/f'); say(str(sorted(os.listdir('.'))))
for i in range(300): os.mkdir('d'); os.chdir('d')
open('deep', 'w').close(); say(str(os.listdir('.')))
""",
    "a fifo": """
os.mkfifo('f'); pid = os.fork()
if not pid:
    time.sleep(0.3); say(open('f').read()); os._exit(0)
with open('f', 'w') as out: out.write('through')
os.waitpid(pid, 0)
""",
    "children and threads": """
import subprocess
done = []
def work(n):
    for i in range(20):
        with open(f'{n}-{i}', 'x') as out: out.write('x')
        os.rename(f'{n}-{i}', f'{n}+{i}'); os.unlink(f'{n}+{i}')
    done.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
say(f'{len(done)} {os.listdir(".")}')
for close in (True, False): say(str(subprocess.run(['/bin/sh', '-c', 'mkdir a; echo x > a/b; rm -r a; echo $?'], close_fds=close).returncode))
""",
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_it_is_as_without_a_supervisor(live: Host, folder: Path, what: str) -> None:
    """A program that does this gets the same answers, and leaves the same files."""
    plain, supervised = both(live, folder, SAME[what])
    assert supervised == plain


def test_a_setuid_program_keeps_its_rights(live: Host, folder: Path) -> None:
    """The filter needs no no_new_privs, which would take them away."""
    shutil.copy("/usr/bin/id", folder / "id")
    (folder / "id").chmod(0o4755)
    code = f"os.setresuid(3456, 3456, 3456); os.execv({str(folder / 'id')!r}, ['id', '-u'])"
    plain, supervised = both(live, folder, code)
    assert plain == supervised == ["0"]


def test_nobody_reaches_a_denied_file_by_another_root(live: Host, folder: Path) -> None:
    """In a chroot, in a mount namespace of its own and by a detached mount the file is the same: denied or unresolved."""
    code = """
def child(call):
    pid = os.fork()
    if not pid:
        call(); os._exit(0)
    os.waitpid(pid, 0)
def rooted():
    os.chroot(F + '/..'); os.chdir('/'); attempt(lambda: os.unlink('kept/file')); attempt(lambda: os.mkdir('work/made'))
def unshared():
    checked(libc.unshare(0x20000)); checked(libc.mount(b'none', b'/', None, 0x44000, None))
    attempt(lambda: os.unlink(K + '/file')); attempt(lambda: os.mkdir(F + '/unshared'))
def detached():
    tree = syscall(428, -100, K.encode(), 1 | 0x8000)
    attempt(lambda: os.unlink('file', dir_fd=tree)); attempt(lambda: os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=tree) and 0)
for call in (rooted, unshared, detached): child(call)
"""
    (folder / "work").mkdir(exist_ok=True)
    (folder / "kept").mkdir(exist_ok=True)
    shutil.rmtree(folder / "work")
    (folder / "work").mkdir()
    (folder / "kept/file").write_text("kept")
    command = probes.python(f"F = {str(folder / 'work')!r}; K = {str(folder / 'kept')!r}\n{code}")
    run = live.run(command, seccomp=True)
    no = f"errno {errno.EPERM}"
    assert [line for line in run.lines if line != "attempt"] == [no, "ok None", no, "ok None", no, no], run
    assert sorted(os.listdir(folder / "work")) == ["made", "unshared"] and os.listdir(folder / "kept") == ["file"]
    objects = [record["object"] for record in run.denials]
    assert objects == [str(folder / "kept/file")] * 2 + [None] * 2
    assert {record["point"] for record in run.denials} == {"seccomp"}
