"""`notify:` of agentd.yaml: who is told about approvals. A kind of sink is one line in KINDS and one function."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentd.notify.command import CommandSink
from agentd.notify.dispatch import EVENTS, Sink
from agentd.notify.journald import JournaldSink
from agentd.notify.webhook import WebhookSink
from agentd.policy.reader import Reader
from agentd.policy.source import Scalar

Notifications = tuple[tuple[Sink, tuple[str, ...]], ...]
SECRET_MAX: Final = 4096
OPTIONS: Final = ("secret_file", "events")
CREDENTIALS: Final = Path("/run/credentials")  # systemd.exec(5): there while the unit runs


def read_sinks(reader: Reader, *, service: bool = True) -> Notifications | None:
    """The sinks of a list; mistakes go to the reader. service: False lets a credential of a unit be missing: who only
    looks at the configuration may do that while the service is down. What comes back must not be used then.
    """
    found: list[tuple[Sink, tuple[str, ...]]] = []
    for item in (
        reader.items("write a list, each `- {command: [...]}`, `- {webhook: URL}` or `- {journald: true}`") or []
    ):
        keys = item.keys([*KINDS, *OPTIONS])
        if keys is None:
            continue
        kinds = [word for word in KINDS if word in keys]
        if len(kinds) != 1:
            item.error("expected exactly one kind of sink", f"write one of {', '.join(KINDS)}")
            continue
        events: tuple[str, ...] = EVENTS
        if "events" in keys:
            texts = keys["events"].texts() or ()
            events = tuple(text.text for text in texts if text.text in EVENTS)
            if len(events) != len(texts) or not events:
                keys["events"].error("not a list of events", f"choose of {', '.join(EVENTS)}")
                continue
        if "secret_file" in keys and kinds[0] != "webhook":
            keys["secret_file"].error("only a webhook is signed", "remove it")
            continue
        secret = _secret(keys["secret_file"], service=service) if "secret_file" in keys else b""
        sink = None if secret is None else KINDS[kinds[0]](keys[kinds[0]], secret)
        if sink is not None:
            found.append((sink, events))
    return tuple(found) or None


def _command(value: Reader, secret: bytes) -> Sink | None:
    texts = value.texts() or ()
    if not texts or not texts[0].text.startswith("/"):
        value.error("expected a program and its arguments", 'write ["/usr/local/bin/page", "oncall"]')
        return None
    return CommandSink([text.text for text in texts])


def _webhook(value: Reader, secret: bytes) -> Sink | None:
    text = value.text()
    if text is None:
        return None
    url = urlsplit(text)
    try:
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good or not text.isascii() or any(letter.isspace() for letter in text):
        value.error("not an http or https URL", "write https://HOST/PATH")
        return None
    return WebhookSink(text, secret)


def _journald(value: Reader, secret: bytes) -> Sink | None:
    if isinstance(value.node, Scalar) and value.node.value is True:
        return JournaldSink()
    value.expected("true", "or remove the sink")
    return None


KINDS: Final[dict[str, Callable[[Reader, bytes], Sink | None]]] = {
    "command": _command,
    "webhook": _webhook,
    "journald": _journald,
}


def _secret(reader: Reader, *, service: bool) -> bytes | None:
    """The secret in a file that only root can read."""
    path = reader.text()
    if path is None:
        return None
    if not service and Path(os.path.normpath(path)).is_relative_to(CREDENTIALS) and not os.path.lexists(path):
        return b""
    try:
        fd = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                reader.error("others could read or change it", f"chown root {path}; chmod 600 {path}")
                return None
            secret = os.read(fd, SECRET_MAX).strip()
        finally:
            os.close(fd)
    except OSError as error:
        reader.error(f"can't be read: {(error.strerror or str(error)).lower()}")
        return None
    if len(secret) < 16:
        reader.error("the secret has less than 16 bytes", "openssl rand -hex 32 makes one")
        return None
    return secret
