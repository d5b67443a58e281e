"""The signing key of this host: an ed25519 pair in a folder that only root can read, and how one follows another.

    signing.key      the private key, PKCS #8 in PEM, 0600
    signing.pub      the public key in PEM: what an auditor takes along and pins
    rotations.jsonl  one line for each change of key: the new public key, signed by the old key and by the new one

A key is named by its fingerprint (`kid`): SHA-256 over its public PEM, in hex. A rotation destroys the old private key.
It is written so that a crash at any moment leaves either the old key or the new one with its statement.

The library for signatures takes tens of milliseconds to import, so `ensure` makes a key without it, and everything else
imports it when it is called.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.audit import files
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FOLDER: Final = Path("/var/lib/agentd/keys")
PRIVATE: Final = "signing.key"
PUBLIC: Final = "signing.pub"
NEXT: Final = "signing.key.new"
ROTATIONS: Final = "rotations.jsonl"
ROTATION_VERSION: Final = "agentd-rotation/1"

# RFC 8410, section 7: the fixed DER around the 32 bytes of an ed25519 private key.
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")

Statement = dict[str, Any]


def kid_of(pem: str) -> str:
    """The fingerprint of a public key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def canonical(value: object) -> bytes:
    """What is signed: compact JSON with sorted keys in UTF-8 (the form that Aegis receipts have)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def encode(signature: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def decode(text: object) -> bytes:
    """The signature that `encode` wrote, and no other spelling of it. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("a signature is a string")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from None
    if encode(raw) != text:
        raise ValueError("not the one base64url form of its bytes")
    return raw


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with."""

    kid: str
    pem: str
    key: Ed25519PublicKey

    def signed(self, data: bytes, signature: object) -> bool:
        """Is this the key's signature (base64url) over `data`?"""
        from cryptography.exceptions import InvalidSignature

        try:
            self.key.verify(decode(signature), data)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that signs now."""

    public: PublicKey
    private: Ed25519PrivateKey

    @property
    def kid(self) -> str:
        return self.public.kid

    def sign(self, data: bytes) -> str:
        """The signature over `data`, in base64url."""
        return encode(self.private.sign(data))


def parse_public(pem: str) -> PublicKey:
    """A public key from its PEM, byte for byte as agentd writes it. Raises ValueError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(pem.encode())
    except Exception as error:  # noqa: BLE001  # cryptography has several of its own, and they differ by version
        raise ValueError(f"not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an ed25519 key")
    text = _pem(key)
    if text != pem:
        raise ValueError("not the one PEM form of its key, so its fingerprint would be another")
    return PublicKey(kid_of(text), text, key)


def read_pin(path: Path) -> PublicKey:
    """The public key in `path` that an auditor pins. Raises AgentdError usage."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a public key in PEM"
        raise AgentdError("usage", str(path), why, "give the file signing.pub of the host", exit_code=2) from None
    try:
        return parse_public(text.replace("\r\n", "\n").strip() + "\n")
    except ValueError as error:
        raise AgentdError(
            "usage", str(path), str(error), "give the file signing.pub of the host", exit_code=2
        ) from None


def ensure(folder: Path) -> None:
    """Makes the folder and a first key if there is none, and refuses one that others can read or replace.

    Cheap: imports nothing. Raises AgentdError audit-key.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _private_only(folder, os.stat(folder), stat.S_ISDIR, 0o022)
        path = folder / PRIVATE
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            _create(path)
            status = os.lstat(path)
        _private_only(path, status, stat.S_ISREG, 0o077)
    except OSError as error:
        raise AgentdError("audit-key", str(folder), error.strerror or str(error), "see agentd audit --help") from None


def _private_only(path: Path, status: os.stat_result, kind: Any, forbidden: int) -> None:
    hint = "only root may own and change it; if others could read the key, remove it and start a new log"
    if not kind(status.st_mode):
        raise AgentdError("audit-key", str(path), "not what it should be (a link, a device, ...)", hint)
    if status.st_uid not in (0, os.geteuid()):
        raise AgentdError("audit-key", str(path), f"belongs to uid {status.st_uid}", hint)
    if status.st_mode & forbidden:
        raise AgentdError("audit-key", str(path), f"mode {stat.S_IMODE(status.st_mode):04o} lets others in", hint)


