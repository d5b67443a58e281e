// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The path of a kernel object: from a dentry up through its parents and across mounts to the root of the mount
 * namespace, not to the caller's chroot. Built backwards at the end of scratch->path. Complete, or not at all.
 *
 * `anon:FSTYPE/...` names what no mount namespace reaches (pipes, memfds); an absolute path starts with
 * a slash, so neither can be taken for the other.
 *
 * Where a folder's names are compared without regard to case, a file can be opened by a name that no rule spells, and the
 * kernel keeps the one that was asked for first: such a name is `unresolved`. A server of a network file system may do the
 * same without saying so.
 *
 * Loops: 2,048 components are all that 4,096 bytes can hold, plus 64 mount crossings; running out is `unresolved`.
 * Races: a component's name and parent are read between two looks at its d_seq, which a rename moves on (fs/dcache.c,
 * __d_move); a component that keeps changing is `unresolved`. A rename of a directory already passed is not seen: the
 * result is then a path that was true when each step was taken.
 */
#include "lib/path.bpf.h"

#define PATH_STEPS (2048 + 64)

struct up_loop {
	struct scratch *s;
};

/*
 * Puts the name of a dentry, with a slash, in front of what is there: the name and the parent as they stood together. False:
 * they keep changing, there is no room, or they can't be read.
 */
static __always_inline bool prepend_name(struct scratch *s, struct dentry *d, struct dentry **parent)
{
	struct up_walk *w = &s->up;

	for (int attempt = 0; attempt < 4; attempt++) {
		u32 before = LOAD(struct dentry, d, d_seq.seqcount.sequence), after, at;
		u32 len = LOAD(struct dentry___parts, d, d_name.len);
		const unsigned char *name = LOAD(struct dentry, d, d_name.name);

		*parent = LOAD(struct dentry, d, d_parent);
		if (!len || len > 255 || w->off < len + 1)
			return false;
		at = w->off - len;
		if (bpf_probe_read_kernel(&s->path[at & (AGENTD_PATH_MAX - 1)], bounded(len, 255), name))
			return false;
		after = LOAD(struct dentry, d, d_seq.seqcount.sequence);
		if (before == after && !(before & 1)) {
			at--;
			s->path[at & (AGENTD_PATH_MAX - 1)] = '/';
			w->off = at;
			return true;
		}
	}
	return false;
}

/* Puts `component[0..len)` with a slash in front of what is there. False: no room. */
static __always_inline bool prepend(struct scratch *s, u32 len)
{
	struct up_walk *w = &s->up;
	u32 off;

	if (w->off < len + 1)
		return false;
	off = w->off - len - 1;
	s->path[off & (AGENTD_PATH_MAX - 1)] = '/';
	bpf_probe_read_kernel(&s->path[(off + 1) & (AGENTD_PATH_MAX - 1)], len & 255, s->component);
	w->off = off;
	return true;
}

/* "anon:" and up to 31 bytes of the filesystem's name, instead of a leading part that nobody can reach. */
static __always_inline u32 prepend_anon(struct scratch *s)
{
	struct up_walk *w = &s->up;
	char *type = s->component; /* the stack of this chain of calls is full on Linux 6.1 */
	long n = bpf_probe_read_kernel_str(type + 5, 32, KREAD(w->mnt, mnt_sb, s_type, name));
	u32 len;

	__builtin_memcpy(type, "anon:", 5);
	if (n <= 1 || n > 32)
		return WALK_FAILED;
	len = 4 + n; /* n counts the NUL */
	if (w->off < len)
		return WALK_FAILED;
	w->off -= len;
	bpf_probe_read_kernel(&s->path[w->off & (AGENTD_PATH_MAX - 1)], len & 63, type);
	return WALK_DONE;
}

/* Is this the tree of mounts that the current task lives in? */
static __always_inline bool own_namespace(struct mount *m)
{
	struct task_struct *task = PLAIN(struct task_struct, bpf_get_current_task_btf());

	return LOAD(struct mount, m, mnt_ns) == task->nsproxy->mnt_ns;
}

/*
 * A mount of the kernel's own (pipefs, the tmpfs of memfds), which no namespace ever holds: MNT_NS_INTERNAL of fs/mount.h.
 * A mount of another namespace (reached through /proc/PID/root) or of none (detached) is neither this nor ours: it may
 * show the very files that the policy names by their path here, so what lies in it is unresolved.
 */
