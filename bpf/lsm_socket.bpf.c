// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets, before the effect (LSM hooks; see lib/prevent.bpf.h).
 *
 * socket_connect, socket_sendmsg, socket_bind
 *                         inet addresses, where cgroup programs can't ask for the mark of a task (before Linux 6.16);
 *                         elsewhere net.bpf.c judges them
 * socket_create           unusual families, and there also the unusual inet sockets
 * socket_listen           listen on an inet socket
 * unix_stream_connect     connect to a unix socket, by the listener's own path
 * unix_may_send           a datagram to a unix socket, and connect of one
 */
#include "lib/prevent.bpf.h"
#include "lib/sockets.bpf.h"

/* Do the hooks here judge inet addresses, and not the cgroup programs? */
static __always_inline bool network_is_ours(void)
{
	struct agentd_control *c = control_get();

	return !c || c->prevented >> AGENTD_OP_CONNECT & 1;
}

SEC("?lsm/socket_create")
int BPF_PROG(lsm_socket_create, int family, int type, int protocol, int kern)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	int error = 0;
	u32 slot, len;

	if (!tag || kern)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (family == AF_INET || family == AF_INET6)
		len = network_is_ours() ? unusual_socket(s, type, protocol) : 0;
	else
		len = family_word(s, family);
	if (len)
		error = judge_word(tag, slot, AGENTD_OP_SOCKET, len);
	scratch_give(slot);
	return error;
}

/* Judges a host key in scratch->path. */
static __always_inline int judge_endpoint(struct agentd_tag *tag, u32 slot, u32 op, u32 len)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	struct emission *m;

	if (!s)
		return -EPERM;
	m = emission_begin(s, op, hook_point(), AGENTD_PREVENTED);
	m->object_len = host_verdict(&s->v[0], slot, tag->agent, op, len);
	verdict_time(started);
	return refuse_or_hold(slot, tag, &s->v[0], m);
}

SEC("?lsm/socket_listen")
int BPF_PROG(lsm_socket_listen, struct socket *sock)
{
	struct agentd_tag *tag = current_tag();
	struct sock *sk = KREAD(sock, sk);
	u16 family = sk ? KREAD(sk, __sk_common.skc_family) : 0;
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag || (family != AF_INET && family != AF_INET6))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	error = judge_endpoint(tag, slot, AGENTD_OP_LISTEN, listen_key(s, sk));
	scratch_give(slot);
	return error;
}

/* `address`: the kernel's copy. What is no inet address is judged elsewhere, or refused by the protocol itself. */
static __always_inline int judge_sockaddr(struct socket *sock, struct sockaddr_in6 *address, u32 op)
{
	struct agentd_tag *tag = current_tag();
	bool stream = KREAD(sock, type) == SOCK_STREAM, outgoing = op != AGENTD_OP_BIND;
	u16 family, own = KREAD(sock, sk, __sk_common.skc_family);
	u32 words[4] = {}, slot, len;
	struct scratch *s;
	int error;

	if (!tag || !address || (own != AF_INET && own != AF_INET6))
		return 0;
	family = KREAD(address, sin6_family);
	/* net/ipv4: udp_sendmsg and inet_bind take it for an inet address; a connect ends the connection */
	if (family == AF_UNSPEC && own == AF_INET && op != AGENTD_OP_CONNECT)
		family = AF_INET;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (stream && op == AGENTD_OP_SEND)
		op = AGENTD_OP_CONNECT; /* TCP Fast Open */
	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (family == AF_INET6)
		bpf_core_read(words, 16, &address->sin6_addr);
	else
		bpf_core_read(words, 4, &((struct sockaddr_in *)address)->sin_addr);
	len = host_key(s, words, family == AF_INET6, KREAD(address, sin6_port), stream, outgoing);
	if (outgoing) /* `resolvers` counts; names don't, because here nobody notes what a socket asks */
		s->netns = KREAD(sock, sk, __sk_common.skc_net.net, net_cookie);
	error = judge_endpoint(tag, slot, op, len);
	scratch_give(slot);
	return error;
}

SEC("?lsm/socket_connect")
int BPF_PROG(lsm_socket_connect, struct socket *sock, struct sockaddr_in6 *address)
{
	return judge_sockaddr(sock, address, AGENTD_OP_CONNECT);
}

SEC("?lsm/socket_bind")
int BPF_PROG(lsm_socket_bind, struct socket *sock, struct sockaddr_in6 *address)
{
	return judge_sockaddr(sock, address, AGENTD_OP_BIND);
}

SEC("?lsm/socket_sendmsg")
int BPF_PROG(lsm_socket_sendmsg, struct socket *sock, struct msghdr *msg)
{
	return judge_sockaddr(sock, KREAD(msg, msg_name), AGENTD_OP_SEND);
}

static __always_inline int judge_peer(struct sock *other)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot, len;
	int error;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	len = unix_name(slot, s, other);
	if (len)
		error = judge_word(tag, slot, AGENTD_OP_UNIX_CONNECT, len);
	else
		error = judge_unresolved(tag, slot, AGENTD_OP_UNIX_CONNECT);
	scratch_give(slot);
	return error;
}

SEC("?lsm/unix_stream_connect")
int BPF_PROG(lsm_unix_stream_connect, struct sock *sock, struct sock *other)
{
	return judge_peer(other);
}

SEC("?lsm/unix_may_send")
int BPF_PROG(lsm_unix_may_send, struct socket *sock, struct socket *other)
{
	return judge_peer(KREAD(other, sk));
}
