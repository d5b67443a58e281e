// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets that the cgroup programs don't see (trace point): unusual families, connect to a unix socket (judged by the
 * peer's own path), listen: contained, the caller ends before it can use what it got. A file that bind() on a unix socket
 * creates, a datagram to a unix socket, and a source route set for a socket: detected.
 *
 * Not seen: descriptors that arrive over a unix socket (SCM_RIGHTS), messages of sendmmsg after the first, and source routes
 * that a message brings along.
 */
#include "lib/call.bpf.h"
#include "lib/sockets.bpf.h"

#define SYS_LISTEN 4 /* of socketcall(2), linux/net.h */
#define SYS_ACCEPT 5
#define SYS_ACCEPT4 18
#define SYS_SETSOCKOPT 14

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

/*
 * The destination of a datagram that names one itself: a struct sockaddr_un in the caller's memory, so another thread may
 * have changed it. 0: unresolved.
 */
static __noinline u32 unix_destination(struct call *c, u64 address, u32 size)
{
	struct scratch *s = scratch_get(c->slot);
	struct task_struct *task = bpf_get_current_task_btf();
	long n;

	if (!s || size < 3 || size > 110)
		return 0;
	size -= 2; /* sun_family */
	if (bpf_probe_read_user(s->name[0], bounded(size, 127), (void *)(address + 2)))
		return 0;
	if (!s->name[0][0]) { /* an abstract name */
		s->path_off = AGENTD_PATH_MAX - size;
		bpf_probe_read_kernel(&s->path[bounded(s->path_off, AGENTD_PATH_MAX - 1)], bounded(size, 127),
				      s->name[0]);
		s->path[s->path_off & (AGENTD_PATH_MAX - 1)] = '@';
		return size;
	}
	s->name[0][bounded(size, 127)] = 0;
	n = bpf_probe_read_kernel_str(s->component, 128, s->name[0]);
	if (n <= 1 || n > 128)
		return 0;
	s->name_cur = 0;
	s->name_len = n - 1;
	return name_resolve(c->slot, (u64)KREAD(task, fs, pwd.mnt), (u64)KREAD(task, fs, pwd.dentry), 1);
}

/* The path a unix socket was bound to: a file that bind() created. 0: it has none (abstract, or not bound). */
static __always_inline u32 unix_path(struct call *c, struct sock *sk)
{
	struct unix_sock *u = (struct unix_sock *)sk;

	if (!KREAD(u, path.dentry))
		return 0;
	return path_resolve(c->slot, (u64)KREAD(u, path.mnt), (u64)KREAD(u, path.dentry), AGENTD_PATH_MAX);
}

/* The arguments of a socket call; i386 has them in the caller's memory when they came through socketcall(2). */
struct socket_args {
	u64 fd;
	u64 second; /* struct msghdr of sendmsg */
	u64 address, size; /* of sendto */
};

/* The operation that a socket call is when nothing more is known of it than that it succeeded. */
static __always_inline u32 plain_op(u32 kind)
{
	switch (kind) {
	case CALL_SOCKET:
		return AGENTD_OP_SOCKET;
	case CALL_LISTEN:
		return AGENTD_OP_LISTEN;
	case CALL_ACCEPT:
		return AGENTD_OP_ACCEPT;
	case CALL_BIND:
		return AGENTD_OP_CREATE;
	default:
		return AGENTD_OP_UNIX_CONNECT;
	}
}

/* Fills `a`, and makes a socketcall the call it stands for. `known`: the arguments could be read. False: of no interest. */
static __always_inline bool socket_args(struct call *c, struct socket_args *a, bool *known)
{
	u32 args[6] = {};

	if (c->kind != CALL_SOCKETCALL) {
		a->fd = argument(c, 0);
		a->second = argument(c, 1);
		a->address = argument(c, 4);
		a->size = argument(c, 5);
		return true;
	}
	/* the shorter calls have fewer, and what is behind them may not be mapped */
	*known = !bpf_probe_read_user(args, sizeof(args), (void *)argument(c, 1)) ||
		 !bpf_probe_read_user(args, 2 * sizeof(args[0]), (void *)argument(c, 1));
	switch (argument(c, 0)) { /* SYS_SOCKET, SYS_BIND, ... of linux/net.h */
	case 1:
		c->kind = CALL_SOCKET;
		break;
	case 2:
		c->kind = CALL_BIND;
		break;
	case 3:
		c->kind = CALL_CONNECT;
		break;
	case 4:
		c->kind = CALL_LISTEN;
		break;
	case SYS_ACCEPT:
	case SYS_ACCEPT4:
		c->kind = CALL_ACCEPT;
		break;
	case 11:
		c->kind = CALL_SENDTO;
		break;
	case 16:
	case 20:
		c->kind = CALL_SENDMSG;
		break;
	default:
		return false;
	}
	a->fd = args[0];
	a->second = args[1];
	a->address = args[4];
	a->size = args[5];
	return true;
}

