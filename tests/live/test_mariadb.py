"""Statements to a real MariaDB server: its own client, and a Python driver over a client library of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live import harness, probes
from tests.live.databases import TOOLS, MariaDB, driver
from tests.live.probes import untagged

pytestmark = pytest.mark.root

# Arguments: the socket, the statement.
DRIVER = (
    driver(
        TOOLS / "mariadb/usr/lib/python3/dist-packages",
        "MySQLdb",
        "unix_socket=sys.argv[1], user='root', db='test', autocommit=True",
    )
    + """
cursor = db.cursor()
cursor.execute(sys.argv[2])
say("ok " + str(cursor.rowcount))
"""
)


def test_what_destroys_is_never_sent(tmp_path: Path) -> None:
    """By the client that has the library inside, and by a driver over libmariadb; what reads goes through with both."""
    server = MariaDB()
    try:
        server.query("create table kept (a int); insert into kept values (1), (2)")
        agent = harness.agent(allow=[{"tool": "mysql", "operations": ["query"]}], on_violation="kill")
        drop = probes.python(DRIVER, server.socket, "drop table kept /* driver */")
        libraries = ["env", f"LD_LIBRARY_PATH={server.libraries}"]
        with harness.enforcing(tmp_path, {"bot": agent}) as host:
            assert host.run(server.client("select count(*) from kept /* drop */")).out == b"2\n"
            assert server.was_sent("/* drop */")
            run = host.run(server.client("/*!40000 truncate */ /* client */ kept"))
            assert run.killed, run
            assert not server.was_sent("/* client */")
            assert host.run([*libraries, *probes.python(DRIVER, server.socket, "select * from kept")]).value == "2"
            run = host.run([*libraries, *drop])
            assert run.killed and run.lines == ["connected", "attempt"], run
            assert [denial["tool_name"] for denial in run.denials] == ["mysql"], run
            assert not server.was_sent("/* driver */")
        assert server.query("select count(*) from kept") == "2"
        assert untagged([*libraries, *drop]).value == "0"
        assert server.was_sent("/* driver */")
    finally:
        server.close()
