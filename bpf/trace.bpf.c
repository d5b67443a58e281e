// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What no better point covers, seen at the exit of the system call, before it returns to the program.
 *
 * tp_btf/sys_exit: one program; raw, so that 32-bit calls are seen too. Only the exit is traced: the arguments are still
 * in the registers, and half the cost for everybody else is saved.
 *
 * opens            judged by the struct file they got: `..`, symlinks and races of names mean nothing.
 *                  contained: killed or stopped before the descriptor is returned. Where the descriptor table is shared
 *                  with another thread, that thread may have used it: detected, and the record says so. The creation or
 *                  truncation that an open brings along is detected.
 * names            unlink, rename, link, mkdir, truncate, chmod, chown, xattr, mount, chroot: detected. The object is
 *                  found again from the caller's string (namei.bpf.c).
 * words            namespaces, ptrace, bpf, modules, kexec, io_uring, perf: detected, or contained where what was got is
 *                  a descriptor that has not been returned yet.
 * sockets          unusual families; connect to a unix socket (judged by the peer's own path); listen: contained.
 * 32-bit calls     an operation of their own (`compat`), and then the same as above.
 *
 * Also the second half of every hold: the SIGSTOP that cgroup programs can't send, and the end of a task that runs
 * although it is held.
 *
 * Only calls that succeeded are judged: one that failed had no effect. Fails: to deny (kill).
 */
#include "lib/act.bpf.h"
#include "lib/syscalls.bpf.h"

#define EINPROGRESS 115
#define EAGAIN 11
#define ERESTARTNOINTR 513
#define TS_COMPAT 2
#define X32_BIT 0x40000000
#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_SYMLINK_FOLLOW 0x400
#define FMODE_READ 1
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define FMODE_CREATED 0x100000
#define O_TRUNC 01000
#define OPEN_TREE_CLONE 1
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define AF_PACKET 17
#define AF_ALG 38
#define AF_VSOCK 40
#define AF_XDP 44
#define SOCK_STREAM 1
#define PTRACE_TRACEME 0
#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206

#define NO_ARG 0xff

struct call {
	struct agentd_tag *tag;
	struct pt_regs *regs;
	u32 slot;
	u32 kind;
	s32 nr;
	bool compat;
	s64 ret;
};

static __always_inline u64 argument(const struct call *c, u32 n)
{
	struct pt_regs *r = c->regs;

	if (c->compat) {
		switch (n) {
		case 0: return (u32)r->bx;
		case 1: return (u32)r->cx;
		case 2: return (u32)r->dx;
		case 3: return (u32)r->si;
		case 4: return (u32)r->di;
		default: return (u32)r->bp;
		}
	}
	switch (n) {
	case 0: return r->di;
	case 1: return r->si;
	case 2: return r->dx;
	case 3: return r->r10;
	case 4: return r->r8;
	default: return r->r9;
	}
}

static __always_inline struct emission *emission_of(const struct call *c, struct scratch *s, u32 op, u32 guarantee)
{
	struct emission *m = emission_begin(s, op, AGENTD_POINT_TRACE, guarantee);

	m->syscall = c->nr;
	m->flags = c->compat ? AGENTD_EVENT_FLAG_COMPAT : 0;
	return m;
}

/* Judges what stands in scratch->path (`len` bytes at its end; 0: unresolved). True: it was allowed. */
static __noinline bool judge(struct call *c, u32 op, u32 guarantee, u32 flags, u32 len)
{
	struct scratch *s = scratch_get(c->slot);
	u64 begin = bpf_ktime_get_ns();
	struct emission *m;
	struct verdict *v;
	bool allowed;

	if (!s) {
		kill_current(c->tag, NULL);
		return false;
	}
	m = emission_of(c, s, op, guarantee);
	v = &s->v[0];
	if (len)
		path_verdict(v, c->slot, c->tag->agent, op);
	else
		verdict_unresolved(v, c->tag->agent, op);
	m->flags |= flags;
	m->object_off = s->path_off;
	m->object_len = len;
	verdict_time(begin);
	allowed = v->decision == AGENTD_ALLOW;
	act(c->slot, c->tag, v, m, false);
	return allowed && !(c->tag->flags & AGENTD_TAG_KILLED);
}

static __always_inline struct file *file_of(s64 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *fdt = KREAD(task, files, fdt);
	struct file **slots, *f = NULL;

	if (fd < 0 || !fdt || fd >= KREAD(fdt, max_fds))
		return NULL;
	slots = KREAD(fdt, fd);
	if (bpf_probe_read_kernel(&f, sizeof(f), &slots[fd]))
		return NULL;
	return f;
}

static __noinline void judge_open(struct call *c)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *f = file_of(c->ret);
	u32 mode, len, flags = 0, guarantee = AGENTD_CONTAINED;
	u64 how = 0;

	switch (c->kind) {
	case CALL_OPEN:
		how = argument(c, 1);
		break;
	case CALL_OPENAT:
	case CALL_OPEN_BY_HANDLE:
		how = argument(c, 2);
		break;
	case CALL_CREAT:
		how = O_TRUNC;
		break;
	case CALL_OPENAT2: /* struct open_how begins with flags */
		if (bpf_probe_read_user(&how, sizeof(how), (void *)argument(c, 2)))
			how = O_TRUNC;
		break;
	}
	if (KREAD(task, files, count.counter) > 1) {
		guarantee = AGENTD_DETECTED;
		flags = AGENTD_EVENT_FLAG_SHARED_FDS;
	}
	if (!f) { /* closed or replaced by another thread before we looked: what it was, nobody knows */
		judge(c, AGENTD_OP_READ, AGENTD_DETECTED, flags, 0);
		return;
	}
	mode = KREAD(f, f_mode);
	if (mode & FMODE_PATH) /* gives no access; opening it again is judged then */
		return;
	len = path_of_file(c->slot, f);
	/* writing is judged first: it is the one that is denied when only reading is allowed */
	if (mode & FMODE_CREATED && !judge(c, AGENTD_OP_CREATE, AGENTD_DETECTED, flags, len))
		return;
	if (mode & FMODE_CREATED) /* emitting an event uses the buffer */
		len = path_of_file(c->slot, f);
	if (mode & FMODE_WRITE || how & O_TRUNC) {
		if (!judge(c, AGENTD_OP_WRITE, how & O_TRUNC ? AGENTD_DETECTED : guarantee, flags, len))
			return;
		if (mode & FMODE_READ)
			len = path_of_file(c->slot, f);
	}
	if (mode & FMODE_READ || !(mode & (FMODE_READ | FMODE_WRITE)))
		judge(c, AGENTD_OP_READ, guarantee, flags, len);
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
	if (s->name[0][0] == '/') /* dirfd may be anything then */
		return name_resolve(c->slot, (u64)KREAD(task, fs, root.mnt),
				    (u64)KREAD(task, fs, root.dentry), follow);
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

static __noinline void judge_names(struct call *c)
{
	struct name_call n;
	u32 len;

	if (!name_call_of(c->kind, &n))
		return;
	if (c->kind == CALL_OPEN_TREE && !(argument(c, 2) & OPEN_TREE_CLONE))
		return; /* the same as O_PATH */
	if (n.flags != NO_ARG && argument(c, n.flags) & AT_SYMLINK_NOFOLLOW)
		n.follow = false;
	if (c->kind == CALL_LINKAT && argument(c, 4) & AT_SYMLINK_FOLLOW)
		n.follow = true;
	len = resolve_argument(c, n.dirfd, n.path, n.follow);
	if (!judge(c, n.op, AGENTD_DETECTED, 0, len) || n.path2 == NO_ARG)
		return;
	len = resolve_argument(c, n.dirfd2, n.path2, false);
	judge(c, n.op, AGENTD_DETECTED, 0, len);
}

#define CLONE_NEWTIME 0x80
#define CLONE_NEWNS 0x20000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS 0x04000000
#define CLONE_NEWIPC 0x08000000
#define CLONE_NEWUSER 0x10000000
#define CLONE_NEWPID 0x20000000
#define CLONE_NEWNET 0x40000000

/* The new child's own look at itself: which namespaces are not its parent's? As the flags that would have asked for them. */
static __always_inline u64 namespaces_apart(void)
{
	struct task_struct *task = bpf_get_current_task_btf(), *up = KREAD(task, real_parent);
	struct nsproxy *mine = KREAD(task, nsproxy), *theirs = KREAD(up, nsproxy);
	u64 flags = 0;

	if (KREAD(task, cred, user_ns) != KREAD(up, cred, user_ns))
		flags |= CLONE_NEWUSER;
	if (mine == theirs || !mine || !theirs)
		return flags;
	if (KREAD(mine, mnt_ns) != KREAD(theirs, mnt_ns))
		flags |= CLONE_NEWNS;
	if (KREAD(mine, pid_ns_for_children) != KREAD(theirs, pid_ns_for_children))
		flags |= CLONE_NEWPID;
	if (KREAD(mine, net_ns) != KREAD(theirs, net_ns))
		flags |= CLONE_NEWNET;
	if (!flags)
		flags = CLONE_NEWUTS;
	return flags;
}

static __always_inline u32 namespace_word(struct scratch *s, u64 flags)
{
	if (flags & CLONE_NEWUSER)
		return word_set(s, "unshare:user");
	if (flags & CLONE_NEWNS)
		return word_set(s, "unshare:mnt");
	if (flags & CLONE_NEWPID)
		return word_set(s, "unshare:pid");
	if (flags & CLONE_NEWNET)
		return word_set(s, "unshare:net");
	if (flags & (CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWTIME))
		return word_set(s, "unshare:other");
	return 0;
}

static __noinline void judge_words(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	u32 op, len = 0, guarantee = AGENTD_DETECTED;
	u64 first = argument(c, 0);

	if (!s)
		return;
	switch (c->kind) {
	case CALL_UNSHARE:
		op = AGENTD_OP_NAMESPACE;
		len = namespace_word(s, first);
		break;
	case CALL_SETNS:
		op = AGENTD_OP_NAMESPACE;
		len = word_set(s, "setns");
		break;
	case CALL_CLONE: /* in the child, which has not run yet */
		if (c->ret)
			return;
		op = AGENTD_OP_NAMESPACE;
		guarantee = AGENTD_CONTAINED;
		len = namespace_word(s, namespaces_apart());
		break;
	case CALL_PTRACE:
		op = AGENTD_OP_PTRACE;
		if (first == PTRACE_ATTACH || first == PTRACE_SEIZE)
			len = word_set(s, "ptrace:attach");
		else if (first == PTRACE_TRACEME)
			len = word_set(s, "ptrace:traceme");
		break;
	case CALL_VM_READ:
		op = AGENTD_OP_PTRACE;
		len = word_set(s, "ptrace:process_vm_readv");
		break;
	case CALL_VM_WRITE:
		op = AGENTD_OP_PTRACE;
		len = word_set(s, "ptrace:process_vm_writev");
		break;
	case CALL_PIDFD_GETFD:
		op = AGENTD_OP_PTRACE;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "ptrace:pidfd_getfd");
		break;
	case CALL_BPF:
		op = AGENTD_OP_BPF;
		len = word_set(s, "bpf");
		break;
	case CALL_MODULE:
		op = AGENTD_OP_MODULE;
		len = word_set(s, "module");
		break;
	case CALL_KEXEC:
		op = AGENTD_OP_KEXEC;
		len = word_set(s, "kexec_load");
		break;
	case CALL_IO_URING:
		op = AGENTD_OP_IO_URING;
		guarantee = c->nr == 425 ? AGENTD_CONTAINED : AGENTD_DETECTED;
		len = word_set(s, "io_uring_setup");
		break;
	case CALL_PERF:
		op = AGENTD_OP_PERF;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "perf_event_open");
		break;
	case CALL_USERFAULTFD:
		op = AGENTD_OP_PERF;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "userfaultfd");
		break;
	case CALL_MOUNT_OTHER:
		op = AGENTD_OP_MOUNT;
		len = word_set(s, "mount");
		break;
	default:
		return;
	}
	if (len) /* nothing: this use of the call is of no interest */
		judge(c, op, guarantee, 0, len);
}

