/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The checking mode of remembered verdicts, for tests: whatever memory allows is then judged in full as well, and both must
 * say the same: allowed, by the same outcome, for the same object. What differs is counted in the map `checks`, the first
 * of it with what both said. The loader sets constants.check for it; without, the verifier takes all of this out.
 *
 * Compared is only what can be: when a name, a mount, the policy or the numbers of counts have changed between the look
 * into memory and the walk, the two may differ, and that is counted as unsure. These are read before memory is asked and
 * after the walk, and are not taken from what is remembered: an entry that should have been forgotten is found.
 *
 * A new way of allowing from memory belongs in here: check_begin(), then check_target() with what it said in
 * s->checking.said.
 */
#ifndef AGENTD_CHECK_BPF_H
#define AGENTD_CHECK_BPF_H

#include "recall.bpf.h"

static __always_inline struct agentd_checks *checks_get(void)
{
	u32 zero = 0;

	if (!constants.check) /* the verifier looks at global functions whether they are called or not */
		return NULL;
	return bpf_map_lookup_elem(&checks, &zero);
}

static __always_inline u32 generation_now(u32 agent)
{
	const struct agentd_agent *ag = agent_get(agent);

	return ag ? ag->generation[*(volatile const u32 *)&ag->active & 1] : 0;
}

/* How things stand. To be called before memory is asked. */
static __always_inline struct checking *check_begin(struct scratch *s, u32 agent)
{
	struct checking *now = &s->checking;
	struct agentd_control *c = control_get();

	now->renames = sequence(constants.rename_lock);
	now->mounts = sequence(constants.mount_lock);
	now->generation = generation_now(agent);
	now->epoch = c ? *(volatile u32 *)&c->memory_epoch : 0;
	return now;
}

/* Do they still stand so, and did they then? */
static __always_inline bool check_stands(const struct checking *then, u32 agent)
{
	struct agentd_control *c = control_get();

	return c && !((then->renames | then->mounts) & 1) && then->renames == sequence(constants.rename_lock) &&
	       then->mounts == sequence(constants.mount_lock) && then->generation == generation_now(agent) &&
	       then->epoch == *(volatile u32 *)&c->memory_epoch;
}

/* Keeps what the first difference was. */
static __always_inline void check_differs(struct agentd_checks *sums, const struct scratch *s)
{
	u32 len = AGENTD_PATH_MAX - s->path_off;

	if (__sync_fetch_and_add(&sums->different, 1))
		return;
	sums->remembered = s->checking.said;
	sums->judged = s->count_key;
	if (len > AGENTD_CHECK_PATH - 1)
		len = AGENTD_CHECK_PATH - 1;
	bpf_probe_read_kernel(sums->path, len & (AGENTD_CHECK_PATH - 1), &s->path[AGENTD_PATH_MAX - len]);
}

/* Compares what memory has said of target `i`, in checking.said, with what judging it says. */
__noinline int check_target(u32 slot, u32 agent, u32 i, u32 file)
{
	struct agentd_checks *sums = checks_get();
	struct scratch *s = scratch_get(slot);
	const struct agentd_count_key *said;
	struct agentd_count_key *key;
	struct verdict *v;

	if (!s || !sums)
		return 0;
	i &= 1;
	s->kept = s->walked[i];
	target_look(slot, agent, i);
	s->walked[i] = s->kept; /* the hook remembers more by it, and must not know better than it would */
	v = &s->v[i];
	key = &s->count_key;
	key->agent = agent;
	key->generation = v->generation;
	key->outcome = v->outcome;
	key->op = s->target[i].op;
	key->object[0] = s->target[i].hash[0];
	key->object[1] = s->target[i].hash[1];
	if (!check_stands(&s->checking, agent)) {
		__sync_fetch_and_add(&sums->unsure, 1);
		return 0;
	}
	__sync_fetch_and_add(file ? &sums->files : &sums->names, 1);
	said = &s->checking.said;
	if (v->decision != AGENTD_ALLOW || said->agent != key->agent || said->generation != key->generation ||
	    said->outcome != key->outcome || said->op != key->op || said->object[0] != key->object[0] ||
	    said->object[1] != key->object[1])
		check_differs(sums, s);
	return 0;
}

/* recalled(), with what it said. A function of its own: a hook has no stack left for a second copy. */
static __noinline bool recalled_to_check(u32 slot, const struct agentd_tag *tag, struct file *f, u32 kinds)
{
	struct scratch *s = scratch_get(slot);

	return s && recalled(tag, f->f_inode, f, kinds, check_begin(s, tag->agent));
}

/* Openings were allowed from memory, as `kinds` (bits of enum memory_kind); a target each, writing first. */
__noinline int check_file(u32 slot, u32 agent, u32 kinds)
{
	static const u32 order[] = { MEMORY_WRITE, MEMORY_READ, MEMORY_CODE, MEMORY_EXEC };
	struct scratch *s = scratch_get(slot);
	const struct agentd_hit *hit;
	u32 i = 0;

	if (!s)
		return 0;
	for (u32 k = 0; k < MEMORY_KINDS; k++) {
		u32 kind = order[k];

		if (!(kinds >> kind & 1))
			continue;
		hit = bpf_map_lookup_elem(&hits, &s->checking.hits[kind]);
		if (!hit)
			continue;
		s->checking.said = hit->key;
		check_target(slot, agent, i++, 1);
	}
	return 0;
}

/* Names were allowed by what is remembered of them, counted under these numbers (names_recalled()). */
__noinline int check_leaves(u32 slot, u32 agent, u32 numbers)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_hit *hit;

	if (!s)
		return 0;
	for (u32 i = 0; i < 2; i++) {
		u32 number = numbers & 0xffff;

		numbers >>= 16;
		hit = number ? bpf_map_lookup_elem(&hits, &number) : NULL;
		if (!hit)
			continue;
		s->checking.said = hit->key;
		check_target(slot, agent, i, 0);
	}
	return 0;
}

/* The names of `count` targets were allowed by what is remembered of their folders. */
__noinline int check_names(u32 slot, u32 agent, u32 count)
{
	struct scratch *s = scratch_get(slot);
	struct agentd_count_key *said;

	if (!s)
		return 0;
	said = &s->checking.said;
	for (u32 i = 0; i < 2 && i < count; i++) {
		said->agent = agent;
		said->generation = s->v[i].generation;
		said->outcome = s->v[i].outcome;
		said->op = s->target[i].op;
		said->object[0] = s->target[i].hash[0];
		said->object[1] = s->target[i].hash[1];
		check_target(slot, agent, i, 0);
	}
	return 0;
}

#endif
