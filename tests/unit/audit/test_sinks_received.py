"""Sinks against real receivers: a systemd-journald, an rsyslog with TLS, and OTLP's own protocol.

journald runs in namespaces of its own (mount, pid, net), so the machine's journal is neither read nor written.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from agentd.audit.sinks import maker
from agentd.audit.sinks.base import Feed, Item, message
from agentd.audit.sinks.journald import Journald, fields
from agentd.audit.sinks.syslog import Syslog, frame
from tests.unit.audit.samples import allowed, denied, opened
from tests.unit.audit.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Records of a log: one with hostile bytes, one with line breaks, a summary, a large one."""
    path = tmp_path_factory.mktemp("sinks") / "audit.jsonl"
    writer = opened(path)
    writer.append(
        [
            denied(1), denied(2, reason='a "quoted" ] reason\nin two lines', object=b"/srv/a\nb"), allowed(3),
            denied(4, agent_id="bot", metadata={"big": "x" * 400_000}),
        ]
    )  # fmt: skip
    writer.close()
    return path.read_bytes().splitlines(keepends=True)


def items(lines: Sequence[bytes]) -> list[Item]:
    return [Item(json.loads(line), line) for line in lines]


# --- journald ---------------------------------------------------------------------------------------------------------


def read_fields(data: bytes) -> dict[str, str]:
    """The native protocol, as its documentation describes it."""
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            data = rest
        else:
            key, size = name, int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[9 + size :]
        found[key.decode()] = value.decode()
    return found


def test_fields_of_the_journal(lines: list[bytes]) -> None:
    """Each record has its members as fields; line breaks survive, and the whole record goes along."""
    for item in items(lines):
        found = read_fields(b"".join(fields(item)))
        assert found["AGENTD_SEQ"] == str(item.record["seq"])
        assert found["MESSAGE"] == message(item.record)
        assert json.loads(found["AGENTD_RECORD"]) == item.record
    assert read_fields(b"".join(fields(items(lines)[1])))["AGENTD_OBJECT"] == "/srv/a\nb"


def test_a_record_too_large_for_a_datagram_goes_as_a_file(tmp_path: Path, lines: list[bytes]) -> None:
    """A small socket buffer gets a sealed memfd with the same fields."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(PATIENCE)
        sink = Journald(str(tmp_path / "socket"))
        sink.send(items(lines)[3:])
        data, found, _, _ = socket.recv_fds(journal, 1 << 20, 1)
        sink.close()
        assert data == b""
        with os.fdopen(found[0], "rb") as file:
            file.seek(0)
            assert read_fields(file.read())["AGENTD_SEQ"] == "4"


JOURNALD = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald 2>/dev/null &
while [ ! -S /run/systemd/journal/socket ]; do sleep 0.1; done
"$1" -c "$2" "$3"
for number in $(seq 100); do
    [ "$(journalctl -D /run/log/journal SYSLOG_IDENTIFIER=agentd -o cat --no-pager -q | wc -l)" = 4 ] && break
    sleep 0.1
done
journalctl -D /run/log/journal AGENTD_AGENT=bot -o json --all --no-pager -q
"""
SEND = """
import json, sys
from agentd.audit.sinks.base import Item
from agentd.audit.sinks.journald import Journald
Journald().send([Item(json.loads(line), line) for line in open(sys.argv[1], "rb")])
"""


@pytest.mark.root
def test_a_real_journal_finds_the_agent(tmp_path: Path, lines: list[bytes]) -> None:
    """`journalctl AGENTD_AGENT=bot` shows the one record of that agent, whole, although it is large."""
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd-journald").exists():
        pytest.skip("needs root and systemd-journald")
    (tmp_path / "lines").write_bytes(b"".join(lines))
    namespaces = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*namespaces, "sh", "-c", JOURNALD, "sh", "/usr/bin/python3", SEND, tmp_path / "lines"],
        capture_output=True, text=True, check=False, timeout=PATIENCE * 4, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    found = [json.loads(entry) for entry in done.stdout.splitlines()]
    assert len(found) == 1, done.stderr
    assert (found[0]["AGENTD_SEQ"], found[0]["PRIORITY"], found[0]["AGENTD_EVENT"]) == ("4", "4", "denied")
    assert json.loads(found[0]["AGENTD_RECORD"]) == json.loads(lines[3])


