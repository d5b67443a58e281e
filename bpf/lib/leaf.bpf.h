/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Names that are remembered, by the bytes of the last component and the stamp of their folder (folder.bpf.h): no automaton
 * is run, and no work buffer taken.
 */
#ifndef AGENTD_LEAF_BPF_H
#define AGENTD_LEAF_BPF_H

#include "folder.bpf.h"

struct leaf_key {
	u64 stamp;
	u32 op;
	u32 hash;
	u64 name[LEAF_WORDS];
};

/* False: too long a name, or unreadable. */
static __always_inline bool leaf_key(struct leaf_key *key, u64 stamp, u32 op, const struct dentry *dentry)
{
	u64 name = name_id(dentry);
	u32 len = name >> 32;

	if (!len || len >= LEAF_WORDS * 8)
		return false;
	__builtin_memset(key->name, 0, sizeof(key->name));
	key->stamp = stamp;
	key->op = op | len << 8;
	key->hash = name;
	return !bpf_probe_read_kernel(key->name, bounded(len, LEAF_WORDS * 8 - 1), dentry->d_name.name);
}

static __always_inline struct leaf *leaf_at(u64 stamp, u32 op, u32 hash)
{
	u32 at = spread(stamp ^ (u64)hash << 16 ^ op) & (LEAVES - 1);

	return bpf_map_lookup_elem(&leaves, &at);
}

static __always_inline struct reading *reading_at(u64 stamp, u32 hash)
{
	u32 at = spread(stamp ^ (OVERLOOKED(NAME) ? 0 : (u64)hash << 16)) & (READINGS - 1);

	return bpf_map_lookup_elem(&readings, &at);
}

/* Do the `len` bytes at an address, fewer than LEAF_WORDS * 8, differ from the name that is kept? 0: no. */
static __always_inline u64 name_differs(const u64 *kept, u64 address, u32 len)
{
	u64 word, differs = 0;

#pragma unroll
	for (u32 i = 0; i < LEAF_WORDS; i++) {
		if (len <= i * 8)
			break;
		word = WORD_AT(address + i * 8) ^ kept[i];
		if (len < i * 8 + 8) /* little endian: the first bytes are the low ones */
			word <<= 64 - (len - i * 8) * 8;
		differs |= word;
	}
	return differs;
}

/*
 * Where a name in the folder with this stamp is counted; 0: it isn't remembered. Its bytes are compared where they stand, or
 * in a copy where that can't be done (again.bpf.h).
 */
static __always_inline u32 leaf_hit(u64 stamp, u32 op, const struct dentry *dentry)
{
	u64 name = name_id(dentry), differs = 0;
	u32 len = name >> 32, version, hit;
	const struct leaf *l;
	struct leaf_key key;

	if (!can_cast() && !leaf_key(&key, stamp, op, dentry))
		return 0;
	if (!len || len >= LEAF_WORDS * 8)
		return 0;
	op |= len << 8;
	l = leaf_at(stamp, op, name);
	if (!l)
		return 0;
	version = *(volatile const u32 *)&l->version;
	if (version & 1 || l->stamp != stamp || l->op != op)
		return 0;
	if (can_cast()) {
		differs = name_differs(l->name, (u64)dentry->d_name.name, len);
	} else {
		for (int i = 0; i < LEAF_WORDS; i++)
			differs |= l->name[i] ^ key.name[i];
	}
	hit = l->hit;
	return differs || *(volatile const u32 *)&l->version != version ? 0 : hit;
}

/* Operations on one or two names. */
#define ONE_NAME(op) (op)
#define TWO_NAMES(op, other) ((op) | (other) << 8 | 1 << 16)

/*
 * Were these operations on names allowed before, in folders as they are? Then they are counted, and where: the number of the
 * first, that of the second << 16, and the count of renames under which it is so << 32. If not, what was seen of the first
 * one's folder stands in `r`.
 */
static __noinline u64 names_recalled(const struct agentd_tag *tag, struct recall *r, const struct vfsmount *mnt,
				     const struct dentry *first, const struct dentry *second)
{
	u32 hit, other = 0, renames;
	u64 stamp;

	if (!constants.memory || !tag || !r)
		return 0;
	r->generation = memory_generation(tag);
	if (!folder_look(&r->look, tag->agent, r->generation, mnt, first)) {
		r->look.stamp = 0;
		return 0;
	}
	renames = r->look.renames;
	stamp = r->look.stamp;
	hit = leaf_hit(stamp, r->ops & 0xff, first);
	if (!hit)
		return 0;
	if (r->ops >> 16) {
		if (!same_folder(first, second)) {
			struct folder_seen look;

			if (!folder_look(&look, tag->agent, r->generation, mnt, second))
				return 0;
			stamp = look.stamp;
		}
		other = leaf_hit(stamp, r->ops >> 8 & 0xff, second);
		if (!other)
			return 0;
	}
	if (renames != sequence(constants.rename_lock) && !OVERLOOKED(RENAMES))
		return 0;
	hit_count(hit);
	if (other)
		hit_count(other);
	return hit | other << 16 | (u64)renames << 32;
}

/* Keeps that target `i` was allowed, by the last component of `dentry`. */
static __always_inline void leaf_remember(struct scratch *s, u32 i, const struct dentry *dentry)
{
	const struct walked *k = &s->walked[i & 1];
	struct leaf_key key;
	struct leaf *l;

	if (!s->target_hit[i & 1] || !k->stamp || !worth_keeping(k) ||
	    !leaf_key(&key, k->stamp, s->target[i & 1].op, dentry) || sequence(constants.rename_lock) != k->renames)
		return;
	l = leaf_at(key.stamp, key.op, key.hash);
	if (!l || !entry_open(&l->version))
		return;
	l->stamp = key.stamp;
	l->op = key.op;
	for (int j = 0; j < LEAF_WORDS; j++)
		l->name[j] = key.name[j];
	l->hit = s->target_hit[i & 1];
	entry_close(&l->version);
}

static __noinline void leaves_remember(struct scratch *s, u32 count, const struct dentry *first,
				       const struct dentry *second)
{
	if (!constants.memory || !s)
		return;
	leaf_remember(s, 0, first);
	if (count > 1)
		leaf_remember(s, 1, second);
}

#endif
