"""The signing key: private, made once, followed by another only with a statement that both have signed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.audit import keys
from agentd.errors import AgentdError


def test_a_first_key_is_made_and_stays(tmp_path: Path) -> None:
    """The folder is 0700 and the key 0600; a second load gives the same key, and the public one stands beside it."""
    folder = tmp_path / "keys"
    key = keys.load(folder)
    assert keys.load(folder).kid == key.kid
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / keys.PRIVATE).stat().st_mode) == 0o600
    assert keys.read_pin(folder / keys.PUBLIC).kid == key.kid
    assert key.public.signed(b"x", key.sign(b"x"))
    assert not key.public.signed(b"y", key.sign(b"x"))


def test_openssl_reads_both_halves(tmp_path: Path) -> None:
    """A key made without the library is one: openssl derives the very public key from it."""
    key = keys.load(tmp_path / "keys")
    done = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "keys" / keys.PRIVATE, "-pubout"], capture_output=True, check=True
    )
    assert done.stdout.decode() == key.public.pem


def test_a_first_key_costs_no_import(tmp_path: Path) -> None:
    """A start makes sure of its key without loading the library for signatures."""
    code = "import sys; from pathlib import Path; from agentd.audit import keys, signer; keys.ensure(Path(sys.argv[1]))"
    check = "; assert not [name for name in sys.modules if name.startswith('cryptography')]"
    subprocess.run([sys.executable, "-c", code + check, tmp_path / "keys"], check=True)
    assert (tmp_path / "keys" / keys.PRIVATE).exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """What is not private signs nothing."""
    keys.ensure(tmp_path / "keys")
    (tmp_path / "keys" / keys.PRIVATE).chmod(mode)
    with pytest.raises(AgentdError, match="lets others in") as caught:
        keys.ensure(tmp_path / "keys")
    assert caught.value.code == "audit-key"


@pytest.mark.parametrize("kind", ["link", "folder others write to", "nonsense", "another kind"])
def test_what_is_no_key_is_refused(tmp_path: Path, kind: str) -> None:
    """A symbolic link, a folder that others can write to, bytes that are no key, and an RSA key."""
    folder = tmp_path / "keys"
    keys.ensure(folder)
    key = folder / keys.PRIVATE
    if kind == "link":
        key.rename(tmp_path / "elsewhere")
        key.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder others write to":
        folder.chmod(0o777)
    elif kind == "nonsense":
        key.write_bytes(b"x")
    else:
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    with pytest.raises(AgentdError) as caught:
        keys.load(folder)
    assert caught.value.code == "audit-key"


def test_a_rotation_is_signed_by_both(tmp_path: Path) -> None:
    """The statement leads from the old key to the new one; edited in any member it leads nowhere."""
    folder = tmp_path / "keys"
    old, new = keys.rotate(folder, "2026-11-21T00:00:00Z")
    assert keys.load(folder).kid == new.kid != old.kid
    (statement,) = keys.rotations(folder)
    assert keys.follow(old, statement).kid == new.kid
    third = keys.load(tmp_path / "third").public
    for member, value in (("time", "later"), ("to", third.kid), ("to_pem", third.pem), ("from", new.kid), ("x", 1)):
        with pytest.raises(ValueError):  # which of the reasons comes first doesn't matter
            keys.follow(old, {**statement, member: value})
    with pytest.raises(ValueError, match="speaks of"):
        keys.follow(third, statement)


def test_statements_make_a_path(tmp_path: Path) -> None:
    """From any key to any later one, and nowhere else."""
    folder = tmp_path / "keys"
    first, second = keys.rotate(folder, "t1")
    _, third = keys.rotate(folder, "t2")
    assert len(keys.path_between(folder, first.kid, third.kid) or ()) == 2
    assert len(keys.path_between(folder, second.kid, third.kid) or ()) == 1
    assert keys.path_between(folder, third.kid, first.kid) is None
    assert keys.path_between(folder, "0" * 64, third.kid) is None


@pytest.mark.parametrize("when", ["before the statement", "after the statement"])
def test_a_rotation_that_a_crash_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Killed before its statement is on disk the old key stays, after that the new one is in force."""
    folder = tmp_path / "keys"
    old = keys.load(folder).kid

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if when == "before the statement":
            broken.setattr(keys, "canonical", crash)
        else:
            broken.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            keys.rotate(folder, "t")
    assert (folder / keys.NEXT).exists()
    now = keys.load(folder).kid
    assert (now == old) == (when == "before the statement")
    assert not (folder / keys.NEXT).exists()
    keys.rotate(folder, "t2")
    assert keys.load(folder).kid not in (old, now)


