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

#define AGENTD_ABI_VERSION 9

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
	AGENTD_OP_EXECMEM = 20, /* memory that is made executable: a file's path, or "anon:memory" */
	AGENTD_OP_SIGNAL = 21, /* to a process that is not of the workload */
	AGENTD_OP_CALL = 22, /* of a library's function: the word LIBRARY:FUNCTION */
	AGENTD_OP_CONNECT = 23,
	AGENTD_OP_BIND = 24,
	AGENTD_OP_LISTEN = 25,
	AGENTD_OP_SEND = 26,
	AGENTD_OP_ACCEPT = 27,
	AGENTD_OP_COUNT = 28,
};
#define AGENTD_PATH_OPS 23 /* ops below this one have a path (or word) as their object */
#define AGENTD_HOST_OPS 5

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
	AGENTD_POINT_UPROBE = 7,
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
#define AGENTD_TEXT_WORDS 5 /* of an automaton over texts */
#define AGENTD_TEXTS_MAX 8 /* automata that look through one text */
#define AGENTD_LIST_MAX 512 /* pairs of a list; user space refuses longer ones */
#define AGENTD_NO_GROUP 0xffffffffu
#define AGENTD_BY_OP 0x80000000u
#define AGENTD_RULE_DEFAULT 0xffffffffu /* no rule matched: default deny */
#define AGENTD_RULE_GUARD 0xfffffffdu /* an attempt on agentd itself: no policy allows it */
#define AGENTD_RULE_ABOVE 0xfffffffcu /* the renaming of a folder above something that a rule denies or asks about */
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
 * A path is read by two DFAs (one for everything would have the product of their states). The first, `exec` for op exec
 * and `path` for every other op, gives the outcome o as if no rule had paths; the second, `rules`, what becomes of it.
 * accept[s] of the path DFA is p; path_classes[p * AGENTD_PATH_OPS + op] is o.
 * accept[s] of the exec DFA is e; exec_classes[e] is the offset of a candidate list {count, (group, o) * count} whose last
 * group is AGENTD_NO_GROUP: the first candidate whose group bit is set in the union of the masks of all arguments
 * (argv[1..]) gives o.
 * accept[s] of the rules DFA is r; rule_classes[r] is the offset of a list {count, (o, instead) * count}: if o is in it,
 * `instead` is the outcome, else o; AGENTD_BY_OP | op in the place of an outcome means every one of this operation. Lists hold at most AGENTD_LIST_MAX pairs.
 * accept[s] of the host DFA is h; host_classes[h * AGENTD_HOST_OPS + (op - AGENTD_PATH_OPS)] is an outcome index.
 * accept[s] of the name DFA is the class of a host name, 0 to n_names: the last byte of a host key.
 * accept[s] of the args DFA is a; arg_masks[a * AGENTD_ARG_WORDS ...] are 256 group bits, bit g = word g/32, bit g%32.
 * accept[s] of the call DFA is c; call_classes[c] is the offset of {n, (classes, states, comb, start, masks) * n, count,
 * (group, o) * count}: n automata to run over the text, and then a candidate list. accept[s] of one of them is x; masks[x *
 * 2 * AGENTD_ARG_WORDS ...] are the group bits of what is found when s is reached, and behind them of what is found if the
 * text ends there.
 * outcomes[o] is {decision | action << 8 | risk << 16, rule, toolop, timeout in seconds}.
 * unresolved[op] is the outcome index for an object that could not be resolved.
 */
struct agentd_tables {
	agentd_u32 base; /* of the region, in words from the start of the arena */
	agentd_u32 words; /* length of the region */
	struct agentd_dfa path;
	struct agentd_dfa exec;
	struct agentd_dfa rules;
	struct agentd_dfa host;
	struct agentd_dfa args;
	struct agentd_dfa name;
	struct agentd_dfa call;
	agentd_u32 path_classes;
	agentd_u32 exec_classes;
	agentd_u32 rule_classes;
	agentd_u32 host_classes;
	agentd_u32 arg_masks;
	agentd_u32 call_classes;
	agentd_u32 outcomes;
	agentd_u32 n_outcomes;
	agentd_u32 n_names; /* classes of names that decide something, 255 at most; 0: names are not looked at */
	agentd_u32 unresolved[AGENTD_OP_COUNT];
};

