"""Starting a command marked from its first instruction: fork, wait, mark, exec."""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentd.errors import EXIT_CANNOT_ENFORCE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, AgentdError


@dataclass(frozen=True, slots=True)
class Child:
    """A started command. `pidfd` belongs to the caller."""

    pid: int
    pidfd: int


def launch(
    command: Sequence[str],
    mark: Callable[[int, int], Mapping[str, str] | None],
    *,
    user: str | None = None,
    prepare: Callable[[], None] | None = None,
) -> Child:
    """Forks, lets `mark(pid, pidfd)` mark the child, and only then lets it exec `command`. What mark() returns is added
    to its environment.

    prepare: runs in the child after it was marked, before the exec. Raises AgentdError: `command-not-found` (exit code
    127), `command-not-executable` (126), or whatever mark() raised; nothing runs then.
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
            told = b"".join(iter(lambda: os.read(go_read, 4096), b""))
            if not told:
                os._exit(EXIT_CANNOT_ENFORCE)
            os.environ.update(json.loads(told))
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
            os.write(go_write, json.dumps(mark(pid, pidfd) or {}).encode())
        finally:
            os.close(go_write)
        failure = os.read(error_read, 16)
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
