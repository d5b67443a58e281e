"""The owner of the other end of a connection, asked of the kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from agentd.workloads.loopback import holds_socket, owner_of_peer


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.9.8.7"), (socket.AF_INET6, "::1")]
)
def test_the_owner_is_who_has_the_other_end(family: int, address: str) -> None:
    """User and inode of the very socket that is connected, and None as soon as it is closed."""
    with socket.create_server((address, 0), family=family) as server:
        client = socket.create_connection(server.getsockname()[:2])
        other = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
        second, _ = server.accept()
        with client, other, accepted, second:
            owner = owner_of_peer(accepted)
            assert owner is not None and (owner.uid, owner.inode) == (os.getuid(), os.fstat(client.fileno()).st_ino)
            assert holds_socket([os.getpid()], owner.inode)
            assert not holds_socket([os.getpid()], owner.inode + 1_000_000)
            client.close()
            assert owner_of_peer(accepted) is None
            again = owner_of_peer(second)
            assert again is not None and again.inode == os.fstat(other.fileno()).st_ino


def test_a_socket_that_was_handed_on_is_held_by_both() -> None:
    """A child that inherited the connection has it open, too; one that did not, has not."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            owner = owner_of_peer(accepted)
            assert owner is not None
            for handed in (True, False):
                how = {"pass_fds": [client.fileno()]} if handed else {}
                child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **how)  # type: ignore[call-overload]
                try:
                    assert holds_socket([child.pid], owner.inode) is handed
                finally:
                    child.communicate(b"\n")
            assert not holds_socket([child.pid], owner.inode)  # it is gone