/*
 * The bytes the host DFA reads: family ('4' or '6'), protocol ('t' tcp, 'u' udp), the address (4 or 16 bytes, network
 * order), the port (2 bytes, network order), the class of the name it is judged by (0: none). v4-mapped v6 addresses are
 * written as v4. As the object of an event, the name itself follows.
 */
#define AGENTD_HOST_KEY_MAX 21
#define AGENTD_HOST_NAME_MAX 253 /* RFC 1035, 2.3.4, as text without the dot at its end */
#define AGENTD_HOST_NAME_ROOM 256
#define AGENTD_NAME_SLOTS 4 /* names of one address that are told apart */

/* Addresses in the maps of names are 16 bytes; v4 is written as v4-mapped. */
struct agentd_resolver_key {
	agentd_u8 address[16];
	agentd_u16 port; /* network order */
	agentd_u16 reserved;
};

/* What an agent knows an address as, in one network namespace. */
struct agentd_name_key {
	agentd_u32 agent;
	agentd_u32 reserved;
	agentd_u64 netns; /* cookie */
	agentd_u8 address[16];
};
struct agentd_name_slot {
	agentd_u64 check; /* keyed hash of the key and the rest: what is read while it is written doesn't count */
	agentd_u64 expires; /* ns, CLOCK_BOOTTIME; 0: free */
	agentd_u32 generation; /* whose automaton gave the class */
	agentd_u32 name_class;
	agentd_u32 len;
	agentd_u32 busy; /* being written */
	char name[AGENTD_HOST_NAME_ROOM]; /* lower case, zeros behind it */
};
struct agentd_name_entry {
	struct agentd_name_slot slots[AGENTD_NAME_SLOTS];
};

/* Limits. Beyond any of them the object is `unresolved`, and unresolved is denied. */
#define AGENTD_PATH_MAX 4096 /* bytes of a resolved path, without a terminating NUL */
#define AGENTD_ARGV_CHUNK 4096
#define AGENTD_ARGV_CHUNKS 64 /* 256 KiB of argv are read when a decision depends on it */
#define AGENTD_ARGV_KEPT 4096 /* bytes of argv that an event carries */
#define AGENTD_MAX_AGENTS 256
#define AGENTD_NAME_MAX 64

#define AGENTD_NOT_ASKED \
	0xffffffffu /* instead of a number of automata: no rule speaks of this call, it is not judged */

/* A library call. How much of its text is read: text.bpf.c. */
#define AGENTD_KNOWN_CODE 16384 /* files that were looked at */
#define AGENTD_MAX_CALLS 256
#define AGENTD_CALL_WORD 96

enum agentd_sql { /* how a text is read before patterns look at it (lib/sql.bpf.h) */
		  AGENTD_SQL_PLAIN = 0,
		  AGENTD_SQL_POSTGRESQL = 1,
		  AGENTD_SQL_MYSQL = 2,
		  AGENTD_SQL_SQLITE = 3,
};

/* One function that is watched, by its number. Number 0 is none. */
struct agentd_call {
	agentd_u32 language; /* enum agentd_sql */
	agentd_u32 len; /* of the word */
	char word[AGENTD_CALL_WORD];
};

/* What a fetcher, which is compiled for one function, found in the registers of its caller; by thread. */
#define AGENTD_CALLED_STRING 1u /* up to a NUL; `len` is the most, if AGENTD_CALLED_LIMIT is set */
#define AGENTD_CALLED_LIMIT 2u
#define AGENTD_CALLED_ENDS 4u /* no text: the stream is over */
#define AGENTD_CALLED_LATER 8u /* left to the program that may sleep */
struct agentd_called {
	agentd_u32 call; /* its number */
	agentd_u32 flags;
	agentd_u64 text; /* user address */
	agentd_u64 len;
	agentd_u64 stream; /* what tells streams of texts apart (an SSL *); 0: each text is one by itself */
};

/* A file with code, as it was when a process mapped it. */
struct agentd_code {
	agentd_u64 inode;
	agentd_u64 changed; /* ns */
	agentd_u32 device; /* s_dev of its super block: what stat(2) says is another for some file systems */
	agentd_u32 pad;
};