/* msg_name and msg_namelen of a struct msghdr (struct mmsghdr begins with one). False: not readable any more. */
static __always_inline bool message_address(struct call *c, struct socket_args *a)
{
	u32 narrow[2] = {};
	u64 wide[2] = {};

	if (c->compat) {
		if (bpf_probe_read_user(narrow, sizeof(narrow), (void *)a->second))
			return false;
		a->address = narrow[0];
		a->size = narrow[1];
		return true;
	}
	if (bpf_probe_read_user(wide, sizeof(wide), (void *)a->second))
		return false;
	a->address = wide[0];
	a->size = (u32)wide[1];
	return true;
}

static __noinline void judge_socket(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	struct socket_args a = {};
	struct sock *sk = NULL;
	bool known = true;
	u16 family;
	u32 len;

	if (!s) {
		kill_current(c->tag, NULL);
		return;
	}
	if (!socket_args(c, &a, &known))
		return;
	if (known && c->kind == CALL_SENDMSG)
		known = message_address(c, &a);
	if (known && (c->kind == CALL_SENDMSG || c->kind == CALL_SENDTO) && (!a.address || !a.size))
		return; /* to where the socket is connected, which was judged */
	if (c->kind == CALL_SOCKET)
		sk = sock_of(c->ret);
	else if (known)
		sk = sock_of((s32)a.fd);
	if (!sk) { /* another thread has changed the memory or the descriptor since: whatever this was, it is unresolved */
		judge(c, plain_op(c->kind), AGENTD_DETECTED, 0, 0);
		return;
	}
	family = KREAD(sk, __sk_common.skc_family);
	if (c->kind == CALL_SOCKET) {
		len = family_word(s, family);
		if (is_wire(family) && knows_names(c->tag->agent))
			len = 0; /* dns.bpf.c doesn't see what it sends */
		else if (!len)
			return;
		judge(c, AGENTD_OP_SOCKET, AGENTD_CONTAINED, 0, len);
		return;
	}
	if (family != AF_UNIX)
		return;
	switch (c->kind) {
	case CALL_CONNECT: /* no peer: connect(AF_UNSPEC), which ends a connection */
		sk = KREAD((struct unix_sock *)sk, peer);
		if (sk)
			judge(c, AGENTD_OP_UNIX_CONNECT, AGENTD_CONTAINED, 0, unix_name(c->slot, s, sk));
		break;
	case CALL_BIND:
		len = unix_path(c, sk);
		if (len)
			judge(c, AGENTD_OP_CREATE, AGENTD_DETECTED, 0, len);
		break;
	case CALL_SENDTO:
	case CALL_SENDMSG:
		judge(c, AGENTD_OP_UNIX_CONNECT, AGENTD_DETECTED, 0, unix_destination(c, a.address, a.size));
		break;
	}
}

/* setsockopt: a source route. */
static __noinline void judge_option(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	u32 args[3] = { 0, argument(c, 1), argument(c, 2) };

	if (!s) {
		kill_current(c->tag, NULL);
		return;
	}
	if (c->kind == CALL_SOCKETCALL && bpf_probe_read_user(args, sizeof(args), (void *)argument(c, 1)))
		judge(c, AGENTD_OP_SOCKET, AGENTD_DETECTED, 0, 0); /* another thread has taken the memory away */
	else if (routing_option(args[1], args[2]))
		judge(c, AGENTD_OP_SOCKET, AGENTD_DETECTED, 0, word_set(s, "inet:route"));
}

static __always_inline bool listens_or_accepts(const struct call *c)
{
	u64 which = argument(c, 0);

	if (c->kind == CALL_SOCKETCALL)
		return which == SYS_LISTEN || which == SYS_ACCEPT || which == SYS_ACCEPT4;
	return c->kind == CALL_LISTEN || c->kind == CALL_ACCEPT;
}

/*
 * listen, and accept by the same address: that of the socket that listens. Not in judge_socket(), because Linux 6.1 has no
 * stack for both and for the names of a host. accept: the connection is there, its descriptor was not returned.
 */
static __noinline void judge_listen(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	struct socket_args a = {};
	struct sock *sk = NULL;
	struct peer_address local;
	struct emission *m;
	bool known = true;

	if (!s) {
		kill_current(c->tag, NULL);
		return;
	}
	if (socket_args(c, &a, &known) && known)
		sk = sock_of((s32)a.fd);
	if (!sk) { /* another thread has changed the memory or the descriptor since */
		judge(c, plain_op(c->kind), AGENTD_DETECTED, 0, 0);
		return;
	}
	local_address(&local, sk);
	if (local.family != AF_INET && local.family != AF_INET6)
		return;
	m = emission_begin(s, plain_op(c->kind), AGENTD_POINT_TRACE, AGENTD_CONTAINED);
	m->syscall = c->nr;
	m->flags = event_flags(c);
	if (c->kind == CALL_ACCEPT && KREAD(bpf_get_current_task_btf(), files, count.counter) > 1) {
		m->guarantee = AGENTD_DETECTED; /* another thread may have used the descriptor */
		m->flags |= AGENTD_EVENT_FLAG_SHARED_FDS;
	}
	m->object_len = host_verdict(&s->v[0], c->slot, c->tag->agent, plain_op(c->kind), listen_key(s, &local));
	act(c->slot, c->tag, &s->v[0], m, false);
}
