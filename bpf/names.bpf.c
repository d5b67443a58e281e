// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Calls whose object is a name (trace point): unlink, rename, link, mkdir, truncate, chmod, chown, xattr, mount, chroot.
 *
 * detected: the effect is there, the caller is killed or stopped before it learns so. The object is found again from the
 * caller's string (namei.bpf.c); of two names the second is judged when the first was allowed.
 */
#include "lib/call.bpf.h"

#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_SYMLINK_FOLLOW 0x400
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_NAMESPACE 2 /* Linux 7.0 */
#define NO_ARG 0xff

/*
 * glibc's fchmodat(AT_SYMLINK_NOFOLLOW) and friends write /proc/self/fd/N, a link that procfs makes up: N if `name` is
 * that, -1 if not.
 */
static __always_inline s32 self_fd(const char *name)
{
	static const char prefix[] = "/proc/self/fd/";
	s32 fd = 0;

	for (u32 i = 0; i < sizeof(prefix) - 1; i++)
		if (name[i] != prefix[i])
			return -1;
	for (u32 i = sizeof(prefix) - 1; i < sizeof(prefix) + 7; i++) {
		if (!name[i])
			return i == sizeof(prefix) - 1 ? -1 : fd;
		if (name[i] < '0' || name[i] > '9')
			return -1;
		fd = fd * 10 + (name[i] - '0');
	}
	return -1;
}

/* The object that (dirfd, string) names. Returns its length in scratch->path, 0: unresolved. */
static __noinline u32 resolve_argument(struct call *c, u32 dirfd_arg, u32 path_arg, bool follow)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct scratch *s = scratch_get(c->slot);
	u64 mnt, dentry;
	void *string = (void *)argument(c, path_arg);
	long n;

	if (!s)
		return 0;
	if (dirfd_arg == NO_ARG || (s32)argument(c, dirfd_arg) == AT_FDCWD) {
		mnt = (u64)KREAD(task, fs, pwd.mnt);
		dentry = (u64)KREAD(task, fs, pwd.dentry);
	} else {
		struct file *f = file_of((s32)argument(c, dirfd_arg));

		mnt = f ? (u64)KREAD(f, f_path.mnt) : 0;
		dentry = f ? (u64)KREAD(f, f_path.dentry) : 0;
	}
	s->name_cur = 0;
	s->name_len = 0;
	if (!string) /* utimensat(fd, NULL), AT_EMPTY_PATH: the descriptor itself */
		return path_resolve(c->slot, mnt, dentry, AGENTD_PATH_MAX);
	n = bpf_probe_read_user_str(s->name[0], AGENTD_PATH_MAX, string);
	if (n < 1 || n >= AGENTD_PATH_MAX)
		return 0;
	if (n == 1)
		return path_resolve(c->slot, mnt, dentry, AGENTD_PATH_MAX);
	s->name_len = n - 1;
	if (follow) {
		s32 fd = self_fd(s->name[0]);
		struct file *f = fd < 0 ? NULL : file_of(fd);

		if (f)
			return path_of_file(c->slot, f);
	}
	if (s->name[0][0] == '/') /* dirfd may be anything then */
		return name_resolve(c->slot, (u64)KREAD(task, fs, root.mnt), (u64)KREAD(task, fs, root.dentry), follow);
	return name_resolve(c->slot, mnt, dentry, follow);
}

/* How the arguments of one kind of call name one or two objects. */
struct name_call {
	u8 op;
	u8 dirfd, path; /* argument numbers; dirfd may be NO_ARG */
	u8 dirfd2, path2; /* of the second name; path2 may be NO_ARG */
	bool follow;
	u8 flags; /* argument with AT_SYMLINK_NOFOLLOW, or NO_ARG */
};

