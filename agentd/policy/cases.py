"""Cases: what a policy is expected to decide. aegize's file format, and `kernel:` for operations of the kernel.

    tests:
      - {agent: bot, tool: email, operation: send, expect: require_approval}
      - {agent: bot, kernel: {exec: /usr/bin/rm, argv: [rm, -rf, x]}, expect: deny, tool: shell, operation: rm}
      - {agent: bot, kernel: {connect: "10.0.0.1:5432"}, expect: allow, rule: bot/allow/2}

A kernel case names one operation and its object; `tool`, `operation` and `rule` are then further expectations. All
cases are read before the first is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentd.errors import EXIT_USAGE
from agentd.model import OP_BY_WORD, RISK_BY_WORD, Decision, Endpoint, Family, Op, Risk
from agentd.policy import source
from agentd.policy.evaluate import decide, endpoint_of, evaluate_call
from agentd.policy.problem import PolicyError, Problems
from agentd.policy.reader import Reader, printable, shown
from agentd.policy.resolved import NO_RULE, ResolvedAgent, ResolvedPolicy
from agentd.policy.source import Scalar

_EXPECT = {decision.word: decision for decision in (Decision.ALLOW, Decision.DENY, Decision.REQUIRE_APPROVAL)}
_FIELDS = ("name", "agent", "tool", "operation", "risk_level", "metadata", "kernel", "expect", "rule")


@dataclass(frozen=True, slots=True)
class KernelQuestion:
    op: Op
    obj: bytes | Endpoint
    argv: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    agent: str
    expect: Decision
    tool: str | None
    operation: str | None
    risk: Risk
    paths: tuple[str, ...]
    hosts: tuple[str, ...]
    kernel: KernelQuestion | None
    rule: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """`problem` is empty for a case that passed, else `got deny — REASON` as aegize writes it."""

    case: Case
    problem: str

    @property
    def passed(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        """The line of `policy test`, word for word aegize's."""
        name, expect = printable(self.case.name), self.case.expect.word
        if self.passed:
            return f"PASS  {name}  (expected {expect})"
        return f"FAIL  {name}  (expected {expect}, {printable(self.problem)})"


def load_cases(data: bytes, file: str) -> tuple[Case, ...]:
    """The cases in `data`. Raises PolicyError (exit code 2) with every malformed case."""
    problems = Problems(file)
    node = source.parse(data, problems)
    cases: list[Case | None] = []
    if node is not None:
        cases = _cases(Reader(node, "", problems))
    elif not problems.errors:
        problems.error(0, 0, "", "the file is empty", "write `tests:` with a list of cases")
    try:
        problems.raise_errors()
    except PolicyError as error:
        raise PolicyError(error.problems, exit_code=EXIT_USAGE) from None
    return tuple(case for case in cases if case is not None)


def run_cases(policy: ResolvedPolicy, cases: tuple[Case, ...]) -> Iterator[Result]:
    """What the policy decides in each case, in order. Nothing is executed."""
    for case in cases:
        yield Result(case, _run(policy, case))


def _run(policy: ResolvedPolicy, case: Case) -> str:
    if case.kernel is None:
        verdict = evaluate_call(
            policy, case.agent, case.tool or "", case.operation or "", case.risk, case.paths, case.hosts
        )
        agent = policy.agents.get(case.agent)
        rule = agent.rules[verdict.rule].id if agent and verdict.rule >= 0 else "default"
        if verdict.decision is not case.expect:
            return f"got {verdict.decision.word} — {verdict.reason}"
        return "" if case.rule in (None, rule) else f"got {verdict.decision.word} — decided by {rule}, not {case.rule}"
    agent = policy.agents.get(case.agent)
    if agent is None:
        return "" if case.expect is Decision.DENY else f"got deny — unknown agent '{case.agent}' (default deny)"
    return _run_kernel(agent, case, case.kernel)


def _run_kernel(agent: ResolvedAgent, case: Case, question: KernelQuestion) -> str:
    outcome = decide(agent, question.op, question.obj, question.argv)
    tool, operation = agent.toolops[outcome.toolop]
    rule = NO_RULE.get(outcome.rule) or agent.rules[outcome.rule].id
    by = "default deny" if rule == "default" else f"decided by {rule}"
    if outcome.decision is not case.expect:
        return f"got {outcome.decision.word} — it is {tool}/{operation}, {by}"
    if (case.tool or tool, case.operation or operation) != (tool, operation):
        return f"got {outcome.decision.word} — it is {tool}/{operation}, not {case.tool}/{case.operation or operation}"
    if case.rule not in (None, rule):
        return f"got {outcome.decision.word} — {by}, not {case.rule}"
    return ""