/* One agent: which of its two table sets is in force, and how it is treated. Written by user space only. */
struct agentd_agent {
	agentd_u32 flags; /* AGENTD_AGENT_* */
	agentd_u32 active; /* 0 or 1: one store flips the policy */
	agentd_u32 generation[2];
	char name[AGENTD_NAME_MAX];
	struct agentd_tables tables[2];
};
#define AGENTD_AGENT_USED 1u
#define AGENTD_AGENT_MONITOR 2u /* decide, record, never act */
#define AGENTD_AGENT_STRICT 4u /* what can't be recorded is denied */
#define AGENTD_AGENT_UNRECORDED 8u /* the log can't be written now: for a strict agent, deny */

/* The mark of a task in a workload (task storage). */
struct agentd_tag {
	agentd_u32 agent;
	agentd_u32 workload;
	agentd_u32 flags; /* AGENTD_TAG_* */
	agentd_u32 hold_op;
	agentd_u64 hold_id; /* of the hold this thread waits for; 0: none */
	agentd_u64 hold_key[2]; /* its action hash */
	agentd_u32 continued; /* in the leader's tag: SIGCONTs of others during this hold */
	agentd_u32 continued_ms; /* and when the latest came, in ms */
	agentd_u64 process_hold; /* in the leader's tag: the latest hold that must not resume without an answer */
	agentd_u64 granted[2]; /* action hash that the execve in progress was approved for */
	agentd_u64
		marked; /* address of the socket that notes.bpf.c has marked just now; odd: the execve whose loader is next */
};
#define AGENTD_TAG_ROOT_EXEC 1u /* the next exec is the operator's own command line */
#define AGENTD_TAG_STOP 2u /* a cgroup program returned -ERESTARTNOINTR: stop at the syscall's exit */
#define AGENTD_TAG_HELD 4u /* the effect is there already: must not run before an answer */
#define AGENTD_TAG_FRESH 8u /* HELD, and the syscall that is held has not passed its exit yet */
#define AGENTD_TAG_KILL_AT_EXIT 16u /* a cgroup program refused the call: SIGKILL at its exit */
#define AGENTD_TAG_KILLED 32u /* told to die: decide nothing more */
#define AGENTD_TAG_AGAIN 64u /* an execve is held and comes again: what was approved in it is not asked again */
#define AGENTD_TAG_NOTIFIED 128u /* has the seccomp filter whose supervisor judges changes of files before */
#define AGENTD_TAG_SIGNALED 256u /* has sent a signal to a process of no workload: judged at the exit of the call */
#define AGENTD_TAG_SIGNALED_WORKLOAD 512u /* the same, to one of another workload */
#define AGENTD_TAG_LOOKED_AT 1024u /* stopped until user space has looked at a file that it has mapped */
#define AGENTD_TAG_SIGNALED_AGENTD 2048u /* has sent one to agentd */
#define AGENTD_TAG_ASKED 4096u /* stopped until the labels of its container are known */

/* What the daemon and the programs tell each other; one entry, mapped. */
struct agentd_control {
	agentd_u32 epoch; /* the generation of programs in charge; others return at once */
	agentd_u32 counts; /* which of the two count maps is written: 0 or 1 */
	agentd_u32 tagging; /* non-zero while a tree is being tagged: forks look at their ancestors */
	agentd_u32 abi;
	agentd_u64 next_hold;
	agentd_u64 untracked; /* forks that could not be tagged (and were killed) */
	agentd_u32 doomed; /* workloads in the map of that name: 0 saves the look-up */
	agentd_u32 point; /* of the LSM hooks: AGENTD_POINT_LSM or _FMOD_RET */
	agentd_u32 daemon; /* process id of the agentd in charge, which no workload may touch; 0: none */
	agentd_u32 foreign; /* workloads in the map of that name: 0 saves the look-up */
	agentd_u64 prevented; /* one bit an operation: LSM hooks judge it, before its effect */
	agentd_u64 hash_seed[2]; /* secret keys of the object hashes; never changed while a workload lives */
	agentd_u32 name_ttl_min; /* seconds; an answer is good for at least this, and at most that */
	agentd_u32 name_ttl_max;
	agentd_u64 resolver_ports; /* bit (port % 64) of every resolver: a quick no for other ports */
	agentd_u32 memory_epoch; /* what was remembered under another one counts no more */
	agentd_u32 next_hit; /* the last number given out in the map `hits` */
	agentd_u32 match; /* the slot of the agent `(match)`, plus one; 0: programs that begin are not looked at */
	agentd_u32 match_variables; /* does a rule look at the environment? */
	agentd_u32 next_matched; /* of the workloads that the kernel begins */
	agentd_u32 host_mounts; /* inode number of the mount namespace of PID 1 */
};

