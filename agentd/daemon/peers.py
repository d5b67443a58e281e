"""Who is on the other side of the socket, and may they ask?

Root and the group `agentd` may. A process of any workload may not, whatever its user: its mark is in the kernel,
and the kernel is asked. Source: unix(7), SO_PEERCRED; SO_PEERPIDFD since Linux 6.5.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.approvals.book import Approver
from agentd.errors import AgentdError
from agentd.kernel.tasks import TaskMarks, marked_elsewhere
from agentd.workloads.processes import user_name

GROUP: Final = "agentd"
SO_PEERPIDFD: Final = 77
ADMINS: Final = ("sudo", "wheel", "admin")
MAX_APPROVERS: Final = 100
NO_LOGIN: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Peer:
    """The credentials the peer had when it connected."""

    pid: int
    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The user's name, for the record."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"

    def approver(self) -> Approver:
        """Who this is, for the record: the user that logged in too, which sudo doesn't change (pam_loginuid(8))."""
        try:
            login = int(Path(f"/proc/{self.pid}/loginuid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            login = NO_LOGIN
        if login == NO_LOGIN:
            return Approver(self.name, self.uid, self.pid, login_name=self.name)
        return Approver(self.name, self.uid, self.pid, login, user_name(login))


def approvers() -> list[str]:
    """The accounts whose people are expected to answer: root, and who is in the groups that may, or may become root."""
    found = {"root"}
    for group in (GROUP, *ADMINS):
        with contextlib.suppress(KeyError):
            entry = grp.getgrnam(group)
            found.update(entry.gr_mem)
            found.update(user.pw_name for user in pwd.getpwall() if user.pw_gid == entry.gr_gid)
    return sorted(found)[:MAX_APPROVERS]


def peer_of(connection: socket.socket) -> Peer:
    """SO_PEERCRED."""
    return Peer(*struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def admit(connection: socket.socket, marks: TaskMarks) -> Peer:
    """Raises AgentdError `not-permitted`."""
    peer = peer_of(connection)
    if _tagged(connection, peer, marks):
        raise AgentdError(
            "not-permitted", "agentd", "a process of a workload may not ask", "ask from outside the workload"
        )
    if peer.uid != 0 and not _in_group(peer):
        raise AgentdError("not-permitted", "agentd", f"{peer.name} may not ask", f"be root or join the group {GROUP}")
    return peer


def _tagged(connection: socket.socket, peer: Peer, marks: TaskMarks) -> bool:
    try:
        pidfd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    except OSError as exc:
        if exc.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            return True  # gone, or can't be known: not admitted
        try:
            pidfd = os.pidfd_open(peer.pid)  # before 6.5: a pid that was used again is possible, a wrong no is harmless
        except OSError:
            return True
    try:
        return marks.get(pidfd) is not None or marked_elsewhere(pidfd)
    finally:
        os.close(pidfd)


def _in_group(peer: Peer) -> bool:
    try:
        wanted = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return False
    if peer.gid == wanted:
        return True
    try:
        return wanted in os.getgrouplist(pwd.getpwuid(peer.uid).pw_name, peer.gid)
    except KeyError:
        return False
