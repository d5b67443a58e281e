"""The console: a held connect goes on by a click in a real browser, and nobody else gets in."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon.console.settings import add_token
from tests.live.browser import Browser
from tests.live.service import PYTHON, Line, Service, Sleeper, agentd, bot, free_port, listening, state, until

pytestmark = pytest.mark.root

ASKING = bot(
    allow=[
        {"tool": "file_reader"},
        {"tool": "shell", "operations": ["execute"]},
        {"tool": "file"},
        {"tool": "network", "operations": ["connect"], "hosts": ["127.0.0.1:1-65535"]},
    ],
    require_approval=[{"tool": "email", "operations": ["send"], "timeout": "10m"}],
)
PICTURES = os.environ.get("AGENTD_PICTURES")  # a folder to keep screenshots in


class Page:
    """The console of a service, asked as a browser's script would."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port
        self.cookie = self.key = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, JSON). headers: `_` stands for `-`; these replace those of a good request."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": f"agentd_session={self.cookie}", "X-Agentd-Key": self.key}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            self.headers = answer.headers
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        finally:
            connection.close()

    def login(self, token: str) -> int:
        """Logs in and keeps the session."""
        status, made = self.ask("POST", "/api/login", {"token": token})
        if status == 200:
            self.key = made["key"]
            self.cookie = self.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
        return status


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Service, int]]:
    """A service with a console."""
    port = free_port()
    service = Service({"bot": ASKING, "quiet": bot()})
    tools = {"email": {"send": [{"connect": ["127.0.0.1:25"]}]}}
    service.write_policy({"bot": ASKING, "quiet": bot()}, tools)
    service.write_config(console={"listen": f"127.0.0.1:{port}", "tokens": str(service.folder / "tokens")})
    with service:
        yield service, port


@pytest.fixture
def page(served: tuple[Service, int]) -> Iterator[Page]:
    """Its console; workloads of a test are gone behind it."""
    yield Page(*served)
    served[0].end_workloads()


def token(service: Service) -> str:
    """A token for root."""
    return add_token(service.folder / "tokens", "root", read_only=False)


def token_by_command(service: Service, *words: str) -> str:
    """The same by the command line."""
    done = agentd("console", "token", "root", "--config", service.config, *words)
    assert done.returncode == 0, done
    return done.stdout.strip()


@pytest.mark.leaves("children", "descriptors", reason="the service of the module starts in its first test")
def test_a_click_lets_a_held_connect_go(page: Page, tmp_path: Path) -> None:
    """In Chromium: log in, see what is held, approve it, and the unmodified program goes on; denied, it does not."""
    service = page.service
    with Sleeper() as sleeper, Browser(tmp_path) as browser, mail() as port:
        service.tag(sleeper.pid)
        browser.open(f"http://127.0.0.1:{page.port}/")
        browser.type("#token", "wrong")
        browser.click("#login button")
        browser.wait("#message", "no such token")
        browser.run("document.querySelector('#token').value = ''")
        browser.type("#token", token_by_command(service))
        browser.click("#login button")
        browser.wait("#held .empty", "Nothing waits")
        sleeper.send("connect", str(port))
        browser.wait("#held .words", f"bot wants to connect to 127.0.0.1:{port}")
        until(lambda: state(sleeper.pid) == "T", "the stop")
        browser.wait("#feed .approval_required", "asked")
        keep(browser, "held")
        browser.type("#held .reason", "as agreed <b>")
        browser.click("#held .approve")
        assert sleeper.answer() == "ok"
        browser.wait("#message", "approved")
        browser.wait("#held .empty", "Nothing waits")  # or the click below would be meant for what was answered
        sleeper.send("connect", str(port))
        browser.click("#held .deny")
        assert sleeper.answer() == "errno 1"
        # The effect doesn't wait for the log.
        approved, denied = (until(lambda e=e: service.records(e), e)[-1] for e in ("approved", "approval_denied"))
        assert approved["reason"] == "as agreed <b>" and approved["metadata"]["by_login_uid"] == 0
        assert approved["metadata"]["by"] == denied["metadata"]["by"] == "root (uid 0, by the console)"
        browser.wait("#feed .approved", "approved")
        for view, wanted in (("workloads", str(sleeper.pid)), ("log", "as agreed <b>"), ("top", f"127.0.0.1:{port}")):
            browser.click(f"nav [data-view={view}]")
            browser.wait(f"#{view} td", {"log": f"127.0.0.1:{port}", "workloads": f"pid {wanted}"}.get(view, wanted))
            keep(browser, view)
        browser.open(f"http://127.0.0.1:{page.port}/log?event=approval_denied")
        browser.wait("#found", "1 of the last")
        assert browser.run("return document.querySelectorAll('#picture rect.denied').length") == 1
        browser.open(f"http://127.0.0.1:{page.port}/log")
        assert until(lambda: browser.run("return document.querySelectorAll('#picture rect').length"), "the picture")
        keep(browser, "picture")
        browser.open(f"http://127.0.0.1:{page.port}/record/{denied['seq']}")
        browser.wait("#whole", denied["hash"])
        keep(browser, "record")
        browser.click("#logout")
        browser.wait("#login h1", "Log in")
        keep(browser, "login")
        browser.open(f"http://127.0.0.1:{page.port}/log")
        browser.wait("#login h1")
        expected = ("403", "favicon")  # the wrong token, and asking once too often after logging out
        assert [line for line in browser.complaints() if not any(word in line for word in expected)] == []