/*
 * What a rule of `match:` means, by its number; and, behind the rules, the variables that they look at. Two sets, as an
 * agent has two tables.
 */
#define AGENTD_MATCHES 512
#define AGENTD_MATCHED 0x40000000u /* in the number of a workload: the kernel began it */
struct agentd_match {
	agentd_u32 agent; /* slot */
	agentd_u32 flags;
	agentd_u64 variables; /* all of them must have been seen; 0: it isn't about any */
	agentd_u32 bit; /* of a variable */
	agentd_u32 reserved;
};
#define AGENTD_MATCH_USED 1u
#define AGENTD_MATCH_EXEMPT 2u /* no agent, whatever matches behind it */
#define AGENTD_MATCH_REFUSE 4u /* may not run */
#define AGENTD_MATCH_VARIABLE 8u
#define AGENTD_MATCH_LABEL 16u /* a container's labels decide */

/* What the labels of the container say whose processes are in a cgroup, by the cgroup's id. */
#define AGENTD_CONTAINERS 16384
#define AGENTD_NO_MATCH 0xffffffffu
struct agentd_container {
	agentd_u32 generation; /* of the rules; under another one it has to be asked again */
	agentd_u32 rule; /* the first one about labels that matches; AGENTD_NO_MATCH: none does */
};

/* What the tagging iterator is asked to do, and how many tasks it marked (.data.request of the object). */
struct agentd_tag_request {
	agentd_u32 agent;
	agentd_u32 workload;
	agentd_s32 root_tgid; /* this process, and the children of marked ones; 0: by cgroup */
	agentd_u32 marked; /* in this pass; 0: everything is */
	agentd_u64 cgroup; /* id in the v2 hierarchy */
	agentd_u32 remove; /* take the marks of `workload` away instead */
	agentd_s32 spare; /* never this process: agentd itself */
	agentd_u32 io_uring; /* threads found with a ring: what it is asked passes no system call */
	agentd_u32 reserved;
};

/* One line of the iterator over marked tasks. */
struct agentd_task_line {
	agentd_u32 agent;
	agentd_u32 workload;
	agentd_u32 pid;
	agentd_u32 tid;
	agentd_u32 ppid;
	agentd_u32 flags;
	agentd_u64 start_time;
	agentd_u64 hold_id;
	agentd_u32 hold_op;
	agentd_u32 reserved;
};

/* A file that a workload has open from before its mark, and that its policy does not allow (map `foreign`). */
struct agentd_foreign_key {
	agentd_u32 workload;
	agentd_u32 device; /* as the kernel counts it: s_dev */
	agentd_u64 inode;
};

/* One line of the iterator over the descriptors of a workload (request: workload; 0: of all). */
struct agentd_file_line {
	agentd_u32 pid;
	agentd_u32 tid; /* of the process, or of a thread with descriptors of its own */
	agentd_u32 fd;
	agentd_u32 mode; /* f_mode: 1 to read, 2 to write */
	agentd_u32 agent;
	agentd_u32 workload;
	agentd_u32 device;
	agentd_u32 reserved;
	agentd_u64 inode;
};

