"""The canary: a program of its own that makes one harmless attempt at each kernel operation, as a child that agentd can
mark first. What it says is what happened, not what should have. Sources: the manual pages; syscall_64.tbl.

Run with a bare interpreter (`python -I -S canary.py FOLDER`), so it imports the standard library only. It has a mount
namespace of its own; what it makes is in FOLDER (-: one of its own) or on the loopback address. For each attempt:

    engine  try NAME [FILTER]   FILTER: a seccomp filter in hex, which the child puts on itself
    canary  {"pid": N}          a child that waits; with a filter {"listener": its descriptor of that} too
    engine  go                  the child makes its attempt (marked by now, or not)
    canary  {"attempted": true, "returned": errno or -1, "signal": N, "effect": true, "ns": time}

`returned`: 0 when the call succeeded and its caller could go on. An attempt is one function and one line in ATTEMPTS.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable

TIMEOUT = 10.0  # seconds until an attempt that doesn't end is ended
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE, MAP_32BIT = 0x4000, 0x40000, 0x40
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
NR_BPF, NR_PERF, NR_RING, NR_MODULE, NR_KEXEC = 321, 298, 425, 175, 246
EXITED = 42
libc = ctypes.CDLL(None, use_errno=True)


def checked(value: int) -> int:
    """Raises OSError for -1."""
    if value == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value


def syscall(number: int, *words: object) -> int:
    """A system call by its number. Raises OSError."""
    return checked(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(w) if isinstance(w, int) else w for w in words)))


class Ground:
    """What one attempt works on. effect: looks from outside whether it came about; None: that it returned says so."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.effect: Callable[[], bool] | None = None
        self.keep: list[socket.socket | mmap.mmap] = []
        self.victim = 0

    def file(self, name: str, text: str = "canary") -> str:
        """A small file."""
        path = f"{self.folder}/{name}"
        with open(path, "w", encoding="ascii") as out:
            out.write(text)
        return path

    def listener(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, tuple[str, int]]:
        """A socket on the loopback address, and where it is."""
        made = socket.socket(socket.AF_INET, kind)
        made.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            made.listen(1)
        self.keep.append(made)
        return made, made.getsockname()

    def arrives(self, at: socket.socket) -> Callable[[], bool]:
        """Does something arrive there?"""
        return lambda: bool(select.select([at], [], [], 0.05)[0])

    def clear(self) -> None:
        """Puts everything away."""
        for one in self.keep:
            one.close()
        if self.victim:
            os.kill(self.victim, signal.SIGKILL)
            os.waitpid(self.victim, 0)
        for place, folders, names in os.walk(self.folder, topdown=False):
            for name in names:
                os.unlink(f"{place}/{name}")
            for name in folders:
                libc.umount2(os.fsencode(f"{place}/{name}"), 2)
                os.rmdir(f"{place}/{name}")


Attempt = Callable[[], object]  # prepared outside any workload, the call is made when the child may go on


def _exec(g: Ground) -> Attempt:
    return lambda: os.execv("/bin/sh", ["sh", "-c", f"exit {EXITED}"])


def _read(g: Ground) -> Attempt:
    path = g.file("read")

    def call() -> None:
        with open(path, "rb", buffering=0) as file:
            if file.read() != b"canary":
                raise OSError(5, "read something else")

    return call


def _write(g: Ground) -> Attempt:
    path = g.file("write")
    g.effect = lambda: os.path.getsize(path) != 6
    return lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _create(g: Ground) -> Attempt:
    path = f"{g.folder}/create"
    g.effect = lambda: os.path.lexists(path)
    return lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _delete(g: Ground) -> Attempt:
    path = g.file("delete")
    g.effect = lambda: not os.path.lexists(path)
    return lambda: os.unlink(path)


def _rename(g: Ground) -> Attempt:
    path = g.file("rename")
    g.effect = lambda: not os.path.lexists(path)
    return lambda: os.rename(path, f"{g.folder}/renamed")


def _link(g: Ground) -> Attempt:
    path = g.file("link")
    g.effect = lambda: os.path.lexists(f"{g.folder}/linked")
    return lambda: os.link(path, f"{g.folder}/linked")


def _setattr(g: Ground) -> Attempt:
    path = g.file("setattr")
    os.chmod(path, 0o600)
    g.effect = lambda: os.stat(path).st_mode & 0o777 != 0o600
    return lambda: os.chmod(path, 0o644)


