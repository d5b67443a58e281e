// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The attributes of files, before the effect (LSM hooks; see lib/prevent.bpf.h). All of it is `setattr`, as path_chmod and
 * path_chown are (lsm_file.bpf.c).
 *
 * inode_setattr                          times that were asked for. Not what a write, a truncation, chmod or chown brings
 *                                        along: those are judged as what they are
 * inode_setxattr, inode_removexattr      extended attributes; before Linux 6.2 access control lists too
 * inode_set_acl, inode_remove_acl        access control lists
 * file_ioctl, file_ioctl_compat          the flags that chattr sets, by the descriptor's path; and what ioctl() makes,
 *                                        removes or reads by a name or number that no hook is told (subvolumes, and what
 *                                        trees of btrfs hold): unresolved
 *                                        too: a whole file system that is stopped or changed (`mount`), input that is typed
 *                                        on a terminal, or taken, and who gets the signals of a socket (`signal`)
 * inode_file_setattr                     the same by file_setattr() (Linux 6.17)
 *
 * Trusted: the kernel's own dentry and iattr. What lies in the file's own filesystem and through which mounts it is seen:
 * mounts.bpf.c.
 */
#include "lib/ioctls.bpf.h"
#include "lib/mounts.bpf.h"
#include "lib/syscall.bpf.h"

#define ATTR_TIMES_SET (1u << 16) /* linux/fs.h: utimensat() and its kin, with times */
#define ATTR_TOUCH (1u << 17) /* and without */
#define ATTR_TIMES (ATTR_TIMES_SET | ATTR_TOUCH)
#define NR_FILE_SETATTR 469

/* The hook as it is since Linux 6.9. Before, `lsm` programs were not given idmap, and `fmod_ret` programs were. */
struct mnt_idmap;
union security_list_options___v69 {
	int (*inode_setattr)(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr);
};

SEC("?lsm/inode_setattr")
int lsm_inode_setattr(u64 *ctx)
{
	u64 argument[3] = {}; /* read as memory: the verifier knows of two where there are two */
	const struct iattr *attr;
	bool mapped;

	if (nobodys(bpf_get_current_task_btf()))
		return 0;
	if (bpf_core_type_matches(union security_list_options___v69)) {
		attr = (const struct iattr *)ctx[2];
		return attr->ia_valid & ATTR_TIMES ? judge_dentry(AGENTD_OP_SETATTR, (struct dentry *)ctx[1]) : 0;
	}
	mapped = hook_point() == AGENTD_POINT_FMOD_RET;
	bpf_probe_read_kernel(argument, sizeof(argument), ctx);
	attr = (const struct iattr *)(mapped ? argument[2] : argument[1]);
	if (!(KREAD(attr, ia_valid) & ATTR_TIMES))
		return 0;
	return judge_dentry(AGENTD_OP_SETATTR, (struct dentry *)(mapped ? argument[1] : argument[0]));
}

SEC("?lsm/inode_setxattr")
int BPF_PROG(lsm_inode_setxattr, void *idmap, struct dentry *dentry)
{
	return judge_dentry(AGENTD_OP_SETATTR, dentry);
}

SEC("?lsm/inode_removexattr")
int BPF_PROG(lsm_inode_removexattr, void *idmap, struct dentry *dentry)
{
	return judge_dentry(AGENTD_OP_SETATTR, dentry);
}

SEC("?lsm/inode_set_acl")
int BPF_PROG(lsm_inode_set_acl, void *idmap, struct dentry *dentry)
{
	return judge_dentry(AGENTD_OP_SETATTR, dentry);
}

SEC("?lsm/inode_remove_acl")
int BPF_PROG(lsm_inode_remove_acl, void *idmap, struct dentry *dentry)
{
	return judge_dentry(AGENTD_OP_SETATTR, dentry);
}

SEC("?lsm/inode_file_setattr")
int BPF_PROG(lsm_inode_file_setattr, struct dentry *dentry)
{
	if (syscall_number() != NR_FILE_SETATTR) /* an ioctl: judged there */
		return 0;
	return judge_dentry(AGENTD_OP_SETATTR, dentry);
}

static __noinline int judge_elsewhere(u32 op)
{
	struct agentd_tag *tag = current_tag();
	int error = -EPERM;
	u32 slot;

	if (!tag)
		return 0;
	if (begin(&slot)) {
		error = shared_answer(slot, JUDGE_UNRESOLVED, op, 0);
		scratch_give(slot);
	}
	return error;
}

static __noinline int judge_signalling(bool terminal)
{
	struct agentd_tag *tag = current_tag();
	int error = -EPERM;
	struct scratch *s;
	u32 slot, len;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (s) {
		len = terminal ? word_set(s, "signal:terminal") : word_set(s, "signal:outside");
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_SIGNAL, len);
		scratch_give(slot);
	}
	return error;
}

static __always_inline int judge_ioctl(struct file *file, u32 request, u32 argument)
{
	u32 op = changes_elsewhere(request);

	if (op)
		return judge_elsewhere(op);
	if (uses_terminal(request, argument) || names_owner(request))
		return judge_signalling(uses_terminal(request, argument));
	if (changes_all(request))
		op = AGENTD_OP_MOUNT;
	else if (sets_attributes(request))
		op = AGENTD_OP_SETATTR;
	else
		return 0;
	file = PLAIN(struct file, file);
	return judge_rarely(op, file->f_path.mnt, file->f_path.dentry);
}

SEC("?lsm/file_ioctl")
int BPF_PROG(lsm_file_ioctl, struct file *file, u32 request, unsigned long argument)
{
	return judge_ioctl(file, request, argument);
}

SEC("?lsm/file_ioctl_compat")
int BPF_PROG(lsm_file_ioctl_compat, struct file *file, u32 request, unsigned long argument)
{
	return judge_ioctl(file, request, argument);
}
