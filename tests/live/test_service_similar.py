"""`and similar`: a rule is proposed, previewed against the log, and in force only when it is confirmed."""

from __future__ import annotations

import json

import pytest

from agentd.errors import AgentdError
from tests.live.service import Line, Service, Sleeper, agentd, bot, until

pytestmark = pytest.mark.root


def asking(folder: str) -> dict[str, object]:
    return bot(
        allow=[{"tool": "shell"}, {"tool": "file_reader"}, {"tool": "file_writer", "paths": ["/dev/**"]}],
        deny=[{"tool": "file_reader", "paths": [f"{folder}/ask/never"]}],
        require_approval=[{"tool": "file_reader", "paths": [f"{folder}/ask/**"], "timeout": "10m"}],
    )


def test_and_similar() -> None:
    """The preview counts what was asked before; nothing is written unconfirmed; confirmed, such files are open, what is
    denied stays denied, the rest is asked about; a restart and `policy explain` know the rule.
    """
    with Service({"bot": bot()}) as service:
        service.end()
        (service.folder / "ask/sub").mkdir(parents=True)
        for name in ("one", "two", "three", "never", "sub/deep"):
            (service.folder / "ask" / name).write_text("x")
        ask = service.folder / "ask"
        service.write_policy({"bot": asking(str(service.folder))})
        service.start()
        overlay = service.folder / "overlay.yaml"
        with Sleeper() as sleeper:
            service.tag(sleeper.pid)
            for name in ("one", "two"):
                sleeper.send("open", ask / name)
                service.call("approvals.approve", id=service.held()[0]["id"])
                assert sleeper.answer() == "ok"
            sleeper.send("open", ask / "three")
            number = service.held()[0]["id"]
            found = service.call("approvals.similar", id=number)
            counts = {one["rule"]["paths"][0]: one["would_have_matched"] for one in found["proposals"]}
            assert counts == {f"{ask}/three": {"asked": 1}, f"{ask}/*": {"asked": 3}, f"{ask}/**": {"asked": 3}}
            text = service.cli("approvals", "similar", number).stdout
            assert f"anything directly in {ask}" in text and "3 asked" in text
            refused = service.cli("approvals", "similar", number, "--choose", "2", input="n\n")
            assert refused.returncode == 1 or refused.returncode == 130, refused
            assert not overlay.exists() and service.held()[0]["id"] == number
            with pytest.raises(AgentdError, match="no proposal has it"):
                service.call("approvals.confirm", id=number, digest="0" * 64)
            done = service.cli("approvals", "similar", number, "--choose", "2", "--yes")
            assert done.returncode == 0 and "the rule stands in" in done.stdout, done
            assert sleeper.answer() == "ok"
            for name in ("one", "two", "three"):
                assert sleeper.do("open", ask / name) == "ok"
            sleeper.send("open", ask / "sub/deep")
            service.call("approvals.approve", id=service.held()[0]["id"])
            assert sleeper.answer() == "ok"
            service.end()
            service.start()
            assert sleeper.do("open", ask / "two") == "ok"
            assert sleeper.do("open", ask / "never") == "killed"
        made = json.loads(overlay.read_text(encoding="utf-8"))["agents"]["bot"]["approved"]
        assert [rule["paths"] for rule in made] == [[f"{ask}/*"]] and overlay.stat().st_mode & 0o777 == 0o600
        record = service.records("approved")[2]
        assert "and similar from now on" in record["reason"] and f"{ask}/*" in record["reason"]
        explain = ["policy", "explain", "--policy", service.policy, "--agent", "bot"]
        with_it = agentd(*explain, "--overlay", overlay, "read", ask / "two").stdout
        assert made[0]["id"] in with_it and "decision  allow" in with_it
        assert "decision  require_approval" in agentd(*explain, "read", ask / "two").stdout
        overlay.chmod(0o666)
        refused_reload = service.reload()
        assert "others could have written it" in Line.of(refused_reload, 1).text
        overlay.chmod(0o600)
        until(lambda: service.reload().returncode == 0, "a reload")
