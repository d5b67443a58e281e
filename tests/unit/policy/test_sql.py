"""The skeleton of SQL, dialect by dialect: what is a comment, what is in quotes, what can't be told."""

from __future__ import annotations

import pytest

from agentd.policy.sql import Sql, skeleton

PG, MY, LITE = Sql.POSTGRESQL, Sql.MYSQL, Sql.SQLITE


@pytest.mark.parametrize(
    ("language", "text", "left"),
    [
        (PG, "SELECT  1\n\t;", "select 1 ;"),
        (PG, "select 'a''b; drop' x", "select '''' x"),
        (PG, 'select "a""b" from t', 'select """" from t'),
        (PG, "a--b\nc", "a c"),
        (PG, "a/*b/*c*/d*/e", "a e"),
        (LITE, "a/*b/*c*/d*/e", "a d*/e"),
        (MY, "a/*b/*c*/d*/e", "a d*/e"),
        (PG, "5-3/2", "5-3/2"),
        (PG, "select E'a\\'b' c", "select e'' c"),
        (PG, "select 'a\\' b", "select '' b"),
        (PG, "date'a\\' b", "date'' b"),
        (PG, "a$1 $2 b$c", "a$1 $2 b$c"),
        (PG, "x -", "x -"),
        (PG, "x /", "x /"),
        (PG, "x --", "x "),
        (MY, "select 'a\\'b' c", "select '' c"),
        (MY, 'select "a\\"b" c', 'select "" c'),
        (MY, "a #b\nc", "a c"),
        (PG, "a #b\nc", "a #b c"),
        (MY, "5--3", "5--3"),
        (MY, "5-- 3\nx", "5 x"),
        (MY, "/*!50000 drop */ x", " drop x"),
        (MY, "/*!drop*/ x", " drop x"),
        (MY, "/*M!100100 drop */ x", " drop x"),
        (MY, "/*M drop */ x", " x"),
        (MY, "/*!40101 set a='+0' */; b", " set a='' ; b"),
        (MY, "/*! select 2*3 */ * 4", " select 2*3 * 4"),
        (MY, "2*/*'*/3", "2* 3"),
        (LITE, "/*!50000 drop */ x", " x"),
        (PG, "/*! drop */ x", "x"),
        (MY, "`a;b` c", "`` c"),
        (LITE, "[a;b] `c;d`", "[] ``"),
        (PG, "a[1] `b", "a[1] `b"),
        (PG, "select 'unfinished", "select '"),
        (Sql.PLAIN, "A--b", "A--b"),
    ],
)
def test_what_is_left(language: Sql, text: str, left: str) -> None:
    """Comments go, what is quoted goes, by the rules of each dialect."""
    found = skeleton(text.encode(), language)
    assert found is not None
    assert found.decode().lstrip() == left.lstrip()


@pytest.mark.parametrize("text", ["do $$ x $$", "select $tag$ a", "select 1; $_$"])
def test_dollar_quotes_can_t_be_told(text: str) -> None:
    """PostgreSQL's dollar quotes make a text unresolved; elsewhere a dollar is a character."""
    assert skeleton(text.encode(), PG) is None
    assert skeleton(text.encode(), MY) is not None


@pytest.mark.parametrize(
    "text", ["/*!99999 '*/; drop table x; -- '", "/*! a -- */\n b", "/*! # */", "/*! /* */ */", "/*! `*/"]
)
def test_comments_that_may_be_code_can_t_always_be_told(text: str) -> None:
    """Where MySQL would go on differently if its version made a comment of the code."""
    assert skeleton(text.encode(), MY) is None
    assert skeleton(text.encode(), LITE) is not None
