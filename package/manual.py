"""The manual pages: agentd(1), made of what each command says of itself, and agentd.yaml(5). In mdoc(7)."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Final

import click

from agentd.cli import main
from agentd.daemon.config import KEYS

DATE: Final = "November 26, 2026"  # of the text below, not of the build
# What agentd.yaml(5) says of each key.
ABOUT: Final = {
    "environment": "A name: agentd.yaml.d/NAME/*.yaml and policies/NAME/*.yaml are read too, and may tighten.",
    "policy": "The policy, a file or a folder. Default: /etc/agentd/policies.",
    "workspace": "What relative paths of agents without a workspace start from. Default: /.",
    "audit_dir": "The folder of the audit log. Another one must exist and stand in ReadWritePaths= of a drop-in for "
    "agentd.service, which may write nowhere else. Default: /var/lib/agentd/audit.",
    "socket": "Where the service is asked. Root and the group agentd may. Default: /run/agentd/agentd.sock.",
    "metrics_address": "The address of the endpoint for Prometheus. Default: 127.0.0.1.",
    "metrics_port": "Its port; 0: there is none. Default: 9469.",
    "program_times": "true: measure how long each BPF program runs, which costs every run of every one on the host "
    "tens of nanoseconds. Default: false.",
    "arena_mib": "The size of the policy tables in MiB, a power of two; 0: what the policy wants. Default: 0.",
    "bpffs_dir": "Where the kernel's programs are pinned. agentd.service, agentd@.service and agent.conf name the "
    "folder too. Default: /sys/fs/bpf/agentd.",
    "on_stop": "keep: enforcement goes on when the service is stopped. release: it ends. Default: keep.",
    "resolvers": "A list of ADDRESS or ADDRESS:PORT whose answers teach host names. Default: resolv.conf's.",
    "audit": "How the log is signed and kept, and where else it goes: keys_dir, file_mib, file_hours, keep_days, "
    "keep_mib, sinks.",
    "notify": "A list of sinks told about approvals: command, webhook or journald; events, secret_file.",
    "pending_per_agent": "Operations of one agent that may wait for an answer; more are denied. Default: 1000.",
    "probe_seconds": "How often the service tries what it says of this host, as agentd doctor does; 0: never. "
    "Default: 300.",
    "console": "The page for people; without the key there is none. listen: a loopback ADDRESS:PORT or the path of a "
    "socket; tokens: the file that agentd console token writes. Default of {}: 127.0.0.1:9470 and "
    "/etc/agentd/console-tokens.",
    "container_engines": "Who is asked for the labels of containers: sockets of Docker and Podman, and the folder of "
    "containerd's tasks. Default: where these packages have them.",
    "overlay": "Where rules go that people approve for good. Default: overlay.yaml beside the folder of the log.",
}
FILES: Final = (
    ("/etc/agentd/agentd.yaml", "what the service needs to know, agentd.yaml(5)"),
    ("/etc/agentd/policies/", "policies"),
    ("/run/agentd/agentd.sock", "the socket of the service"),
    ("/var/lib/agentd/audit/", "the audit log"),
    ("/sys/fs/bpf/agentd/", "the programs in force; they outlive the daemon"),
    ("/usr/share/agentd/", "the JSON Schema of policies, ready policies, the drop-in for units"),
)


def pages() -> dict[str, str]:
    """Name with section -> text."""
    return {"agentd.1": "\n".join(_command_page()) + "\n", "agentd.yaml.5": "\n".join(_config_page()) + "\n"}


def compressed(text: str) -> bytes:
    """As man(1) takes it, the same bytes every time."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


def _command_page() -> Iterator[str]:
    yield from (f".Dd {DATE}", ".Dt AGENTD 1", ".Os", ".Sh NAME", ".Nm agentd")
    yield ".Nd hold AI agents on a host to their policy, in the kernel"
    yield from (".Sh SYNOPSIS", ".Nm", ".Ar command", ".Op Ar arguments", ".Sh DESCRIPTION")
    yield from _paragraphs(
        "An agent is a name in a policy; a workload is a process that is marked as one, with everything it starts. "
        "The programs that agentd loads into the kernel decide what a workload may do; what they refuse fails with "
        "EPERM or ends the process, and what they hold waits for an answer."
    )
    yield ".Sh COMMANDS"
    with click.Context(main, info_name="agentd") as context:
        for name in main.list_commands(context):
            command = main.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _command(command, name, context)
    yield ".Sh EXIT STATUS"
    yield from _paragraphs(
        "0 if all went well, 1 if not, 2 for a mistake on the command line. agentd run: that of the command, 128+N if "
        "signal N ended it, 125 if agentd could not enforce (the command was not started), 126 and 127 as shells do. "
        "agentd doctor: 0 if everything is prevented or contained, 1 if some of it is only detected, 2 if agentd can't "
        "enforce."
    )
    yield from (".Sh FILES", ".Bl -tag -width Ds")
    for path, what in FILES:
        yield from (f".It Pa {path}", _text(what))
    yield from (".El", ".Sh SEE ALSO", ".Xr agentd.yaml 5 ,", ".Xr systemd.resource-control 5")


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as context:
        if isinstance(command, click.Group):
            yield from (f".Ss agentd {_text(name)}", *_paragraphs(command.help or ""))
            for sub in command.list_commands(context):
                inner = command.get_command(context, sub)
                if inner is not None and not inner.hidden:
                    yield from _command(inner, sub, context)
            return
        usage = " ".join(context.command.collect_usage_pieces(context))
        yield f".Ss {_text(f'{context.command_path} {usage}')}"
        yield from _paragraphs(command.help or "")
        records = [param.get_help_record(context) for param in command.params]
        shown = [record for record in records if record and record[1]]  # an argument's name stands in the usage
        if shown:
            yield ".Bl -tag -width Ds"
            for flags, words in shown:
                yield from (f".It {_text(flags)}", _text(words))
            yield ".El"


def _config_page() -> Iterator[str]:
    yield from (f".Dd {DATE}", ".Dt AGENTD.YAML 5", ".Os", ".Sh NAME", ".Nm agentd.yaml")
    yield from (".Nd configuration of the agentd service", ".Sh DESCRIPTION")
    yield from _paragraphs(
        "/etc/agentd/agentd.yaml is a YAML mapping, and so are the files of agentd.yaml.d, whose values win. Without "
        "any file all defaults hold. A key that is not known is an error, with its line and column. agentd reload "
        "reads it again, and says what needs a restart."
    )
    yield from (".Sh KEYS", ".Bl -tag -width Ds")
    for key in KEYS:
        yield from (f".It Cm {key}", _text(ABOUT[key]))
    yield from (".El", ".Sh EXAMPLES", ".Bd -literal -offset indent")
    yield from ("environment: prod", "metrics_port: 9469", "on_stop: keep")
    yield from (".Ed", ".Sh SEE ALSO", ".Xr agentd 1")


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, each on one line; click's \\b keeps lines as they are."""
    for number, block in enumerate(text.replace("\f", "").strip().split("\n\n")):
        if number:
            yield ".Pp"
        if block.startswith("\b"):
            lines = (_text(line) for line in block.replace("\b", "").splitlines() if line)
            yield from (".Bd -literal -offset indent", *lines, ".Ed")
        else:
            yield _text(" ".join(block.replace("\b", "").split()))


def _text(text: str) -> str:
    """Text that says itself in roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
