"""A TLS server that keeps what it gets, and a client for it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

# Arguments: the server's port, its certificate, texts: each for one write, behind a first one.
TLS = """
import ssl
context = ssl.create_default_context(cafile=sys.argv[2])
made = context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="localhost")
made.sendall(b"ordinary")
say("attempt")
for part in sys.argv[3:]:
    made.sendall(part.encode())
socket.socket.shutdown(made, socket.SHUT_WR)  # and TLS goes on
answer = b""
while part := made.recv(1000):
    answer += part  # until the server has read all of it
say("ok " + answer[:6].decode())
"""
CARD = "pay with 4111 1111 1111 1111 now"


class Sink:
    """A TLS server on 127.0.0.1 that keeps what it gets and answers `thanks`."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "server.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "server.key",
             "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "server.key")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._listening.getsockname()[1]
        self.reading = threading.Event()
        self.reading.set()
        self.got: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(plain,), daemon=True).start()

    def _one(self, plain: socket.socket) -> None:
        taken = bytearray()
        try:
            with self._context.wrap_socket(plain, server_side=True) as made:
                while data := made.recv(65536):
                    self.reading.wait()
                    taken += data
                    if taken.endswith(b"ordinary"):
                        continue
                    made.sendall(
                        b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nthanks" if b"HTTP/1" in taken else b"thanks"
                    )
                    if b"HTTP/1" in taken:
                        break
        except OSError:
            pass
        self.got.append(bytes(taken))

    def close(self) -> None:
        self._listening.close()
