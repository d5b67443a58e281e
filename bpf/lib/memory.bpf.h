/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Remembered verdicts. Walking a path and running the automata at every open would cost more than everything else here, so
 * what was allowed is kept at the inode:
 *
 * a file    that its opening (to read, to write, to run) was allowed by its one name, and where such openings are counted;
 * a folder  where the automata stood behind its path, so that only the last component of a name in it is run.
 *
 * An entry says what it depends on, and counts only while all of it is as it was: the agent and the generation of its
 * policy, the mount, the dentry with its parent and name, the mount namespace of the caller, and two counters of the
 * kernel: rename_lock, which every rename on the host moves on (fs/dcache.c, __d_move), and mount_lock, which every mount
 * and unmount does (fs/namespace.c). They are read before the walk whose result is kept, and an odd one means that a change
 * is under way. So a hit says what a walk would say; tests/containment/storms.py compares the two while both are changed all
 * the time (check.bpf.h).
 *
 * A file counts by its one name (i_nlink == 1): another name is another path to the same inode. Only what is allowed is
 * remembered: a denial, a question and whatever is unusual takes the long way.
 *
 * Both counters have 32 bits, and whoever waits for 2^31 renames has the old count again: so an entry counts for
 * three minutes at most, in which no machine makes as many.
 *
 * It is a map by the inode's address, number and generation, and only of file systems that don't give the same two again to
 * another file. (btrfs does: a snapshot's files have those of the original. Not inode storage: fmod_ret can't have it, and
 * newer kernels trust no inode that is reached over a path.)
 *
 * Two agents that use one file have a way each (by the agent's number); more take turns. A way is written by one program at
 * a time (version is odd meanwhile) and whoever reads it looks at the version before and after: x86-64 keeps the order of
 * loads and that of stores. Fails: to the long way.
 */
#ifndef AGENTD_MEMORY_BPF_H
#define AGENTD_MEMORY_BPF_H

#include "path.bpf.h"
#include "scope.bpf.h"
#include "syscall.bpf.h"

#define EXT4_MAGIC 0xef53
#define XFS_MAGIC 0x58465342
#define TMPFS_MAGIC 0x01021994
#define F2FS_MAGIC 0xf2f52010

/* The count of a seqlock_t at a kernel address. */
static __always_inline u32 sequence(u64 address)
{
	u32 count = 1; /* unreadable: as if something were changing */

	bpf_probe_read_kernel(&count, sizeof(count), (void *)address);
	return count;
}

/* Numbers and generations of inodes that are never used twice while the map could still know them. */
static __always_inline bool numbers_are_unique(struct inode *inode)
{
	switch (inode->i_sb->s_magic) {
	case EXT4_MAGIC:
	case XFS_MAGIC:
	case TMPFS_MAGIC:
	case F2FS_MAGIC:
		return true;
	}
	return false;
}

#define AGE_SHIFT 14 /* of jiffies: 16 s with 1,000 a second, 164 s with 100 */

/*
 * The time that an entry belongs to: it grows with each forgetting that user space asks for, and as time goes by. Both only
 * grow, so their sum is never the same again once it was another.
 */
static __always_inline u32 memory_time(void)
{
	const struct agentd_control *c = control_get();

	return (c ? *(volatile const u32 *)&c->memory_epoch : 0) + (u32)(bpf_jiffies64() >> AGE_SHIFT);
}

static const struct memory nothing_remembered;

/* What is remembered of an inode; NULL: nothing (or no memory for it). */
static __always_inline struct memory *memory_of(struct inode *inode, bool create)
{
	struct memory_key key = {};
	struct memory *m;

	if (!constants.memory || !numbers_are_unique(inode))
		return NULL;
	key.inode = (u64)inode;
	key.number = inode->i_ino;
	key.generation = inode->i_generation;
	m = bpf_map_lookup_elem(&remembered, &key);
	if (m || !create)
		return m;
	bpf_map_update_elem(&remembered, &key, &nothing_remembered, BPF_NOEXIST);
	return bpf_map_lookup_elem(&remembered, &key);
}

/* Where the current policy of an agent would look; 0: nothing may be taken from memory now. */
static __always_inline u32 memory_generation(const struct agentd_tag *tag)
{
	const struct agentd_agent *agent = agent_get(tag->agent);

	if (!agent || tag->flags || tag->hold_id || agent->flags & AGENTD_AGENT_UNRECORDED)
		return 0;
	return agent->generation[*(volatile const u32 *)&agent->active & 1];
}

/* A dentry's name: its hash and its length. */
static __always_inline u64 name_id(const struct dentry *dentry)
{
	const struct dentry___parts *d = (const struct dentry___parts *)dentry;

	return d->d_name.hash | (u64)d->d_name.len << 32;
}

/* Does a test want this overlooked? AGENTD_CARELESS_*; a function of its own, because a hook has no stack left. */
__noinline int careless(u32 what)
{
	const struct agentd_checks *c;
	u32 zero = 0;

	if (!constants.check)
		return 0;
	c = bpf_map_lookup_elem(&checks, &zero);
	return c && *(volatile const u32 *)&c->careless & what;
}

#define OVERLOOKED(what) (constants.check && careless(AGENTD_CARELESS_##what))

static __always_inline struct memory_way *way_of(struct memory *m, u32 agent)
{
	return &m->way[agent & (MEMORY_WAYS - 1)];
}

/* Is it of this name, and is everything as it was then? */
static __always_inline bool way_fits(const struct memory_way *w, u32 agent, u32 generation, const struct vfsmount *mnt,
				     const struct dentry *dentry)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return generation && w->agent == agent && w->generation == generation && w->epoch == memory_time() &&
	       ((w->dentry == (u64)dentry && w->parent == (u64)dentry->d_parent && w->name == name_id(dentry)) ||
		OVERLOOKED(DENTRY)) &&
	       w->ns == (u64)task->nsproxy->mnt_ns &&
	       (w->renames == sequence(constants.rename_lock) || OVERLOOKED(RENAMES)) &&
	       ((w->mnt == (u64)mnt && w->mounts == sequence(constants.mount_lock)) || OVERLOOKED(MOUNTS));
}

