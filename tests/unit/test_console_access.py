"""The console's tokens, sessions and checks of requests, with a clock of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentd.daemon.config import read_config
from agentd.daemon.console import settings as console
from agentd.daemon.console.access import FAILURES, MAX_SESSIONS, SESSION_SECONDS, WAIT_SECONDS, Access
from agentd.daemon.console.search import SLICES, Wanted, picture
from agentd.daemon.console.settings import ConsoleSettings, add_token, read_tokens
from agentd.errors import AgentdError
from agentd.policy.problem import PolicyError


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(ConsoleSettings(tokens=tmp_path / "tokens"), clock)


def refused(call: Any, *arguments: Any, **how: Any) -> str:
    with pytest.raises(AgentdError) as caught:
        call(*arguments, **how)
    assert caught.value.code == "not-permitted"
    return str(caught.value)


def test_a_session_needs_both_halves_and_ends(access: Access, clock: Clock) -> None:
    """Cookie and key together open a session, which ends with its time, its logout or its token."""
    token = add_token(access.settings.tokens, "root", read_only=False)
    cookie, session = access.login(0, token)
    assert access.session(cookie, session.key).name == "root"
    for wrong in (("", session.key), (cookie, ""), (cookie, cookie), (session.key, session.key), ("\udcff", "\udcff")):
        refused(access.session, *wrong)
    clock.now += SESSION_SECONDS
    refused(access.session, cookie, session.key)
    cookie, session = access.login(0, token)
    access.logout(cookie)
    refused(access.session, cookie, session.key)
    cookie, session = access.login(0, token)
    access.settings.tokens.write_text("# nobody\n")
    assert "taken back" in refused(access.session, cookie, session.key)


def test_guessing_is_slow_for_who_guesses(access: Access, clock: Clock) -> None:
    """After a few wrong tokens a user has to wait before each try, also with the right one; others need not."""
    token = add_token(access.settings.tokens, "root", read_only=False)
    for _ in range(FAILURES):
        refused(access.login, 1001, "guess")
    assert "wait" in refused(access.login, 1001, token)
    assert access.login(1002, token)
    clock.now += WAIT_SECONDS
    refused(access.login, 1001, "guess")
    assert "wait" in refused(access.login, 1001, token)
    clock.now += WAIT_SECONDS
    assert access.login(1001, token)
    refused(access.login, 1001, "guess")
    assert access.login(1001, token)  # a success begins the count anew


def test_sessions_are_bounded(access: Access) -> None:
    """The oldest session makes room."""
    token = add_token(access.settings.tokens, "root", read_only=False)
    made = [access.login(0, token) for _ in range(MAX_SESSIONS + 1)]
    refused(access.session, made[0][0], made[0][1].key)
    assert access.session(made[-1][0], made[-1][1].key)


def test_tokens_are_digests_in_a_file_of_root(tmp_path: Path) -> None:
    """No token stands in the file, a file that others could have written is refused, and so is any other line."""
    path = tmp_path / "tokens"
    token = add_token(path, "root", read_only=True)
    assert token not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    assert [(one.name, one.read_only) for one in read_tokens(path)] == [("root", True)]
    path.chmod(0o640)
    with pytest.raises(AgentdError, match="others could"):
        read_tokens(path)
    path.chmod(0o600)
    with path.open("a") as file:
        file.write("root 1234\n")
    with pytest.raises(AgentdError, match=":2: not a line"):
        read_tokens(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(AgentdError):
        read_tokens(link)
    with pytest.raises(AgentdError, match="no such account"):
        add_token(tmp_path / "other", "nobody at all", read_only=False)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("{}", ("127.0.0.1", 9470)),
        ("{listen: '[::1]:80'}", ("::1", 80)),
        ("{listen: 127.1.2.3:1}", ("127.1.2.3", 1)),
        ("{listen: /run/x.sock}", Path("/run/x.sock")),
    ],
)
def test_where_it_listens(tmp_path: Path, text: str, endpoint: object) -> None:
    """Loopback or a unix socket."""
    file = tmp_path / "agentd.yaml"
    file.write_text(f"console: {text}\n")
    made = read_config(file).console
    assert made is not None and made.endpoint == endpoint


@pytest.mark.parametrize(
    "listen",
    [
        *("0.0.0.0:9470", "192.0.2.1:1", "[::]:1", "localhost:1", "127.0.0.1"),
        *("127.0.0.1:0", "127.0.0.1:70000", "127.0.0.999:1", "x.sock"),
    ],
)
def test_where_it_does_not_listen(tmp_path: Path, listen: str) -> None:
    """Any other address is a mistake in the configuration."""
    file = tmp_path / "agentd.yaml"
    file.write_text(f"console: {{listen: '{listen}'}}\n")
    with pytest.raises(PolicyError, match="loopback"):
        read_config(file)


def test_the_picture_says_numbers_only() -> None:
    """Bars for what was counted, as high as it was often, a refused hold among the denials; nothing of a record's text
    is in the markup.
    """
    evil = '"/><script>alert(1)</script>'
    records = [
        {"event": "allowed", "timestamp": "2026-11-26T03:00:00.000000Z", "count": 98, "input_summary": evil},
        {"event": "denied", "timestamp": "2026-11-26T03:00:00.000000Z", "agent_id": evil},
        {"event": "denied", "timestamp": "2026-11-26T03:10:00.000000Z", "count": -5},
        {"event": "approval_denied", "timestamp": "2026-11-26T03:05:00.000000Z"},
        {"event": evil, "timestamp": "2026-11-26T03:10:00.000000Z"},
        {"event": ["denied"], "timestamp": "2026-11-26T03:10:00.000000Z"},
        {"event": "denied", "timestamp": evil},
        {"unreadable": evil},
    ]
    made = picture(records)
    assert made["most"] == 99 and made["to"] - made["from"] == 600
    assert "script" not in made["svg"] and made["svg"].count('<rect class="denied"') == 3
    assert made["svg"].count("<rect") == 4
    assert picture([])["svg"] == ""
    assert len(picture(records * 1000)["svg"]) < 200 * 3 * SLICES


def test_a_search_matches_words_and_members() -> None:
    """Members match as a whole, the text anywhere in what was done or why, in any case."""
    record = {
        "agent_id": "bot",
        "tool_name": "shell",
        "event": "denied",
        "input_summary": "exec '/bin/RM'",
        "rule": "r",
    }
    assert Wanted.of({"agent": "bot", "text": "bin/rm", "rule": "r"}).matches(record)
    for query in ({"agent": "bo"}, {"text": "cp"}, {"rule": "x"}, {"event": "allowed"}, {"tool": "shel"}):
        assert not Wanted.of(query).matches(record)
    assert Wanted.of({"other": "ignored"}).matches(record)


def test_keys_of_the_configuration_are_checked(tmp_path: Path) -> None:
    """A misspelt key is a mistake with its place."""
    file = tmp_path / "agentd.yaml"
    file.write_text("console: {tokens: x, lisen: y}\n")
    with pytest.raises(PolicyError) as caught:
        read_config(file)
    assert {problem.message for problem in caught.value.problems} == {"unknown key", "not an absolute path"}
    assert console.DEFAULT_TOKENS.is_absolute()
