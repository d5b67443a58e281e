// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets that the cgroup programs don't see (trace point): unusual families, connect to a unix socket (judged by the
 * peer's own path), listen. contained: the caller ends before it can use what it got.
 */
#include "lib/call.bpf.h"

#define AF_UNIX 1
#define AF_NETLINK 16
#define AF_PACKET 17
#define AF_ALG 38
#define AF_VSOCK 40
#define AF_XDP 44

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
	if (c->kind ==
	    CALL_SOCKETCALL) { /* i386 only: the arguments are in the caller's memory; socket(2) is number 1 */
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
