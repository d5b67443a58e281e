"""Starting a command marked from its first instruction: fork, wait, mark, exec."""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentd.errors import EXIT_CANNOT_ENFORCE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, AgentdError


@dataclass(frozen=True, slots=True)
class Child:
    """A started command. `pidfd` belongs to the caller."""

    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True)
class Marked:
    """What becomes of a marked child. environment: added to its own. supervised: its filter hands calls to a
    supervisor.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    supervised: bool = False


def launch(
    command: Sequence[str],
    mark: Callable[[int, int], Marked],
    *,
    user: str | None = None,
    prepare: Callable[[], None] | None = None,
    restrict: Callable[[bool], int | None] | None = None,
    listen: Callable[[int, int, int], None] | None = None,
) -> Child:
    """Forks, lets `mark(pid, pidfd)` mark the child, and only then lets it exec `command`.

    restrict: runs in the child after it was marked, while it has all its rights yet; installs the filter. If it returns
    a descriptor, `listen(pid, pidfd, descriptor)` takes that from the child, which waits for it. prepare: runs last,
    before the exec. Raises AgentdError: `command-not-found` (exit code 127), `command-not-executable` (126), or
    whatever mark() and listen() raised; nothing runs then.
    """
    if not command[0]:
        raise _exec_error("''", errno.ENOENT)
    account = _account(user)
    go_read, go_write = os.pipe()
    error_read, error_write = os.pipe()  # close-on-exec: end of file means the exec worked
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_write)
            os.close(error_read)
            with open(go_read, "rb", buffering=0) as go:
                told = json.loads(go.readline() or b"null")
                if told is None:
                    os._exit(EXIT_CANNOT_ENFORCE)
                os.environ.update(told["environment"])
                listener = restrict(told["supervised"]) if restrict is not None else None
                if listener is not None:
                    os.write(error_write, f"listener {listener}".encode())
                    if go.read(1) != b"g":
                        os._exit(EXIT_CANNOT_ENFORCE)
                    os.close(listener)
            if account is not None:
                os.initgroups(account.pw_name, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
                os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
            for number in (
                signal.SIGINT,
                signal.SIGQUIT,
                signal.SIGTERM,
                signal.SIGHUP,
                signal.SIGPIPE,
                signal.SIGXFSZ,
            ):
                signal.signal(number, signal.SIG_DFL)
            if prepare is not None:
                prepare()
            os.execvp(command[0], list(command))
        except OSError as exc:
            os.write(error_write, str(exc.errno or errno.EIO).encode())
        except BaseException:  # noqa: BLE001  # a child of fork must end here, whatever happens
            os.write(error_write, str(errno.EIO).encode())
        finally:
            os._exit(EXIT_CANNOT_ENFORCE)
    os.close(go_read)
    os.close(error_write)
    pidfd = os.pidfd_open(pid)
    try:
        try:
            marked = mark(pid, pidfd)
            told = {"environment": dict(marked.environment), "supervised": marked.supervised}
            os.write(go_write, json.dumps(told).encode() + b"\n")
            failure = os.read(error_read, 32)
            if failure.startswith(b"listener "):
                assert listen is not None
                listen(pid, pidfd, int(failure.split()[1]))
                os.write(go_write, b"g")
                failure = os.read(error_read, 32)
        finally:
            os.close(go_write)
        if failure:
            raise _exec_error(command[0], int(failure))
    except BaseException:
        os.waitpid(pid, 0)
        os.close(pidfd)
        raise
    finally:
        os.close(error_read)
    return Child(pid, pidfd)


def exit_code(status: int) -> int:
    """A wait status as a shell's exit code: 128+N for signal N."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _account(user: str | None) -> pwd.struct_passwd | None:
    if user is None:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError as exc:
        raise AgentdError("usage", f"user {user!r}", "there is none", "see getent passwd", exit_code=125) from exc


def _exec_error(name: str, number: int) -> AgentdError:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return AgentdError("command-not-found", name, "command not found", exit_code=EXIT_NOT_FOUND)
    return AgentdError(
        "command-not-executable", name, os.strerror(number).lower(), "check its mode and its interpreter",
        exit_code=EXIT_NOT_EXECUTABLE,
    )  # fmt: skip
