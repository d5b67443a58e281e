"""The JSON Schema (draft 2020-12) of the policy language, for editors that complete and check YAML.

It knows the form of a document; what needs the catalogue, or a look at two places at once, only `policy check` knows.
The words come from the same tables as the parser's, so the two can't drift apart.
"""

from __future__ import annotations

from typing import Any, Final

from agentd.model import OP_BY_WORD, RISK_BY_WORD, Mode
from agentd.policy.calls import REGISTERS, USDT_ARGUMENTS
from agentd.policy.detectors import shipped_detectors
from agentd.policy.ir import MatchKind, TextKind
from agentd.policy.parse import ACTIONS, BELOW, CALLS, GUARANTEES, ID_PATTERN, MAX_APPROVERS, MAX_TIMEOUT
from agentd.policy.sql import Sql

_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 255}
_DURATION: Final = {
    "oneOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT},
        {"type": "string", "pattern": "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"},
    ],
    "description": "How long a held operation waits for an answer before it is denied: seconds, or a text like 5m.",
}


def _texts(description: str, *, empty: bool = False) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "description": description,
        **({} if empty else {"minItems": 1}),
    }


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Also null, which in a rule means that the key isn't there."""
    return {"anyOf": [schema, {"type": "null"}]}


def _closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


_TOOL: Final = {**_NAME, "description": "The tool, exactly; no wildcards."}
_RISK: Final = {"enum": list(RISK_BY_WORD)}


def _agentd_rule(section: str) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "tool": _TOOL,
        "operations": _optional(
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "pattern": "^[^*]*$"},
                "description": "The operations of the tool; leave it out to mean all of them.",
            }
        ),
        "paths": _optional(_texts("Globs: * stays in a component, ** crosses; relative ones start at the workspace.")),
        "risk_level_max": _optional({**_RISK, "description": "The rule covers operations up to this risk."}),
        "id": {
            "type": "string",
            "pattern": f"^{ID_PATTERN}$",
            "description": "Stands in records; unique in the agent.",
        },
    }
    hosts = "ADDRESS, ADDRESS/PREFIX, NAME, *.NAME, localhost, resolvers or *, each with an optional :PORT."
    rule["hosts"] = _texts(hosts)
    if section != "allow":
        rule["timeout"] = _DURATION
        rule["approvers"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_APPROVERS,
            "description": "How many different people must say yes; 1 when left out.",
        }
        rule["action"] = {"enum": ["pause"] if section == "require_approval" else list(ACTIONS)}
    return {"type": ["array", "null"], "items": _closed(rule, required=["tool"])}


def _aegize_rules() -> dict[str, Any]:
    rule = {
        "tool": _TOOL,
        "operations": _optional(_texts("The operations of the tool; leave it out to mean all.", empty=True)),
        "paths": _optional(_texts("Globs in which * crosses /. Only allow heeds them.", empty=True)),
        "risk_level_max": _optional({**_RISK, "description": "Only allow heeds it."}),
    }
    return {"type": ["array", "null"], "items": _closed(rule, required=["tool"])}


_MATCH_VALUES: Final[dict[MatchKind, dict[str, Any]]] = {
    MatchKind.SYSTEMD_UNIT: {"type": "string", "pattern": "^[^/]+$"},
    MatchKind.CGROUP: {"type": "string", "pattern": r"^(/|\*\*)"},
    MatchKind.EXE: {"type": "string", "pattern": r"^(/|\*\*)"},
    MatchKind.USER: {"oneOf": [_NAME, {"type": "integer", "minimum": 0, "maximum": 2**32 - 2}]},
    MatchKind.ENV: {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[^=]+$"},
        "additionalProperties": {"type": "string", "minLength": 1},
    },
    MatchKind.LABEL: {
        "type": "object",
        "description": "Labels of the container, all of them.",
        "minProperties": 1,
        "propertyNames": {"minLength": 1},
        "additionalProperties": {"type": "string", "minLength": 1},
    },
}

_MATCH: Final = {
    "type": "array",
    "description": "Which processes are this agent; any one suffices.",
    "items": _closed({kind.value: schema for kind, schema in _MATCH_VALUES.items()}, minProperties=1, maxProperties=1),
}

