// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * From a dentry to its paths. Hooks that get an inode or a dentry aren't told by which mount the caller came; so its names
 * are all those that the mounts of the caller's namespace give it, and the worst verdict of them stands.
 *
 * Loops: 16,384 steps, one a mount of the filesystem and one a component where a mount doesn't show all of it; running out,
 * more than PLACES mounts, or none, is `unresolved`.
 * Races: the list is the kernel's (mount_lock) and read without its lock; a mount that is taken out meanwhile leads
 * nowhere, and then the walk begins again, four times at most. Memory of mounts is freed after an RCU grace period only.
 */
#include "lib/mounts.bpf.h"

#define MOUNT_STEPS 16384
#define SB_KERNMOUNT (1ul << 22)
#define NOT_THE_CALLERS 0xffffffffu

struct mount_loop {
	struct scratch *s;
};

static __always_inline bool chained(void)
{
	return bpf_core_field_exists(struct mount___v618, mnt_next_for_sb);
}

static __always_inline void mounts_open(struct mount_walk *w)
{
	struct super_block *sb = LOAD(struct dentry, w->sought, d_sb);

	w->at = NULL;
	w->internal = NULL;
	w->found = 0;
	w->state = WALKING;
	if (chained()) {
		w->end = NULL;
		w->next = LOAD(struct super_block___v618, sb, s_mounts);
	} else {
		w->end = (char *)sb + bpf_core_field_offset(struct super_block, s_mounts);
		w->next = LOAD(struct super_block, sb, s_mounts.next);
	}
}

/* The next mount of the filesystem, in w->mount. False: that was the last one. */
static __always_inline bool mounts_next(struct mount_walk *w)
{
	if (w->next == w->end) {
		w->state = WALK_DONE;
		return false;
	}
	if (!w->next) { /* the one before has been taken out */
		w->state = WALK_FAILED;
		return false;
	}
	if (chained()) {
		w->mount = w->next;
		w->next = LOAD(struct mount___v618, w->mount, mnt_next_for_sb);
	} else {
		w->mount = (struct mount *)((char *)w->next - bpf_core_field_offset(struct mount, mnt_instance));
		w->next = LOAD(struct mount, w->mount, mnt_instance.next);
	}
	return true;
}

static __always_inline void place_add(struct mount_walk *w)
{
	if (w->found < PLACES)
		w->place[w->found & (PLACES - 1)] = (u64)w->mount + bpf_core_field_offset(struct mount, mnt);
	w->found++;
	w->at = NULL;
}

/* Else nothing is below it. */
static __always_inline bool is_folder(struct dentry *dentry)
{
	struct inode *inode = LOAD(struct dentry, dentry, d_inode);

	return (LOAD(struct inode, inode, i_mode) & S_IFMT_BITS) == S_IFDIR_BITS;
}

static long place_step(u32 i, struct mount_loop *loop)
{
	struct mount_walk *w = &loop->s->mounts;
	struct dentry *root, *parent;
	struct super_block *sb;

	if (!w->at) {
		if (!mounts_next(w))
			return 1;
		if (!own_namespace(w->mount)) {
			if (kernels_own(w->mount))
				w->internal = w->mount;
			return 0;
		}
		w->at = w->sought;
	}
	root = LOAD(struct mount, w->mount, mnt.mnt_root);
	sb = LOAD(struct mount, w->mount, mnt.mnt_sb);
	if (root == w->at || root == LOAD(struct super_block, sb, s_root)) {
		place_add(w);
		return 0;
	}
	parent = LOAD(struct dentry, w->at, d_parent);
	w->at = w->at == parent || !is_folder(root) ? NULL : parent; /* NULL: not below this mount's root */
	return 0;
}

/*
 * A filesystem that lies over another one (overlayfs) does what it was asked for in the one below, with its own
 * credentials and through a mount of the kernel's own: what the caller asked for was judged by the file above.
 */
static __always_inline bool from_above(const struct mount_walk *w)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return w->internal && !(KREAD(w->sought, d_sb, s_flags) & SB_KERNMOUNT) &&
	       KREAD(task, cred) != KREAD(task, real_cred) && !(task->flags & PF_KTHREAD_OR_WORKER);
}

/*
 * The mounts through which the caller can see scratch->mounts.sought, in scratch->mounts.place. Returns how many, 0:
 * unresolved, NOT_THE_CALLERS: another filesystem does this for the caller.
 */
__noinline u32 mounts_of(u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct mount_loop loop;
	struct mount_walk *w;

	if (!s)
		return 0;
	w = &s->mounts;
	loop.s = s;
	for (int attempt = 0; attempt < 4; attempt++) {
		mounts_open(w);
		bpf_loop(MOUNT_STEPS, place_step, &loop, 0);
		if (w->state == WALK_DONE)
			break;
	}
	if (w->state != WALK_DONE)
		return 0;
	if (from_above(w))
		return NOT_THE_CALLERS;
	if (!w->found && w->internal && KREAD(w->sought, d_sb, s_flags) & SB_KERNMOUNT) {
		w->mount = w->internal; /* a memfd: no namespace shows it */
		place_add(w);
	}
	return w->found > PLACES ? 0 : w->found;
}
