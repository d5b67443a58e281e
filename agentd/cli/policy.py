"""`agentd policy`: check, test, explain and describe policies. Nothing here needs root or a kernel."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from agentd.cli.policy_log import ENVIRONMENT, diff_command, report_command
from agentd.cli.render import as_json, printable
from agentd.daemon.own import guarded
from agentd.errors import EXIT_FAILURE, EXIT_USAGE, AgentdError
from agentd.model import OP_BY_WORD, RISK_BY_WORD, Endpoint, Family, Op
from agentd.policy import resolve
from agentd.policy.cases import load_cases, run_cases
from agentd.policy.evaluate import endpoint_of
from agentd.policy.explain import Explanation, explain_call, explain_kernel
from agentd.policy.hosts import RESOLVERS
from agentd.policy.problem import PolicyError
from agentd.policy.resolve import ResolvedAgent, ResolvedPolicy
from agentd.policy.source import read_file

_WORKSPACE: Final = click.option(
    "--workspace",
    metavar="DIR",
    help="What anchors relative paths of agents that name no workspace (default: the current directory).",
)


@click.group(epilog="Example: agentd policy check policy.yaml")
def policy() -> None:
    """Check, test and explain policies."""


policy.add_command(diff_command)
policy.add_command(report_command)


@policy.command(epilog="Example: agentd policy check /etc/agentd/policies/*.yaml")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@_WORKSPACE
@ENVIRONMENT
@click.option("--strict", is_flag=True, help="Warnings fail too.")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], workspace: str | None, environment: str, strict: bool) -> None:
    """Say everything that is wrong with a policy, one line each: FILE:LINE:COLUMN: WHERE: WHAT; HINT.

    A FILE that is a folder is one policy: its *.yaml in the order of their names.

    Exit: 0 valid, 1 invalid, 2 a file can't be read.
    """
    code = 0
    for file in files:
        try:
            loaded = resolve.load(file, workspace=_absolute(workspace), environment=environment)
        except PolicyError as error:
            for problem in error.problems:
                click.echo(printable(str(problem)), err=True)
            code = max(code, error.exit_code)
            continue
        for warning in loaded.warnings:
            click.echo(printable(str(warning)), err=True)
        if strict and loaded.warnings:
            code = max(code, EXIT_FAILURE)
        click.echo(printable(f"{file}: {_summary(loaded)}"))
    ctx.exit(code)


def _summary(loaded: ResolvedPolicy) -> str:
    agents = len(loaded.agents)
    rules = sum(len(agent.rules) - 1 for agent in loaded.agents.values())
    language = "aegize policy" if loaded.language is resolve.Language.AEGIZE else "version 1"
    parts = [language, f"{agents} agent{'s' * (agents != 1)}", f"{rules} rule{'s' * (rules != 1)}"]
    if loaded.warnings:
        parts.append(f"{len(loaded.warnings)} warning{'s' * (len(loaded.warnings) != 1)}")
    return f"ok ({', '.join(parts)})"


@policy.command(epilog="Example: agentd policy test policy.yaml policy.cases.yaml")
@click.argument("policy_file", metavar="POLICY")
@click.argument("test_file", metavar="TESTS")
@_WORKSPACE
@ENVIRONMENT
@click.pass_context
def test(ctx: click.Context, policy_file: str, test_file: str, workspace: str | None, environment: str) -> None:
    """Check that a policy decides what its cases expect. Nothing is executed.

    Exit: 0 all passed, 1 some failed, 2 a file is missing or malformed.
    """
    try:
        loaded = resolve.load(policy_file, workspace=_absolute(workspace), environment=environment)
        cases = load_cases(read_file(test_file), test_file)
    except PolicyError as error:
        for problem in error.problems:
            click.echo(f"error: {printable(str(problem))}", err=True)
        ctx.exit(EXIT_USAGE)
    passed = 0
    for result in run_cases(loaded, cases):
        passed += result.passed
        click.echo(str(result))
    failed = len(cases) - passed
    click.echo()
    click.echo(f"{passed} passed, {failed} failed")
    ctx.exit(EXIT_FAILURE if failed else 0)


@policy.command(
    epilog="Examples: agentd policy explain --policy p.yaml --agent bot exec /usr/bin/rm -- rm -rf x; "
    "agentd policy explain --policy p.yaml --agent bot --tool email --operation send"
)
@click.option("--policy", "policy_file", metavar="FILE", required=True, help="The policy.")
@click.option("--agent", "agent_name", metavar="NAME", required=True, help="The agent whose rules decide.")
@click.option("--tool", metavar="TOOL", help="Ask about a tool call instead of a kernel operation.")
@click.option("--operation", metavar="OPERATION", help="The operation of that tool.")
@click.option("--risk", type=click.Choice(list(RISK_BY_WORD)), default="low", help="The risk of that tool call.")
@click.option("--path", "paths", metavar="PATH", multiple=True, help="A path among the arguments of that tool call.")
@click.option("--overlay", metavar="FILE", help="Rules that people have approved since [/var/lib/agentd/overlay.yaml].")
@click.option("--unresolved", is_flag=True, help="Ask about an object of OP that could not be resolved.")
@click.option("--text", metavar="TEXT", help="What the library function OBJECT (LIBRARY:FUNCTION) of OP call is told.")
@click.option("--json", "want_json", is_flag=True, help="Print JSON.")
@_WORKSPACE
@ENVIRONMENT
@click.argument("op", metavar="[OP]", required=False)
@click.argument("obj", metavar="[OBJECT]", required=False)
@click.argument("argv", metavar="[-- ARGV...]", nargs=-1)
def explain(
    policy_file: str,
    agent_name: str,
    tool: str | None,
    operation: str | None,
    risk: str,
    paths: tuple[str, ...],
    overlay: str | None,
    unresolved: bool,
    text: str | None,
    want_json: bool,
    workspace: str | None,
    environment: str,
    op: str | None,
    obj: str | None,
    argv: tuple[str, ...],
) -> None:
    """Say which tool and operation a kernel operation is, which rule decides, and why the others don't.

    OP is a kernel operation (exec, read, write, create, delete, connect, ...). OBJECT is a resolved path, ADDRESS:PORT,
    NAME:PORT, resolvers:53 or a word like unshare:user. ARGV is the command's argv, its name first.
    """
    approved = resolve.Overlay(read_file(overlay), overlay) if overlay else None
    kept = [Path(file) for file in (policy_file, overlay) if file]
    loaded = resolve.load(
        policy_file,
        workspace=_absolute(workspace),
        overlay=approved,
        environment=environment,
        guarded=guarded(kept=kept),
    )
    agent = _agent(loaded, agent_name)
    if tool is not None or operation is not None:
        if tool is None or operation is None or op is not None:
            raise click.UsageError("--tool and --operation go together, without OP and OBJECT")
        answer = explain_call(agent, tool, operation, RISK_BY_WORD[risk], paths)
    else:
        if op is None or (obj is None) is not unresolved:
            raise click.UsageError("name OP and OBJECT, or --tool and --operation")
        kernel_op, kernel_obj = _object(op, obj)
        if argv and kernel_op is not Op.EXEC:
            raise click.UsageError("only exec has arguments")
        if text is not None and kernel_op is not Op.CALL:
            raise click.UsageError("only call has a text")
        if kernel_op is Op.CALL and kernel_obj not in {None, *(point.word.encode() for point in agent.calls)}:
            names = ", ".join(point.word for point in agent.calls) or "none"
            raise click.UsageError(f"{agent_name} has no rule for a tool that {obj} is: not judged (judged: {names})")
        arguments = [os.fsencode(arg) for arg in argv]
        answer = explain_kernel(agent, kernel_op, kernel_obj, arguments, os.fsencode(text or ""))
    if want_json:
        as_json(_explanation_json(agent, answer))
    else:
        _print_explanation(agent, answer)


@policy.command(epilog="Example: agentd policy schema > agentd.schema.json")
def schema() -> None:
    """Print the JSON Schema of the policy language, for editors."""
    from agentd.policy.schema import SCHEMA  # it names all detectors, which takes a third of a second to read

    click.echo(json.dumps(SCHEMA, indent=2))


def _absolute(workspace: str | None) -> str:
    return os.path.abspath(workspace) if workspace else os.getcwd()


def _agent(loaded: ResolvedPolicy, name: str) -> ResolvedAgent:
    agent = loaded.agents.get(name)
    if agent is None:
        names = ", ".join(sorted(loaded.agents)) or "none"
        raise AgentdError("unknown-agent", loaded.source, f"no agent {name!r}", f"it has {names}", exit_code=EXIT_USAGE)
    return agent


def _object(word: str, obj: str | None) -> tuple[Op, bytes | Endpoint | None]:
    op = OP_BY_WORD.get(word)
    if op is None:
        raise click.UsageError(f"{word} is no kernel operation; one of {', '.join(OP_BY_WORD)}")
    if obj is None:
        return op, None
    if op.family is Family.PATH:
        return op, os.fsencode(obj)
    try:
        endpoint = endpoint_of(obj)
        return op, replace(endpoint, protocol="udp") if RESOLVERS in endpoint.names else endpoint
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _explanation_json(agent: ResolvedAgent, answer: Explanation) -> dict[str, Any]:
    entry = answer.entry
    return {
        "agent": answer.agent,
        "mode": agent.mode.value,
        "tool": answer.tool,
        "operation": answer.operation,
        "risk": answer.risk.word,
        "decision": answer.decision.word,
        "action": answer.action.word,
        "timeout": answer.timeout,
        "rule": answer.rule,
        "reason": answer.reason,
        "entry": None if entry is None else {"where": entry.where, "op": entry.op.word, "own": entry.own},
        "passed_over": [
            {"where": other.where, "tool": other.tool, "operation": other.operation, "why": why}
            for other, why in answer.passed_over
        ],
        "rules": [
            {
                "id": note.rule.id,
                "where": note.rule.where,
                "decision": note.rule.decision.word,
                "decides": note.decides,
                "why": note.why,
            }
            for note in answer.notes
        ],
    }


def _print_explanation(agent: ResolvedAgent, answer: Explanation) -> None:
    lines = [f"agent     {answer.agent} (mode {agent.mode.value})"]
    named = f"{answer.tool}/{answer.operation}, risk {answer.risk.word}"
    if answer.entry is not None:
        kind = "the policy's own tools" if answer.entry.own else "the shipped catalogue"
        named += f": {answer.entry.where} ({kind})"
    lines.append(f"is        {named}")
    for entry, why in answer.passed_over:
        lines.append(f"          not {entry.tool}/{entry.operation}: {entry.where}: {why}")
    action = "" if answer.action.word == "none" else f", action {answer.action.word}"
    held = f" for at most {answer.timeout} s" if answer.timeout else ""
    lines.append(f"decision  {answer.decision.word}{action}{held}: {answer.reason}")
    lines.append("rules, in the order they are judged:")
    for note in answer.notes:
        mark = "->" if note.decides else "  "
        lines.append(f"  {mark} {note.rule.decision.word:<16} {note.rule.id}  {note.rule.where}  {note.why}")
    for line in lines:
        click.echo(printable(line))
