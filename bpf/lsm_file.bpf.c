// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Files, before the effect (LSM hooks; see lib/prevent.bpf.h).
 *
 * file_open                        read and write, by the file that was found; O_TRUNC counts as write; the guard, for what
 *                                  stands for agentd in /proc
 * file_receive                     a descriptor that arrives over a unix socket or by pidfd_getfd
 * path_mknod, path_mkdir           create (open(O_CREAT) and bind() on a unix socket come through path_mknod)
 * path_unlink, path_rmdir          delete
 * path_rename, path_link           both names
 * path_symlink                     link: what it points to is text, the new name is the effect
 * path_truncate                    write
 * path_chmod, path_chown           setattr; the rest of it: lsm_attributes.bpf.c
 * path_chroot, sb_mount, sb_umount, sb_pivotroot, move_mount
 *
 * Trusted: the kernel's own struct path and dentry; nothing in the caller's memory is read.
 */
#include "lib/opened.bpf.h"
#include "lib/refuse.bpf.h"
#include "lib/strangers.bpf.h"
#include "lib/syscall.bpf.h"

#define FMODE_EXEC_FLAG 0x20 /* in f_flags: opened by execve, which lsm_exec.bpf.c judges */
#define FMODE_NOACCOUNT 0x20000000 /* the file under a file of overlayfs: the upper one was judged */

/* often: what is remembered of the name is asked at once, in the hook itself. */
static __always_inline int judge_path_as(u32 op, const struct vfsmount *mnt, struct dentry *dentry, bool often)
{
	struct agentd_tag *tag = current_tag();
	struct recall r;
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag)
		return 0;
	SHARED_FIRST();
	r = (struct recall){ .ops = ONE_NAME(op) };
	if (often && constants.memory && !constants.check && !syscall_foreign() &&
	    names_recalled(tag, &r, mnt, dentry, dentry))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->seen = r;
	target_set(s, 0, op, mnt, dentry);
	error = judge_dentries(tag, slot, 1, mnt, dentry, mnt, dentry);
	scratch_give(slot);
	return error;
}

static __always_inline int judge_path(u32 op, const struct vfsmount *mnt, struct dentry *dentry)
{
	return judge_path_as(op, mnt, dentry, true);
}

/* The same for what is rarely done. */
static __always_inline int judge_rarely(u32 op, const struct vfsmount *mnt, struct dentry *dentry)
{
	return judge_path_as(op, mnt, dentry, false);
}

static __always_inline int judge_pair(u32 op, const struct vfsmount *mnt, struct dentry *from,
				      const struct vfsmount *mnt2, struct dentry *to)
{
	struct agentd_tag *tag = current_tag();
	struct recall r;
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag)
		return 0;
	SHARED_FIRST();
	r = (struct recall){ .ops = TWO_NAMES(op, op) };
	if (constants.memory && !constants.check && mnt == mnt2 && !syscall_foreign() &&
	    names_recalled(tag, &r, mnt, from, to))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->seen = r;
	target_set(s, 0, op, mnt, from);
	target_set(s, 1, op, mnt2, to);
	error = judge_dentries(tag, slot, 2, mnt, from, mnt2, to);
	scratch_give(slot);
	return error;
}

/* mq_open() and an ioctl of XFS take this flag of the caller's, too. */
static __always_inline bool opened_by_exec(const struct file *file)
{
	return file->f_flags & FMODE_EXEC_FLAG &&
	       (syscall_is(59, 11) || syscall_is(322, 358) || syscall_is(520, 11) || syscall_is(545, 358));
}

/* Is it what the program names that bprm_check_security has allowed just now, in this execve? */
static __always_inline bool is_loader(struct agentd_tag *tag)
{
	u64 mark = tag->marked;

	if (!(mark & 1))
		return false;
	tag->marked = 0;
	return mark == syscall_mark();
}

/* The guard: what of agentd's process in /proc is opened to write, or shows its memory. 0: neither. */
static __always_inline u32 guarded_op(const struct file *file)
{
	if (file->f_inode->i_sb->s_magic != PROC_SUPER_MAGIC || !is_proc_of_agentd(file->f_inode))
		return 0;
	if (file->f_mode & FMODE_WRITE)
		return AGENTD_OP_WRITE;
	return shows_memory(file->f_path.dentry) ? AGENTD_OP_PTRACE : 0;
}

SEC("?lsm/file_open")
int BPF_PROG(lsm_file_open, struct file *file)
{
	struct agentd_tag *tag = current_tag();
	u32 kinds, op;

	if (!tag || file->f_mode & FMODE_NOACCOUNT)
		return 0;
	SHARED_FIRST();
	if (opened_by_exec(file) && !is_loader(tag))
		return 0;
	if (may_be_nameless(file->f_inode) && is_strangers(file))
		return judge_strangers(tag, file);
	kinds = open_kinds(file);
	if (file_recalled(tag, file, kinds)) /* nothing in /proc ever is */
		return 0;
	file = PLAIN(struct file, file);
	op = guarded_op(file);
	return op ? guard_refuses(op) : judge_file_anew(tag, file, kinds);
}