def keep(browser: Browser, name: str) -> None:
    """Screenshots, light and dark, wide and narrow, for whoever wants to look at them."""
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        for width, scheme in ((1200, "light"), (1200, "dark"), (420, "light")):
            browser.size(width, 900)
            browser.scheme(scheme)
            browser.picture(Path(PICTURES) / f"{name}-{width}-{scheme}.png")
        browser.size(1200, 900)


class mail:  # reads as what it is: with mail() as port
    """Something that accepts connections at port 25 of loopback."""

    def __enter__(self) -> int:
        self.server = socket.create_server(("127.0.0.1", 25), backlog=16)
        return 25

    def __exit__(self, *_: object) -> None:
        self.server.close()


def test_nothing_without_a_session(page: Page) -> None:
    """Every question of the page needs the cookie and the key, and either alone is nothing."""
    assert page.login("guess") == 403
    assert page.login(token(page.service)) == 200
    cookie = page.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    paths = ("/api/state", "/api/approvals", "/api/log", "/api/top", "/api/record/1")
    for path in paths:
        assert page.ask("GET", path)[0] == 200
        assert page.ask("GET", path, X_Agentd_Key="")[0] == 403
        assert page.ask("GET", path, X_Agentd_Key="ü")[0] == 403
        assert page.ask("GET", path, Cookie="")[0] == 403
    assert page.ask("GET", "/api/live", Cookie="")[0] == 403
    answer = {"answer": "approve", "upto": 1}
    assert page.ask("POST", "/api/approvals/1", answer, Cookie="")[0] == 403
    assert page.ask("POST", "/api/approvals/999999", answer)[0] == 404
    assert page.ask("POST", "/api/logout", {})[0] == 200
    assert page.ask("GET", "/api/state")[0] == 403


def test_other_pages_get_nothing(page: Page) -> None:
    """A name that points here (DNS rebinding), another origin, another port and a form are refused; the page is not."""
    page.login(token(page.service))
    here = f"http://127.0.0.1:{page.port}"
    for bad in ({"Host": "evil.example"}, {"Host": f"evil.example:{page.port}"}, {"Host": "localhost.evil.example"}):
        assert page.ask("GET", "/api/state", **bad)[0] == 403
        assert page.ask("GET", "/", **bad)[0] == 403
    for bad in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert page.ask("GET", "/api/state", **bad)[0] == 403
        assert page.ask("POST", "/api/approvals/1", {"answer": "approve", "upto": 1}, **bad)[0] == 403
    good = {"Origin": here, "Sec_Fetch_Site": "same-origin"}
    assert page.ask("GET", "/api/state", **good)[0] == 200
    assert page.ask("GET", "/api/state", Host="localhost:12345")[0] == 200  # a tunnel's end
    assert page.ask("POST", "/api/logout", {}, Content_Type="text/plain")[0] == 400
    assert page.ask("GET", "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link from elsewhere; nothing is in it
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/login", []),
        ("POST", "/api/login", {"token": 7}),
        ("POST", "/api/approvals/1", {"answer": "yes", "upto": 1}),
        ("POST", "/api/approvals/1", {"answer": "approve"}),
        ("POST", "/api/approvals/1", {"answer": "approve", "upto": 1 << 80}),
        ("POST", "/api/approvals/1", {"answer": "approve", "upto": 1, "reason": "\0"}),
        ("GET", "/api/record/1e9", None),
        ("GET", "/api/record/%2e%2e%2fetc", None),
        ("GET", "/static/..%2f..%2fapp.py", None),
        ("GET", "/static/index.html", None),
        ("PUT", "/api/state", None),
        ("POST", "/api/login", {"token": "x" * 100_000}),
    ],
)
def test_malformed_requests_are_refused(page: Page, method: str, path: str, body: Any) -> None:
    """Whatever is sent, the answer is a client's error, and the service lives."""
    assert page.login(token(page.service)) == 200
    assert 400 <= page.ask(method, path, body)[0] < 500
    assert page.ask("GET", "/api/state")[0] == 200


