/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Remembered verdicts. Walking a path and running the automata at every open would cost more than everything else here, so
 * what was allowed is kept, in four arrays:
 *
 * remembered   by inode: that a file's opening (to read, to write, to run, to map as code) was allowed by its one name, and
 *              where such openings are counted;
 * folders      by inode: the path of a folder, and where the automata stood behind it, so that only the last component of a
 *              name in it is run;
 * leaves       by folder and last component: that an operation on this name was allowed, and where it is counted;
 * readings     the same, of the names that were judged last: what the automata said, whatever the operation (recall.bpf.h).
 *
 * An entry says what it depends on, and counts only while all of it is as it was: the agent and the generation of its
 * policy, the mount, the dentry with its parent and name, the mount namespace of the caller, and two counters of the
 * kernel: rename_lock, which every rename on the host moves on (fs/dcache.c, __d_move), and mount_lock, which every mount
 * and unmount does (fs/namespace.c). They are read before the walk whose result is kept, and an odd one means that a change
 * is under way. So a hit says what a walk would say; tests/containment/storms.py compares the two while both are changed all
 * the time (check.bpf.h).
 *
 * When nothing but the count of renames differs, a folder is walked again: if its path is the one that is kept, byte by byte,
 * the automata would stand where they stood, and the entry counts under the new count (again.bpf.h, folder.bpf.h). What is
 * kept of a name hangs on the folder's `stamp`, which is new whenever another path, policy or agent is written there.
 *
 * Both counters have 32 bits, and whoever waits for 2^31 renames has the old count again: so an entry counts for three
 * minutes at most, in which no machine makes as many.
 *
 * A file counts by its one name (i_nlink == 1): another name is another path to the same inode. Only what is allowed is
 * remembered: a denial, a question and whatever is unusual takes the long way. Only of file systems whose inodes, by number
 * and generation, don't come back as another file (those of btrfs do, in a snapshot), and whose names have one spelling; the
 * mount, which is compared, has one file system as long as mount_lock stands still. (Not inode storage: fmod_ret can't have
 * it, and newer kernels trust no inode that is reached over a path. Not a hash map: a look-up would be half of a hit.)
 *
 * Two entries with the same place take turns. An entry is written by one program at a time (version is odd meanwhile) and
 * whoever reads it looks at the version before and after: x86-64 keeps the order of loads and that of stores. Fails: to the
 * long way.
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

	if (can_cast())
		return *(volatile u32 *)&CAST(struct seqcount, address)->sequence;
	bpf_probe_read_kernel(&count, sizeof(count), (void *)address);
	return count;
}

/*
 * Numbers and generations of inodes that are never used twice while somebody could still know them, and names that are their
 * bytes. `sb`: a kernel address.
 */