static __always_inline bool name_call_of(u32 kind, struct name_call *n)
{
	*n = (struct name_call){ .dirfd = NO_ARG, .path = 0, .dirfd2 = NO_ARG, .path2 = NO_ARG, .flags = NO_ARG };
	switch (kind) {
	case CALL_UNLINK:
		n->op = AGENTD_OP_DELETE;
		return true;
	case CALL_UNLINKAT:
		n->op = AGENTD_OP_DELETE;
		n->dirfd = 0;
		n->path = 1;
		return true;
	case CALL_RENAME:
		n->op = AGENTD_OP_RENAME;
		n->path2 = 1;
		return true;
	case CALL_RENAMEAT:
	case CALL_LINKAT:
		n->op = kind == CALL_LINKAT ? AGENTD_OP_LINK : AGENTD_OP_RENAME;
		n->dirfd = 0;
		n->path = 1;
		n->dirfd2 = 2;
		n->path2 = 3;
		return true;
	case CALL_LINK:
		n->op = AGENTD_OP_LINK;
		n->path2 = 1;
		return true;
	case CALL_SYMLINK: /* what it points to is text; the new name is the effect */
		n->op = AGENTD_OP_LINK;
		n->path = 1;
		return true;
	case CALL_SYMLINKAT:
		n->op = AGENTD_OP_LINK;
		n->dirfd = 1;
		n->path = 2;
		return true;
	case CALL_MKDIR:
		n->op = AGENTD_OP_CREATE;
		return true;
	case CALL_MKDIRAT:
		n->op = AGENTD_OP_CREATE;
		n->dirfd = 0;
		n->path = 1;
		return true;
	case CALL_TRUNCATE:
		n->op = AGENTD_OP_WRITE;
		n->follow = true;
		return true;
	case CALL_SETATTR:
	case CALL_LSETATTR:
		n->op = AGENTD_OP_SETATTR;
		n->follow = kind == CALL_SETATTR;
		return true;
	case CALL_SETATTRAT:
	case CALL_CHMODAT:
	case CALL_CHOWNAT:
	case CALL_XATTRAT:
		n->op = AGENTD_OP_SETATTR;
		n->dirfd = 0;
		n->path = 1;
		n->follow = true;
		n->flags = kind == CALL_SETATTRAT ? 3 : kind == CALL_CHOWNAT ? 4 : kind == CALL_XATTRAT ? 2 : NO_ARG;
		return true;
	case CALL_MOUNT:
		n->op = AGENTD_OP_MOUNT;
		n->path = 1;
		n->follow = true;
		return true;
	case CALL_UMOUNT:
		n->op = AGENTD_OP_MOUNT;
		return true;
	case CALL_MOVE_MOUNT:
		n->op = AGENTD_OP_MOUNT;
		n->dirfd = 2;
		n->path = 3;
		n->follow = true;
		return true;
	case CALL_OPEN_TREE:
		n->op = AGENTD_OP_MOUNT;
		n->dirfd = 0;
		n->path = 1;
		n->follow = true;
		return true;
	}
	return false;
}

/*
 * Would a denial of this call leave something behind that another process of the workload can use? A mount does; so does
 * another name for a file that may not be read or run.
 */
static __always_inline bool leaves_alias(struct call *c, const struct name_call *n, u32 len)
{
	struct scratch *s = scratch_get(c->slot);

	if (n->op == AGENTD_OP_MOUNT)
		return true;
	if (n->path2 == NO_ARG || !len || !s)
		return n->path2 != NO_ARG;
	path_verdict(&s->v[1], c->slot, c->tag->agent, AGENTD_OP_READ);
	if (s->v[1].decision != AGENTD_ALLOW)
		return true;
	path_verdict(&s->v[1], c->slot, c->tag->agent, AGENTD_OP_EXEC);
	return s->v[1].decision != AGENTD_ALLOW;
}

static __noinline void judge_names(struct call *c)
{
	struct name_call n;
	bool alias;
	u32 len;

	if (!name_call_of(c->kind, &n))
		return;
	if (c->kind == CALL_OPEN_TREE && !(argument(c, 2) & (OPEN_TREE_CLONE | OPEN_TREE_NAMESPACE)))
		return; /* the same as O_PATH */
	if (n.flags != NO_ARG && argument(c, n.flags) & AT_SYMLINK_NOFOLLOW)
		n.follow = false;
	if (c->kind == CALL_LINKAT && argument(c, 4) & AT_SYMLINK_FOLLOW)
		n.follow = true;
	len = resolve_argument(c, n.dirfd, n.path, n.follow);
	alias = leaves_alias(c, &n, len);
	if (!judge(c, n.op, AGENTD_DETECTED, alias ? AGENTD_EVENT_FLAG_DOOMED : 0, len)) {
		if (alias)
			doom(c->tag);
		return;
	}
	if (n.path2 == NO_ARG)
		return;
	len = resolve_argument(c, n.dirfd2, n.path2, false);
	judge(c, n.op, AGENTD_DETECTED, 0, len);
}