def _mount(g: Ground) -> Attempt:
    path = f"{g.folder}/mount"
    os.mkdir(path)
    g.effect = lambda: os.path.ismount(path)
    return lambda: checked(libc.mount(b"none", path.encode(), b"tmpfs", 0, None))


def _chroot(g: Ground) -> Attempt:
    return lambda: os.chroot(g.folder)


def _unix_connect(g: Ground) -> Attempt:
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    g.keep += [server, client]
    server.bind(f"{g.folder}/sock")
    server.listen(1)
    return lambda: client.connect(f"{g.folder}/sock")


def _ptrace(g: Ground) -> Attempt:
    g.victim = os.fork()
    if not g.victim:
        signal.pause()
        os._exit(0)

    def call() -> None:
        checked(libc.ptrace(PTRACE_SEIZE, g.victim, None, None))

    return call


def _signal(g: Ground) -> Attempt:
    g.victim = os.fork()
    if not g.victim:
        signal.pause()
        os._exit(0)
    ended = os.pidfd_open(g.victim)
    g.effect = lambda: select.select([ended], [], [], 0.05)[0] != []
    return lambda: os.kill(g.victim, signal.SIGTERM)


def _namespace(g: Ground) -> Attempt:
    return lambda: checked(libc.unshare(CLONE_NEWUSER))


def _bpf(g: Ground) -> Attempt:
    attributes = ctypes.create_string_buffer(struct.pack("5I", 2, 4, 4, 1, 0), 128)  # BPF_MAP_TYPE_ARRAY
    return lambda: syscall(NR_BPF, 0, attributes, len(attributes))


def _module(g: Ground) -> Attempt:
    nothing = ctypes.create_string_buffer(4096)  # no ELF file: ENOEXEC, behind the hook
    return lambda: syscall(NR_MODULE, nothing, len(nothing), ctypes.c_char_p(b""))


def _kexec(g: Ground) -> Attempt:
    return lambda: syscall(NR_KEXEC, 0, 0, None, 0x8)  # a flag that there isn't: EINVAL, behind the hook


def _io_uring(g: Ground) -> Attempt:
    parameters = ctypes.create_string_buffer(120)
    return lambda: syscall(NR_RING, 1, parameters)


def _socket(g: Ground) -> Attempt:
    return lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()


def _perf(g: Ground) -> Attempt:
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 9), 128)  # a software event that counts nothing
    return lambda: syscall(NR_PERF, attributes, 0, -1, -1, 0)


def _compat(g: Ground) -> Attempt:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    code = mmap.mmap(-1, 4096, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    start = ctypes.addressof(ctypes.c_char.from_buffer(code))
    # push rbx; mov ebx, path; xor ecx, ecx; mov eax, 5 (open); int 0x80; pop rbx; ret: a call that has an LSM hook
    path = struct.pack("<I", start + 32)
    code.write((b"\x53\xbb" + path + b"\x31\xc9\xb8\x05\x00\x00\x00\xcd\x80\x5b\xc3").ljust(32, b"\0") + b"/dev/null\0")
    call = ctypes.CFUNCTYPE(ctypes.c_int)(start)
    g.keep.append(code)  # or its memory is gone when the attempt is made

    def attempt() -> None:
        if (value := call()) < 0:
            raise OSError(-value, os.strerror(-value))

    return attempt


def _execmem(g: Ground) -> Attempt:
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    g.keep.append(page)
    return lambda: checked(libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(4096), mmap.PROT_EXEC))


def _connect(g: Ground) -> Attempt:
    server, address = g.listener()
    client = socket.socket()
    g.keep.append(client)
    g.effect = g.arrives(server)
    return lambda: client.connect(address)


def _bind(g: Ground) -> Attempt:
    made = socket.socket()
    g.keep.append(made)
    g.effect = lambda: made.getsockname()[1] != 0
    return lambda: made.bind(("127.0.0.1", 0))


def _listen(g: Ground) -> Attempt:
    made = socket.socket()
    g.keep.append(made)
    made.bind(("127.0.0.1", 0))
    return lambda: made.listen(1)


def _accept(g: Ground) -> Attempt:
    server, address = g.listener()
    client = socket.socket()
    g.keep.append(client)
    client.connect(address)
    return lambda: server.accept()[0].close()