# --- syslog -----------------------------------------------------------------------------------------------------------


def test_a_frame_is_rfc_5424(lines: list[bytes]) -> None:
    """Length, version, time, host, the record's name, structured data with its escapes, and one line of text."""
    data = frame(items(lines)[1].record)
    size, _, text = data.partition(b" ")
    assert int(size) == len(text)
    assert text.startswith(b"<108>1 2026-11-21T")
    assert b'" object="/srv/a b"' in text
    head, _, rest = text.partition(b" [agentd@32473 ")
    assert head.split(b" ")[2:5] == [b"deb", b"agentd", str(os.getpid()).encode()]
    assert b"\n" not in text and rest


SD = "%$!rfc5424-sd!agentd@32473!"
TEMPLATE = f"%syslogfacility%|%syslogseverity%|%hostname%|%app-name%|%msgid%|{SD}agent%|{SD}seq%|%msg%"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, its own authority."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[tuple[int, Path, Path]]:
    """An rsyslogd of its own, with TLS; (port, certificate, file that it writes)."""
    root = Path(__file__).parents[3] / ".cache/tools/rsyslog"
    program, libraries = root / "usr/sbin/rsyslogd", root / "usr/lib/x86_64-linux-gnu"
    if not program.exists():
        pytest.skip("needs rsyslog, which ./dev test fetches")
    cert, key = certificate(tmp_path)
    port = free_port()
    (tmp_path / "rsyslog.conf").write_text(
        f"""
global(workDirectory="{tmp_path}" defaultNetstreamDriver="ossl" maxMessageSize="512k"
       defaultNetstreamDriverCAFile="{cert}" defaultNetstreamDriverCertFile="{cert}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" port="{port}" address="127.0.0.1")
module(load="mmpstrucdata")
action(type="mmpstrucdata")
template(name="t" type="string" string="{TEMPLATE}\\n")
action(type="omfile" file="{tmp_path}/out" template="t")
"""
    )
    process = subprocess.Popen(
        [program, "-n", "-f", tmp_path / "rsyslog.conf", "-i", tmp_path / "pid", "-M", libraries / "rsyslog"],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listening, "rsyslogd")
        yield port, cert, tmp_path / "out"
    finally:
        process.terminate()
        process.wait()


def test_a_real_rsyslog_takes_records_over_tls(rsyslog: tuple[int, Path, Path], lines: list[bytes]) -> None:
    """rsyslog's own parser finds facility, severity, names, structured data and text of every record."""
    port, cert, out = rsyslog
    sink = Syslog("127.0.0.1", port, ca=str(cert), server_name="localhost")
    sink.send(items(lines))
    until(lambda: out.exists() and len(out.read_bytes().splitlines()) == len(lines), "records")
    sink.close()
    rows = [entry.split("|", 7) for entry in out.read_text().splitlines()]
    assert [row[:7] for row in rows] == [
        ["13", {"denied": "4", "allowed": "6"}[item.record["event"]], "deb", "agentd", item.record["event"],
         str(item.record["agent_id"]), str(item.record["seq"])]
        for item in items(lines)
    ]  # fmt: skip
    assert rows[0][7].strip() == message(items(lines)[0].record).replace("\n", " ")


def test_a_receiver_that_isnt_the_one_gets_nothing(rsyslog: tuple[int, Path, Path], lines: list[bytes]) -> None:
    """A certificate for another name, or of nobody known, ends the connection before a record is sent."""
    port, cert, out = rsyslog
    for wrong in ({"ca": str(cert), "server_name": "elsewhere"}, {"server_name": "localhost"}):
        sink = Syslog("127.0.0.1", port, **wrong)  # type: ignore[arg-type]
        with pytest.raises(ssl.SSLCertVerificationError):
            sink.send(items(lines))
        sink.close()
    assert not out.exists()


