"""Who may use the console: the peer, the browser's request, the session. Each check is for every request.

The peer: never a process of a workload. Over the unix socket as for the command line (peers.py); over loopback by the
owner of the other end of the connection (workloads/loopback.py).

The request: only under a name that nobody else can point here (DNS rebinding), and what has or changes anything only
from our own page (Origin, Sec-Fetch-Site).

The session: a cookie, and a key that the page keeps for its own origin and sends in a header. Either alone is nothing:
a cookie goes to every port of a host, so any server on this host that a browser visits is shown it, a workload's too;
and a header can't be sent by another site's form.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.daemon.console.settings import ConsoleSettings, Token, read_tokens, token_of
from agentd.errors import AgentdError

COOKIE: Final = "agentd_session"
KEY_HEADER: Final = "X-Agentd-Key"
SESSION_SECONDS: Final = 8 * 3600
MAX_SESSIONS: Final = 64
FAILURES: Final = 5  # wrong tokens of one user of the host, before each costs a wait
WAIT_SECONDS: Final = 10
MAX_USERS: Final = 1000
# Any port: a tunnel of ssh may end at another one. None of these names is looked up in the DNS by a browser.
OUR_NAMES: Final = re.compile(r"(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?")


@dataclass(slots=True)
class Session:
    """One login."""

    token: Token
    key: str
    until: float

    @property
    def name(self) -> str:
        """Whose it is."""
        return self.token.name


@dataclass(slots=True)
class Guesses:
    """Wrong tokens of one user of the host: which user can't be faked, as an address could."""

    wrong: int = 0
    last: float = 0.0


@dataclass(slots=True)
class Access:
    """The sessions of one console."""

    settings: ConsoleSettings
    clock: Callable[[], float] = time.monotonic
    _sessions: dict[str, Session] = field(default_factory=dict)
    _guesses: dict[int, Guesses] = field(default_factory=dict)

    def check_request(self, headers: Mapping[str, str], *, page: bool) -> None:
        """Raises AgentdError `not-permitted` for a request that another page than ours has made.

        page: for the page itself, which has nothing in it and which links from elsewhere (Grafana) may lead to.
        """
        host = headers.get("Host", "")
        if not OUR_NAMES.fullmatch(host):
            raise _refused("asked for under a name that is not this host's own", "use localhost or 127.0.0.1")
        if page:
            return
        if headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise _refused("asked by another page")
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _refused("asked by another page")

    def login(self, uid: int, text: str) -> tuple[str, Session]:
        """(The cookie, the session) for a token. uid: whose process asks.

        Raises AgentdError `not-permitted`.
        """
        now = self.clock()
        guesses = self._guesses.get(uid) or Guesses()
        if guesses.wrong >= FAILURES and now < guesses.last + WAIT_SECONDS:
            raise _refused("too many wrong tokens", f"wait {WAIT_SECONDS} seconds")
        token = token_of(read_tokens(self.settings.tokens), text)
        if token is None:
            if len(self._guesses) >= MAX_USERS:
                self._guesses.clear()
            self._guesses[uid] = Guesses(guesses.wrong + 1, now)
            raise _refused("no such token", "agentd console token NAME makes one")
        self._guesses.pop(uid, None)
        self._forget_old(now)
        cookie, session = secrets.token_urlsafe(32), Session(token, secrets.token_urlsafe(32), now + SESSION_SECONDS)
        self._sessions[cookie] = session
        return cookie, session

    def session(self, cookie: str, key: str) -> Session:
        """The session of a request, whose token must still be in the file. Raises AgentdError `not-permitted`."""
        now = self.clock()
        found = None
        for known, session in self._sessions.items():
            if hmac.compare_digest(known.encode(), cookie.encode("utf-8", "replace")):
                found = session
        if (
            found is None
            or found.until <= now
            or not hmac.compare_digest(found.key.encode(), key.encode("utf-8", "replace"))
        ):
            raise _refused("not logged in")
        if found.token not in read_tokens(self.settings.tokens):
            raise _refused("the token was taken back")
        return found

    def logout(self, cookie: str) -> None:
        """Ends a session."""
        self._sessions.pop(cookie, None)

    def _forget_old(self, now: float) -> None:
        for cookie in [cookie for cookie, session in self._sessions.items() if session.until <= now]:
            del self._sessions[cookie]
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]


def _refused(why: str, hint: str = "") -> AgentdError:
    return AgentdError("not-permitted", "console", why, hint)