/* Constants that the loader sets before the object is loaded (.rodata.agentd). */
struct agentd_constants {
	agentd_u32 epoch; /* the generation of this set of programs */
	agentd_u32 arena_mask; /* size of the arena in words, minus one */
	agentd_u32 sockets; /* may the programs of LSM hooks have socket storage? (fmod_ret may not) */
	agentd_u32 memory; /* may verdicts be remembered? The two counters below are known then */
	/* of this kernel (symbols.bpf.c); 0: not known */
	agentd_u64 rename_lock; /* addresses of seqlock_t: what they guard has not changed while the count stands */
	agentd_u64 mount_lock;
	agentd_u64 direct_map; /* kernel address of physical memory */
	agentd_u64 frame_mask; /* the physical address in a page table's entry */
	agentd_u32 top_shift; /* of the highest page table: 39 or 48 */
	agentd_u32 check; /* tests only: what is allowed from memory is judged in full as well (lib/check.bpf.h) */
};

enum agentd_event_type {
	AGENTD_EVENT_VIOLATION = 1, /* a decision that isn't allow, acted on */
	AGENTD_EVENT_HOLD = 2, /* held: waits for an answer */
	AGENTD_EVENT_GONE = 3, /* a held task ended */
	AGENTD_EVENT_ALLOWED = 5, /* one allowed operation that the count map had no room for */
	AGENTD_EVENT_ROOT = 6, /* the root of a workload made its first exec */
	AGENTD_EVENT_GRANTED = 7, /* a grant was consumed: the approved operation goes on */
	AGENTD_EVENT_REFUSED = 8, /* a denied hold came back and got EPERM */
	AGENTD_EVENT_ENDED = 9, /* a process was ended without a verdict of its own; `reason` says why */
	AGENTD_EVENT_MAPPED = 10, /* a file with code that nobody has looked at: stopped until somebody has */
	AGENTD_EVENT_MATCHED = 11, /* a program began a workload; `reason` is the number of the rule that it matches */
	AGENTD_EVENT_UNMATCHED = 12, /* it may not run, by that rule, and was killed */
	AGENTD_EVENT_ASKED = 13, /* it is in a container whose labels decide: stopped until somebody has read them */
};

enum agentd_end {
	AGENTD_END_DOOMED = 1, /* another process of the workload gave a denied file a name */
	AGENTD_END_RAN = 2, /* it was held, and somebody made it run */
	AGENTD_END_CONTINUED = 3, /* it was held, and this process sent it one SIGCONT too many */
};

/* One message of the ring. object, exe and argv follow the header in this order, not terminated. */
struct agentd_event {
	agentd_u32 type;
	agentd_u32 flags; /* AGENTD_EVENT_FLAG_* */
	agentd_u64 time; /* ns, CLOCK_BOOTTIME */
	agentd_u64 hold_id;
	agentd_u64 key[2]; /* action hash (holds) or object hash (counts) */
	agentd_u64 start_time; /* of the process, ns, CLOCK_BOOTTIME */
	agentd_u64 parent_start_time;
	agentd_u64 cgroup; /* id in the v2 hierarchy */
	agentd_u32 agent;
	agentd_u32 generation;
	agentd_u32 outcome;
	agentd_u32 workload;
	agentd_u32 pid;
	agentd_u32 tid;
	agentd_u32 ppid;
	agentd_u32 uid;
	agentd_u8 op;
	agentd_u8 decision;
	agentd_u8 action;
	agentd_u8 point;
	agentd_u8 guarantee;
	agentd_u8 risk;
	agentd_u16 object_len;
	agentd_u16 exe_len;
	agentd_u16 argv_len;
	agentd_s32 syscall; /* number, -1 if none; AGENTD_EVENT_FLAG_COMPAT says whose */
	agentd_u32 rule;
	agentd_u32 toolop;
	agentd_u32 timeout; /* seconds */
	agentd_u32 reason; /* enum agentd_end */
	char comm[16];
};
#define AGENTD_EVENT_FLAG_UNRESOLVED 1u
#define AGENTD_EVENT_FLAG_ARGV_CUT 2u
#define AGENTD_EVENT_FLAG_MONITOR 4u
#define AGENTD_EVENT_FLAG_SHARED_FDS 8u /* the descriptor table is shared: another thread may have used the file */
#define AGENTD_EVENT_FLAG_COMPAT 16u
#define AGENTD_EVENT_FLAG_SIGNAL_FAILED 32u
#define AGENTD_EVENT_FLAG_DOOMED 128u /* a denied file has another name now: the whole workload ends */
#define AGENTD_EVENT_FLAG_TEXT 256u /* argv is the text of a library call, as far as it is kept */
#define AGENTD_EVENT_SQL_SHIFT 12 /* of it, enum agentd_sql in two bits of the flags */
#define AGENTD_EVENT_FLAG_SCRIPT 64u /* exec: the object is the script, not the interpreter */

