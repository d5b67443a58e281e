"""Statements to a real PostgreSQL server: judged in the client, whichever it is, and absent from the server's log."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.live import harness, probes
from tests.live.databases import PostgreSQL, Server, driver
from tests.live.harness import Host
from tests.live.probes import untagged

pytestmark = pytest.mark.root

# psycopg[binary] brings a libpq of its own. Arguments: the folder of the socket, how, the statement.
PSYCOPG = (
    driver(
        Path(psycopg.__file__).parents[1],
        "psycopg",
        "host=sys.argv[1], user='tester', dbname='postgres', autocommit=True",
    )
    + """
how, statement = sys.argv[2:]
if how == "execute":
    cursor = db.execute(statement)
elif how == "prepared":
    cursor = db.execute(statement, prepare=True)
elif how == "parameters":
    cursor = db.execute(statement + " where a > %s", [1])
elif how == "pipeline":
    with db.pipeline():
        cursor = db.execute(statement)
elif how == "raw":
    db.pgconn.exec_(statement.encode())
    cursor = None
say("ok " + str(cursor.rowcount if cursor else 0))
"""
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = PostgreSQL()
    yield made
    made.close()


def enforced(folder: Path) -> contextlib.AbstractContextManager[Host]:
    """`bot` may only query; `asking` must ask before it destroys."""
    query = [{"tool": "postgres", "operations": ["query"]}]
    destroy = [{"tool": "postgres", "operations": ["destroy"]}]
    agents = {
        "bot": harness.agent(allow=query, on_violation="kill"),
        "asking": harness.agent(allow=query, ask=destroy, on_violation="kill"),
    }
    return harness.enforcing(folder, agents)


def table(server: Server, name: str) -> None:
    server.query(f"create table {name} (a int); insert into {name} values (1), (2)")
    assert server.query(f"select count(*) from {name}") == "2"


def test_what_destroys_is_never_sent(server: Server, tmp_path: Path) -> None:
    """By psql and psycopg, in all the ways they have; what only reads goes through, with each of them."""
    table(server, "kept")
    folder = str(server.folder)
    with enforced(tmp_path) as host:
        assert host.run(server.client("select count(*) from kept -- not: drop table kept")).out == b"2\n"
        refused = {
            "psql": "drop table kept /* psql */",
            "execute": "/* execute */ TRUNCATE kept",
            "prepared": "delete from kept /* prepared */",
            "parameters": "alter table kept add b int; select * from kept /* parameters */",
            "pipeline": "update kept set a = 3 where 1 = 1 /* pipeline */",
            "raw": f"select '{'x' * 10_000}'; drop table kept /* raw */",
        }
        for how, statement in refused.items():
            python = functools.partial(probes.python, PSYCOPG, folder, how)
            run = host.run(server.client(statement) if how == "psql" else python(statement))
            assert run.killed, (how, run)
            assert run.lines == ([] if how == "psql" else ["connected", "attempt"]), (how, run)
            assert [denial["tool_name"] for denial in run.denials] == ["postgres"], (how, run)
            assert not server.was_sent(f"/* {how} */")
            if how != "psql":
                allowed = host.run(python("select * from kept"))
                assert allowed.value == ("1" if how == "parameters" else "0" if how == "raw" else "2"), (how, allowed)
        assert server.query("select count(*) from kept") == "2"
    assert untagged(probes.python(PSYCOPG, folder, "execute", "drop table kept /* untagged */")).value == "-1"
    assert server.was_sent("/* untagged */")


# How, and how long: over 64 KiB a text is judged by the program that may sleep; PQexec calls PQsendQuery with its text.
HELD = [("psql", 0), ("psql", 100_000), ("raw", 10_000)]


@pytest.mark.parametrize(("how", "size"), HELD)
def test_a_held_statement_is_sent_when_it_is_approved(server: Server, tmp_path: Path, how: str, size: int) -> None:
    """DROP TABLE is not in the server's log until somebody says yes, once, and never after a no."""
    table(server, "asked")
    with enforced(tmp_path) as host:
        for allow in (False, True):
            statement = f"drop table asked /* {how} {size} {allow} {'x' * size} */"
            python = probes.python(PSYCOPG, str(server.folder), how, statement)
            workload = host.start(server.client(statement) if how == "psql" else python, "asking")
            question = host.held(workload)
            assert "drop table asked" in question["words"]
            assert not server.was_sent(f"{how} {size} {allow}")
            host.answer(question, allow)
            run = workload.wait()
            assert run.killed is not allow, run
            assert server.was_sent(statement) is allow
    assert server.query("select count(*) from pg_tables where tablename = 'asked'") == "0"
