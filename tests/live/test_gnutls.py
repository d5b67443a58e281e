"""TLS by GnuTLS: what is written to one connection is one text, and a write that is tried again counts once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import harness, probes
from tests.live.harness import Host
from tests.live.probes import untagged
from tests.live.tls import CARD, TLS, Sink

pytestmark = pytest.mark.root

# Argument 1: the server's port; 2: a Python expression of texts, each for one call that doesn't block; 3: by which
# function, or `in turn` by either; 4: it says when calls have been tried again that often. A retry has no text, as
# GnuTLS wants it.
CLIENT = """
import select
gnutls = ctypes.CDLL("libgnutls.so.30")
gnutls.gnutls_record_send.restype = gnutls.gnutls_record_send2.restype = ctypes.c_ssize_t
session, credentials = ctypes.c_void_p(), ctypes.c_void_p()
assert gnutls.gnutls_init(ctypes.byref(session), 2) == 0
assert gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)) == 0
assert gnutls.gnutls_credentials_set(session, 1, credentials) == 0
assert gnutls.gnutls_set_default_priority(session) == 0
plain = socket.socket()
plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
plain.connect(("127.0.0.1", int(sys.argv[1])))
gnutls.gnutls_transport_set_int2(session, plain.fileno(), plain.fileno())
while gnutls.gnutls_handshake(session) < 0:
    pass
plain.setblocking(False)
tried = 0
turn = 0
def send(text):
    global turn
    turn += 1
    send2 = sys.argv[3] == "gnutls_record_send2" or sys.argv[3] == "in turn" and turn % 2
    function = gnutls.gnutls_record_send2 if send2 else gnutls.gnutls_record_send
    return function(session, text, ctypes.c_size_t(len(text or b"")), ctypes.c_size_t(0), 0)  # in one frame
say("attempt")
for text in eval(sys.argv[2]):
    while text:
        sent = send(text)
        while sent == -28:
            tried += 1
            if tried == int(sys.argv[4]):
                say(f"tried {tried}")
            select.select([], [plain], [], 0.02)
            sent = send(None)
        assert sent > 0, sent
        text = text[sent:]
say("ok sent")
plain.setblocking(True)
gnutls.gnutls_bye(session, 1)
while plain.recv(1000):
    pass  # until the server has read all of it
"""
KEY = "-----BEGIN RSA PRIVATE KEY-----"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`bot` may send what isn't secret or personal."""
    bot = harness.agent(allow=[{"tool": "tls", "operations": ["send"]}], on_violation="kill")
    with harness.enforcing(tmp_path_factory.mktemp("gnutls"), {"bot": bot}) as host:
        yield host


def client(sink: Sink, texts: str, *, function: str = "gnutls_record_send", tries: int = 0) -> list[str]:
    """The program; it doesn't look at the certificate."""
    return probes.python(CLIENT, str(sink.port), texts, function, str(tries))


@pytest.mark.parametrize(("text", "operation"), [(CARD, "personal"), (KEY, "secret")])
def test_one_byte_a_write_is_one_text(live: Host, sink: Sink, text: str, operation: str) -> None:
    """By either library the last byte that completes a finding ends the program; untagged it arrives."""
    apart = f"[bytes((one,)) for one in {text.encode()!r}]"
    for probe in (client(sink, apart), probes.python(TLS, str(sink.port), sink.certificate, *text)):
        sink.got.clear()
        run = live.run(probe)
        assert run.killed and [denial["operation"] for denial in run.denials] == [operation], run
        live.until(lambda: bool(sink.got), "the server")
        assert text.encode() not in sink.got[0]
        sink.got.clear()
        assert not untagged(probe).killed
        live.until(lambda: bool(sink.got), "the server")
        assert text.encode() in sink.got[0]


def test_two_functions_in_turn_write_one_text(live: Host, sink: Sink) -> None:
    """Of two equal bytes by two functions that are called from one place neither is taken for a part of the other."""
    apart = f"[{CARD.encode()!r}[n : n + 1] for n in range({len(CARD)})]"  # equal bytes are at one address
    for started in (apart, f"[b'.', *{apart}]"):
        sink.got.clear()
        run = live.run(client(sink, started, function="in turn"))
        assert run.killed and [denial["operation"] for denial in run.denials] == ["personal"], run
        live.until(lambda: bool(sink.got), "the server")
        assert CARD.encode() not in sink.got[0]
    sink.got.clear()
    assert live.run(client(sink, "[b'x'] * 30", function="in turn")).value == "sent"
    live.until(lambda: sink.got == [b"x" * 30], "the server")


@pytest.mark.parametrize("function", ["gnutls_record_send", "gnutls_record_send2"])
def test_a_write_that_is_tried_again_is_judged_once(live: Host, sink: Sink, function: str) -> None:
    """While the other side doesn't read, two addresses are two, however often; with three more they are a list."""
    sink.got.clear()
    text = "[b'y' * 400_000, b'a@b.cd, b@b.cd ' + b'x' * 50_000]"
    sink.reading.clear()
    try:
        workload = live.start(client(sink, text, function=function, tries=8))
        live.until(lambda: b"tried 8" in workload.output or workload.ended, "eight tries")
    finally:
        sink.reading.set()
    run = workload.wait()
    assert run.value == "sent", run
    live.until(lambda: bool(sink.got), "the server")
    assert sink.got == [b"y" * 400_000 + b"a@b.cd, b@b.cd " + b"x" * 50_000]
    more = "[b'a@b.cd, b@b.cd ' + b'x' * 100, b' c@b.cd, d@b.cd, e@b.cd ']"
    assert live.run(client(sink, more, function=function)).killed
    assert not untagged(client(sink, more, function=function)).killed
