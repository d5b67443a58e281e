"""Telling people: what each sink sends, and that one that fails or hangs costs nobody but itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentd.daemon.config import read_config
from agentd.notify import dispatch
from agentd.notify.command import CommandSink
from agentd.notify.dispatch import EVENTS, Dispatcher, Notice, SinkFailed, text_of
from agentd.notify.journald import JournaldSink, entry
from agentd.notify.webhook import WebhookSink, body_of, request
from agentd.policy.problem import PolicyError

ASKED: Notice = {
    "event": "asked", "id": "3", "agent": "bot", "tool": "email", "operation": "send", "seconds_left": 300.0,
    "words": "run mail <!channel> & co", "summary": "exec 'mail'",
}  # fmt: skip
QUICK = (0.001, 0.002)


class Recorder:
    """A sink that does as it is told: `errors` first, one a try."""

    name = "recorder"

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.seen: list[Notice] = []

    async def deliver(self, notice: Notice) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.seen.append(notice)


class Hanging:
    """A sink that never comes back."""

    name = "hanging"

    def __init__(self) -> None:
        self.cancelled = 0

    async def deliver(self, notice: Notice) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled += 1


async def settled(done: Any) -> None:
    for _ in range(5000):
        if done():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


def test_a_sink_that_fails_is_tried_again() -> None:
    """Failures are tried again until it works; what can't help is not; what never works is given up and counted."""

    async def scenario() -> None:
        flaky = Recorder(SinkFailed("503"), OSError("refused"))
        wrong = Recorder(SinkFailed("404", again=False))
        dead = Recorder(*[OSError("refused")] * dispatch.TRIES)
        dispatcher = Dispatcher([(flaky, EVENTS), (wrong, EVENTS), (dead, EVENTS)], QUICK)
        dispatcher.start()
        dispatcher.offer(ASKED)
        await settled(lambda: sum(s["delivered"] + s["lost"] for s in dispatcher.status()) == 3)
        by = [(s["delivered"], s["failed_tries"], s["lost"]) for s in dispatcher.status()]
        assert by == [(1, 2, 0), (0, 1, 1), (0, dispatch.TRIES, 1)] and flaky.seen == [ASKED]
        dispatcher.offer(ASKED)
        await settled(lambda: len(dead.seen) == 1)  # what went wrong with one notice doesn't end the sink
        await dispatcher.stop()

    asyncio.run(scenario())


def test_a_sink_that_hangs_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sink hangs: offering stays a queue operation, others get everything, its own queue overflows and counts."""
    monkeypatch.setattr(dispatch, "DEADLINE_SECONDS", 0.05)

    async def scenario() -> None:
        hanging, good = Hanging(), Recorder()
        dispatcher = Dispatcher([(hanging, EVENTS), (good, ("flood",))], QUICK)
        dispatcher.start()
        for number in range(dispatch.QUEUE + 50):
            dispatcher.offer({**ASKED, "id": str(number)})
        dispatcher.offer({"event": "flood", "agent": "bot", "reason": "many"})
        await settled(lambda: len(good.seen) == 1)
        first, second = dispatcher.status()
        assert first["lost"] >= 49 and first["delivered"] == 0 and second["lost"] == 0
        await settled(lambda: hanging.cancelled >= 2)  # cut off, and tried again
        await dispatcher.stop()
        assert hanging.cancelled >= 2

    asyncio.run(scenario())


def test_a_command_gets_the_notice(tmp_path: Path) -> None:
    """It reads JSON on its standard input; an exit code that isn't 0 is a failure; one that hangs is killed whole."""
    out = tmp_path / "out"
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\ncat > {out}; echo $AGENTD_EVENT $AGENTD_AGENT >> {out}\n", encoding="utf-8")
    script.chmod(0o755)

    async def scenario() -> None:
        await CommandSink([str(script)]).deliver(ASKED)
        with pytest.raises(SinkFailed, match="ended with 3"):
            await CommandSink(["/bin/sh", "-c", "exit 3"]).deliver(ASKED)
        with pytest.raises(FileNotFoundError):
            await CommandSink(["/nothing/here"]).deliver(ASKED)
        pids = tmp_path / "pids"
        hang = CommandSink(["/bin/sh", "-c", f"sleep 600 & echo $! > {pids}; wait"])
        task = asyncio.create_task(hang.deliver(ASKED))
        await settled(lambda: pids.exists() and pids.read_text().strip())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settled(lambda: not running(int(pids.read_text())))

    asyncio.run(scenario())
    first, second = out.read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["words"] == ASKED["words"] and second == "asked bot"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


async def answered(reply: bytes, sink_of: Any) -> tuple[bytes, BaseException | None]:
    """What a server got that answers `reply` (None: it hangs), and what the sink made of it."""
    got = b""
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        got = head + await reader.readexactly(length)
        writer.write(reply)
        await writer.drain()
        arrived.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error: BaseException | None = None
    try:
        await sink_of(port).deliver(ASKED)
    except (SinkFailed, OSError) as exc:
        error = exc
    await asyncio.wait_for(arrived.wait(), 10)
    server.close()
    await server.wait_closed()
    return got, error