static __always_inline bool one_name(const struct inode *inode)
{
	return inode->i_nlink == 1 || (inode->i_mode & S_IFMT_BITS) == S_IFDIR_BITS;
}

static __always_inline void hit_count(u32 number)
{
	struct agentd_hit *hit = bpf_map_lookup_elem(&hits, &number);

	if (hit)
		__sync_fetch_and_add(&hit->count, 1);
}

/*
 * Was the opening of this file, in all the kinds that `kinds` says (bits of enum memory_kind), allowed before? c: NULL, or
 * where the checking mode wants to know as what.
 */
static __always_inline bool recalled(const struct agentd_tag *tag, struct file *f, u32 kinds, struct checking *c)
{
	struct inode *inode = f->f_inode;
	u32 version, number[MEMORY_KINDS];
	const struct memory_way *w;
	struct memory *m;

	if (!constants.memory || syscall_foreign()) /* the latter: judged as such first */
		return false;
	m = memory_of(inode, false);
	if (!m)
		return false;
	w = way_of(m, tag->agent);
	version = *(volatile const u32 *)&w->version;
	if (version & 1 || !way_fits(w, tag->agent, memory_generation(tag), f->f_path.mnt, f->f_path.dentry) ||
	    !one_name(inode))
		return false;
	for (int i = 0; i < MEMORY_KINDS; i++) {
		number[i] = *(volatile const u32 *)&w->hits[i];
		if (kinds >> i & 1 && !number[i])
			return false;
	}
	if (*(volatile const u32 *)&w->version != version)
		return false;
	for (int i = 0; i < MEMORY_KINDS; i++) {
		if (kinds >> i & 1)
			hit_count(number[i]);
		if (c)
			c->hits[i] = number[i];
	}
	return true;
}

/* Begins to write a way for a name; false: somebody else does. What it held of another name or time is gone. */
static __always_inline bool way_open(struct memory_way *w, const struct agentd_tag *tag, const struct walked *k,
				     const struct dentry *dentry)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 version = *(volatile u32 *)&w->version;
	u64 parent = (u64)dentry->d_parent, name = name_id(dentry), ns = (u64)task->nsproxy->mnt_ns;

	if (version & 1 || __sync_val_compare_and_swap(&w->version, version, version + 1) != version)
		return false;
	if (w->agent != tag->agent || w->generation != k->generation || w->epoch != k->epoch || w->mnt != k->mnt ||
	    w->dentry != (u64)dentry || w->parent != parent || w->name != name || w->ns != ns ||
	    w->renames != k->renames || w->mounts != k->mounts) {
		w->agent = tag->agent;
		w->generation = k->generation;
		w->epoch = k->epoch;
		w->mnt = k->mnt;
		w->dentry = (u64)dentry;
		w->parent = parent;
		w->name = name;
		w->ns = ns;
		w->renames = k->renames;
		w->mounts = k->mounts;
		w->len = 0;
		for (int i = 0; i < MEMORY_KINDS; i++)
			w->hits[i] = 0;
	}
	return true;
}

static __always_inline void way_close(struct memory_way *w)
{
	__sync_fetch_and_add(&w->version, 1); /* a full barrier: all of it is written */
}

#endif