static __always_inline bool kernels_own(struct mount *m)
{
	return (s64)LOAD(struct mount, m, mnt_ns) == -22;
}

/* Is it without a name? (Then it is no matter that none could be read.) */
static __always_inline bool unnamed(struct dentry *d)
{
	return !LOAD(struct dentry___parts, d, d_name.len);
}

#define DCACHE_OP_COMPARE 2 /* include/linux/dcache.h: names are compared by a function of the file system */
#define S_CASEFOLD (1 << 15) /* include/linux/fs.h */

/* Can what `d` is called in `folder` be spelled in another way, too? (procfs compares bytes, and who may see them.) */
static __always_inline bool spelled_freely(struct dentry *d, struct dentry *folder)
{
	struct super_block *sb;
	struct inode *inode;

	if (!(LOAD(struct dentry, d, d_flags) & DCACHE_OP_COMPARE))
		return false;
	sb = LOAD(struct dentry, d, d_sb);
	if (LOAD(struct super_block, sb, s_magic) == PROC_SUPER_MAGIC)
		return false;
	if (!folds_case(sb)) /* vfat and its kin */
		return true;
	inode = LOAD(struct dentry, folder, d_inode);
	return !inode || LOAD(struct inode, inode, i_flags) & S_CASEFOLD;
}

static long up_step(u32 i, struct up_loop *loop)
{
	struct scratch *s = loop->s;
	struct up_walk *w = &s->up;
	struct mount *m = real_mount(w->mnt);
	struct dentry *parent;

	if (w->dentry == LOAD(struct vfsmount, w->mnt, mnt_root)) {
		struct mount *up = LOAD(struct mount, m, mnt_parent);

		if (up == m) {
			w->state = own_namespace(m) ? WALK_DONE : kernels_own(m) ? prepend_anon(s) : WALK_FAILED;
			return 1;
		}
		w->dentry = LOAD(struct mount, m, mnt_mountpoint);
		w->mnt = (struct vfsmount *)((char *)up + bpf_core_field_offset(struct mount, mnt));
		return 0;
	}
	if (LOAD(struct dentry, w->dentry, d_parent) == w->dentry) {
		/*
		 * A root, but not the mount's: a pseudo file (pipe, memfd, socket) of a mount of the kernel's own, or a
		 * directory that was moved out of a bind mount, whose path nobody can tell.
		 */
		if (!kernels_own(m)) {
			w->state = WALK_FAILED;
			return 1;
		}
		w->state = prepend_name(s, w->dentry, &parent) || unnamed(w->dentry) ? prepend_anon(s) : WALK_FAILED;
		return 1;
	}
	if (!prepend_name(s, w->dentry, &parent) || spelled_freely(w->dentry, parent)) {
		w->state = WALK_FAILED;
		return 1;
	}
	if (!i)
		w->leaf = w->off;
	w->dentry = parent;
	return 0;
}

/*
 * Writes the path of (mnt, dentry) in front of what stands at path[tail..]. Returns its length, 0 if unresolved.
 * mnt and dentry are kernel pointers as numbers, because a global function takes no others.
 */
__noinline u32 path_resolve(u32 slot, u64 mnt, u64 dentry, u32 tail)
{
	struct scratch *s = scratch_get(slot);
	struct up_loop loop;
	u32 off;

	if (!s || !mnt || !dentry || tail > AGENTD_PATH_MAX)
		return 0;
	if (tail < AGENTD_PATH_MAX && spelled_freely((struct dentry *)dentry, (struct dentry *)dentry))
		return 0; /* a name that isn't there yet */
	s->up.mnt = (struct vfsmount *)mnt;
	s->up.dentry = (struct dentry *)dentry;
	s->up.off = tail;
	s->up.leaf = 0;
	s->up.state = WALKING;
	loop.s = s;
	bpf_loop(PATH_STEPS, up_step, &loop, 0);
	off = s->up.off;
	if (s->up.state != WALK_DONE || off > AGENTD_PATH_MAX)
		return 0;
	if (off == AGENTD_PATH_MAX) { /* the root itself */
		off = AGENTD_PATH_MAX - 1;
		s->path[AGENTD_PATH_MAX - 1] = '/';
	}
	s->path_off = off;
	return AGENTD_PATH_MAX - off;
}
