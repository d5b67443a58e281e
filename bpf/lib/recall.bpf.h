/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Names in a folder that is remembered (memory.bpf.h): the automata go on where they stood behind the folder's path, over
 * the last component alone. What comes out is what the whole path would give, and is taken only if it is allowed and known
 * to the counts; for anything else the path is walked, because somebody will be told of it.
 */
#ifndef AGENTD_RECALL_BPF_H
#define AGENTD_RECALL_BPF_H

#include "hold.bpf.h"
#include "memory.bpf.h"

/* Takes what is remembered of the folder that `dentry` is in, as far as it counts now, into `k`. */
static __always_inline bool folder_recalled(const struct agentd_tag *tag, struct walked *k, const struct vfsmount *mnt,
					    struct dentry *dentry)
{
	struct dentry *folder = dentry->d_parent;
	const struct memory_way *w;
	struct memory *m;
	u32 version;

	if (dentry == mnt->mnt_root || dentry == folder) /* its name is that of the place it is mounted on */
		return false;
	m = memory_of(folder->d_inode, false);
	if (!m)
		return false;
	w = way_of(m, tag->agent);
	version = *(volatile const u32 *)&w->version;
	k->generation = memory_generation(tag);
	if (version & 1 || !w->len || !way_fits(w, tag->agent, k->generation, mnt, folder))
		return false;
	k->mnt = (u64)mnt;
	k->renames = w->renames;
	k->mounts = w->mounts;
	k->epoch = w->epoch;
	k->len = w->len - 1;
	k->path_state = w->path_state;
	k->rules_state = w->rules_state;
	k->hash[0] = w->hash[0];
	k->hash[1] = w->hash[1];
	return *(volatile const u32 *)&w->version == version;
}

/* Puts a slash and the name of target `i` at the end of scratch->path. False: too long, or it changes. */
static __always_inline bool name_only(struct scratch *s, u32 i)
{
	const struct dentry *dentry = (const struct dentry *)s->target[i].dentry;
	struct qstr name = {};
	u32 len, off;

	if (bpf_core_read(&name, sizeof(name), &dentry->d_name))
		return false;
	len = name.hash_len >> 32;
	if (!len || len > 255 || s->walked[i].len + 1 + len > AGENTD_PATH_MAX)
		return false;
	off = AGENTD_PATH_MAX - len;
	if (bpf_probe_read_kernel(&s->path[off & (AGENTD_PATH_MAX - 1)], len & 255, name.name))
		return false;
	off--;
	s->path[off & (AGENTD_PATH_MAX - 1)] = '/';
	s->path_off = off;
	return sequence(constants.rename_lock) == s->walked[i].renames;
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
	u32 generation;

	i &= 1;
	if (!s || !ag || !a || s->target[i].op >= AGENTD_PATH_OPS || !name_only(s, i))
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
	run->pos = s->path_off;
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

/* Are all targets allowed by what is remembered of their folders, and counted before? Then they are counted now: 1. */
__noinline int names_known(u32 slot, const struct agentd_tag *tag, u32 count)
{
	struct scratch *s = scratch_get(slot);
	struct agentd_control *c = control_get();
	struct agentd_count *first, *other;
	bool second;

	if (!s || !c || !tag || !name_look(slot, tag->agent, 0) || (count > 1 && !name_look(slot, tag->agent, 1)))
		return 0;
	second = *(volatile u32 *)&c->counts & 1;
	first = target_count(s, tag, 0, second);
	if (!first)
		return 0;
	if (count > 1) {
		other = target_count(s, tag, 1, second);
		if (!other)
			return 0;
		target_counted(s, other, 1);
		target_count(s, tag, 0, second); /* its key is in the buffer again */
	}
	target_counted(s, first, 0);
	return 1;
}

/* Keeps where the automata stood behind the folder of target `i`, after a walk. */
static __always_inline void folder_remember(struct scratch *s, const struct agentd_tag *tag, u32 i,
					    struct dentry *dentry)
{
	struct dentry *folder = dentry->d_parent;
	const struct walked *k = &s->walked[i];
	struct memory_way *w;
	struct memory *m;

	if (!k->generation || k->len == NO_PREFIX || (k->renames | k->mounts) & 1 || dentry == folder)
		return;
	m = memory_of(folder->d_inode, true);
	if (!m)
		return;
	w = way_of(m, tag->agent);
	if (!way_open(w, tag, k, folder))
		return;
	w->path_state = k->path_state;
	w->rules_state = k->rules_state;
	w->hash[0] = k->hash[0];
	w->hash[1] = k->hash[1];
	w->len = k->len + 1;
	way_close(w);
}

/* Keeps that file `f` was allowed, as `kind`, and counted under `hit`. */
static __always_inline void file_remember(const struct walked *k, const struct agentd_tag *tag, struct file *f,
					  u32 kind, u32 hit)
{
	struct inode *inode = f->f_inode;
	struct memory_way *w;
	struct memory *m;

	if (!hit || !k->generation || (k->renames | k->mounts) & 1 || !one_name(inode))
		return;
	m = memory_of(inode, true);
	if (!m)
		return;
	w = way_of(m, tag->agent);
	if (!way_open(w, tag, k, f->f_path.dentry))
		return;
	w->hits[kind] = hit;
	way_close(w);
}

#endif