_AGENT: Final = _closed(
    {
        "match": _MATCH,
        "workspace": {
            "type": "string",
            "pattern": "^/",
            "description": "Absolute; anchors relative paths.",
        },
        "mode": {"enum": [mode.value for mode in Mode], "description": "monitor: decide and record, never act."},
        "on_violation": {"enum": list(ACTIONS), "description": "What is done about a denied operation."},
        "minimum_guarantee": {
            "enum": list(GUARANTEES),
            "description": "A workload is not started where the host gives less, or a probe shows that it does.",
        },
        "below_minimum": {"enum": list(BELOW), "description": "What is done then about running workloads."},
        "audit": {"enum": ["normal", "strict"], "description": "strict: what can't be recorded is denied."},
        "library_calls": {
            "enum": list(CALLS),
            "description": "What a lost probe is: an alert, or the end of the agent's work until it stands (required).",
        },
        **{section: _agentd_rule(section) for section in ("allow", "require_approval", "deny")},
    }
)

_CALL: Final = _closed(
    {
        "library": {"type": "string", "description": "NAME of libNAME.so."},
        "function": {
            "anyOf": [{"type": "string", "minLength": 1}, _texts("Functions with the same arguments.")],
        },
        "usdt": {
            "anyOf": [{"type": "string", "pattern": "^[^:]+:[^:]+$"}, _texts("Probes with the same arguments.")],
            "description": "PROVIDER:NAME of a USDT probe, instead of a function; readelf -n shows a file's.",
        },
        "argument": {
            "type": "integer",
            "minimum": 1,
            "maximum": USDT_ARGUMENTS,
            "description": "Which one is the text.",
        },
        "as": {"enum": [kind.value for kind in TextKind], "description": "string: up to a NUL; bytes: of `length`."},
        "length": {
            "type": "integer",
            "minimum": 1,
            "maximum": USDT_ARGUMENTS,
            "description": "Which argument is its length.",
        },
        "signed": {"enum": ["int", "size_t"], "description": "The length's type; a negative int means up to the NUL."},
        "stream": {
            "type": "integer",
            "minimum": 1,
            "maximum": USDT_ARGUMENTS,
            "description": "Which argument tells streams apart, whose texts are looked through as one.",
        },
        "ends": {
            "anyOf": [{"type": "string", "minLength": 1}, _texts("Functions.")],
            "description": "Functions that end the stream, which is their first argument.",
        },
        "language": {"enum": [one.word for one in Sql if one], "description": "The text is SQL of this kind."},
    },
    required=["library", "argument", "as"],
    oneOf=[
        {
            "required": ["function"],
            "properties": {key: {"maximum": REGISTERS} for key in ("argument", "length", "stream")},
        },
        {"required": ["usdt"], "properties": {"signed": False, "ends": False}},
    ],
)

_ENTRY: Final = _closed(
    {
        **{word: _texts(f"Objects of the kernel operation {word}.") for word in OP_BY_WORD},
        "call": {"anyOf": [_CALL, _texts("Words LIBRARY:FUNCTION.")], "description": "A function of a library."},
        "text": _texts("Regular expressions, of which one must be found in the text of the call."),
        "detect": {
            "type": "array",
            "minItems": 1,
            "items": {"enum": list(shipped_detectors())},
            "description": "Detectors of detectors.yaml, of which one must find something in the text of the call.",
        },
        "args": _texts("Globs over single arguments of exec; any argument behind argv[0] may match."),
        "risk": {**_RISK, "description": "What risk_level_max compares with; high when left out."},
    },
    minProperties=1,
    anyOf=[{"required": [word]} for word in OP_BY_WORD],
    dependentRequired={"args": ["exec"], "text": ["call"], "detect": ["call"]},
)

_TOOLS: Final = {
    "type": ["object", "null"],
    "description": "Which kernel operations are which tool and operation; tried before the shipped catalogue.",
    "propertyNames": _NAME,
    "additionalProperties": {
        "type": "object",
        "propertyNames": _NAME,
        "additionalProperties": {"type": "array", "items": _ENTRY},
    },
}

SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "agentd policy",
    "description": "With `version: 1` the agentd language; without, an aegize policy with aegize's meaning.",
    "type": "object",
    "if": {"required": ["version"]},
    "then": _closed(
        {
            "version": {"const": 1},
            "tools": _TOOLS,
            "agents": {"type": "object", "propertyNames": _NAME, "additionalProperties": _AGENT},
        },
        required=["agents"],
    ),
    "else": _closed(
        {
            "agents": {
                "type": "object",
                "propertyNames": _NAME,
                "additionalProperties": {
                    **_closed({section: _aegize_rules() for section in ("allow", "require_approval", "deny")}),
                    "type": ["object", "null"],
                },
            }
        },
        required=["agents"],
    ),
}