def test_a_token_can_look_only_or_be_taken_back(page: Page) -> None:
    """A read-only token answers nothing; a removed line ends its sessions at once; the file must be root's own."""
    service, tokens = page.service, page.service.folder / "tokens"
    with Sleeper() as sleeper, mail() as port:
        token(service)
        assert page.login(token_by_command(service, "--read-only")) == 200
        service.tag(sleeper.pid)
        sleeper.send("connect", str(port))
        held = service.held()[0]
        answer = {"answer": "approve", "upto": held["latest_hold"]}
        status, made = page.ask("POST", f"/api/approvals/{held['id']}", answer)
        assert status == 403 and "may look" in made["error"] and state(sleeper.pid) == "T"
        service.call("approvals.deny", id=held["id"])
        assert sleeper.answer() == "errno 1"
    assert page.ask("GET", "/api/state")[0] == 200
    listed = agentd("console", "tokens", "--config", service.config).stdout
    assert "look" in listed and "answer" in listed
    before = tokens.read_text()
    tokens.write_text("")
    status, made = page.ask("GET", "/api/state")
    assert status == 403 and "taken back" in made["error"]
    tokens.write_text(before)
    assert page.ask("GET", "/api/state")[0] == 200
    tokens.chmod(0o644)
    assert page.ask("GET", "/api/state")[0] == 500
    tokens.chmod(0o600)
    assert "no such account" in Line.of(agentd("console", "token", "nobody-at-all", "--config", service.config), 1).text


def test_no_workload_gets_through(page: Page) -> None:
    """A workload's process that may connect, and has a good token, is refused; so is a socket it was handed."""
    assert page.login(token(page.service)) == 200
    script = (
        "import http.client\n"
        f"c = http.client.HTTPConnection('127.0.0.1', {page.port}, timeout=30)\n"
        f"headers = {{'Cookie': 'agentd_session={page.cookie}', 'X-Agentd-Key': '{page.key}'}}\n"
        "c.request('GET', '/api/state', headers=headers)\n"
        "r = c.getresponse(); print(r.status, r.read()[:200])"
    )
    free = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True)
    assert free.stdout.startswith("200 ")  # the same without a mark
    done = page.service.run(PYTHON, "-c", script)
    assert done.stdout.startswith("403 ") and "of a workload" in done.stdout, done
    # Connected before it was marked, and by another process: the socket is what counts.
    with (
        socket.create_connection(("127.0.0.1", page.port)) as connection,
        Sleeper(pass_fds=[connection.fileno()]) as sleeper,
    ):
        request = (
            f"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: agentd_session={page.cookie}\r\n"
            f"X-Agentd-Key: {page.key}\r\n\r\n"
        ).encode()
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 200"
        while b"}" not in connection.recv(65536)[-2:]:
            pass
        page.service.tag(sleeper.pid)
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 403"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\xff" * 500,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nffffffff\r\n",
        b"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 9999999999\r\n\r\n{",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET /" + b"A" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_nobodys_news(page: Page, data: bytes) -> None:
    """Bytes that are no request end their connection at most; the service answers others, and says nothing of it."""
    with socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(12) != b"HTTP/1.1 200"
    assert page.ask("GET", "/")[0] == 200
    assert page.service.said == ""


def test_connections_are_bounded(page: Page) -> None:
    """More connections than there may be are closed, and the service goes on answering on its socket."""
    opened = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(80)]
    try:
        opened[-1].settimeout(30)
        assert opened[-1].recv(1) == b""
        assert page.service.call("status")["policy"]
    finally:
        for connection in opened:
            connection.close()
    until(lambda: answers(page), "room for one more")


def answers(page: Page) -> bool:
    try:
        return page.ask("GET", "/")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_over_a_unix_socket(tmp_path: Path) -> None:
    """Behind a unix socket the console asks for a token too, and admits who the command line admits."""
    path = tmp_path / "console.sock"
    tmp_path.chmod(0o755)
    with Service({"bot": bot()}, console={"listen": str(path), "tokens": str(tmp_path / "tokens")}) as service:
        curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(path)]

        def status(url: str, *before: str) -> str:
            return subprocess.run([*before, *curl, url], capture_output=True, text=True, check=False).stdout

        assert status("http://localhost/") == "200"
        assert status("http://localhost/api/state") == "403"
        assert status("http://localhost/", "setpriv", "--reuid=65534", "--clear-groups") == "000"
        assert "200" not in service.run(*curl, "http://localhost/").stdout
        assert service.end() == 0 and not path.exists()


def test_a_port_that_is_taken_is_refused_before_anything_is_done() -> None:
    """The service doesn't start without the page that it was told to show, and leaves nothing in the kernel."""
    with listening() as port:
        service = Service({"bot": bot()}, console={"listen": f"127.0.0.1:{port}", "tokens": "/nonexistent/tokens"})
        try:
            done = agentd("daemon", "--config", service.config)
            assert "address already in use" in Line.of(done, 1).text
            assert not service.pins.exists()
        finally:
            service.close()


def test_off_by_default() -> None:
    """Without `console:` nothing listens and nothing of it is loaded."""
    script = (
        "import sys, agentd.daemon.service; print('aiohttp' in sys.modules, 'agentd.daemon.console.app' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
