/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What is worth remembering: what is met for the second time, be it in another interval between two readings of the counts.
 * Numbers are few, and most files are opened once.
 *
 * met  a mark in one place for each object. What is not told apart by its 32 bits is remembered one time too early, what was
 *      overwritten one time too late. A number is taken from here only if the map `hits` says the same whole key of it.
 */
#ifndef AGENTD_MET_BPF_H
#define AGENTD_MET_BPF_H

#include "maps.bpf.h"

static __always_inline struct met *met_at(const struct agentd_count_key *key)
{
	u32 at = (key->object[0] ^ key->op ^ (u64)key->agent << 5) & (MET - 1);

	return bpf_map_lookup_elem(&met, &at);
}

static __always_inline bool same_key(const struct agentd_count_key *a, const struct agentd_count_key *b)
{
	return a->object[0] == b->object[0] && a->object[1] == b->object[1] && a->agent == b->agent &&
	       a->generation == b->generation && a->outcome == b->outcome && a->op == b->op;
}

/* Where operations with this key are counted from memory; 0: nowhere, there are too many. Two programs may both begin one. */
static __always_inline u32 hit_number(struct agentd_control *c, struct agentd_count *count,
				      const struct agentd_count_key *key)
{
	u32 epoch = *(volatile u32 *)&c->memory_epoch, number = count->hit;
	struct met *known = met_at(key);
	struct agentd_hit *hit;

	if (number && count->hit_epoch == epoch)
		return number;
	number = known && known->epoch == epoch ? *(volatile u32 *)&known->number : 0;
	hit = number ? bpf_map_lookup_elem(&hits, &number) : NULL;
	if (!hit || !same_key(&hit->key, key)) {
		if (*(volatile u32 *)&c->next_hit >= AGENTD_HITS - 1)
			return 0;
		number = __sync_fetch_and_add(&c->next_hit, 1) + 1;
		hit = bpf_map_lookup_elem(&hits, &number);
		if (!hit)
			return 0;
		hit->key = *key;
		if (known) {
			known->number = number;
			known->epoch = epoch;
		}
	}
	count->hit_epoch = epoch;
	count->hit = number;
	return number;
}

/* The same for the first of its kind in this interval; 0 also if it was not met before. */
static __always_inline u32 hit_if_met(struct agentd_control *c, struct agentd_count *count,
				      const struct agentd_count_key *key)
{
	struct met *known = met_at(key);
	u32 mark = key->object[0] >> 32;

	if (!known)
		return 0;
	if (known->mark == mark)
		return hit_number(c, count, key);
	known->mark = mark;
	known->number = 0;
	return 0;
}

#endif