static __always_inline u32 family_word(struct scratch *s, u64 family)
{
	switch (family) {
	case AF_UNIX:
	case AF_NETLINK:
	case AF_INET: /* the unusual ones are refused by cgroup/sock_create before they exist */
	case AF_INET6:
		return 0;
	case AF_PACKET:
		return word_set(s, "packet");
	case AF_ALG:
		return word_set(s, "alg");
	case AF_VSOCK:
		return word_set(s, "vsock");
	case AF_XDP:
		return word_set(s, "xdp");
	default:
		return word_set(s, "other");
	}
}

/* The path or name a connected unix socket leads to. */
static __always_inline u32 unix_peer(struct call *c, struct scratch *s, struct sock *sk)
{
	struct unix_sock *peer = (struct unix_sock *)KREAD((struct unix_sock *)sk, peer);
	struct unix_address *address;
	u32 len;

	if (!peer)
		return 0;
	if (KREAD(peer, path.dentry))
		return path_resolve(c->slot, (u64)KREAD(peer, path.mnt), (u64)KREAD(peer, path.dentry),
				    AGENTD_PATH_MAX);
	address = KREAD(peer, addr);
	if (!address) /* a socket pair, or an unnamed socket */
		return word_set(s, "@");
	len = KREAD(address, len);
	if (len < 3 || len > 110)
		return 0;
	len -= 2; /* sun_family; the first byte of an abstract name is NUL */
	s->path_off = AGENTD_PATH_MAX - len;
	if (bpf_probe_read_kernel(&s->path[s->path_off & (AGENTD_PATH_MAX - 1)], len & 127,
				  (char *)address + bpf_core_field_offset(struct unix_address, name) + 2))
		return 0;
	s->path[s->path_off & (AGENTD_PATH_MAX - 1)] = '@';
	return len;
}

