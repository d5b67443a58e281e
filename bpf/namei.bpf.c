// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * From a string to an object, for the calls whose object is not at hand any more when the `trace` point sees them
 * (unlink, rename, chmod, ...): the string is looked up again in the dentry cache, as fs/namei.c does, with `..`,
 * symlinks and mounts. The call has just walked the same names, so they are cached; a directory on the way that is not
 * found is `unresolved`, and unresolved is denied.
 *
 * Trusted: nothing in the string. It is the caller's memory, and another thread may have changed it since the call read
 * it: why this point claims `detected` and no more.
 *
 * Loops: 2,048 components and 40 symlinks (as the kernel's MAXSYMLINKS); 65,536 cached children of one directory are
 * searched. Running out is `unresolved`.
 */
#include "lib/path.bpf.h"

#define NAME_STEPS (4096 + 64)
#define MAX_LINKS 40
#define MAX_CHILDREN 65536

struct down_loop {
	struct scratch *s;
};

static __always_inline char *walk_name(struct scratch *s)
{
	return s->name[s->name_cur & 1];
}

static long child_step(u32 i, struct down_loop *loop)
{
	struct scratch *s = loop->s;
	struct down_walk *w = &s->down;
	struct dentry *child;
	const unsigned char *name;
	u32 len = w->component_len;
	u64 differs = 0;

	if (!w->cursor || w->cursor == w->list_end)
		return 1;
	if (!bpf_core_field_exists(struct dentry, d_children))
		child = (struct dentry *)((char *)w->cursor - bpf_core_field_offset(struct dentry___v67, d_child));
	else
		child = (struct dentry *)((char *)w->cursor - bpf_core_field_offset(struct dentry, d_sib));
	bpf_probe_read_kernel(&w->cursor, sizeof(w->cursor), w->cursor); /* both kinds of node begin with `next` */
	if (KREAD(child, d_name.hash_len) >> 32 != len)
		return 0;
	name = KREAD(child, d_name.name);
	__builtin_memset(s->component_words, 0, sizeof(s->component_words));
	if (bpf_probe_read_kernel(s->component, len & 255, name))
		return 0;
	/* no branch a byte: Linux 7.2's verifier would follow each for minutes */
	for (u32 j = 0; j < NAME_SLACK / 8; j++)
		differs |= s->component_words[j] ^ s->wanted_words[j];
	if (differs)
		return 0;
	w->found = child;
	return 1;
}

static __always_inline void find_child(struct down_loop *loop)
{
	struct scratch *s = loop->s;
	struct down_walk *w = &s->down;

	w->found = NULL;
	__builtin_memset(s->wanted_words, 0, sizeof(s->wanted_words));
	if (bpf_probe_read_kernel(s->wanted, w->component_len & 255,
				  &walk_name(s)[w->component & (AGENTD_PATH_MAX - 1)]))
		return;
	if (bpf_core_field_exists(struct dentry, d_children)) {
		w->list_end = NULL;
		w->cursor = KREAD(w->dentry, d_children.first);
	} else {
		struct dentry___v67 *d = (void *)w->dentry;

		w->list_end = (char *)d + bpf_core_field_offset(struct dentry___v67, d_subdirs);
		w->cursor = KREAD(d, d_subdirs.next);
	}
	bpf_loop(MAX_CHILDREN, child_step, loop, 0);
}

static long mount_step(u32 i, struct down_loop *loop)
{
	struct down_walk *w = &loop->s->down;
	struct mount *child;

	if (!w->cursor || w->cursor == w->list_end)
		return 1;
	child = (struct mount *)((char *)w->cursor - bpf_core_field_offset(struct mount, mnt_child));
	bpf_probe_read_kernel(&w->cursor, sizeof(w->cursor), w->cursor);
	if (KREAD(child, mnt_mountpoint) != w->dentry)
		return 0;
	w->found_mount = child;
	return 1;
}

/* Is something mounted on (mnt, dentry)? Then step onto its root; once, the caller repeats. */
static __always_inline bool cross_mount(struct down_loop *loop)
{
	struct down_walk *w = &loop->s->down;
	struct mount *m = real_mount(w->mnt);

	w->found_mount = NULL;
	w->list_end = (char *)m + bpf_core_field_offset(struct mount, mnt_mounts);
	w->cursor = KREAD(m, mnt_mounts.next);
	bpf_loop(MAX_CHILDREN, mount_step, loop, 0);
	m = w->found_mount;
	if (!m)
		return false;
	w->mnt = (struct vfsmount *)((char *)m + bpf_core_field_offset(struct mount, mnt));
	w->dentry = KREAD(w->mnt, mnt_root);
	return true;
}

static __always_inline void step_up(struct down_walk *w)
{
	/* bounded: as many mounts as can be stacked on one directory within reason */
	for (int i = 0; i < 16; i++) {
		struct mount *m, *up;

		if (w->dentry == w->root_dentry && w->mnt == w->root_mnt)
			return; /* `..` of the root is the root */
		if (w->dentry != KREAD(w->mnt, mnt_root)) {
			w->dentry = KREAD(w->dentry, d_parent);
			return;
		}
		m = real_mount(w->mnt);
		up = KREAD(m, mnt_parent);
		if (up == m)
			return;
		w->dentry = KREAD(m, mnt_mountpoint);
		w->mnt = (struct vfsmount *)((char *)up + bpf_core_field_offset(struct mount, mnt));
	}
	w->state = WALK_FAILED;
}

/* Replaces what is left by the target of the symlink `w->found` plus what is left. */
static __always_inline void follow_link(struct scratch *s)
{
	struct down_walk *w = &s->down;
	u32 from = s->name_cur & 1, to = from ^ 1, rest;
	char *target = KREAD(w->found, d_inode, i_link);
	long n;

	/* no i_link: a link whose target is on disk (over 60 bytes on ext4) or made up (procfs): we can't say */
	if (!target || ++w->links > MAX_LINKS)
		goto fail;
	n = bpf_probe_read_kernel_str(s->name[to], AGENTD_PATH_MAX, target);
	if (n <= 1 || n > AGENTD_PATH_MAX)
		goto fail;
	n--; /* the NUL */
	rest = s->name_len > w->pos ? s->name_len - w->pos : 0;
	if (n + rest + 1 >= AGENTD_PATH_MAX)
		goto fail;
	if (rest) {
		s->name[to][n & (AGENTD_PATH_MAX - 1)] = '/';
		n++;
		for (u32 done = 0; done < AGENTD_PATH_MAX; done += NAME_SLACK) { /* in pieces that fit the slack */
			if (done >= rest)
				break;
			bpf_probe_read_kernel(&s->name[to][(n + done) & (AGENTD_PATH_MAX - 1)], NAME_SLACK,
					      &s->name[from][(w->pos + done) & (AGENTD_PATH_MAX - 1)]);
		}
	}
	s->name_len = n + rest;
	s->name_cur = to;
	w->pos = 0;
	if (s->name[to][0] == '/') {
		w->dentry = w->root_dentry;
		w->mnt = w->root_mnt;
	}
	return;
fail:
	w->state = WALK_FAILED;
}

#define LENGTH_BLOCK 16

/* Adds to component_len until a slash or the end. */
static long length_block(u32 i, struct down_loop *loop)
{
	struct scratch *s = loop->s;
	struct down_walk *w = &s->down;
	char *name = walk_name(s);
	u32 at = w->pos + w->component_len, end = s->name_len;

	for (int j = 0; j < LENGTH_BLOCK; j++) {
		if (at >= end || name[at & (AGENTD_PATH_MAX - 1)] == '/') {
			w->component_len = at - w->pos;
			return 1;
		}
		at++;
	}
	w->component_len = at - w->pos;
	return 0;
}

/* One iteration handles one slash or one component. */
static long down_step(u32 i, struct down_loop *loop)
{
	struct scratch *s = loop->s;
	struct down_walk *w = &s->down;
	char *name = walk_name(s);
	u32 end = s->name_len, len;
	bool last;

	if (w->pos >= end) {
		w->state = WALK_DONE;
		return 1;
	}
	if (name[w->pos & (AGENTD_PATH_MAX - 1)] == '/') {
		w->pos++;
		return 0;
	}
	w->component_len = 0;
	bpf_loop(256 / LENGTH_BLOCK, length_block, loop, 0);
	len = w->component_len;
	if (len > 255) {
		w->state = WALK_FAILED;
		return 1;
	}
	w->component = w->pos;
	w->pos += len;
	last = w->pos >= end; /* trailing slashes were stripped */
	if (len == 1 && name[w->component & (AGENTD_PATH_MAX - 1)] == '.')
		return 0;
	if (len == 2 && name[w->component & (AGENTD_PATH_MAX - 1)] == '.' &&
	    name[(w->component + 1) & (AGENTD_PATH_MAX - 1)] == '.') {
		step_up(w);
		return w->state != WALKING;
	}
	if (last && !w->follow) {
		w->last_missing = true;
		w->state = WALK_DONE;
		return 1;
	}
	find_child(loop);
	if (!w->found) {
		if (last)
			w->last_missing = true;
		w->state = last ? WALK_DONE : WALK_FAILED;
		return 1;
	}
	if ((KREAD(w->found, d_inode, i_mode) & S_IFMT_BITS) == S_IFLNK_BITS) {
		follow_link(s);
		return w->state != WALKING;
	}
	w->dentry = w->found;
	for (int j = 0; j < 4; j++) /* a mount on a mount on ...: more than four is `unresolved` below */
		if (!cross_mount(loop))
			return 0;
	w->state = WALK_FAILED;
	return 1;
}

/*
 * Resolves scratch->name[name_cur][0..name_len) from (mnt, dentry), which is the directory a relative name starts in,
 * with the root of the current task. Returns the length of the object in scratch->path, 0 if unresolved.
 */
__noinline u32 name_resolve(u32 slot, u64 mnt, u64 dentry, u32 follow)
{
	struct scratch *s = scratch_get(slot);
	struct task_struct *task = bpf_get_current_task_btf();
	struct down_loop loop;
	struct down_walk *w;
	u32 tail = AGENTD_PATH_MAX;

	if (!s || !mnt || !dentry || s->name_len > AGENTD_PATH_MAX)
		return 0;
	w = &s->down;
	__builtin_memset(w, 0, sizeof(*w));
	loop.s = s;
	w->mnt = (struct vfsmount *)mnt;
	w->dentry = (struct dentry *)dentry;
	w->root_mnt = KREAD(task, fs, root.mnt);
	w->root_dentry = KREAD(task, fs, root.dentry);
	w->follow = follow;
	for (u32 i = 0; i < 64;
	     i++) { /* strip trailing slashes; more than 64 only make the last component look like a directory */
		u32 last = s->name_len - 1;

		if (s->name_len < 2 || s->name[s->name_cur & 1][last & (AGENTD_PATH_MAX - 1)] != '/')
			break;
		s->name_len = last;
	}
	if (s->name_len && s->name[s->name_cur & 1][0] == '/') {
		w->mnt = w->root_mnt;
		w->dentry = w->root_dentry;
	}
	bpf_loop(NAME_STEPS, down_step, &loop, 0);
	if (w->state != WALK_DONE)
		return 0;
	if (w->last_missing) {
		u32 len = w->component_len, start = w->component;

		if (!len || len > 255)
			return 0;
		tail = AGENTD_PATH_MAX - len - 1;
		s->path[tail & (AGENTD_PATH_MAX - 1)] = '/';
		bpf_probe_read_kernel(&s->path[(tail + 1) & (AGENTD_PATH_MAX - 1)], len & 255,
				      &s->name[s->name_cur & 1][start & (AGENTD_PATH_MAX - 1)]);
	}
	return path_resolve(slot, (u64)w->mnt, (u64)w->dentry, tail);
}