def test_a_pin_is_a_public_key_and_nothing_else(tmp_path: Path) -> None:
    """The private key, a missing file and nonsense are refused with exit code 2; line ends of mail are forgiven."""
    folder = tmp_path / "keys"
    key = keys.load(folder)
    (tmp_path / "nonsense").write_bytes(b"\xff")
    for path in (folder / keys.PRIVATE, tmp_path / "none", tmp_path / "nonsense"):
        with pytest.raises(AgentdError) as caught:
            keys.read_pin(path)
        assert caught.value.exit_code == 2
    (tmp_path / "mailed").write_bytes(key.public.pem.replace("\n", "\r\n").encode())
    assert keys.read_pin(tmp_path / "mailed").kid == key.kid


def test_a_torn_statement_spoils_no_other(tmp_path: Path) -> None:
    """A line that a crash tore is left out, and the next change of key is on record all the same."""
    folder = tmp_path / "keys"
    first, _ = keys.rotate(folder, "t1")
    whole = (folder / keys.ROTATIONS).read_bytes()
    (folder / keys.ROTATIONS).write_bytes(whole + whole[:100])
    _, third = keys.rotate(folder, "t2")
    assert len(keys.path_between(folder, first.kid, third.kid) or ()) == 2


@pytest.mark.parametrize("fault", ["short writes", "a full disk", "a failed fsync"])
def test_a_rotation_on_a_bad_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Short writes change nothing; what can't be written changes no key, says so, and is no obstacle later."""
    folder = tmp_path / "keys"
    old = keys.load(folder).kid
    write, fsync = os.write, os.fsync
    statements = []  # descriptors of the file of statements

    def spoilt_write(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(keys.ROTATIONS):
            statements.append(fd)
            if fault == "a full disk" and len(statements) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:100]
        return write(fd, data)

    def spoilt_fsync(fd: int) -> None:
        if fault == "a failed fsync" and os.readlink(f"/proc/self/fd/{fd}").endswith(keys.ROTATIONS):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", spoilt_write)
        broken.setattr(os, "fsync", spoilt_fsync)
        if fault == "short writes":
            keys.rotate(folder, "t1")
        else:
            with pytest.raises(AgentdError, match=r"No space left|Input/output"):
                keys.rotate(folder, "t1")
            assert keys.load(folder).kid == old
    assert statements
    now = keys.load(folder).kid
    assert (now != old) == (fault == "short writes")
    assert keys.rotate(folder, "t2")[0].kid == now
    assert keys.path_between(folder, old, keys.load(folder).kid)


def test_a_copy_that_a_crash_left_is_destroyed_too(tmp_path: Path) -> None:
    """Killed between the key and its first name, agentd leaves a copy; after a rotation no old private key is there."""
    folder = tmp_path / "keys"
    keys.ensure(folder)
    (folder / f".{keys.PRIVATE}.4711").write_bytes((folder / keys.PRIVATE).read_bytes())
    keys.rotate(folder, "t")
    assert [file.name for file in sorted(folder.iterdir())] == [keys.ROTATIONS, keys.PRIVATE, keys.PUBLIC]