def test_a_broken_connection_is_noticed_and_its_last_batch_sent_again(lines: list[bytes]) -> None:
    """A receiver that goes away and comes back gets what may have been lost with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        sink = Syslog("127.0.0.1", server.getsockname()[1], tls=False)
        sink.send(items(lines)[:1])
        first, _ = server.accept()
        with first:
            until(lambda: first.recv(1 << 20), "the first record")
        until(lambda: fails(sink, lines), "the break")
        sink.close()
        sink.send(items(lines)[2:3])
        again, _ = server.accept()
        with again:
            again.settimeout(PATIENCE)
            data = b""
            while b' seq="3"' not in data:
                data += again.recv(1 << 20)
        sink.close()
    assert b' seq="1"' in data


def fails(sink: Syslog, lines: list[bytes]) -> bool:
    try:
        sink._still_open(sink._socket)  # type: ignore[arg-type]
    except ConnectionError:
        return True
    return False


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


class Collector(http.server.BaseHTTPRequestHandler):
    """A receiver of OTLP/HTTP: parses requests with the protocol's own package."""

    requests: list[ExportLogsServiceRequest]
    status = 200

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/logs" and self.headers["Content-Type"] == "application/x-protobuf"
        if self.status == 200:
            self.requests.append(ExportLogsServiceRequest.FromString(data))
        answer = ExportLogsServiceResponse().SerializeToString()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[tuple[str, type[Collector]]]:
    """(endpoint, what it got)."""
    kind = type("Here", (Collector,), {"requests": [], "status": 200})
    server = http.server.HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/logs", kind
    server.shutdown()
    thread.join()
    server.server_close()


def named(attributes: Any) -> dict[str, Any]:
    return {item.key: item.value for item in attributes}


def test_records_as_otlp(collector: tuple[str, type[Collector]], lines: list[bytes]) -> None:
    """The official protocol's parser finds time, severity, text and attributes of every record."""
    endpoint, kind = collector
    sink = maker("otlp", {"endpoint": endpoint})()
    sink.send(items(lines))
    sink.close()
    found = [
        (entry, named(entry.attributes), named(resource.resource.attributes))
        for request in kind.requests
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for entry in scope.log_records
    ]
    assert [attributes["agentd.seq"].int_value for _, attributes, _ in found] == [1, 2, 3, 4]
    entry, attributes, resource = found[0]
    assert entry.body.string_value == message(items(lines)[0].record)
    assert (entry.severity_text, entry.event_name) == ("WARN", "agentd.denied")
    assert attributes["agentd.agent_id"].string_value == "research_bot"
    assert attributes["process.pid"].int_value == 4244
    assert resource["service.name"].string_value == "agentd"
    assert resource["host.name"].string_value == "deb"
    assert json.loads(attributes["agentd.record"].string_value) == items(lines)[0].record


def test_what_a_collector_refuses_comes_again(collector: tuple[str, type[Collector]], lines: list[bytes]) -> None:
    """An answer that isn't yes is a failure, and the records are sent again when it says yes."""
    endpoint, kind = collector
    kind.status = 400
    made = Feed("otlp", maker("otlp", {"endpoint": endpoint}), back_off=(0.05, 0.05))
    made.start()
    made.offer(lines[:2])
    until(lambda: made.failed, "a refusal")
    assert "has not accepted" in made.failed
    kind.status = 200
    until(lambda: made.sent == 2, "delivery")
    made.close(PATIENCE)
    assert len(kind.requests) == 1


def test_otlp_over_tls(tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector whose certificate the named authority has signed gets the records; one of nobody known gets none."""
    cert, key = certificate(tmp_path)
    kind: Any = type("Here", (Collector,), {"requests": [], "status": 200})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that refuses it ends the handshake
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"https://localhost:{server.server_address[1]}/v1/logs"
            monkeypatch.setattr("agentd.audit.sinks.otlp.PATIENCE", 1)
            stranger = maker("otlp", {"endpoint": endpoint})()
            with pytest.raises(ConnectionError):
                stranger.send(items(lines)[:1])
            stranger.close()
            assert kind.requests == []
            monkeypatch.undo()
            sink = maker("otlp", {"endpoint": endpoint, "ca": str(cert)})()
            sink.send(items(lines)[:2])
            sink.close()
        finally:
            server.shutdown()
            thread.join()
    assert (
        sum(
            len(scope.log_records)
            for request in kind.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
        )
        == 2
    )
