/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Names in a folder that is remembered (memory.bpf.h). A name that was judged before is found by its bytes and needs no work
 * buffer; for another one the automata go on where they stood behind the folder's path, over the last component alone. What
 * comes out is what the whole path would give, and is taken only if it is allowed: for anything else the path is walked.
 */
#ifndef AGENTD_RECALL_BPF_H
#define AGENTD_RECALL_BPF_H

#include "leaf.bpf.h"

/*
 * Is target `i` still in the folder as it is kept, of which the entry `version` of `w` was read, and was nothing renamed since?
 * The count of renames that is kept may be younger than the look at the folder was (folder_recount): so the name's parent is
 * asked before the count is.
 */
static __always_inline bool name_stands(const struct scratch *s, u32 i, const struct folder_way *w, u32 version)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i & 1].dentry;
	const struct walked *k = &s->walked[i & 1];

	if (version & 1 || w->stamp != k->stamp || w->place.dentry != (u64)LOAD(struct dentry, dentry, d_parent) ||
	    *(volatile const u32 *)&w->place.version != version)
		return false;
	return sequence(constants.rename_lock) == k->renames || OVERLOOKED(RENAMES);
}

#define TARGET_ROOM 1024 /* of one target in scratch->path: more than FOLDER_PATH and a name */

/* The last component of target `i`, of `len` bytes, to scratch->path[at..]; what stands up to seven bytes behind it changes. */
static __always_inline bool name_copy(struct scratch *s, u32 i, u32 at, u32 len)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i & 1].dentry;
	u64 name = (u64)LOAD(const struct dentry, dentry, d_name.name);

	if (!can_cast() || len >= LEAF_WORDS * 8)
		return !bpf_probe_read_kernel(&s->path[at & (AGENTD_PATH_MAX - 1)], bounded(len, 255), (void *)name);
#pragma unroll
	for (u32 j = 0; j < LEAF_WORDS; j++) {
		if (len <= j * 8)
			break;
		*(u64 *)&s->path[(at & (AGENTD_PATH_MAX - 1)) + j * 8] = WORD_AT(name + j * 8);
	}
	return true;
}

/* The path of a folder, of `len` bytes, the same way; up to FOLDER_WORDS * 8 bytes change behind its beginning. */
#define FOLDER_WORDS 8
static __always_inline void folder_copy(struct scratch *s, const struct folder_way *w, u32 at, u32 len)
{
	if (len > FOLDER_WORDS * 8) {
		bpf_probe_read_kernel(&s->path[at & (AGENTD_PATH_MAX - 1)], bounded(len, FOLDER_PATH - 1), w->path);
		return;
	}
#pragma unroll
	for (u32 j = 0; j < FOLDER_WORDS; j++)
		*(u64 *)&s->path[(at & (AGENTD_PATH_MAX - 1)) + j * 8] = w->path_words[j];
}

/* The name of target `i`, as it is now: its hash and its length. */
static __always_inline u64 target_name(const struct scratch *s, u32 i)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i & 1].dentry;

	return LOAD(const struct dentry___parts, dentry, d_name.hash) |
	       (u64)LOAD(const struct dentry___parts, dentry, d_name.len) << 32;
}

/*
 * The path of target `i` into scratch->path, each at its own place: its folder's, as it is kept, and its last component. 0: it
 * changes, or is too long; else where the last component begins with its slash.
 */
static __noinline u32 name_compose(struct scratch *s, u32 i)
{
	const struct walked *k = &s->walked[i & 1];
	const struct folder_way *w = folder_at(k->way);
	u32 len, at, version, before = k->len;

	if (!w || before >= FOLDER_PATH)
		return 0;
	version = *(volatile const u32 *)&w->place.version;
	len = target_name(s, i) >> 32;
	if (!len || len > 255)
		return 0;
	at = AGENTD_PATH_MAX - (i & 1) * TARGET_ROOM - len - 1;
	folder_copy(s, w, at - before, before); /* before the name: it writes over its place */
	s->path[at & (AGENTD_PATH_MAX - 1)] = '/';
	if (!name_copy(s, i, at + 1, len) || !name_stands(s, i, w, version))
		return 0;
	s->target[i & 1].off = at - before;
	s->target[i & 1].len = before + 1 + len;
	return at;
}

