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
 * The path of target `i` into scratch->path: its folder's, as it is kept, and its last component. 0: it changes, or is too
 * long; else where the last component begins with its slash. The count of renames that is kept may be younger than the look
 * at the folder was (folder_recount): so whether the name is still in it is asked here, before the count is.
 */
static __always_inline u32 name_compose(struct scratch *s, u32 i)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i & 1].dentry;
	const struct walked *k = &s->walked[i & 1];
	const struct folder_way *w = folder_at(k->way);
	struct qstr name = {};
	u32 len, at, version, before = k->len;

	if (!w || before >= FOLDER_PATH || bpf_core_read(&name, sizeof(name), &dentry->d_name))
		return 0;
	version = *(volatile const u32 *)&w->place.version;
	len = name.hash_len >> 32;
	if (!len || len > 255)
		return 0;
	at = AGENTD_PATH_MAX - len;
	if (bpf_probe_read_kernel(&s->path[at & (AGENTD_PATH_MAX - 1)], bounded(len, 255), name.name))
		return 0;
	at--;
	s->path[at & (AGENTD_PATH_MAX - 1)] = '/';
	bpf_probe_read_kernel(&s->path[(at - before) & (AGENTD_PATH_MAX - 1)], bounded(before, FOLDER_PATH - 1),
			      w->path);
	s->path_off = at - before;
	if (version & 1 || w->stamp != k->stamp || w->place.dentry != (u64)LOAD(struct dentry, dentry, d_parent) ||
	    *(volatile const u32 *)&w->place.version != version)
		return 0;
	return sequence(constants.rename_lock) == k->renames || OVERLOOKED(RENAMES) ? at : 0;
}

/* Judges target `i` by its last component, into scratch->v[i]. 1: allowed. */
__noinline int name_look(u32 slot, u32 agent, u32 i)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_run *run;
	struct walked *k;
	struct verdict *v;
	u32 generation, at;

	i &= 1;
	if (!constants.memory || !s || !ag || !a || s->target[i].op >= AGENTD_PATH_OPS)
		return 0;
	at = name_compose(s, i);
	if (!at)
		return 0;
	k = &s->walked[i];
	v = &s->v[i];
	verdict_deny(v);
	t = tables_of(ag, s, &generation);
	if (generation != k->generation)
		return 0;
	v->generation = generation;
	run = &s->dfa;
	dfa_open(run, t->base, &t->path);
	dfa_open(&s->rules, t->base, &t->rules);
	run->state = k->path_state;
	s->rules.state = k->rules_state;
	run->hash[0] = k->hash[0];
	run->hash[1] = k->hash[1];
	run->pos = at;
	run->end = AGENTD_PATH_MAX;
	dfa_feed_pair(s, a);
	if (run->pos != run->end)
		return 0;
	s->target[i].hash[0] = run->hash[0];
	s->target[i].hash[1] = run->hash[1];
	s->rules_class = dfa_accept(a, &s->rules);
	class_verdict(v, s, a, t, dfa_accept(a, run), s->target[i].op);
	return v->decision == AGENTD_ALLOW;
}

/* The count of target `i`, if it has one. */
static __always_inline struct agentd_count *target_count(struct scratch *s, const struct agentd_tag *tag, u32 i,
							 bool second)
{
	struct agentd_count_key *key = &s->count_key;

	key->agent = tag->agent;
	key->generation = s->v[i].generation;
	key->outcome = s->v[i].outcome;
	key->op = s->target[i].op;
	key->object[0] = s->target[i].hash[0];
	key->object[1] = s->target[i].hash[1];
	return second ? bpf_map_lookup_elem(&counts1, key) : bpf_map_lookup_elem(&counts0, key);
}

/* One more of target `i`, and where the next are counted when it is remembered. */
static __always_inline void target_counted(struct scratch *s, struct agentd_count *count, u32 i)
{
	struct agentd_control *c = control_get();

	__sync_fetch_and_add(&count->count, 1);
	count->last = bpf_ktime_get_boot_ns();
	s->target_hit[i] = c ? hit_number(c, count, &s->count_key) : 0;
}

/* Tells of target `i`, which is allowed and whose path stands in the buffer. 0, or -EPERM: it must be told and can't be. */
static __always_inline int target_told(struct scratch *s, u32 slot, const struct agentd_tag *tag, u32 i)
{
	const struct agentd_agent *agent = agent_get(tag->agent);
	struct agentd_control *c = control_get();
	struct emission *m;

	s->hash[0] = s->target[i].hash[0];
	s->hash[1] = s->target[i].hash[1];
	s->hit = 0;
	m = emission_begin(s, s->target[i].op, c ? c->point : AGENTD_POINT_LSM, AGENTD_PREVENTED);
	m->object_off = s->path_off;
	m->object_len = AGENTD_PATH_MAX - s->path_off;
	if (!report_allowed(slot, tag, &s->v[i], m) &&
	    (!agent || (agent->flags & (AGENTD_AGENT_STRICT | AGENTD_AGENT_MONITOR)) == AGENTD_AGENT_STRICT))
		return -EPERM;
	s->target_hit[i] = s->hit;
	return 0;
}

#define NAMES_UNKNOWN 1 /* judge_by_folders(): go the long way */

/* Judges all targets by what is remembered of their folders. 0: allowed and told; NAMES_UNKNOWN; or an errno. */
__noinline int judge_by_folders(u32 slot, const struct agentd_tag *tag, u32 count)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	struct agentd_control *c = control_get();
	struct agentd_count *first, *other;
	bool second;
	int error;

	if (!constants.memory || !s || !c || !tag || !name_look(slot, tag->agent, 0) ||
	    (count > 1 && !name_look(slot, tag->agent, 1)))
		return NAMES_UNKNOWN;
	s->targets = count;
	s->target_hit[0] = s->target_hit[1] = 0;
	if (count > 1 && s->target[0].dentry != s->target[1].dentry) { /* only one of the paths stands in the buffer */
		second = *(volatile u32 *)&c->counts & 1;
		first = target_count(s, tag, 0, second);
		if (!first)
			return NAMES_UNKNOWN;
		other = target_count(s, tag, 1, second);
		if (!other)
			return NAMES_UNKNOWN;
		target_counted(s, other, 1);
		target_count(s, tag, 0, second); /* its key is in the buffer again */
		target_counted(s, first, 0);
		return 0;
	}
	verdict_time(started);
	error = target_told(s, slot, tag, 0);
	if (!error && count > 1)
		error = target_told(s, slot, tag, 1);
	return error;
}

#endif