# -- reading


def _cases(root: Reader) -> list[Case | None]:
    mapping = root.mapping("write `tests:` with a list of cases")
    if mapping is None:
        return []
    tests = mapping.get("tests")
    if tests is None:
        root.error("the top-level list tests is missing", "write `tests:` with a list of cases")
        return []
    reader = root.below("tests", tests)
    items = reader.items()
    if items is None:
        return []
    if not items:
        reader.error("the list of tests is empty", "add a case")
    return [_case(item, index) for index, item in enumerate(items)]


def _case(reader: Reader, index: int) -> Case | None:
    mapping = reader.mapping()
    if mapping is None:
        return None
    # aegize ignores fields that it doesn't know; a case with `kernel:` is ours, and there a misspelt field is an error.
    of_kernel = mapping.get("kernel") is not None
    if of_kernel:
        reader.keys(_FIELDS)
    fields = {key.text: reader.below(key.text, value) for key, value in mapping.entries if key.text in _FIELDS}
    for field in ("agent", "expect") if of_kernel else ("agent", "tool", "operation", "expect"):
        if field not in fields:
            reader.error(f"missing required field {shown(field)}", "add it")
    expect = fields["expect"].choice(_EXPECT) if "expect" in fields else None
    risk = fields["risk_level"].choice(RISK_BY_WORD) if "risk_level" in fields else Risk.LOW
    paths, hosts = _metadata(fields["metadata"]) if "metadata" in fields else ((), ())
    kernel = _kernel(fields["kernel"]) if of_kernel else None
    name = f"test #{index + 1}"
    if "name" in fields and not fields["name"].is_false:
        name = _text(fields["name"]) or name
    agent = _text(fields.get("agent"))
    if expect is None or risk is None or agent is None or (of_kernel and kernel is None):
        return None
    tool, operation, rule = (_text(fields.get(field)) for field in ("tool", "operation", "rule"))
    return Case(name, agent, expect, tool, operation, risk, paths, hosts, kernel, rule)


def _text(reader: Reader | None) -> str | None:
    """Any scalar as text, as aegize takes it: `agent: 7` is the agent "7"."""
    if reader is None:
        return None
    if not isinstance(reader.node, Scalar):
        reader.expected("a string")
        return None
    return reader.node.text if isinstance(reader.node.value, str) else str(reader.node.value)


def _metadata(reader: Reader) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths (`path`, `candidate_paths`) and hosts (`host`) of a call."""
    if reader.is_false:
        return (), ()
    mapping = reader.mapping()
    if mapping is None:
        return (), ()
    paths: list[str] = []
    hosts: list[str] = []
    path = mapping.get("path")
    if isinstance(path, Scalar) and path.kind == "a string":
        paths.append(path.text)
    several = mapping.get("candidate_paths")
    candidates = None if several is None else reader.below("candidate_paths", several)
    if candidates is not None and not candidates.is_false:
        for item in candidates.items() or []:
            if isinstance(item.node, Scalar) and item.node.kind == "a string":
                paths.append(item.node.text)
    host = mapping.get("host")
    if host is not None:
        text = reader.below("host", host).checked(endpoint_of)
        hosts += [text] if text is not None else []
    return tuple(paths), tuple(hosts)


def _kernel(reader: Reader) -> KernelQuestion | None:
    keys = reader.keys((*OP_BY_WORD, "argv", "protocol"))
    if keys is None:
        return None
    words = [word for word in keys if word in OP_BY_WORD]
    if len(words) != 1:
        reader.error("expected exactly one kernel operation", "write for example {exec: /usr/bin/rm, argv: [rm, x]}")
        return None
    op = OP_BY_WORD[words[0]]
    argv: tuple[bytes, ...] = ()
    if "argv" in keys:
        if op is not Op.EXEC:
            keys["argv"].error("only exec has arguments", "remove argv")
        texts = [_text(item) for item in keys["argv"].items("write a list, with the program's name first") or []]
        argv = tuple(text.encode("utf-8", "surrogateescape") for text in texts if text is not None)
    protocol = "tcp"
    if "protocol" in keys:
        protocol = keys["protocol"].choice({"tcp": "tcp", "udp": "udp"}) or protocol
    if op.family is Family.HOST:
        host = keys[op.word].checked(endpoint_of)
        return None if host is None else KernelQuestion(op, endpoint_of(host, protocol), argv)
    text = keys[op.word].text()
    return None if text is None else KernelQuestion(op, text.encode("utf-8", "surrogateescape"), argv)