/* Is it another one than that of `len` bytes which is kept? */
static __always_inline bool target_differs(struct scratch *s, u32 i, const struct reading *r, u32 len)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i & 1].dentry;
	const unsigned char *name = LOAD(const struct dentry, dentry, d_name.name);
	u64 differs = 0;

	if (can_cast())
		return name_differs(r->name, (u64)name, len);
	__builtin_memset(s->component_words, 0, LEAF_WORDS * 8);
	if (bpf_probe_read_kernel(s->component, bounded(len, LEAF_WORDS * 8 - 1), name))
		return true;
	for (u32 j = 0; j < LEAF_WORDS; j++)
		differs |= s->component_words[j] ^ r->name[j];
	return differs;
}

#define NO_READING 0xffffffffu

/*
 * What the automata said of the name of target `i` a moment ago, when another operation on it was judged: its class, and into
 * scratch->dfa its hash. NO_READING: they have to run.
 */
static __noinline u32 reading_take(struct scratch *s, u32 i)
{
	const struct walked *k = &s->walked[i & 1];
	const struct folder_way *w = folder_at(k->way);
	u32 version, folder_version, class, len;
	const struct reading *r;
	u64 name;

	if (!w)
		return NO_READING;
	folder_version = *(volatile const u32 *)&w->place.version;
	name = target_name(s, i);
	len = name >> 32;
	r = reading_at(k->stamp, name);
	if (!r || !len || len >= LEAF_WORDS * 8)
		return NO_READING;
	version = *(volatile const u32 *)&r->version;
	if (version & 1 || r->stamp != k->stamp ||
	    ((r->len != len || target_differs(s, i, r, len)) && !OVERLOOKED(NAME)))
		return NO_READING;
	class = r->class;
	s->rules_class = r->rules_class;
	s->dfa.hash[0] = r->hash[0];
	s->dfa.hash[1] = r->hash[1];
	if (*(volatile const u32 *)&r->version != version || !name_stands(s, i, w, folder_version))
		return NO_READING;
	return class;
}

/* Keeps what they said, of a name that begins with its slash at scratch->path[at]. */
static __noinline void reading_keep(struct scratch *s, u32 i, u32 at, u32 class)
{
	const struct walked *k = &s->walked[i & 1];
	u32 len = s->target[i & 1].len - k->len - 1;
	struct reading *r;

	if (len >= LEAF_WORDS * 8)
		return;
	r = reading_at(k->stamp, target_name(s, i)); /* it is another one by now: nobody looks here for what is kept */
	if (!r || !entry_open(&r->version))
		return;
	r->stamp = k->stamp;
	r->len = len;
	r->class = class;
	r->rules_class = s->rules_class;
	r->hash[0] = s->dfa.hash[0];
	r->hash[1] = s->dfa.hash[1];
	if (can_cast()) { /* what stands behind the name is not compared */
		for (u32 j = 0; j < LEAF_WORDS; j++)
			r->name[j] = *(const u64 *)&s->path[((at + 1) & (AGENTD_PATH_MAX - 1)) + j * 8];
	} else {
		__builtin_memset(r->name, 0, sizeof(r->name));
		bpf_probe_read_kernel(r->name, bounded(len, LEAF_WORDS * 8 - 1),
				      &s->path[(at + 1) & (AGENTD_PATH_MAX - 1)]);
	}
	entry_close(&r->version);
}

/* Runs the automata over the last component of target `i`, from where they stood behind its folder. NO_READING: can't be. */
static __always_inline u32 name_read(struct scratch *s, const u32 *a, const struct agentd_tables *t, u32 i)
{
	const struct walked *k = &s->walked[i & 1];
	struct dfa_run *run = &s->dfa;
	u32 class, at = name_compose(s, i);

	if (!at)
		return NO_READING;
	dfa_open(run, t->base, &t->path);
	dfa_open(&s->rules, t->base, &t->rules);
	run->state = k->path_state;
	s->rules.state = k->rules_state;
	run->hash[0] = k->hash[0];
	run->hash[1] = k->hash[1];
	run->pos = at;
	run->end = s->target[i & 1].off + s->target[i & 1].len;
	if (run->end > AGENTD_PATH_MAX)
		return NO_READING;
	dfa_feed_pair(s, a);
	if (run->pos != run->end)
		return NO_READING;
	s->rules_class = dfa_accept(a, &s->rules);
	class = dfa_accept(a, run);
	if (s->target[i & 1].op != AGENTD_OP_READ) /* who reads a file rarely does more with its name */
		reading_keep(s, i, at, class);
	return class;
}