def test_a_webhook_is_signed_and_mentions_nobody() -> None:
    """The body is Slack's JSON with its control characters escaped; the signature is over the body as it was sent."""
    secret = b"0123456789abcdef"
    got, error = asyncio.run(
        answered(b"HTTP/1.1 200 OK\r\n\r\n", lambda port: WebhookSink(f"http://127.0.0.1:{port}/x?y=1", secret))
    )
    assert error is None and got.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    stamp = headers[b"X-Agentd-Timestamp"]
    signed = hmac.new(secret, b"v1:" + stamp + b":" + body, hashlib.sha256).hexdigest().encode()
    assert headers[b"X-Agentd-Signature"] == b"v1=" + signed
    made = json.loads(body)
    assert "&lt;!channel&gt; &amp; co" in made["text"] and "<" not in made["text"]
    assert made["metadata"]["event_payload"]["words"] == ASKED["words"]
    other = request(urlsplit("http://h/"), body_of({**ASKED, "id": "4"}), secret, int(stamp))
    assert signed not in other  # another body, another signature
    assert b"X-Agentd" not in request(urlsplit("http://h/"), b"{}", b"", 1)


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", True),
        (b"HTTP/1.1 429 Slow down\r\n\r\n", True),
        (b"HTTP/1.1 404 No\r\n\r\n", False),
        (b"HTTP/1.1 302 Elsewhere\r\nLocation: http://evil/\r\n\r\n", False),
        (b"SSH-2.0-x\r\n", True),
        (b"", True),
    ],
)
def test_answers_of_a_webhook(reply: bytes, again: bool) -> None:
    """What a server may mean to take later is tried again; what it refuses, or a redirection, is not."""
    _, error = asyncio.run(answered(reply, lambda port: WebhookSink(f"http://127.0.0.1:{port}/")))
    assert isinstance(error, SinkFailed) and error.again is again


def test_journald(tmp_path: Path) -> None:
    """One datagram with fields; a value can't make another field, whatever it contains."""
    notice = {**ASKED, "event": "answered", "answer": "denied", "reason": "no\nAGENTD_AGENT=other"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        asyncio.run(JournaldSink(tmp_path / "journal").deliver(notice))
        data = journal.recv(65536)
    assert data == entry(notice)
    fields: dict[bytes, bytes] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[name] = value
        data = rest
    assert fields[b"AGENTD_AGENT"] == b"bot" and fields[b"AGENTD_REASON"] == b"no\nAGENTD_AGENT=other"
    assert fields[b"MESSAGE"] == text_of(notice).encode() and fields[b"PRIORITY"] == b"6"
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(JournaldSink(tmp_path / "nobody").deliver(notice))


def test_the_configuration_of_sinks(tmp_path: Path) -> None:
    """Each kind is read, with its events; a webhook's secret must be nobody else's to read."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123\n", encoding="ascii")
    secret.chmod(0o600)
    file = tmp_path / "agentd.yaml"

    def read(text: str) -> Any:
        file.write_text(f"notify:\n{text}", encoding="utf-8")
        return read_config(file).notify

    sinks = read(
        f"  - {{command: [/bin/page, me], events: [asked]}}\n"
        f"  - {{webhook: 'https://h.example/x', secret_file: {secret}}}\n  - {{journald: true}}\n"
    )
    assert [sink.name for sink, _ in sinks] == ["command /bin/page", "webhook h.example", "journald"]
    assert [len(events) for _, events in sinks] == [1, len(EVENTS), len(EVENTS)]
    for text, why in (
        ("  - {}\n", "exactly one kind"),
        ("  - {journald: true, webhook: 'http://h/'}\n", "exactly one kind"),
        ("  - {journald: false}\n", "expected true"),
        ("  - {command: page}\n", "expected a list"),
        ("  - {command: [page]}\n", "expected a program"),
        ("  - {webhook: 'ftp://h/'}\n", "not an http"),
        ("  - {webhook: 'http://h:99999/'}\n", "not an http"),
        ('  - {webhook: "http://h/\\r\\nX: y"}\n', "not an http"),
        ("  - {journald: true, events: [none]}\n", "not a list of events"),
        ("  - {journald: true, secret_file: /x}\n", "only a webhook"),
        ("  - {webhook: 'http://h/', secret_file: /nothing/here}\n", "can't be read"),
    ):
        with pytest.raises(PolicyError, match=why):
            read(text)
    secret.chmod(0o644)
    with pytest.raises(PolicyError, match="others could read"):
        read(f"  - {{webhook: 'http://h/', secret_file: {secret}}}\n")
    os.unlink(secret)
