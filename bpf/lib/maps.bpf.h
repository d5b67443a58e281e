/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Every map, its capacity, and what happens when it is full.
 * Each is pinned by name, so that a daemon that comes back adopts the state of the one before.
 *
 * tags     one mark a task of a workload, in task storage: freed with the task, can't evict. No memory for one: the fork
 *          is killed (task.bpf.c).
 * agents   256 slots, mapped. User space refuses a 257th agent.
 * arena    the policy tables, mapped; sized before load. User space refuses a policy that does not fit.
 * control  one entry, mapped.
 * events   denials, holds, tampering: what is never thrown away while there is room. Full: the verdict stands, the loss
 *          is counted in stats and ends as a gap record.
 * seen     names behind count keys. Full: the name is lost (counted), the count is not.
 * counts0, counts1
 *          exact counts of allowed operations; user space flips control.counts, waits for the programs that still use
 *          the old one, and drains it. Full: each operation is sent as an event of its own; that ring full too: lost,
 *          counted (for a `strict` agent: denied).
 * grants   answers to held operations that will be tried again. Full: user space can't answer, the operation stays held.
 * answers  answers to holds that must not resume before one (hold id -> 1). Full: the same.
 * doomed   workloads that end as a whole: a process of theirs gave a denied file another name, which any other could
 *          use. Full: that process ends, and user space the others when it reads so (engine/core.py).
 * resolvers
 *          the servers whose answers are believed, by address and port. User space refuses more than 64.
 * asked    what a socket of a workload has asked a resolver, in socket storage: freed with the socket, can't evict. No
 *          memory for one: the socket is not created, or what was to be done with it refused (lib/asked.bpf.h).
 * names    address -> the names an agent knows it by. The one map that evicts, and may: what it forgets is a permission,
 *          never a denial (agentd/policy/named.py). An address it has forgotten has no name until somebody asks again.
 * scratch  work buffers: taken with a compare-and-swap, given back before the program ends; never per CPU, because a
 *          program can be preempted. None free: the operation is denied.
 * stats    per CPU counters, only ever added to.
 */
#ifndef AGENTD_MAPS_BPF_H
#define AGENTD_MAPS_BPF_H

#include "../abi.h"
#include "kernel.bpf.h"

#define SCRATCH_SLOTS 64 /* a power of two; enough for 64 programs preempted or running at once */
#define SCRATCH_MASK (SCRATCH_SLOTS - 1)
#define NAME_SLACK 256 /* a component is at most 255 bytes: lets a masked offset plus a component stay inside */
#define DATA_MAX (AGENTD_PATH_MAX * 4)

/*
 * The state of the loops stands in the buffer and not on the stack: the verifier takes what it reads from a map as
 * unknown, looks at the body of each loop once, and does not unroll it over values it knows.
 */
struct up_walk {
	struct dentry *dentry;
	struct vfsmount *mnt;
	u32 off;
	u32 state;
};

struct down_walk {
	struct dentry *dentry;
	struct vfsmount *mnt;
	struct dentry *root_dentry;
	struct vfsmount *root_mnt;
	struct dentry *found;
	struct mount *found_mount;
	void *cursor; /* list node of the child being looked at */
	void *list_end;
	u32 pos;
	u32 component; /* start of the component in name[] */
	u32 component_len;
	u32 links;
	u32 state;
	u8 follow; /* also a symlink as the last component */
	u8 last_missing; /* done, and the last component is a name without an object in `dentry` */
	u8 unused[2];
};

struct dfa_run {
	u32 base; /* of the agent's region */
	u32 classes, states, comb; /* absolute word indices */
	u32 state;
	u32 pos, end; /* in scratch->path; end <= AGENTD_PATH_MAX */
	u64 hash[2];
};

/* Reading one name out of a message (dns.bpf.c). */
struct wire_name {
	u32 pos;
	u32 end; /* where the message goes on behind the name; 0: not known yet */
	u32 below; /* a pointer must lead below this: so no chain of them is endless */
	u32 left; /* bytes left of the label */
	u32 len; /* as text */
	u8 state; /* READING, WHOLE, BAD */
	u8 keep; /* write the text to scratch->path[NAME_AT] */
	u8 odd; /* has a byte that no host name has */
	u8 unused;
	u64 hash[2]; /* of the lower-cased labels with their lengths */
};

struct answer {
	u64 addresses[2]; /* of one record, as in the maps */
	u32 ttl;
	u32 unused;
};

/* A message, in scratch->name[0]. */
struct message {
	u32 len;
	u32 at; /* the record being read */
	u32 type; /* asked for */
	u32 ttl; /* the least of the aliases passed */
	u32 found; /* answers, in scratch->name[1] */
	u32 failed;
	u64 owner[2]; /* hash of the name whose records count now */
};

/* The names of the address in a host key. */
struct names_run {
	struct agentd_name_key key;
	struct agentd_name_slot slot; /* the copy that is looked at, or the one that will be written */
	u64 hash[2]; /* of the key up to the port */
	u64 rank; /* of the best outcome so far */
	u64 kept; /* `check` of the slot it came from; 0: of none */
	u32 state; /* of the host automaton, behind the port */
	u32 outcome;
	u32 name_class;
	u32 len; /* of the name that was judged by; it stands in scratch->path behind the key */
};

