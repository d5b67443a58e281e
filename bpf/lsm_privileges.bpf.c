// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What has no hook of its own, before its effect (LSM hooks; see lib/prevent.bpf.h).
 *
 * capable                       the privilege that a call must have, asked for while the call is in progress (by its
 *                               number): namespaces by unshare() and setns(), mounts by fsopen() and its kin, modules
 *                               removed, the machine's ports (`write` of /dev/port, which is the same), terminals of others,
 *                               memory of others that is written out, or that is broken on purpose (`signal`: who uses it
 *                               dies). A user namespace has a hook (lsm_words.bpf.c), and clone() is judged there
 * inode_init_security_anon      the descriptor of an io_uring or a userfaultfd
 * path_notify                   fanotify; inotify as `read` of what it watches, whose names it tells
 *
 * A call that is refused a privilege can't be issued again: capable() only says yes or no. What needs an approval is
 * denied there. setns() asks more than once, and each time is counted.
 */
#include "lib/namespaces.bpf.h"
#include "lib/prevent.bpf.h"
#include "lib/syscall.bpf.h"

#define CAP_SYS_MODULE 16
#define CAP_SYS_RAWIO 17
#define CAP_SYS_ADMIN 21
#define CAP_SYS_NICE 23
#define CAP_SYS_TTY_CONFIG 26

static __always_inline bool mounts_anew(s32 number)
{
	switch (number & ~X32_BIT) { /* the same in every table */
	case 428: /* open_tree */
	case 430: /* fsopen */
	case 431: /* fsconfig */
	case 432: /* fsmount */
	case 433: /* fspick */
	case 442: /* mount_setattr */
	case 467: /* open_tree_attr */
		return true;
	}
	return false;
}

/* madvise() with MADV_HWPOISON or MADV_SOFT_OFFLINE, the only ones that ask: a page of a file is everybody's who uses the file. */
static __always_inline bool breaks_memory(void)
{
	return syscall_is(28, 219);
}

/* Most privileges are asked for by calls that are none of ours: seen before a work buffer is taken. */
static __always_inline bool of_interest(int privilege)
{
	switch (privilege) {
	case CAP_SYS_MODULE:
		return syscall_is(176, 129);
	case CAP_SYS_RAWIO:
		return syscall_is(172, 110) || syscall_is(173, 101); /* iopl, ioperm */
	case CAP_SYS_NICE:
		/* process_madvise; not by ptrace_access_check: on 7.2 CAP_PERFMON opens any memory (mm_access) */
		return syscall_is(440, 440);
	case CAP_SYS_TTY_CONFIG:
		return true; /* vhangup, and the keys of a console that is not its own */
	case CAP_SYS_ADMIN:
		return breaks_memory() || syscall_is(272, 310) || syscall_is(308, 346) || mounts_anew(syscall_number());
	}
	return false;
}

/* What it is needed for: the operation, and the word in scratch->path. 0: no namespace but a user's, which was judged. */
static __always_inline u32 privileged_word(struct scratch *s, int privilege, u32 *op)
{
	switch (privilege) {
	case CAP_SYS_MODULE:
		*op = AGENTD_OP_MODULE;
		return word_set(s, "module");
	case CAP_SYS_RAWIO:
		*op = AGENTD_OP_WRITE;
		return word_set(s, "/dev/port");
	case CAP_SYS_TTY_CONFIG:
		*op = AGENTD_OP_SIGNAL;
		return word_set(s, "signal:terminal");
	}
	if (privilege == CAP_SYS_NICE || breaks_memory()) {
		*op = AGENTD_OP_SIGNAL;
		return word_set(s, "signal:outside");
	}
	if (syscall_is(272, 310)) {
		*op = AGENTD_OP_NAMESPACE;
		return unshare_word(s, syscall_first() & ~(u64)CLONE_NEWUSER);
	}
	if (syscall_is(308, 346)) {
		*op = AGENTD_OP_NAMESPACE;
		return word_set(s, "setns");
	}
	*op = AGENTD_OP_MOUNT;
	return word_set(s, "mount");
}

SEC("?lsm/capable")
int BPF_PROG(lsm_capable, const struct cred *cred, struct user_namespace *ns, int privilege)
{
	struct agentd_tag *tag;
	struct scratch *s;
	int error = 0;
	u32 slot, len, op = AGENTD_OP_MOUNT;

	if (privilege < CAP_SYS_MODULE || privilege > CAP_SYS_TTY_CONFIG)
		return 0;
	tag = current_tag();
	if (!tag || !of_interest(privilege))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	len = privileged_word(s, privilege, &op);
	if (len)
		error = shared_answer(slot, JUDGE_WORD_NOW, op, len);
	scratch_give(slot);
	return error;
}

SEC("?lsm/inode_init_security_anon")
int BPF_PROG(lsm_inode_init_security_anon, struct inode *inode, const struct qstr *name)
{
	char text[16] = {};

	if (bpf_probe_read_kernel_str(text, sizeof(text), KREAD(name, name)) < 0)
		return 0;
	if (text[1] == 'i' && text[2] == 'o' && text[3] == '_' && text[4] == 'u') /* [io_uring] */
		return PREVENT_WORD(AGENTD_OP_IO_URING, "io_uring_setup");
	if (text[1] == 'u' && text[2] == 's' && text[3] == 'e' && text[4] == 'r') /* [userfaultfd] */
		return PREVENT_WORD(AGENTD_OP_PERF, "userfaultfd");
	return 0;
}

SEC("?lsm/path_notify")
int BPF_PROG(lsm_path_notify, const struct path *path)
{
	if (!syscall_is(301, 339)) {
		path = PLAIN(struct path, path);
		return judge_path(AGENTD_OP_READ, path->mnt, path->dentry);
	}
	return PREVENT_WORD(AGENTD_OP_PERF, "fanotify_init");
}