static __always_inline struct sock *sock_of(s64 fd)
{
	struct file *f = file_of(fd);
	struct socket *socket;

	/* a descriptor that connect or listen just accepted is a socket, unless another thread has swapped it: S_IFSOCK */
	if (!f || (KREAD(f, f_inode, i_mode) & S_IFMT_BITS) != S_IFSOCK_BITS)
		return NULL;
	socket = KREAD(f, private_data);
	return socket ? KREAD(socket, sk) : NULL;
}

static __noinline void judge_listen(struct call *c, struct scratch *s, struct sock *sk, u16 family)
{
	struct emission *m = emission_of(c, s, AGENTD_OP_LISTEN, AGENTD_CONTAINED);
	u8 address[16] = {};
	bool v6 = family == AF_INET6;
	u16 port = KREAD(sk, __sk_common.skc_num); /* host order */
	u32 len;

	if (v6)
		bpf_core_read(address, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	else
		bpf_core_read(address, 4, &sk->__sk_common.skc_rcv_saddr);
	s->path[0] = v6 ? '6' : '4';
	s->path[1] = 't';
	__builtin_memcpy(&s->path[2], address, 16);
	len = v6 ? 18 : 6;
	s->path[len] = port >> 8;
	s->path[len + 1] = port;
	m->object_len = len + 2;
	host_verdict(&s->v[0], c->slot, c->tag->agent, AGENTD_OP_LISTEN, len + 2);
	act(c->slot, c->tag, &s->v[0], m, false);
}

static __noinline void judge_socket(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	struct sock *sk;
	u16 family;
	u32 len;

	if (!s)
		return;
	if (c->kind == CALL_SOCKETCALL) { /* i386 only: the arguments are in the caller's memory; socket(2) is number 1 */
		u32 args[2] = {};
		u64 what = argument(c, 0);

		if (bpf_probe_read_user(args, sizeof(args), (void *)argument(c, 1)))
			return;
		if (what != 1 && what != 3 && what != 4)
			return;
		c->kind = what == 1 ? CALL_SOCKET : what == 3 ? CALL_CONNECT : CALL_LISTEN;
		if (c->kind == CALL_SOCKET) {
			len = family_word(s, args[0]);
			if (len)
				judge(c, AGENTD_OP_SOCKET, AGENTD_CONTAINED, 0, len);
			return;
		}
		sk = sock_of((s32)args[0]);
	} else if (c->kind == CALL_SOCKET) {
		len = family_word(s, argument(c, 0));
		if (len)
			judge(c, AGENTD_OP_SOCKET, AGENTD_CONTAINED, 0, len);
		return;
	} else {
		sk = sock_of((s32)argument(c, 0));
	}
	if (!sk)
		return;
	family = KREAD(sk, __sk_common.skc_family);
	if (c->kind == CALL_CONNECT && family == AF_UNIX)
		judge(c, AGENTD_OP_UNIX_CONNECT, AGENTD_CONTAINED, 0, unix_peer(c, s, sk));
	else if (c->kind == CALL_LISTEN && (family == AF_INET || family == AF_INET6))
		judge_listen(c, s, sk, family);
}

static __always_inline void judge_call(struct call *c)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct scratch *s;
	u32 len;

	c->slot = scratch_take();
	s = scratch_get(c->slot);
	if (c->slot == NO_SLOT || !s) {
		kill_current(c->tag, NULL);
		return;
	}
	if (c->compat || c->nr & X32_BIT) {
		len = c->compat ? word_set(s, "i386") : word_set(s, "x32");
		if (!judge(c, AGENTD_OP_COMPAT, AGENTD_DETECTED, 0, len))
			goto out;
	}
	if (c->kind >= CALL_OPEN && c->kind <= CALL_OPEN_BY_HANDLE) {
		judge_open(c);
	} else if (c->kind == CALL_FSETATTR) {
		struct file *f = file_of((s32)argument(c, 0));

		judge(c, AGENTD_OP_SETATTR, AGENTD_DETECTED, 0, f ? path_of_file(c->slot, f) : 0);
	} else if (c->kind == CALL_CHROOT) { /* the new root is what the call has just set */
		judge(c, AGENTD_OP_CHROOT, AGENTD_DETECTED, 0,
		      path_resolve(c->slot, (u64)KREAD(task, fs, root.mnt), (u64)KREAD(task, fs, root.dentry),
				   AGENTD_PATH_MAX));
	} else if (c->kind >= CALL_SOCKET) {
		judge_socket(c);
	} else if (c->kind >= CALL_UNSHARE || c->kind == CALL_MOUNT_OTHER) {
		judge_words(c);
	} else {
		judge_names(c);
	}
out:
	scratch_give(c->slot);
}