SEC("?lsm/file_receive")
int BPF_PROG(lsm_file_receive, struct file *file)
{
	struct agentd_tag *tag = current_tag();

	if (!tag)
		return 0;
	SHARED_FIRST();
	file = PLAIN(struct file, file);
	if ((file->f_inode->i_mode & S_IFMT_BITS) == S_IFSOCK_BITS)
		return 0; /* what a socket may do was judged where it was connected */
	return judge_file(tag, file, open_kinds(file));
}

SEC("?lsm/path_mknod")
int BPF_PROG(lsm_path_mknod, struct path *dir, struct dentry *dentry)
{
	return judge_path(AGENTD_OP_CREATE, dir->mnt, dentry);
}

SEC("?lsm/path_mkdir")
int BPF_PROG(lsm_path_mkdir, struct path *dir, struct dentry *dentry)
{
	return judge_path(AGENTD_OP_CREATE, dir->mnt, dentry);
}

SEC("?lsm/path_symlink")
int BPF_PROG(lsm_path_symlink, struct path *dir, struct dentry *dentry)
{
	return judge_path(AGENTD_OP_LINK, dir->mnt, dentry);
}

SEC("?lsm/path_unlink")
int BPF_PROG(lsm_path_unlink, struct path *dir, struct dentry *dentry)
{
	return judge_path(AGENTD_OP_DELETE, dir->mnt, dentry);
}

SEC("?lsm/path_rmdir")
int BPF_PROG(lsm_path_rmdir, struct path *dir, struct dentry *dentry)
{
	return judge_path(AGENTD_OP_DELETE, dir->mnt, dentry);
}

SEC("?lsm/path_rename")
int BPF_PROG(lsm_path_rename, struct path *old_dir, struct dentry *old_dentry, struct path *new_dir,
	     struct dentry *new_dentry)
{
	return judge_pair(AGENTD_OP_RENAME, old_dir->mnt, old_dentry, new_dir->mnt, new_dentry);
}

SEC("?lsm/path_link")
int BPF_PROG(lsm_path_link, struct dentry *old_dentry, struct path *new_dir, struct dentry *new_dentry)
{
	/* both names are on one mount, or it is EXDEV (fs/namei.c, do_linkat) */
	return judge_pair(AGENTD_OP_LINK, new_dir->mnt, old_dentry, new_dir->mnt, new_dentry);
}

SEC("?lsm/path_truncate")
int BPF_PROG(lsm_path_truncate, struct path *path)
{
	return judge_path(AGENTD_OP_WRITE, path->mnt, path->dentry);
}

SEC("?lsm/path_chmod")
int BPF_PROG(lsm_path_chmod, struct path *path)
{
	return judge_path(AGENTD_OP_SETATTR, path->mnt, path->dentry);
}

SEC("?lsm/path_chown")
int BPF_PROG(lsm_path_chown, struct path *path)
{
	return judge_path(AGENTD_OP_SETATTR, path->mnt, path->dentry);
}

SEC("?lsm/path_chroot")
int BPF_PROG(lsm_path_chroot, struct path *path)
{
	path = PLAIN(struct path, path);
	return judge_rarely(AGENTD_OP_CHROOT, path->mnt, path->dentry);
}

SEC("?lsm/sb_mount")
int BPF_PROG(lsm_sb_mount, const char *dev_name, struct path *path)
{
	path = PLAIN(struct path, path);
	return judge_rarely(AGENTD_OP_MOUNT, path->mnt, path->dentry);
}

SEC("?lsm/sb_umount")
int BPF_PROG(lsm_sb_umount, struct vfsmount *mnt)
{
	mnt = PLAIN(struct vfsmount, mnt);
	return judge_rarely(AGENTD_OP_MOUNT, mnt, mnt->mnt_root);
}

SEC("?lsm/sb_pivotroot")
int BPF_PROG(lsm_sb_pivotroot, struct path *old_path, struct path *new_path)
{
	new_path = PLAIN(struct path, new_path);
	return judge_rarely(AGENTD_OP_MOUNT, new_path->mnt, new_path->dentry);
}

SEC("?lsm/move_mount")
int BPF_PROG(lsm_move_mount, struct path *from_path, struct path *to_path)
{
	to_path = PLAIN(struct path, to_path);
	return judge_rarely(AGENTD_OP_MOUNT, to_path->mnt, to_path->dentry);
}
