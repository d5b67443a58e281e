"""The one error type that reaches a person, with the stable codes shared by stderr, the audit log and the metrics.

A library raises `AgentdError` (or a subclass) and never prints; the command line is the one edge that renders it:

    agentd: <what>: <why>; <what to do>

`code` is the stable, machine-readable name of the failure. It is one of `CODES`; a test asserts that every code raised
anywhere is listed here, so that metrics and the log can enumerate them.
"""

from __future__ import annotations

from typing import Final

# Exit codes (the contract of the command line).
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANNOT_ENFORCE: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127

CODES: Final[frozenset[str]] = frozenset(
    {
        "policy-invalid",  # a policy (or policy test) file that can't be loaded
        "policy-too-large",  # valid, but more than the kernel tables hold
        "unknown-agent",  # an agent that the policy doesn't name
        "usage",  # arguments that make no sense together
        "not-root",  # needs CAP_BPF and friends
        "kernel-unsupported",  # no BTF, no cgroup2, bpf() refused
        "kernel-load",  # a BPF object that didn't load or attach
        "kernel-map",  # a BPF map operation that failed
        "enforcement-lost",  # something that stood no longer stands
        "command-not-found",
        "command-not-executable",
        "service-unreachable",  # no daemon behind the socket
        "service-refused",  # the daemon answered no
        "service-running",  # there already is one
        "not-permitted",  # the peer may not ask this
        "no-such-process",
        "no-such-approval",
        "approval-answered",  # somebody (or the clock) was faster
        "audit-unwritable",
        "audit-corrupt",
        "audit-locked",  # another daemon writes this log
        "audit-key",  # a signing key that is missing, readable by others, or not one
        "config-invalid",
    }
)


class AgentdError(Exception):
    """A failure a person can act on.

    what: the thing that failed (`policy.yaml`, `agentd run`); why: the reason; hint: what to do about it (or empty).
    exit_code is what the command line exits with.
    """

    def __init__(self, code: str, what: str, why: str, hint: str = "", *, exit_code: int = EXIT_FAILURE) -> None:
        if code not in CODES:
            raise ValueError(f"unregistered error code {code!r}")
        super().__init__(what, why, hint)
        self.code = code
        self.what = what
        self.why = why
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        tail = f"; {self.hint}" if self.hint else ""
        return f"{self.what}: {self.why}{tail}"