/* Judges target `i` by its last component, into scratch->v[i]. 1: allowed. */
__noinline int name_look(u32 slot, u32 agent, u32 i)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	u32 generation, class;
	struct verdict *v;

	i &= 1;
	if (!constants.memory || !s || !ag || !a || s->target[i].op >= AGENTD_PATH_OPS)
		return 0;
	s->target[i].len = 0;
	v = &s->v[i];
	verdict_deny(v);
	t = tables_of(ag, s, &generation);
	if (generation != s->walked[i].generation)
		return 0;
	v->generation = generation;
	class = reading_take(s, i);
	if (class == NO_READING) {
		class = name_read(s, a, t, i);
		if (class == NO_READING)
			return 0;
	}
	s->target[i].hash[0] = s->dfa.hash[0];
	s->target[i].hash[1] = s->dfa.hash[1];
	class_verdict(v, s, a, t, class, s->target[i].op);
	return v->decision == AGENTD_ALLOW;
}

static __always_inline void target_key(struct scratch *s, u32 agent, u32 i)
{
	struct agentd_count_key *key = &s->count_key;

	key->agent = agent;
	key->generation = s->v[i].generation;
	key->outcome = s->v[i].outcome;
	key->op = s->target[i].op;
	key->object[0] = s->target[i].hash[0];
	key->object[1] = s->target[i].hash[1];
}

/* The count of target `i`, if it has one. */
static __always_inline struct agentd_count *target_count(struct scratch *s, u32 agent, u32 i)
{
	struct agentd_control *c = control_get();

	target_key(s, agent, i);
	return counts_find(c && *(volatile u32 *)&c->counts & 1, &s->count_key);
}

/*
 * Tells of target `i`, which is allowed: by its count, if it has one, or by its path, which stands in the buffer. 0, or
 * -EPERM: it must be told and can't be.
 */
static __noinline int target_told(struct scratch *s, u32 slot, const struct agentd_tag *tag, u32 i,
				  struct agentd_count *count)
{
	const struct agentd_agent *agent;
	struct agentd_control *c = control_get();
	struct emission *m;

	if (count) {
		target_key(s, tag->agent, i);
		__sync_fetch_and_add(&count->count, 1);
		count->last = bpf_ktime_get_boot_ns();
		s->target_hit[i] = c ? hit_number(c, count, &s->count_key) : 0;
		return 0;
	}
	s->hash[0] = s->target[i].hash[0];
	s->hash[1] = s->target[i].hash[1];
	s->hit = 0;
	m = emission_begin(s, s->target[i].op, c ? c->point : AGENTD_POINT_LSM, AGENTD_PREVENTED);
	m->object_off = s->target[i].off;
	m->object_len = s->target[i].len;
	m->fresh = true;
	if (!report_allowed(slot, tag, &s->v[i], m)) {
		agent = agent_get(tag->agent);
		if (!agent || (agent->flags & (AGENTD_AGENT_STRICT | AGENTD_AGENT_MONITOR)) == AGENTD_AGENT_STRICT)
			return -EPERM;
	}
	s->target_hit[i] = s->hit;
	return 0;
}

#define NAMES_UNKNOWN 1 /* judge_by_folders(): go the long way */

/* Judges all targets by what is remembered of their folders. 0: allowed and told; NAMES_UNKNOWN; or an errno. */
__noinline int judge_by_folders(u32 slot, const struct agentd_tag *tag, u32 count)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	struct agentd_count *first, *other = NULL;
	int error;

	if (!constants.memory || !s || !tag || !name_look(slot, tag->agent, 0) ||
	    (count > 1 && !name_look(slot, tag->agent, 1)))
		return NAMES_UNKNOWN;
	s->targets = count;
	s->target_hit[0] = s->target_hit[1] = 0;
	/* all that may fail comes before anything is told */
	first = target_count(s, tag->agent, 0);
	if (!first && !s->target[0].len && !name_compose(s, 0))
		return NAMES_UNKNOWN;
	if (count > 1) {
		other = target_count(s, tag->agent, 1);
		if (!other && !s->target[1].len && !name_compose(s, 1))
			return NAMES_UNKNOWN;
	}
	verdict_time(started);
	error = target_told(s, slot, tag, 0, first);
	if (!error && count > 1)
		error = target_told(s, slot, tag, 1, other);
	return error;
}

#endif
