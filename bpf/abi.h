/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The contract between the kernel programs and user space: every number and every structure that crosses it.
 *
 * agentd/kernel/abi.py and agentd/model.py mirror this file; tests/bpf/test_abi.py compares both with the BTF of the
 * compiled object (names, values, sizes, offsets), so a difference is a red test and not a wrong decision.
 * Plain C: no kernel type, no pointer, every field aligned by hand, no implicit padding.
 */
#ifndef AGENTD_ABI_H
#define AGENTD_ABI_H

typedef unsigned char agentd_u8;
typedef unsigned short agentd_u16;
typedef unsigned int agentd_u32;
typedef unsigned long long agentd_u64;
typedef long long agentd_s64;
typedef int agentd_s32;

#define AGENTD_ABI_VERSION 1

enum agentd_op {
	AGENTD_OP_EXEC = 0,
	AGENTD_OP_READ = 1,
	AGENTD_OP_WRITE = 2,
	AGENTD_OP_CREATE = 3,
	AGENTD_OP_DELETE = 4,
	AGENTD_OP_RENAME = 5,
	AGENTD_OP_LINK = 6,
	AGENTD_OP_SETATTR = 7,
	AGENTD_OP_MOUNT = 8,
	AGENTD_OP_CHROOT = 9,
	AGENTD_OP_UNIX_CONNECT = 10,
	AGENTD_OP_PTRACE = 11,
	AGENTD_OP_NAMESPACE = 12,
	AGENTD_OP_BPF = 13,
	AGENTD_OP_MODULE = 14,
	AGENTD_OP_KEXEC = 15,
	AGENTD_OP_IO_URING = 16,
	AGENTD_OP_SOCKET = 17,
	AGENTD_OP_PERF = 18,
	AGENTD_OP_COMPAT = 19,
	AGENTD_OP_CONNECT = 20,
	AGENTD_OP_BIND = 21,
	AGENTD_OP_LISTEN = 22,
	AGENTD_OP_SEND = 23,
	AGENTD_OP_COUNT = 24,
};
#define AGENTD_PATH_OPS 20 /* ops below this one have a path (or word) as their object */
#define AGENTD_HOST_OPS 4

enum agentd_decision {
	AGENTD_ALLOW = 0,
	AGENTD_REQUIRE_APPROVAL = 1,
	AGENTD_DENY = 2,
};

enum agentd_action {
	AGENTD_ACTION_NONE = 0,
	AGENTD_ACTION_DENY = 1,
	AGENTD_ACTION_KILL = 2,
	AGENTD_ACTION_PAUSE = 3,
};

enum agentd_point {
	AGENTD_POINT_NONE = 0,
	AGENTD_POINT_LSM = 1,
	AGENTD_POINT_FMOD_RET = 2,
	AGENTD_POINT_CGROUP = 3,
	AGENTD_POINT_EXEC = 4,
	AGENTD_POINT_SECCOMP = 5,
	AGENTD_POINT_TRACE = 6,
};

enum agentd_guarantee {
	AGENTD_GUARANTEE_NONE = 0,
	AGENTD_DETECTED = 1,
	AGENTD_CONTAINED = 2,
	AGENTD_PREVENTED = 3,
};

/*
 * Policy tables. One agent's tables are one region of 32-bit words in the arena; all offsets are in words from the
 * region's base. A DFA state is four words {base, default_next, accept, 0}; a comb entry two {check, next}:
 *     i = base[s] + class[byte];  s = comb[i].check == s ? comb[i].next : default_next[s]
 * `class` is 256 bytes packed little-endian into 64 words. State numbers start at 0; comb slots that are free have
 * check 0xffffffff.
 */
#define AGENTD_STATE_WORDS 4
#define AGENTD_COMB_WORDS 2
#define AGENTD_CLASS_WORDS 64
#define AGENTD_OUTCOME_WORDS 4
#define AGENTD_ARG_WORDS 8 /* 256 argument groups, one bit each */
#define AGENTD_NO_GROUP 0xffffffffu
#define AGENTD_RULE_DEFAULT 0xffffffffu /* no rule matched: default deny */
#define AGENTD_RULE_UNRESOLVED 0xfffffffeu /* the object could not be resolved completely */

struct agentd_dfa {
	agentd_u32 classes;
	agentd_u32 states;
	agentd_u32 comb;
	agentd_u32 start; /* state number */
	agentd_u32 n_states;
	agentd_u32 n_comb;
};

/*
 * accept[s] of the path DFA is p; path_classes[p * AGENTD_PATH_OPS + op] is an outcome index, but for op exec it is the
 * offset of a candidate list {count, (group, outcome) * count} whose last group is AGENTD_NO_GROUP: the first candidate
 * whose group bit is set in the union of the masks of all arguments (argv[1..]) decides.
 * accept[s] of the host DFA is h; host_classes[h * AGENTD_HOST_OPS + (op - AGENTD_PATH_OPS)] is an outcome index.
 * accept[s] of the args DFA is a; arg_masks[a * AGENTD_ARG_WORDS ...] are 256 group bits, bit g = word g/32, bit g%32.
 * outcomes[o] is {decision | action << 8 | risk << 16, rule, toolop, timeout in seconds}.
 * unresolved[op] is the outcome index for an object that could not be resolved.
 */
struct agentd_tables {
	agentd_u32 base; /* of the region, in words from the start of the arena */
	agentd_u32 words; /* length of the region */
	struct agentd_dfa path;
	struct agentd_dfa host;
	struct agentd_dfa args;
	agentd_u32 path_classes;
	agentd_u32 host_classes;
	agentd_u32 arg_masks;
	agentd_u32 outcomes;
	agentd_u32 n_outcomes;
	agentd_u32 reserved;
	agentd_u32 unresolved[AGENTD_OP_COUNT];
};

/*
 * The bytes the host DFA reads: family ('4' or '6'), protocol ('t' tcp, 'u' udp), the address (4 or 16 bytes, network
 * order), the port (2 bytes, network order). v4-mapped v6 addresses are written as v4.
 */
#define AGENTD_HOST_KEY_MAX 20

#endif
