"""The structures of bpf/abi.h for ctypes: same names, same order. tests/bpf/test_abi.py compares every size and offset
with the BTF of the compiled object.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Final

from agentd.model import Op

ABI_VERSION: Final = 9
MAX_AGENTS: Final = 256
HITS: Final = 16384
CHECK_PATH: Final = 256
NAME_MAX: Final = 64
HOST_NAME_MAX: Final = 253
HOST_NAME_ROOM: Final = 256
NAME_SLOTS: Final = 4
RULE_DEFAULT: Final = 0xFFFFFFFF
RULE_GUARD: Final = 0xFFFFFFFD
RULE_ABOVE: Final = 0xFFFFFFFC
RULE_UNRESOLVED: Final = 0xFFFFFFFE
NO_OUTCOME: Final = 0xFFFFFFFF

AGENT_USED: Final = 1
AGENT_MONITOR: Final = 2
AGENT_STRICT: Final = 4
AGENT_UNRECORDED: Final = 8

MATCHES: Final = 512
MATCHED: Final = 0x40000000
MATCH_USED: Final = 1
MATCH_EXEMPT: Final = 2
MATCH_REFUSE: Final = 4
MATCH_VARIABLE: Final = 8
MATCH_LABEL: Final = 16
CONTAINERS: Final = 16384
NO_MATCH: Final = 0xFFFFFFFF

TAG_ROOT_EXEC: Final = 1
TAG_HELD: Final = 4
TAG_NOTIFIED: Final = 128
TAG_LOOKED_AT: Final = 1024
TAG_ASKED: Final = 4096

EVENT_VIOLATION: Final = 1
EVENT_HOLD: Final = 2
EVENT_GONE: Final = 3
EVENT_ALLOWED: Final = 5
EVENT_ROOT: Final = 6
EVENT_GRANTED: Final = 7
EVENT_REFUSED: Final = 8
EVENT_ENDED: Final = 9
EVENT_MAPPED: Final = 10
EVENT_MATCHED: Final = 11
EVENT_UNMATCHED: Final = 12
EVENT_ASKED: Final = 13

END_DOOMED: Final = 1
END_RAN: Final = 2
END_CONTINUED: Final = 3

FLAG_UNRESOLVED: Final = 1
FLAG_ARGV_CUT: Final = 2
FLAG_MONITOR: Final = 4
FLAG_SHARED_FDS: Final = 8
FLAG_COMPAT: Final = 16
FLAG_SIGNAL_FAILED: Final = 32
FLAG_SCRIPT: Final = 64
FLAG_DOOMED: Final = 128
FLAG_TEXT: Final = 256
SQL_SHIFT: Final = 12

MAX_CALLS: Final = 256
KNOWN_CODE: Final = 16384
CALL_WORD: Final = 96
CALLED_STRING: Final = 1
CALLED_LIMIT: Final = 2
CALLED_ENDS: Final = 4
CALLED_LATER: Final = 8

CARELESS_RENAMES: Final = 1
CARELESS_MOUNTS: Final = 2
CARELESS_DENTRY: Final = 4
CARELESS_FOLDER: Final = 8
CARELESS_NAME: Final = 16

STAT_LOST_EVENTS: Final = 0
STAT_LOST_SEEN: Final = 1
STAT_LOST_COUNTS: Final = 2
STAT_UNRESOLVED: Final = 3
STAT_SCRATCH: Final = 4
STAT_UNTRACKED: Final = 5
STAT_SIGNAL_FAILED: Final = 6
STAT_VERDICTS: Final = 7
STAT_VERDICT_NS: Final = 8
STAT_FORKS: Final = 9
STAT_NAMES: Final = 10
STAT_NAMES_LOST: Final = 11
STAT_UNMATCHED: Final = 12
STAT_BUCKET0: Final = 13
STAT_BUCKETS: Final = 16
STAT_COUNT: Final = 29


class Dfa(ctypes.Structure):
    """struct agentd_dfa."""

    _fields_ = [(name, c_uint32) for name in ("classes", "states", "comb", "start", "n_states", "n_comb")]


class Tables(ctypes.Structure):
    """struct agentd_tables."""

    _fields_ = [
        ("base", c_uint32),
        ("words", c_uint32),
        ("path", Dfa),
        ("exec", Dfa),
        ("rules", Dfa),
        ("host", Dfa),
        ("args", Dfa),
        ("name", Dfa),
        ("call", Dfa),
        ("path_classes", c_uint32),
        ("exec_classes", c_uint32),
        ("rule_classes", c_uint32),
        ("host_classes", c_uint32),
        ("arg_masks", c_uint32),
        ("call_classes", c_uint32),
        ("outcomes", c_uint32),
        ("n_outcomes", c_uint32),
        ("n_names", c_uint32),
        ("unresolved", c_uint32 * len(Op)),
    ]


class Agent(ctypes.Structure):
    """struct agentd_agent."""

    _fields_ = [
        ("flags", c_uint32),
        ("active", c_uint32),
        ("generation", c_uint32 * 2),
        ("name", c_char * NAME_MAX),
        ("tables", Tables * 2),
    ]


class Tag(ctypes.Structure):
    """struct agentd_tag."""

    _fields_ = [
        ("agent", c_uint32),
        ("workload", c_uint32),
        ("flags", c_uint32),
        ("hold_op", c_uint32),
        ("hold_id", c_uint64),
        ("hold_key", c_uint64 * 2),
        ("continued", c_uint32),
        ("continued_ms", c_uint32),
        ("process_hold", c_uint64),
        ("granted", c_uint64 * 2),
        ("marked", c_uint64),
    ]


class Control(ctypes.Structure):
    """struct agentd_control."""

    _fields_ = [
        ("epoch", c_uint32),
        ("counts", c_uint32),
        ("tagging", c_uint32),
        ("abi", c_uint32),
        ("next_hold", c_uint64),
        ("untracked", c_uint64),
        ("doomed", c_uint32),
        ("point", c_uint32),
        ("daemon", c_uint32),
        ("foreign", c_uint32),
        ("prevented", c_uint64),
        ("hash_seed", c_uint64 * 2),
        ("name_ttl_min", c_uint32),
        ("name_ttl_max", c_uint32),
        ("resolver_ports", c_uint64),
        ("memory_epoch", c_uint32),
        ("next_hit", c_uint32),
        ("match", c_uint32),
        ("match_variables", c_uint32),
        ("next_matched", c_uint32),
        ("host_mounts", c_uint32),
    ]


class Match(ctypes.Structure):
    """struct agentd_match."""

    _fields_ = [
        ("agent", c_uint32),
        ("flags", c_uint32),
        ("variables", c_uint64),
        ("bit", c_uint32),
        ("reserved", c_uint32),
    ]


class Container(ctypes.Structure):
    """struct agentd_container."""

    _fields_ = [
        ("generation", c_uint32),
        ("rule", c_uint32),
    ]


class Constants(ctypes.Structure):
    """struct agentd_constants."""

    _fields_ = [
        ("epoch", c_uint32),
        ("arena_mask", c_uint32),
        ("sockets", c_uint32),
        ("memory", c_uint32),
        ("rename_lock", c_uint64),
        ("mount_lock", c_uint64),
        ("direct_map", c_uint64),
        ("frame_mask", c_uint64),
        ("top_shift", c_uint32),
        ("check", c_uint32),
    ]


class TagRequest(ctypes.Structure):
    """struct agentd_tag_request."""

    _fields_ = [
        ("agent", c_uint32),
        ("workload", c_uint32),
        ("root_tgid", c_int32),
        ("marked", c_uint32),
        ("cgroup", c_uint64),
        ("remove", c_uint32),
        ("spare", c_int32),
        ("io_uring", c_uint32),
        ("reserved", c_uint32),
    ]


class TaskLine(ctypes.Structure):
    """struct agentd_task_line."""

    _fields_ = [
        ("agent", c_uint32),
        ("workload", c_uint32),
        ("pid", c_uint32),
        ("tid", c_uint32),
        ("ppid", c_uint32),
        ("flags", c_uint32),
        ("start_time", c_uint64),
        ("hold_id", c_uint64),
        ("hold_op", c_uint32),
        ("reserved", c_uint32),
    ]


class Event(ctypes.Structure):
    """struct agentd_event."""

    _fields_ = [
        ("type", c_uint32),
        ("flags", c_uint32),
        ("time", c_uint64),
        ("hold_id", c_uint64),
        ("key", c_uint64 * 2),
        ("start_time", c_uint64),
        ("parent_start_time", c_uint64),
        ("cgroup", c_uint64),
        ("agent", c_uint32),
        ("generation", c_uint32),
        ("outcome", c_uint32),
        ("workload", c_uint32),
        ("pid", c_uint32),
        ("tid", c_uint32),
        ("ppid", c_uint32),
        ("uid", c_uint32),
        ("op", c_uint8),
        ("decision", c_uint8),
        ("action", c_uint8),
        ("point", c_uint8),
        ("guarantee", c_uint8),
        ("risk", c_uint8),
        ("object_len", c_uint16),
        ("exe_len", c_uint16),
        ("argv_len", c_uint16),
        ("syscall", c_int32),
        ("rule", c_uint32),
        ("toolop", c_uint32),
        ("timeout", c_uint32),
        ("reason", c_uint32),
        ("comm", c_char * 16),
    ]


class CountKey(ctypes.Structure):
    """struct agentd_count_key."""

    _fields_ = [
        ("agent", c_uint32),
        ("generation", c_uint32),
        ("outcome", c_uint32),
        ("op", c_uint32),
        ("object", c_uint64 * 2),
    ]


class Count(ctypes.Structure):
    """struct agentd_count."""

    _fields_ = [
        ("count", c_uint64),
        ("first", c_uint64),
        ("last", c_uint64),
        ("point", c_uint32),
        ("hit", c_uint32),
        ("hit_epoch", c_uint32),
        ("reserved", c_uint32),
    ]


class Hit(ctypes.Structure):
    """struct agentd_hit."""

    _fields_ = [("key", CountKey), ("count", c_uint64), ("told", c_uint64)]


class Checks(ctypes.Structure):
    """struct agentd_checks."""

    _fields_ = [
        ("careless", c_uint32),
        ("reserved", c_uint32),
        ("files", c_uint64),
        ("names", c_uint64),
        ("unsure", c_uint64),
        ("different", c_uint64),
        ("remembered", CountKey),
        ("judged", CountKey),
        ("path", c_char * CHECK_PATH),
    ]


class GrantKey(ctypes.Structure):
    """struct agentd_grant_key."""

    _fields_ = [("key", c_uint64 * 2)]


class Grant(ctypes.Structure):
    """struct agentd_grant."""

    _fields_ = [("expires", c_uint64), ("hold_id", c_uint64), ("allow", c_uint32), ("uses", c_int32)]


class ResolverKey(ctypes.Structure):
    """struct agentd_resolver_key."""

    _fields_ = [("address", c_uint8 * 16), ("port", c_uint16), ("reserved", c_uint16)]


class NameKey(ctypes.Structure):
    """struct agentd_name_key."""

    _fields_ = [("agent", c_uint32), ("reserved", c_uint32), ("netns", c_uint64), ("address", c_uint8 * 16)]


class NameSlot(ctypes.Structure):
    """struct agentd_name_slot."""

    _fields_ = [
        ("check", c_uint64),
        ("expires", c_uint64),
        ("generation", c_uint32),
        ("name_class", c_uint32),
        ("len", c_uint32),
        ("busy", c_uint32),
        ("name", c_char * HOST_NAME_ROOM),
    ]


class NameEntry(ctypes.Structure):
    """struct agentd_name_entry."""

    _fields_ = [("slots", NameSlot * NAME_SLOTS)]


class Call(ctypes.Structure):
    """struct agentd_call."""

    _fields_ = [("language", c_uint32), ("len", c_uint32), ("word", c_char * CALL_WORD)]


class Called(ctypes.Structure):
    """struct agentd_called."""

    _fields_ = [("call", c_uint32), ("flags", c_uint32), ("text", c_uint64), ("len", c_uint64), ("stream", c_uint64)]


class Code(ctypes.Structure):
    """struct agentd_code."""

    _fields_ = [("inode", c_uint64), ("changed", c_uint64), ("device", c_uint32), ("pad", c_uint32)]


# C structure name -> ctypes class; what the ABI test walks.
STRUCTURES: Final = {
    "agentd_dfa": Dfa,
    "agentd_tables": Tables,
    "agentd_agent": Agent,
    "agentd_tag": Tag,
    "agentd_control": Control,
    "agentd_match": Match,
    "agentd_container": Container,
    "agentd_constants": Constants,
    "agentd_tag_request": TagRequest,
    "agentd_task_line": TaskLine,
    "agentd_event": Event,
    "agentd_count_key": CountKey,
    "agentd_count": Count,
    "agentd_hit": Hit,
    "agentd_checks": Checks,
    "agentd_grant_key": GrantKey,
    "agentd_grant": Grant,
    "agentd_resolver_key": ResolverKey,
    "agentd_name_key": NameKey,
    "agentd_name_slot": NameSlot,
    "agentd_name_entry": NameEntry,
    "agentd_call": Call,
    "agentd_called": Called,
    "agentd_code": Code,
}
