/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Folders that are remembered (memory.bpf.h): where the automata stood behind a folder's path, and the path itself, by which
 * an entry is made to count again when somebody has renamed something somewhere.
 */
#ifndef AGENTD_FOLDER_BPF_H
#define AGENTD_FOLDER_BPF_H

#include "again.bpf.h"
#include "hold.bpf.h"
#include "shared.bpf.h"

static __always_inline struct folder_way *folder_at(u32 number)
{
	u32 set = number >> 1 & (FOLDER_SETS - 1);
	struct folder *f = bpf_map_lookup_elem(&folders, &set);

	if (!f)
		return NULL;
	return number & 1 ? &f->way[1] : &f->way[0];
}

/* Where a folder would be kept, as it is kept now. */
static __always_inline struct folder_way *folder_find(u64 inode_number, u32 agent, u32 *at)
{
	u32 set = spread(inode_number) & (FOLDER_SETS - 1);
	struct folder *f = bpf_map_lookup_elem(&folders, &set);

	if (!f)
		return NULL;
	*at = set << 1;
	if (f->way[0].place.number == inode_number && f->way[0].place.agent == agent)
		return &f->way[0];
	*at |= 1;
	return &f->way[1];
}

/*
 * Makes an entry count under the count of renames `renames`, at which its folder was called as it is kept. dentry: the name in
 * it, with which it was this very folder all the time, and no memory of one. False: something was renamed since, or the entry
 * isn't the `version` that was looked at.
 */
static __always_inline bool folder_recount(struct folder_way *w, u32 version, u32 renames, const struct dentry *dentry,
					   u64 folder)
{
	if ((u64)LOAD(struct dentry, dentry, d_parent) != folder || renames != sequence(constants.rename_lock) ||
	    __sync_val_compare_and_swap(&w->place.version, version, version + 1) != version)
		return false;
	w->place.renames = renames;
	entry_close(&w->place.version);
	return true;
}

static __always_inline bool same_folder(const struct dentry *a, const struct dentry *b)
{
	return PLAIN(struct dentry, a)->d_parent == PLAIN(struct dentry, b)->d_parent;
}

/* The folder that `dentry` is in. False: it doesn't count now. */
static __always_inline bool folder_look(struct folder_seen *look, u32 agent, u32 generation, const struct vfsmount *mnt,
					const struct dentry *dentry)
{
	const struct dentry *folder = PLAIN(struct dentry, dentry)->d_parent;
	const struct inode *inode;
	u32 version, renames;
	struct folder_way *w;
	u64 stamp;

	look->stamp = 0;
	if (!generation || dentry == mnt->mnt_root ||
	    dentry == folder) /* else its name is that of where it is mounted */
		return false;
	inode = folder->d_inode;
	w = folder_find(inode->i_ino, agent, &look->number);
	if (!w)
		return false;
	version = *(volatile const u32 *)&w->place.version;
	stamp = w->stamp;
	look->renames = w->place.renames;
	if (version & 1 || !w->len || w->place.agent != agent ||
	    !place_fits(&w->place, inode, generation, mnt, folder) ||
	    *(volatile const u32 *)&w->place.version != version)
		return false;
	look->stamp = stamp;
	if (look->renames == w->place.renames && renames_fit(&w->place))
		return true;
	renames = sequence(constants.rename_lock);
	if (renames & 1 || (!folder_again(w) && !OVERLOOKED(FOLDER)) ||
	    !folder_recount(w, version, renames, dentry, (u64)folder))
		return false;
	look->renames = renames;
	return true;
}

/* Is the path of `len` bytes that stands in the buffer the one that is kept? All of it is compared: no branch a word. */
static __always_inline bool same_path(struct scratch *s, const struct folder_way *w, u32 len)
{
	u64 differs = 0;

	__builtin_memset(s->component_words, 0, sizeof(s->component_words));
	if (len >= FOLDER_PATH || w->len != len + 1 ||
	    bpf_probe_read_kernel(s->component, bounded(len, FOLDER_PATH - 1),
				  &s->path[s->path_off & (AGENTD_PATH_MAX - 1)]))
		return false;
	for (u32 i = 0; i < FOLDER_PATH / 8; i++)
		differs |= s->component_words[i] ^ w->path_words[i];
	return !differs;
}

/*
 * The folder of target `i`, of which nothing but the count of renames is another one: walks it again, and makes the entry
 * count under the new count if the path is the same. 1: it does.
 */
__noinline int folder_renewed(u32 slot, u32 i)
{
	struct scratch *s = scratch_get(slot);
	struct folder_way *w;
	u32 version, renames, len;
	struct walked *k;

	if (!constants.memory || !s)
		return 0;
	k = &s->walked[i & 1];
	w = folder_at(k->way);
	if (!w)
		return 0;
	version = *(volatile u32 *)&w->place.version;
	renames = sequence(constants.rename_lock);
	if ((version | renames) & 1 || w->stamp != k->stamp)
		return 0;
	/* the dentry that was compared: the name may be in another folder by now, which name_compose() looks at */
	len = path_resolve(slot, s->target[i & 1].mnt, w->place.dentry, AGENTD_PATH_MAX);
	if (!len)
		return 0;
	if (len == 1) /* the root's own path ends in a slash */
		len = 0;
	return (same_path(s, w, len) || OVERLOOKED(FOLDER)) &&
	       folder_recount(w, version, renames, (const struct dentry *)s->target[i & 1].dentry, w->place.dentry);
}