/* Exact counts of allowed operations. A message of the ring `seen` is the key of a new one, and the object behind it. */
struct agentd_count_key {
	agentd_u32 agent;
	agentd_u32 generation;
	agentd_u32 outcome;
	agentd_u32 op;
	agentd_u64 object[2]; /* keyed hash of the object */
};
struct agentd_count {
	agentd_u64 count;
	agentd_u64 first; /* ns, CLOCK_BOOTTIME */
	agentd_u64 last;
	agentd_u32 point;
	agentd_u32 hit; /* where it is counted once it is remembered, if hit_epoch is the current one; 0: nowhere yet */
	agentd_u32 hit_epoch;
	agentd_u32 reserved;
};

/* Operations that were allowed from memory. Number 0 is not used. */
#define AGENTD_HITS 16384
struct agentd_hit {
	struct agentd_count_key key;
	agentd_u64 count; /* only ever added to by the kernel */
	agentd_u64 told; /* how much of it user space has accounted for */
};

/* What the checking mode has seen (lib/check.bpf.h). */
#define AGENTD_CHECK_PATH 256
struct agentd_checks {
	agentd_u32
		careless; /* AGENTD_CARELESS_*: what is not looked at, so that a test can see that the check sees it */
	agentd_u32 reserved;
	agentd_u64 files; /* compared: openings of remembered files, */
	agentd_u64 names; /* and names in remembered folders */
	agentd_u64 unsure; /* something changed between the two, so they may differ */
	agentd_u64 different;
	struct agentd_count_key remembered, judged; /* of the first difference */
	char path[AGENTD_CHECK_PATH]; /* the end of its path, as it was judged */
};
#define AGENTD_CARELESS_RENAMES 1u /* the count of renames */
#define AGENTD_CARELESS_MOUNTS 2u /* the count of mounts */
#define AGENTD_CARELESS_DENTRY 4u /* which name of the inode it is */
#define AGENTD_CARELESS_FOLDER 8u /* the path of a folder that is walked again */
#define AGENTD_CARELESS_NAME 16u /* which name in a folder the automata have read */

/* An answer to a hold that is re-tried (connect, send, bind): found by the action hash, consumed in the kernel. */
struct agentd_grant_key {
	agentd_u64 key[2];
};
struct agentd_grant {
	agentd_u64 expires; /* ns, CLOCK_BOOTTIME */
	agentd_u64 hold_id;
	agentd_u32 allow; /* 1: go on, 0: EPERM */
	agentd_s32 uses; /* left */
};

enum agentd_stat {
	AGENTD_STAT_LOST_EVENTS = 0, /* the ring was full */
	AGENTD_STAT_LOST_SEEN = 1, /* the name of a count key was lost (the count was not) */
	AGENTD_STAT_LOST_COUNTS = 2, /* an allowed operation could be neither counted nor sent */
	AGENTD_STAT_UNRESOLVED = 3,
	AGENTD_STAT_SCRATCH = 4, /* no work buffer: denied */
	AGENTD_STAT_UNTRACKED = 5,
	AGENTD_STAT_SIGNAL_FAILED = 6,
	AGENTD_STAT_VERDICTS = 7,
	AGENTD_STAT_VERDICT_NS = 8,
	AGENTD_STAT_FORKS = 9, /* marks that forks have passed on */
	AGENTD_STAT_NAMES = 10, /* addresses learned */
	AGENTD_STAT_NAMES_LOST = 11, /* addresses that could not be kept: they have no name */
	AGENTD_STAT_UNMATCHED = 12, /* programs of which could not be told whose they are: killed */
	AGENTD_STAT_BUCKET0 =
		13, /* verdicts that took < 2^(8+i) ns, i = 0..15, not cumulative; the last one holds the rest */
	AGENTD_STAT_COUNT = 29,
};

#endif
