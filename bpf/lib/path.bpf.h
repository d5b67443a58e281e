/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From a kernel object to its path, and from a name to an object: see path.bpf.c and namei.bpf.c. */
#ifndef AGENTD_PATH_BPF_H
#define AGENTD_PATH_BPF_H

#include "load.bpf.h"
#include "scratch.bpf.h"

enum walk_state {
	WALKING = 0,
	WALK_DONE = 1,
	WALK_FAILED = 2,
};

#define S_IFMT_BITS 00170000
#define S_IFLNK_BITS 0120000
#define S_IFREG_BITS 0100000
#define S_IFDIR_BITS 0040000
#define S_IFSOCK_BITS 0140000
#define PROC_SUPER_MAGIC 0x9fa0
#define S_IFBLK_BITS 0060000
#define S_IFCHR_BITS 0020000

static __always_inline struct mount *real_mount(struct vfsmount *mnt)
{
	return (struct mount *)((char *)mnt - bpf_core_field_offset(struct mount, mnt));
}

static __always_inline bool is_node(const struct inode *inode)
{
	u32 type = LOAD(const struct inode, inode, i_mode) & S_IFMT_BITS;

	return type == S_IFBLK_BITS || type == S_IFCHR_BITS;
}

/* Does the path in the buffer begin with /dev/, and not with /dev/shm/, where everybody may write? */
static __always_inline bool in_dev(const struct scratch *s)
{
	u32 off = s->path_off & (AGENTD_PATH_MAX - 1);
	const char *rest = &s->path[(off + 5) & (AGENTD_PATH_MAX - 1)];

	return s->path[off] == '/' && s->path[off + 1] == 'd' && s->path[off + 2] == 'e' && s->path[off + 3] == 'v' &&
	       s->path[off + 4] == '/' && !(rest[0] == 's' && rest[1] == 'h' && rest[2] == 'm' && rest[3] == '/');
}

/* Is it a file system in which folders can be made to disregard case? */
static __always_inline bool folds_case(const struct super_block *sb)
{
	return bpf_core_field_exists(struct super_block, s_encoding) && LOAD(const struct super_block, sb, s_encoding);
}

u32 path_resolve(u32 slot, u64 mnt, u64 dentry, u32 tail);
u32 name_resolve(u32 slot, u64 mnt, u64 dentry, u32 follow);

static __always_inline u32 path_of(u32 slot, const struct path *p)
{
	return path_resolve(slot, (u64)KREAD(p, mnt), (u64)KREAD(p, dentry), AGENTD_PATH_MAX);
}

static __always_inline u32 path_of_file(u32 slot, struct file *f)
{
	return path_resolve(slot, (u64)KREAD(f, f_path.mnt), (u64)KREAD(f, f_path.dentry), AGENTD_PATH_MAX);
}

#endif