def _send(g: Ground) -> Attempt:
    server, address = g.listener(socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    g.keep.append(client)
    g.effect = g.arrives(server)
    return lambda: client.sendto(b"x", address)


ATTEMPTS: dict[str, Callable[[Ground], Attempt]] = {
    "exec": _exec,
    "read": _read,
    "write": _write,
    "create": _create,
    "delete": _delete,
    "rename": _rename,
    "link": _link,
    "setattr": _setattr,
    "mount": _mount,
    "chroot": _chroot,
    "unix_connect": _unix_connect,
    "ptrace": _ptrace,
    "namespace": _namespace,
    "bpf": _bpf,
    "module": _module,
    "kexec": _kexec,
    "io_uring": _io_uring,
    "socket": _socket,
    "perf": _perf,
    "compat": _compat,
    "execmem": _execmem,
    "signal": _signal,
    "connect": _connect,
    "bind": _bind,
    "listen": _listen,
    "send": _send,
    "accept": _accept,
}
# Attempts that fail harmlessly when nobody forbids them: with which errno. Only a point before the call can be seen.
FAIL_ANYWAY = {"module": 8, "kexec": 22}


def restrict(program: bytes) -> int:
    """Puts a seccomp filter on this process; the descriptor of its supervisor. Raises OSError."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    return checked(libc.syscall(317, 1, 0x28, fprog))  # NEW_LISTENER, WAIT_KILLABLE_RECV


def attempt(name: str, folder: str, program: bytes, tell: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """One attempt, by a child."""
    ground = Ground(folder)
    try:
        call = ATTEMPTS[name](ground)
        go_read, go_write = os.pipe()
        said_read, said_write = os.pipe()
        child = os.fork()
        if not child:
            os.close(go_write)
            _child(call, go_read, said_write, program)
        os.close(go_read)
        os.close(said_write)
        try:
            told: dict[str, object] = {"pid": child}
            if program:
                told["listener"] = int(os.read(said_read, 16))
            tell(told)
            if sys.stdin.readline() != "go\n":
                os.kill(child, signal.SIGKILL)
            return _outcome(ground, child, go_write, said_read)
        finally:
            os.close(go_write)
            os.close(said_read)
    finally:
        ground.clear()


def _child(call: Attempt, go: int, said: int, program: bytes) -> None:
    code = 1
    try:
        if program:
            os.write(said, b"%d\n" % restrict(program))
        if os.read(go, 1) == b"g":
            os.write(said, b"attempt\n")
            returned = 0
            begun = time.perf_counter_ns()
            try:
                call()
            except OSError as error:
                returned = error.errno or -1
            took = time.perf_counter_ns() - begun
            os.write(said, b"%d %d\n" % (returned, took))
            code = 0
    finally:
        os._exit(code)


def _outcome(ground: Ground, child: int, go: int, said: int) -> dict[str, object]:
    pidfd = os.pidfd_open(child)
    begun = time.perf_counter_ns()
    with contextlib.suppress(BrokenPipeError):
        os.write(go, b"g")
    if not select.select([pidfd], [], [], TIMEOUT)[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    took = time.perf_counter_ns() - begun
    os.close(pidfd)
    text = b""
    while chunk := os.read(said, 4096):
        text += chunk
    lines = text.split(b"\n")
    returned = -1
    if len(lines) > 1 and lines[1]:
        returned, took = (int(word) for word in lines[1].split())
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXITED:  # the program that was executed has run
        returned = 0
    return {
        "attempted": lines[0] == b"attempt",
        "returned": returned,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "effect": ground.effect() if ground.effect else returned == 0,
        "ns": took,
    }


def main() -> None:
    """Reads what to try until standard input ends."""
    folder = sys.argv[1] if sys.argv[1] != "-" else tempfile.mkdtemp()  # in the unit's own /tmp, which ends with it
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        ATTEMPTS["mount"] = lambda ground: lambda: checked(-1)  # a hardened unit: the mount would be everybody's

    def tell(what: dict[str, object]) -> None:
        print(json.dumps(what), flush=True)

    for line in sys.stdin:
        words = line.split()
        try:
            tell(attempt(words[1], folder, bytes.fromhex(words[2]) if len(words) > 2 else b"", tell))
        except OSError as error:
            tell({"error": f"{words[1]}: {error.strerror or error}"})
    libc.rmdir(folder.encode())  # whoever asked may be gone


if __name__ == "__main__":
    main()