struct args_run {
	u64 at, end; /* user addresses */
	u32 start; /* state of the automaton */
	u32 index; /* of the argument being read */
	u32 masks; /* absolute word index of arg_masks */
	u32 failed; /* not all arguments were read */
};

struct verdict {
	u32 outcome; /* index in the agent's table */
	u32 generation;
	u32 rule;
	u32 toolop;
	u32 timeout;
	u8 decision, action, risk, unresolved;
};

struct emission {
	u32 type, flags, op, point, guarantee, action;
	s32 syscall;
	u64 hold_id;
	u64 key[2];
	u32 object_off, object_len; /* in scratch->path */
	bool details; /* exe and argv too */
};

/* What an LSM hook judges: a name, as the kernel holds it. */
struct target {
	u32 op;
	u32 node; /* a device node */
	u64 mnt, dentry; /* kernel pointers, as numbers */
	u64 hash[2]; /* keyed hash of its path, when it was judged */
};

struct scratch {
	u32 busy;
	u32 set; /* which of the agent's two table sets this decision reads, plus one; 0: not chosen yet */
	u32 path_off; /* the resolved object is path[path_off .. AGENTD_PATH_MAX) */
	u32 name_cur; /* which of name[] holds what is left to walk */
	u32 name_len;
	s32 nr; /* the system call that trace.bpf.c looks at */
	u32 resolver; /* host_verdict(): the number of the resolver that the key is; 0: of none */
	u64 netns; /* cookie of the socket's network namespace; 0: names are not looked at */
	u64 hash[2]; /* keyed hash of the object */
	struct up_walk up;
	struct down_walk down;
	struct dfa_run dfa;
	struct dfa_run
		rules; /* the second automaton of a path; only its position in the tables and its state are used */
	u32 rules_class; /* path_class(): what it said */
	u32 unused;
	struct args_run args;
	struct wire_name wire;
	struct message message;
	struct names_run names;
	struct verdict v[2];
	struct target target[2];
	u32 targets; /* how many of them the LSM hook of this call has; 0: its object is no file */
	u32 unused2;
	struct emission m;
	struct agentd_count_key count_key;
	struct agentd_count count_fresh;
	u32 masks[AGENTD_ARG_WORDS]; /* argument groups seen so far */
	char path[AGENTD_PATH_MAX + NAME_SLACK];
	char name[2][AGENTD_PATH_MAX + NAME_SLACK];
	union {
		char component[NAME_SLACK];
		u64 component_words[NAME_SLACK / 8];
	};
	union { /* the component that is looked for, padded with zeros */
		char wanted[NAME_SLACK];
		u64 wanted_words[NAME_SLACK / 8];
	};
	struct agentd_event event;
	char data[DATA_MAX + AGENTD_PATH_MAX]; /* object, exe, argv of the event */
};

struct tags_map {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct agentd_tag);
};
struct agents_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, AGENTD_MAX_AGENTS);
	__type(key, u32);
	__type(value, struct agentd_agent);
};
struct arena_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, 1 << 20); /* the loader sets the real size, a power of two, and arena_mask with it */
};
struct control_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct agentd_control);
};
struct events_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
};
struct seen_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
};
struct counts_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct agentd_count_key);
	__type(value, struct agentd_count);
};
struct grants_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct agentd_grant_key);
	__type(value, struct agentd_grant);
};
struct answers_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, u32);
};
struct doomed_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u32); /* workload */
	__type(value, u32);
};
struct resolvers_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct agentd_resolver_key);
	__type(value, u32); /* its number, never 0 */
};

#define QUESTIONS 16 /* of one socket; more at once: the oldest is forgotten, and its answer teaches nothing */

struct question {
	u64 hash; /* of the name and type */
	u64 at; /* ns, CLOCK_BOOTTIME */
	u32 resolver; /* that it was sent to; 0: free */
	u32 id;
};
struct asked {
	u32 agent;
	u32 resolver; /* that the next datagram goes to; 0: to none */
	u64 netns;
	u32 next;
	u32 unused;
	struct question questions[QUESTIONS];
};
struct asked_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct asked);
};
struct names_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct agentd_name_key);
	__type(value, struct agentd_name_entry);
};
struct scratch_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, u32);
	__type(value, struct scratch);
};
struct stats_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AGENTD_STAT_COUNT);
	__type(key, u32);
	__type(value, u64);
};

extern const volatile struct agentd_constants constants;
struct tags_map tags SEC(".maps");
struct agents_map agents SEC(".maps");
struct arena_map arena SEC(".maps");
struct control_map control SEC(".maps");
struct events_map events SEC(".maps");
struct seen_map seen SEC(".maps");
struct counts_map counts0 SEC(".maps");
struct counts_map counts1 SEC(".maps");
struct grants_map grants SEC(".maps");
struct answers_map answers SEC(".maps");
struct doomed_map doomed SEC(".maps");
struct resolvers_map resolvers SEC(".maps");
struct asked_map asked SEC(".maps");
struct names_map names SEC(".maps");
struct scratch_map scratch SEC(".maps");
struct stats_map stats SEC(".maps");

static __always_inline void stat_add(u32 which, u64 n)
{
	u64 *slot = bpf_map_lookup_elem(&stats, &which);

	if (slot) /* per CPU, but a program can be preempted by another: add atomically */
		__sync_fetch_and_add(slot, n);
}

#endif