static __always_inline bool keeps_apart(const struct super_block *sb)
{
	if (folds_case(sb))
		return false;
	switch (LOAD(const struct super_block, sb, s_magic)) {
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

static __always_inline u32 spread(u64 value)
{
	return value * 0x9E3779B97F4A7C15ull >> 40;
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

/* The same by one load, where the dentry isn't trusted. */
static __always_inline u64 name_id_plain(const struct dentry *dentry)
{
	return can_cast() ? WORD_AT((u64)dentry + bpf_core_field_offset(struct dentry, d_name)) : name_id(dentry);
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

/* Is it of this name, and is everything but the count of renames as it was then? */
static __always_inline bool place_fits(const struct memory_place *p, const struct inode *inode, u32 generation,
				       const struct vfsmount *mnt, const struct dentry *dentry)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 differs;

	/* numbers together: each comparison is a branch for the verifier */
	differs = (p->number ^ inode->i_ino) | (p->inode_generation ^ inode->i_generation) |
		  (p->generation ^ generation) | (p->epoch ^ memory_time());
	return !differs && p->inode == (u64)inode && p->ns == (u64)PLAIN(struct task_struct, task)->nsproxy->mnt_ns &&
	       ((p->dentry == (u64)dentry && p->parent == (u64)dentry->d_parent && p->name == name_id_plain(dentry)) ||
		OVERLOOKED(DENTRY)) &&
	       ((p->mnt == (u64)mnt && p->mounts == sequence(constants.mount_lock)) || OVERLOOKED(MOUNTS));
}

static __always_inline bool renames_fit(const struct memory_place *p)
{
	return p->renames == sequence(constants.rename_lock) || OVERLOOKED(RENAMES);
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

/* `number`: of the inode. Its address can't be reckoned with where the verifier knows it as a pointer. */
static __always_inline struct memory *memory_at(u64 number)
{
	u32 at = spread(number) & (MEMORY_SETS - 1);

	return bpf_map_lookup_elem(&remembered, &at);
}

/* Kinds come alone, or reading and writing together; these are judged in turn. */
#define BOTH_KINDS (1 << MEMORY_WRITE | 1 << MEMORY_READ)

static __always_inline u32 kind_first(u32 kinds)
{
	return (kinds >> 1) - (kinds >> 3); /* of 1, 2, 4, 8 the logarithm, and of 3 MEMORY_WRITE */
}

/*
 * Was the opening of this file, in all the kinds that `kinds` says (bits of enum memory_kind), allowed before? inode: the
 * file's; plain: the file, as what PLAIN() makes of it. checking: NULL, or where the checking mode wants to know as what.
 */
static __always_inline bool recalled(const struct agentd_tag *tag, const struct inode *inode, const struct file *plain,
				     u32 kinds, struct checking *checking)
{
	u32 kind = kind_first(kinds), other_kind = kinds == BOTH_KINDS ? MEMORY_READ : kind;
	u32 version, generation, number, other;
	const struct memory_way *w;
	struct memory *m;

	if (!constants.memory || syscall_foreign()) /* the latter: judged as such first */
		return false;
	generation = memory_generation(tag);
	m = memory_at(inode->i_ino);
	if (!m || !generation)
		return false;
	w = &m->way[0];
	if (w->place.number != inode->i_ino || w->place.agent != tag->agent)
		w = &m->way[1];
	version = *(volatile const u32 *)&w->place.version;
	number = w->hits[kind & (MEMORY_KINDS - 1)];
	other = w->hits[other_kind & (MEMORY_KINDS - 1)];
	if (version & 1 || !number || !other || w->place.agent != tag->agent ||
	    !place_fits(&w->place, inode, generation, plain->f_path.mnt, plain->f_path.dentry) || !one_name(inode) ||
	    !renames_fit(&w->place) || *(volatile const u32 *)&w->place.version != version)
		return false;
	hit_count(number);
	if (other_kind != kind)
		hit_count(other);
	if (checking) {
		checking->hits[kind & (MEMORY_KINDS - 1)] = number;
		checking->hits[other_kind & (MEMORY_KINDS - 1)] = other;
	}
	return true;
}

/* Begins to write an entry; false: somebody else does. */
static __always_inline bool entry_open(u32 *at)
{
	u32 version = *(volatile u32 *)at;

	return !(version & 1) && __sync_val_compare_and_swap(at, version, version + 1) == version;
}

static __always_inline void entry_close(u32 *at)
{
	__sync_fetch_and_add(at, 1); /* a full barrier: all of it is written */
}

#define PLACE_SET(field, value)                  \
	({                                       \
		typeof(p->field) ___v = (value); \
		other |= p->field != ___v;       \
		p->field = ___v;                 \
	})

/* Fills in what an entry that is being written depends on. False: it is all as it was, so what the entry holds stands. */
static __always_inline bool place_set(struct memory_place *p, u32 agent, const struct walked *k,
				      const struct inode *inode, const struct dentry *dentry)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool other = false;

	PLACE_SET(agent, agent);
	PLACE_SET(generation, k->generation);
	PLACE_SET(epoch, k->epoch);
	PLACE_SET(renames, k->renames);
	PLACE_SET(mounts, k->mounts);
	PLACE_SET(mnt, k->mnt);
	PLACE_SET(inode, (u64)inode);
	PLACE_SET(number, LOAD(const struct inode, inode, i_ino));
	PLACE_SET(inode_generation, LOAD(const struct inode, inode, i_generation));
	PLACE_SET(dentry, (u64)dentry);
	PLACE_SET(parent, (u64)LOAD(const struct dentry, dentry, d_parent));
	PLACE_SET(name, LOAD(const struct dentry___parts, dentry, d_name.hash) |
				(u64)LOAD(const struct dentry___parts, dentry, d_name.len) << 32);
	PLACE_SET(ns, (u64)PLAIN(struct task_struct, task)->nsproxy->mnt_ns);
	return other;
}

/* May a walk be kept that was made under this? */
static __always_inline bool worth_keeping(const struct walked *k)
{
	return k->generation && !((k->renames | k->mounts) & 1);
}

/* Which of two entries to take for an inode of an agent: its own, or one that counts no more, or either. */
static __always_inline u32 choose(const struct memory_place *a, const struct memory_place *b, u64 number, u32 agent,
				  const struct walked *k)
{
	if (a->number == number && a->agent == agent)
		return 0;
	if (b->number == number && b->agent == agent)
		return 1;
	if (a->renames != k->renames || a->mounts != k->mounts)
		return 0;
	if (b->renames != k->renames || b->mounts != k->mounts)
		return 1;
	return bpf_get_prandom_u32() & 1;
}

/* Keeps that file `f` was allowed, as `kind`, and counted under `hit`. */
static __noinline void file_remember(const struct walked *k, const struct agentd_tag *tag, struct file *f, u32 kind,
				     u32 hit)
{
	struct inode *inode = f->f_inode;
	struct memory_way *w;
	struct memory *m;

	if (!constants.memory || !k || !tag || !hit || !worth_keeping(k) || !one_name(inode) ||
	    !keeps_apart(inode->i_sb))
		return;
	m = memory_at(inode->i_ino);
	if (!m)
		return;
	w = choose(&m->way[0].place, &m->way[1].place, inode->i_ino, tag->agent, k) ? &m->way[1] : &m->way[0];
	if (!entry_open(&w->place.version))
		return;
	if (place_set(&w->place, tag->agent, k, inode, f->f_path.dentry)) {
		for (int i = 0; i < MEMORY_KINDS; i++)
			w->hits[i] = 0;
	}
	w->hits[kind & (MEMORY_KINDS - 1)] = hit;
	entry_close(&w->place.version);
}

#endif