/* A task with something pending from an earlier verdict. True: nothing more to do at this exit. */
static __noinline bool settle(struct agentd_tag *tag, s64 ret)
{
	struct agentd_tag *leader;

	if (tag->flags & AGENTD_TAG_KILLED)
		return true;
	if (tag->flags & AGENTD_TAG_KILL_AT_EXIT) {
		tag->flags &= ~AGENTD_TAG_KILL_AT_EXIT;
		kill_current(tag, NULL);
		return true;
	}
	if (tag->flags & AGENTD_TAG_STOP) {
		tag->flags &= ~AGENTD_TAG_STOP;
		if (ret == -ERESTARTNOINTR) {
			if (bpf_send_signal(SIGSTOP)) /* it would see errno 513: better the end */
				kill_current(tag, NULL);
			return true;
		}
		tag->hold_id = 0; /* sendmmsg: earlier messages went out, this one is given up */
	}
	if (tag->flags & AGENTD_TAG_HELD) {
		if (tag->flags & AGENTD_TAG_FRESH) { /* the exit of the very execve that is held */
			tag->flags &= ~AGENTD_TAG_FRESH;
			return true;
		}
		if (!answered(tag->hold_id)) { /* it runs, and nobody said it may */
			kill_current(tag, NULL);
			return true;
		}
		leader = bpf_task_storage_get(&tags, bpf_get_current_task_btf()->group_leader, 0, 0);
		if (leader && leader->process_hold == tag->hold_id)
			leader->process_hold = 0;
		tag->flags &= ~AGENTD_TAG_HELD;
		tag->hold_id = 0;
	}
	return false;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_returned, struct pt_regs *regs, long ret)
{
	struct agentd_tag *tag = current_tag();
	struct task_struct *task = bpf_get_current_task_btf();
	struct call c = {};
	u32 nr;

	if (!tag)
		return 0;
	if (tag->flags && settle(tag, ret))
		return 0;
	c.nr = regs->orig_ax;
	if (c.nr < 0) /* rt_sigreturn, and calls that a debugger cancelled */
		return 0;
	c.ret = ret;
	c.compat = KREAD((struct task_struct___x86 *)task, thread_info.status) & TS_COMPAT;
	nr = c.nr & ~X32_BIT;
	if (nr < SYSCALLS)
		c.kind = c.compat ? calls_32[nr & (SYSCALLS - 1)] : calls_64[nr & (SYSCALLS - 1)];
	if (!c.kind && !c.compat && !(c.nr & X32_BIT))
		return 0;
	if (ret < 0 && !(c.kind == CALL_CONNECT && (ret == -EINPROGRESS || ret == -EAGAIN)))
		return 0;
	c.tag = tag;
	c.regs = regs;
	judge_call(&c);
	return 0;
}
