"""Row 70, not of the catalogue: what containment must leave alone. Ordinary programs under the policy for coding agents
end and print as they do untagged, with nothing on record against them.

tests/live/test_programs.py does the same under `agentd run`, on this host; here it is for hosts with LSM hooks. A short
run takes QUICK; `--rounds 1` or more takes all.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentd.model import Point
from tests.containment.suite import Probe, Scenario, Suite, Told
from tests.live.ordinary import NEEDED, ORDINARY, make_wheel

QUICK: Final = ("git push to a folder", "gcc and make", "archives", "searching")
LOCAL: Final = tuple(name for name in ORDINARY if "PORT" not in ORDINARY[name])  # those without a server of the test's
PATIENCE: Final = 600.0  # seconds, in an emulated machine
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def script(home: Path, name: str) -> list[str]:
    """The command: in a home of its own."""
    environment = {
        "PATH": PATH, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb", "USER": "root", "LOGNAME": "root",
        "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in environment.items()]
    return ["/usr/bin/env", "-i", *words, "bash", "-c", ORDINARY[name]]


def ordinary(name: str) -> Callable[[Suite], Told]:
    """It is as it is untagged."""

    def run(suite: Suite) -> Told:
        if not suite.points & {Point.LSM, Point.FMOD_RET}:
            return Told("permitted", detail="tests/live/test_programs.py has it")
        if missing := [word for word in NEEDED if word in ORDINARY[name].split() and not shutil.which(word)]:
            return Told("permitted", detail=f"there is no {missing[0]} here")
        if name not in QUICK and suite.factor is not None and suite.factor < 1:
            return Told("permitted", detail="not in a short run")
        home = Path(suite.ground.say("{home}"))
        home.mkdir(exist_ok=True)
        (home / ".gitconfig").write_text(
            "[user]\n\tname = Alice\n\temail = alice@example.org\n[init]\n\tdefaultBranch = main\n"
        )
        (home / ".npmrc").write_text("fund=false\naudit=false\n")
        folder = suite.ground.dir / "work/ordinary/here"
        make = folder.parent / "hello-1.0-py3-none-any.whl"
        patience = suite.host.patience
        try:
            folder.mkdir(parents=True)
            make_wheel(make)
            control = subprocess.run(
                script(home, name), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            shutil.rmtree(folder)
            folder.mkdir()
            suite.host.patience = PATIENCE
            done = suite.host.run(script(home, name), "coder", cwd=folder)
        finally:
            suite.host.patience = patience
            shutil.rmtree(folder.parent)
            shutil.rmtree(home)
        assert not done.denials and done.out == control.stdout and done.status == control.returncode, (done, control)
        return Told("permitted", detail=f"{len(done.out)} bytes of output alike")

    return run


PROBES: Final[tuple[Probe | Scenario, ...]] = tuple(Scenario(70, name, ordinary(name)) for name in LOCAL)
