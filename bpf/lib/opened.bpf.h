/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Hooks whose object is a file that is opened, received or mapped: from what is remembered of the file (memory.bpf.h), of its
 * name (leaf.bpf.h), of its folder (recall.bpf.h), or by its path; each way keeps what makes the next time cheaper.
 */
#ifndef AGENTD_OPENED_BPF_H
#define AGENTD_OPENED_BPF_H

#include "prevent.bpf.h"

/* What opening a file in this way is: bits of enum memory_kind. */
static __always_inline u32 open_kinds(const struct file *f)
{
	u32 mode = f->f_mode, kinds = 0;

	if (mode & FMODE_WRITE || f->f_flags & O_TRUNC)
		kinds |= 1 << MEMORY_WRITE;
	if (mode & FMODE_READ || !(mode & FMODE_WRITE))
		kinds |= 1 << MEMORY_READ;
	return kinds;
}

/* Was it made by the call that opens it? Then nothing is remembered of the file itself. */
static __always_inline bool made_now(const struct file *f)
{
	return f->f_mode & FMODE_CREATED;
}

/* The operations that are judged for `kinds`: one, or write and read. */
static __always_inline u32 kinds_ops(u32 kinds)
{
	if (kinds == BOTH_KINDS)
		return TWO_NAMES(AGENTD_OP_WRITE, AGENTD_OP_READ);
	if (kinds == 1 << MEMORY_CODE)
		return ONE_NAME(AGENTD_OP_EXECMEM);
	return kinds == 1 << MEMORY_WRITE ? ONE_NAME(AGENTD_OP_WRITE) : ONE_NAME(AGENTD_OP_READ);
}

/*
 * A file whose name was just recalled, under a count of renames that its own entry, if it has one, doesn't know: keeps it
 * under this one, or each later opening would look for the name. `what`: kinds, generation << 32; `numbers`: as
 * names_recalled() said; `under`: mounts, epoch << 32.
 */
static __noinline void file_renew(const struct agentd_tag *tag, struct file *f, u64 what, u64 numbers, u64 under)
{
	u32 kinds = what;
	struct walked k = {
		.generation = what >> 32,
		.renames = numbers >> 32,
		.mounts = under,
		.epoch = under >> 32,
	};

	if (!constants.memory || !tag || !f)
		return;
	k.mnt = (u64)f->f_path.mnt;
	file_remember(&k, tag, f, kind_first(kinds), numbers & 0xffff);
	if (kinds == BOTH_KINDS)
		file_remember(&k, tag, f, MEMORY_READ, numbers >> 16 & 0xffff);
}

/* Was the name of this file allowed before, in these operations? Then it is counted, and the file itself is kept. */
static __always_inline bool file_by_name(const struct agentd_tag *tag, struct file *f, u32 kinds, struct recall *r)
{
	struct dentry *dentry = f->f_path.dentry;
	u64 numbers;

	if (!constants.memory || !tag || !r)
		return false;
	/* what is looked up after these were read is so under no later mount or number of hits */
	r->mounts = sequence(constants.mount_lock);
	r->epoch = memory_time();
	numbers = names_recalled(tag, r, f->f_path.mnt, dentry, dentry);
	if (numbers && !made_now(f)) /* else often for this once: the next opening keeps it */
		file_renew(tag, f, kinds | (u64)r->generation << 32, numbers, r->mounts | (u64)r->epoch << 32);
	return numbers;
}

/* Is it allowed by what is remembered of the file itself? */
static __always_inline bool file_recalled(const struct agentd_tag *tag, struct file *f, u32 kinds)
{
	return !constants.check && !made_now(f) && recalled(tag, f->f_inode, PLAIN(struct file, f), kinds, NULL);
}

/* Judges a file that isn't, in the kinds that kinds_ops() knows. f: as PLAIN() makes it. */
static __always_inline int judge_file_anew(struct agentd_tag *tag, struct file *f, u32 kinds)
{
	u32 slot, count, ops = kinds_ops(kinds);
	struct recall r = { .ops = ops };
	struct vfsmount *mnt = f->f_path.mnt;
	struct dentry *dentry = f->f_path.dentry;
	bool node = is_node(f->f_inode);
	struct scratch *s;
	int error;

	if (constants.memory && !constants.check && !node && !syscall_foreign() && file_by_name(tag, f, kinds, &r))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->seen = r;
	count = ops >> 16 ? 2 : 1;
	target_set(s, 0, ops & 0xff, mnt, dentry);
	target_set(s, 1, ops >> 8 & 0xff, mnt, dentry);
	s->target[0].node = s->target[1].node = node;
	if (constants.check && recalled_to_check(slot, tag, f, kinds)) {
		shared(slot, CHECK_FILE, 0, kinds);
		scratch_give(slot);
		return 0;
	}
	error = judge_dentries(tag, slot, count, mnt, dentry, mnt, dentry);
	if (!error && constants.memory) {
		file_remember(&s->walked[0], tag, f, kind_first(kinds), s->target_hit[0]);
		if (count > 1)
			file_remember(&s->walked[1], tag, f, MEMORY_READ, s->target_hit[1]);
	}
	scratch_give(slot);
	return error;
}

/* The whole of a hook whose object is a file: it is received or mapped. */
static __always_inline int judge_file(struct agentd_tag *tag, struct file *f, u32 kinds)
{
	return file_recalled(tag, f, kinds) ? 0 : judge_file_anew(tag, PLAIN(struct file, f), kinds);
}

#endif
