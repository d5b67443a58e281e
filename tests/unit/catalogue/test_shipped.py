"""The shipped catalogue names every kernel operation, and exactly once."""

from __future__ import annotations

import pytest

from agentd.catalogue import shipped
from agentd.model import Endpoint, Family, Op
from agentd.policy.evaluate import matched_patterns
from agentd.policy.resolve import shipped_catalogue

ANYTHING = [b"", b"/", b"/x/y", b"word", b"unshare:user", b"@abstract", b"anon:tmpfs/memfd:x", b"/\xff\n", b"x" * 5000]
ANYWHERE = [Endpoint(b"\x01\x02\x03\x04", 9), Endpoint(bytes(16), 0), Endpoint(b"\xfe" * 16, 65535, "udp")]
REQUIRED = {
    "runtime": {"load", "code", "generate"}, "shell": {"execute", "rm", "delete"}, "file_reader": {"read"},
    "file_writer": {"create", "write"}, "file": {"delete", "rename", "link", "setattr"},
    "network": {"connect", "listen", "send", "raw"}, "email": {"send"}, "web": {"fetch", "search"},
    "database": {"query"}, "package_manager": {"install"}, "kubernetes": {"get", "delete"}, "secrets": {"read"},
    "git": {"status", "diff", "log", "add", "commit", "push", "pull", "fetch", "clone", "checkout"},
    "ipc": {"connect"}, "process": {"ptrace"}, "privilege": {"escalate"}, "loader": {"execute"},
    "host": {"mount", "chroot", "namespace", "bpf", "module", "kexec", "io_uring", "perf", "compat"},
}  # fmt: skip


@pytest.mark.parametrize("op", Op, ids=lambda op: op.word)
def test_every_operation_ends_in_a_catch_all(op: Op) -> None:
    """The last entry of a kernel operation matches every object and needs no argument."""
    agent = shipped.nobody()
    last = [entry for entry in agent.entries if entry.op is op][-1]
    assert last.group is None
    for obj in ANYTHING if op.family is Family.PATH else ANYWHERE:
        assert not matched_patterns(agent, obj).isdisjoint(last.patterns)


def test_the_promised_tools_are_there() -> None:
    """Every tool and operation that policies may count on is in the catalogue."""
    have = set(shipped.toolops())
    assert {(tool, operation) for tool, names in REQUIRED.items() for operation in names} - have == set()


def test_every_entry_says_its_risk() -> None:
    """No shipped entry relies on the default risk of a policy's own entries."""
    text = shipped_catalogue().data.decode()
    assert text.count("risk: ") >= len({entry.at for entry in shipped_catalogue().entries})


def test_the_baseline_holds_no_secret() -> None:
    """Nothing that is a credential by its place or name is part of the runtime baseline."""
    secrets = [
        b"/etc/shadow", b"/root/.ssh/id_rsa", b"/home/a/.aws/credentials", b"/srv/app/.env", b"/etc/ssl/private/x.key",
        b"/proc/1/environ", b"/proc/1/mem", b"/home/a/.netrc", b"/run/secrets/token", b"/etc/sudoers",
    ]  # fmt: skip
    for path in secrets:
        assert shipped.classify(Op.READ, path) != ("runtime", "load"), path


@pytest.mark.parametrize(
    ("path", "argv", "toolop"),
    [
        ("/bin/rm", "rm -r -f x", "shell/rm"),
        ("/usr/bin/busybox", "busybox rm x", "shell/rm"),
        ("/usr/bin/xargs", "xargs rm", "shell/rm"),
        ("/usr/bin/env", "env rm x", "shell/rm"),
        ("/usr/bin/find", "find . -exec /bin/rm {} ;", "shell/rm"),
        ("/usr/bin/find", "find . -delete", "shell/delete"),
        ("/usr/bin/find", "find . -name x", "shell/execute"),
        ("/usr/bin/git", "git push origin", "git/push"),
        ("/usr/bin/git", "git -c a=b status", "git/status"),
        ("/usr/bin/git", "git frobnicate", "git/other"),
        ("/usr/lib/git-core/git-remote-http", "git-remote-https origin", "git/fetch"),
        ("/usr/bin/python3.11", "python3 -m pip install x", "package_manager/install"),
        ("/usr/bin/python3.11", "python3 x.py", "shell/execute"),
        ("/usr/bin/apt-get", "apt-get install x", "package_manager/install"),
        ("/usr/sbin/sendmail", "sendmail -t", "email/send"),
        ("/usr/bin/curl", "curl smtp://x", "email/send"),
        ("/usr/bin/curl", "curl https://x", "web/fetch"),
        ("/usr/bin/kubectl", "kubectl get pods", "kubernetes/get"),
        ("/usr/bin/kubectl", "kubectl -n prod delete pod x", "kubernetes/delete"),
        ("/usr/bin/psql", "psql -c x", "database/query"),
        ("/usr/bin/sudo", "sudo id", "privilege/escalate"),
        ("/usr/bin/dd", "dd of=/dev/sda", "disk/write"),
        ("/usr/bin/dd", "dd of=x", "shell/execute"),
        ("/usr/lib64/ld-linux-x86-64.so.2", "ld.so ./x", "loader/execute"),
        ("/usr/bin/systemctl", "systemctl is-active x", "service/query"),
        ("/usr/bin/systemctl", "poweroff", "service/control"),
    ],
)
def test_a_program_is_named_by_what_it_is_told_to_do(path: str, argv: str, toolop: str) -> None:
    """The resolved program and its arguments give the tool and operation."""
    words = tuple(word.encode() for word in argv.split())
    assert "/".join(shipped.classify(Op.EXEC, path.encode(), words)) == toolop
