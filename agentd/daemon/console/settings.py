"""The part `console:` of agentd.yaml, and the file of tokens.

console:
  listen: 127.0.0.1:9470                  # or [::1]:9470, or /run/agentd/console.sock
  tokens: /etc/agentd/console-tokens      # `agentd console token NAME` adds to it
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import pwd
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import AgentdError
from agentd.policy.reader import Reader

KEYS: Final = ("listen", "tokens")
DEFAULT_LISTEN: Final = "127.0.0.1:9470"
DEFAULT_TOKENS: Final = Path("/etc/agentd/console-tokens")
FILE_MAX: Final = 1 << 16
READ_ONLY: Final = "read-only"
_TCP: Final = re.compile(r"(?P<host>127\.\d+\.\d+\.\d+|\[::1\]):(?P<port>\d{1,5})")
_LINE: Final = re.compile(r"(?P<name>[^\s:]{1,64})\s+(?P<digest>[0-9a-f]{64})(?P<mode>\s+read-only)?")


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """listen: `ADDRESS:PORT` of loopback, or the path of a unix socket."""

    listen: str = DEFAULT_LISTEN
    tokens: Path = DEFAULT_TOKENS

    @property
    def endpoint(self) -> tuple[str, int] | Path:
        """(address, port), or the path of the socket."""
        if self.listen.startswith("/"):
            return Path(self.listen)
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def read(reader: Reader) -> ConsoleSettings | None:
    """What the mapping says; None after a mistake, which is in the problems then."""
    found = reader.keys(KEYS)
    if found is None:
        return None
    listen = found["listen"].text() if "listen" in found else DEFAULT_LISTEN
    tokens = found["tokens"].text() if "tokens" in found else str(DEFAULT_TOKENS)
    if listen is not None and not _listens(listen):
        hint = "write 127.0.0.1:9470, or /run/agentd/console.sock"
        found["listen"].error("not a loopback address and port, nor a path", hint)
        return None
    if tokens is not None and not tokens.startswith("/"):
        found["tokens"].error("not an absolute path", "start it with /")
        return None
    return None if listen is None or tokens is None else ConsoleSettings(listen, Path(tokens))


def _listens(text: str) -> bool:
    match = _TCP.fullmatch(text)
    if match is None:
        return text.startswith("/")
    try:
        ipaddress.ip_address(match["host"].strip("[]"))
    except ValueError:
        return False
    return 0 < int(match["port"]) < 65536


@dataclass(frozen=True, slots=True)
class Token:
    """A person's way in. name: an account of this host, so that one person's answers are one person's wherever they
    are given; digest: SHA-256 of the token, which is 256 random bits.
    """

    name: str
    digest: str
    read_only: bool = False


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens in a file; none if there is no file.

    Raises AgentdError `config-invalid` when others could read or write it, or a line is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise AgentdError("config-invalid", str(path), (error.strerror or str(error)).lower()) from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            hint = f"chown root {path}; chmod 600 {path}"
            raise AgentdError("config-invalid", str(path), "others could read or change it", hint)
        text = file.read(FILE_MAX).decode("utf-8", "replace")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            why = "not a line that `agentd console token` has written"
            raise AgentdError("config-invalid", f"{path}:{number}", why, "remove it")
        found.append(Token(match["name"], match["digest"], match["mode"] is not None))
    return tuple(found)


def add_token(path: Path, name: str, *, read_only: bool) -> str:
    """Makes a token for an account and puts its digest into the file; the token, which stands nowhere else.

    Raises AgentdError `usage` when there is no such account, `config-invalid` as read_tokens().
    """
    try:
        pwd.getpwnam(name)
    except KeyError:
        why = "there is no such account on this host"
        raise AgentdError("usage", f"console token {name}", why, "name the person's own account") from None
    read_tokens(path)
    token = secrets.token_urlsafe(32)
    line = f"{name} {digest_of(token)}{f' {READ_ONLY}' if read_only else ''}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, line.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    return token


def digest_of(token: str) -> str:
    """What the file keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def token_of(tokens: tuple[Token, ...], text: str) -> Token | None:
    """The token that `text` is, or None; every one is compared, each in constant time."""
    digest = digest_of(text)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
