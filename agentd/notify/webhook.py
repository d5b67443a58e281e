"""A POST for each notice, in the form that Slack's incoming webhooks take, with a signature over the body.

`text` is for people; `metadata.event_payload` is the whole notice. With a secret:

    X-Agentd-Timestamp: seconds since the epoch
    X-Agentd-Signature: v1=HEX, HMAC-SHA256 with the secret over `v1:TIMESTAMP:BODY`

A receiver compares in constant time and refuses old timestamps. 2xx is success; 408, 429 and 5xx are tried again, any
other answer is not, and a redirection is not followed: the body is for the one who was named.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import ssl
import time
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agentd.notify.dispatch import Notice, SinkFailed, text_of

AGAIN: Final = (408, 425, 429)


class WebhookSink:
    """url: http or https. secret: empty for none."""

    def __init__(self, url: str, secret: bytes = b"") -> None:
        self._url = urlsplit(url)
        self._secret = secret
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None

    @property
    def name(self) -> str:
        """Its host: the path of such a URL is often the secret."""
        return f"webhook {self._url.hostname}"

    async def deliver(self, notice: Notice) -> None:
        """Raises SinkFailed, OSError (ssl.SSLError is one)."""
        url = self._url
        port = url.port or (443 if self._tls else 80)
        reader, writer = await asyncio.open_connection(url.hostname, port, ssl=self._tls)
        try:
            writer.write(request(url, body_of(notice), self._secret, int(time.time())))
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.transport.abort()  # not close(): that waits for the peer
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        parts = line.split()
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
            raise SinkFailed("the answer is not HTTP")
        status = int(parts[1])
        if not 200 <= status < 300:
            raise SinkFailed(f"HTTP status {status}", again=status >= 500 or status in AGAIN)


def body_of(notice: Notice) -> bytes:
    """The JSON. In Slack's text `&`, `<` and `>` are control characters: a command line must not mention anybody."""
    text = text_of(notice).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    metadata = {"event_type": f"agentd_{notice['event']}", "event_payload": dict(notice)}
    return json.dumps({"text": text, "metadata": metadata}).encode()


def request(url: SplitResult, body: bytes, secret: bytes, now: int) -> bytes:
    """The whole request. now: seconds since the epoch."""
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = url.netloc.rpartition("@")[2]
    head = [
        f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}",
        "User-Agent: agentd", "Connection: close",
    ]  # fmt: skip
    if secret:
        signed = hmac.new(secret, b"v1:%d:" % now + body, hashlib.sha256).hexdigest()
        head += [f"X-Agentd-Timestamp: {now}", f"X-Agentd-Signature: v1={signed}"]
    return "\r\n".join(head).encode("ascii") + b"\r\n\r\n" + body
