"""What of a library no probe can see in a file, by the names that stand in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.workloads.modules import UNSEEN, Module, unseen

LIBRARIES = ("ssl", "gnutls", "pq", "mysqlclient", "mariadb", "sqlite3")


def module(folder: Path, text: bytes) -> Module:
    """A file with this in it."""
    path = folder / "module"
    path.write_bytes(text)
    return Module(0, 0, 0, str(path), str(path))


@pytest.mark.parametrize("library", UNSEEN)
def test_what_a_file_has_instead_of_a_library_is_named(tmp_path: Path, library: str) -> None:
    """By each of its signs; not by a file without it, nor where nobody asks for the library."""
    for what, signs in UNSEEN[library].items():
        for sign in signs:
            found = module(tmp_path, b"\0code" + sign + b"\0")
            assert unseen(found, LIBRARIES, program=False) == what
            assert unseen(found, ["other"], program=False) == ""
            assert unseen(module(tmp_path, b"\0code" + sign[:-2]), LIBRARIES, program=False) == ""


def test_functions_that_are_found_hide_nothing_else(tmp_path: Path) -> None:
    """OpenSSL with its symbols is seen; rustls beside it, or SQLite without, is not."""
    found = module(
        tmp_path, b"rustls, ssl/ssl_lib.c and unable to delete/modify user-function due to active statements"
    )
    assert unseen(found, LIBRARIES, has={"ssl"}, program=False) == "rustls and SQLite without symbols"
    assert unseen(found, LIBRARIES, has={"sqlite3"}, program=False) == "rustls and OpenSSL without symbols"
    assert unseen(found, ["ssl"], has={"ssl"}, program=False) == "rustls"
