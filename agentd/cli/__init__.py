"""The command line: the group `main`, whose verbs are imported when they are used, and the one edge that shows errors.

A library raises; here an error becomes one line on stderr and an exit code. A user's mistake never shows a traceback; a
traceback is a bug of agentd.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from agentd.errors import EXIT_FAILURE, AgentdError

# A verb is one module and one line here: (name, "module:attribute").
COMMANDS: Final = (
    ("run", "agentd.cli.run:run"),
    ("daemon", "agentd.cli.daemon:daemon"),
    ("reload", "agentd.cli.daemon:reload"),
    ("release", "agentd.cli.daemon:release"),
    ("config", "agentd.cli.config:config"),
    ("tag", "agentd.cli.tag:tag"),
    ("status", "agentd.cli.status:status"),
    ("top", "agentd.cli.top:top"),
    ("doctor", "agentd.cli.doctor:doctor"),
    ("approvals", "agentd.cli.approvals:approvals"),
    ("why", "agentd.cli.why:why"),
    ("policy", "agentd.cli.policy:policy"),
    ("audit", "agentd.cli.audit:audit"),
    ("console", "agentd.cli.console:console"),
    ("dashboards", "agentd.cli.dashboards:dashboards"),
    ("demo", "agentd.cli.demo:demo"),
)

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE


class LazyGroup(click.Group):
    """A group whose commands are imported by name, so that one verb doesn't pay for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _ in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = dict(COMMANDS).get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{target} is not a command")
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, show what went wrong, exit. With standalone_mode false, return or raise instead."""
        if not standalone_mode:
            return super().main(args, prog_name or "agentd", complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name or "agentd", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except AgentdError as error:
            _fail(_lines(error), error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            _fail([_usage_line(error)], error.exit_code)
        except click.ClickException as error:
            _fail([error.format_message()], error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            _leave_broken_pipe()
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            _fail([f"{name}{(error.strerror or str(error)).lower()}"], EXIT_FAILURE)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    "agentd",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: agentd policy check policy.yaml",
)
@click.version_option(package_name="agentd-host", prog_name="agentd")
def main() -> None:
    """Holds AI agents on this host to their policy, in the kernel, without changing the agent."""


def _lines(error: AgentdError) -> list[str]:
    """One line, or one for each mistake of a policy."""
    problems = getattr(error, "problems", ())
    return [str(problem) for problem in problems] or [str(error)]


def _usage_line(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "agentd"
    what = path.removeprefix("agentd").strip() or "usage"
    why = error.format_message().rstrip(".")
    return f"{what}: {why[:1].lower()}{why[1:]}; see `{path} --help`"


def _fail(lines: Sequence[str], code: int) -> NoReturn:
    from agentd.cli.render import problem_line

    for line in lines:
        click.echo(problem_line(line), err=True)
    sys.exit(code)


def _leave_broken_pipe() -> NoReturn:
    """The reader of our output has gone: end as if SIGPIPE had killed us, without a complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(EXIT_BROKEN_PIPE)