def _create(path: Path) -> None:
    """A first key at `path`; if somebody else makes one at the same time, one of the two stays, whole."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    files.create(made, _private_pem(os.urandom(32)))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    files.sync_directory(path.parent)


def _private_pem(seed: bytes) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n" % base64.b64encode(_PKCS8 + seed)


def load(folder: Path) -> SigningKey:
    """The key that signs now; finishes a rotation that a crash interrupted. Raises AgentdError audit-key."""
    ensure(folder)
    try:
        if (folder / NEXT).exists():
            with _locked(folder):
                _finish(folder)
    except OSError as error:
        raise AgentdError("audit-key", str(folder), error.strerror or str(error)) from None
    key = _read(folder / PRIVATE)
    public = folder / PUBLIC
    with contextlib.suppress(OSError):
        if not public.exists() or public.read_text(encoding="ascii") != key.public.pem:
            files.replace(public, key.public.pem.encode(), 0o644)
    return key


def _read(path: Path) -> SigningKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise AgentdError("audit-key", str(path), error.strerror or str(error)) from None
    except Exception as error:  # noqa: BLE001  # as in parse_public
        raise AgentdError("audit-key", str(path), f"not a private key in PEM: {error}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise AgentdError("audit-key", str(path), "not an ed25519 key")
    pem = _pem(private.public_key())
    return SigningKey(PublicKey(kid_of(pem), pem, private.public_key()), private)


def _pem(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def rotate(folder: Path, time: str) -> tuple[PublicKey, PublicKey]:
    """Replaces the key by a new one that it signs; (old, new). time: now, in RFC 3339. Raises AgentdError audit-key."""
    load(folder)
    try:
        with _locked(folder):
            _finish(folder)
            old = _read(folder / PRIVATE)
            (folder / NEXT).unlink(missing_ok=True)
            files.create(folder / NEXT, _private_pem(os.urandom(32)))
            new = _read(folder / NEXT)
            said = {
                "version": ROTATION_VERSION, "from": old.kid, "from_pem": old.public.pem, "to": new.kid,
                "to_pem": new.public.pem, "time": time,
            }  # fmt: skip
            data = canonical(said)
            line = canonical({**said, "signature": old.sign(data), "signature_new": new.sign(data)}) + b"\n"
            _state(folder / ROTATIONS, line)
            _finish(folder)
            if _read(folder / PRIVATE).kid != new.kid:
                raise AgentdError("audit-key", str(folder), "the new key didn't take effect", "rotate it once more")
            _forget(folder)
    except OSError as error:
        raise AgentdError("audit-key", str(folder), error.strerror or str(error)) from None
    load(folder)
    return old.public, new.public


def _state(path: Path, line: bytes) -> None:
    """Adds a statement, whole or not at all; what a crash tore before it gets an end, so that it spoils no other."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        view = memoryview(line if not size or os.pread(fd, 1, size - 1) == b"\n" else b"\n" + line)
        try:
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)  # or the key that isn't in force yet would follow this one at the next start
            raise
    finally:
        os.close(fd)


def _forget(folder: Path) -> None:
    """Removes copies of a private key that a crash left when the first key was made."""
    for left in folder.glob(f".{PRIVATE}.*"):
        left.unlink(missing_ok=True)
    files.sync_directory(folder)


def rotations(folder: Path) -> list[Statement]:
    """The statements, oldest first; a line that a crash tore is left out."""
    try:
        lines = (folder / ROTATIONS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [item for item in found if isinstance(item, dict)]


def follow(current: PublicKey, statement: Statement) -> PublicKey:
    """The key that follows `current` by this statement. Raises ValueError unless both keys have signed it."""
    said = {name: value for name, value in statement.items() if name not in ("signature", "signature_new")}
    if set(said) != {"version", "from", "from_pem", "to", "to_pem", "time"} or said["version"] != ROTATION_VERSION:
        raise ValueError("not a statement about a change of key")
    if said["from"] != current.kid or said["from_pem"] != current.pem:
        raise ValueError(f"it speaks of key {str(said['from'])[:16]}, and {current.kid[:16]} signs here")
    new = parse_public(str(said["to_pem"]))
    if new.kid != said["to"]:
        raise ValueError("the new key's fingerprint is not that of its PEM")
    data = canonical(said)
    if not current.signed(data, statement.get("signature")):
        raise ValueError("the old key has not signed it")
    if not new.signed(data, statement.get("signature_new")):
        raise ValueError("the new key has not signed it")
    return new


def path_between(folder: Path, old: str, new: str) -> list[Statement] | None:
    """The statements that lead from one kid to another; None if there are none."""
    found: list[Statement] = []
    at = old
    for statement in rotations(folder):
        if statement.get("from") == at:
            found.append(statement)
            at = str(statement.get("to"))
            if at == new:
                return found
    return found if old == new and not found else None


def _finish(folder: Path) -> None:
    """Puts a prepared key in force if its statement is on disk, else drops it."""
    prepared = folder / NEXT
    if not prepared.exists():
        return
    said = rotations(folder)
    try:
        known = bool(said) and said[-1].get("to") == _read(prepared).kid
    except AgentdError:
        known = False  # half a key: its statement can't have been written
    if known:
        os.replace(prepared, folder / PRIVATE)
    else:
        prepared.unlink()
    files.sync_directory(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
