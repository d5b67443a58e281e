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
 * foreign  files that a workload has open from before its mark and that its policy doesn't allow (lib/foreign.bpf.h). Full:
 *          user space starts no such workload, and ends one that runs (engine/descriptors.py).
 * matches  what the rules of `match:` mean, two sets of 512, mapped. User space refuses a policy with more.
 * containers
 *          what labels say, by the id of the cgroup. Full: user space empties it, and each is asked again.
 * resolvers
 *          the servers whose answers are believed, by address and port. User space refuses more than 64.
 * asked    what a socket of a workload has asked a resolver, in socket storage: freed with the socket, can't evict. No
 *          memory for one: the socket is not created, or what was to be done with it refused (lib/asked.bpf.h).
 * names    address -> the names an agent knows it by. The one map that evicts, and may: what it forgets is a permission,
 *          never a denial (agentd/policy/named.py). An address it has forgotten has no name until somebody asks again.
 * remembered, folders, leaves, readings, destinations
 *          verdicts kept by inode, by folder, by name in a folder (lib/memory.bpf.h) and by address (lsm_socket.bpf.c). An
 *          entry makes place for another one, and may: what is forgotten is judged again. Not pinned: they belong to one set
 *          of programs.
 * met      what was allowed at any time (lib/met.bpf.h). An entry makes place for another one, and may. Not pinned.
 * hits     where what is allowed from memory is counted; user space reads it as it stands. Full: nothing new is remembered
 *          until user space begins it anew (agentd/engine/accounts.py).
 * checks   one entry, mapped; only in the checking mode of tests (lib/check.bpf.h), and not pinned.
 * scratch  work buffers: taken with a compare-and-swap, given back before the program ends; never per CPU, because a
 *          program can be preempted. None free: the operation is denied.
 * stats    per CPU counters, only ever added to.
 */
#ifndef AGENTD_MAPS_BPF_H
#define AGENTD_MAPS_BPF_H

#include "buffer.bpf.h"

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
#define SEEN_BYTES (2 << 20)
struct seen_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SEEN_BYTES);
};
struct counts_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct agentd_count_key);
	__type(value, struct agentd_count);
};
struct hits_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, AGENTD_HITS);
	__type(key, u32);
	__type(value, struct agentd_hit);
};
#define MET 16384 /* a power of two */
struct met { /* something that was allowed */
	u32 mark; /* of its object's hash */
	u32 number; /* in the map `hits`, under this epoch of memory; 0: it had none */
	u32 epoch;
	u32 unused;
};
struct met_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MET);
	__type(key, u32);
	__type(value, struct met);
};
struct remembered_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MEMORY_SETS);
	__type(key, u32);
	__type(value, struct memory);
};
struct checks_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct agentd_checks);
};
struct folders_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FOLDER_SETS);
	__type(key, u32);
	__type(value, struct folder);
};
struct leaves_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LEAVES);
	__type(key, u32);
	__type(value, struct leaf);
};
struct readings_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, READINGS);
	__type(key, u32);
	__type(value, struct reading);
};
struct destinations_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DESTINATIONS);
	__type(key, u32);
	__type(value, struct destination);
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
struct foreign_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct agentd_foreign_key);
	__type(value, u32);
};
struct matches_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * AGENTD_MATCHES);
	__type(key, u32);
	__type(value, struct agentd_match);
};
struct containers_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, AGENTD_CONTAINERS);
	__type(key, u64); /* the id of a cgroup, which is given once */
	__type(value, struct agentd_container);
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
struct hits_map hits SEC(".maps");
struct met_map met SEC(".maps");
struct remembered_map remembered SEC(".maps");
struct checks_map checks SEC(".maps");
struct folders_map folders SEC(".maps");
struct leaves_map leaves SEC(".maps");
struct readings_map readings SEC(".maps");
struct destinations_map destinations SEC(".maps");
struct grants_map grants SEC(".maps");
struct answers_map answers SEC(".maps");
struct doomed_map doomed SEC(".maps");
struct foreign_map foreign SEC(".maps");
struct matches_map matches SEC(".maps");
struct containers_map containers SEC(".maps");
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