/* What is known of the folder of target `i`, into `k`. False: it has changed meanwhile. */
static __always_inline bool folder_take(struct walked *k, u64 mnt)
{
	const struct folder_way *w = folder_at(k->way);
	u32 version;

	if (!w)
		return false;
	version = *(volatile const u32 *)&w->place.version;
	if (version & 1 || w->stamp != k->stamp)
		return false;
	k->mnt = mnt;
	k->renames = w->place.renames;
	k->mounts = w->place.mounts;
	k->epoch = w->place.epoch;
	k->len = w->len - 1;
	k->path_state = w->path_state;
	k->rules_state = w->rules_state;
	k->hash[0] = w->hash[0];
	k->hash[1] = w->hash[1];
	return *(volatile const u32 *)&w->place.version == version;
}

enum folder_state {
	FOLDER_UNKNOWN,
	FOLDER_KNOWN,
	FOLDER_RENEWED, /* the same, after a walk of it */
};

static __always_inline enum folder_state folder_known_as(u32 slot, const struct agentd_tag *tag, u32 i,
							 const struct vfsmount *mnt, const struct dentry *dentry,
							 bool here)
{
	enum folder_state state = FOLDER_KNOWN;
	struct scratch *s = scratch_get(slot);
	struct folder_seen *look; /* not on the stack, of which Linux 6.1 has no more */
	struct walked *k;

	if (!constants.memory || !s || !tag)
		return FOLDER_UNKNOWN;
	k = &s->walked[i & 1];
	look = &s->seen.look;
	if (look->stamp) {
		k->generation = s->seen.generation;
		k->stamp = look->stamp;
		k->way = look->number;
		if (folder_take(k, (u64)mnt))
			return FOLDER_KNOWN;
	}
	k->generation = memory_generation(tag);
	k->stamp = 0;
	if (!folder_look(look, tag->agent, k->generation, mnt, dentry))
		state = FOLDER_RENEWED;
	if (!look->stamp)
		return FOLDER_UNKNOWN;
	k->stamp = look->stamp;
	k->way = look->number;
	if (state == FOLDER_RENEWED && (here ? folder_renewed(slot, i) : shared(slot, FOLDER_RENEW, 0, i)) != 1)
		state = FOLDER_UNKNOWN;
	if (state != FOLDER_UNKNOWN && folder_take(k, (u64)mnt))
		return state;
	k->stamp = 0;
	return FOLDER_UNKNOWN;
}

/*
 * What is remembered of the folder of target `i`, which is `dentry`, is taken into scratch->walked. scratch->seen: it was looked
 * at just now. In a hook, and in what the hooks share.
 */
static __noinline enum folder_state folder_known(u32 slot, const struct agentd_tag *tag, u32 i,
						 const struct vfsmount *mnt, const struct dentry *dentry)
{
	return folder_known_as(slot, tag, i, mnt, dentry, false);
}

static __noinline enum folder_state folder_known_here(u32 slot, const struct agentd_tag *tag, u32 i,
						      const struct vfsmount *mnt, const struct dentry *dentry)
{
	return folder_known_as(slot, tag, i, mnt, dentry, true);
}

/* Keeps the folder of target `i`, which has just been walked: its path stands in the buffer. */
__noinline int folder_remember(u32 slot, u32 agent, u32 i)
{
	struct scratch *s = scratch_get(slot);
	struct dentry *dentry, *folder;
	struct folder_way *a, *b, *w;
	struct inode *inode;
	u64 inode_number;
	struct walked *k;
	u32 number, len;

	if (!constants.memory || !s)
		return 0;
	k = &s->walked[i & 1];
	k->stamp = 0;
	len = k->len;
	if (len >= FOLDER_PATH || !worth_keeping(k)) /* NO_PREFIX, too */
		return 0;
	dentry = (struct dentry *)s->target[i & 1].dentry;
	folder = LOAD(struct dentry, dentry, d_parent);
	inode = LOAD(struct dentry, folder, d_inode);
	if (folder == dentry || !inode || !keeps_apart(LOAD(struct inode, inode, i_sb)))
		return 0;
	inode_number = LOAD(struct inode, inode, i_ino);
	number = (spread(inode_number) & (FOLDER_SETS - 1)) << 1;
	a = folder_at(number);
	b = folder_at(number | 1);
	if (!a || !b)
		return 0;
	w = a;
	if (choose(&a->place, &b->place, inode_number, agent, k)) {
		w = b;
		number |= 1;
	}
	if (!entry_open(&w->place.version))
		return 0;
	if (!w->stamp)
		w->stamp = (u64)number << 48;
	if (place_set(&w->place, agent, k, inode, folder)) {
		w->stamp++;
		w->len = 0;
	}
	if (!w->len) {
		w->path_state = k->path_state;
		w->rules_state = k->rules_state;
		w->hash[0] = k->hash[0];
		w->hash[1] = k->hash[1];
		__builtin_memset(w->path, 0, sizeof(w->path));
		bpf_probe_read_kernel(w->path, bounded(len, FOLDER_PATH - 1),
				      &s->path[s->path_off & (AGENTD_PATH_MAX - 1)]);
		w->len = len + 1;
	}
	k->stamp = w->stamp;
	k->way = number;
	entry_close(&w->place.version);
	return 0;
}

#endif
