// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sockets, before the effect (LSM hooks; see lib/prevent.bpf.h).
 *
 * socket_create           unusual families, unusual inet sockets
 * socket_post_create      a socket for datagrams has its mark (lib/asked.bpf.h) before anybody has the socket; while a
 *                         policy has names
 * socket_connect          TCP (also by TCP_FASTOPEN_CONNECT) and UDP connect
 * socket_sendmsg          a datagram with an address of its own, each of sendmmsg's; Fast Open
 * socket_setsockopt, and the control messages of socket_sendmsg
 *                         source routes, which lead to another host than the one that is judged (the former while
 *                         a policy is against any socket)
 *                         nothing by a packet socket, for an agent that knows hosts by name
 *                         the kernel's events, which somebody else acts on (`module`)
 * socket_bind, socket_listen
 * sctp_bind_connect       an address that SCTP is told by setsockopt(); more than one: unresolved
 * socket_accept           by the address of the socket that listens, before there is a connection
 * unix_stream_connect     connect to a unix socket, by the listener's own path
 * unix_may_send           each datagram to a unix socket, and connect of one
 *
 * A file that bind() on a unix socket creates is path_mknod's. Where the programs are `fmod_ret`, they can't have socket
 * storage: notes.bpf.c makes the marks, just before them, and points them, just after.
 */
#include "lib/asked.bpf.h"
#include "lib/destination.bpf.h"
#include "lib/prevent.bpf.h"
#include "lib/sockets.bpf.h"

SEC("?lsm/socket_create")
int BPF_PROG(lsm_socket_create, int family, int type, int protocol, int kern)
{
	struct agentd_tag *tag;
	struct scratch *s;
	int error = 0;
	u32 slot, len;

	if (kern || nobodys(bpf_get_current_task_btf()) || (usual_socket(family, type, protocol) && !syscall_foreign()))
		return 0;
	tag = current_tag();
	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (family == AF_INET || family == AF_INET6)
		len = unusual_socket(s, type, protocol);
	else
		len = family_word(s, family);
	if (len)
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_SOCKET, len);
	scratch_give(slot);
	return error;
}

/* Is this socket marked now? Where the programs here can't look, those that ran just before have said so. */
static __always_inline bool is_marked(const struct agentd_tag *tag, struct sock *sk)
{
	if (constants.sockets)
		return asked_mark(sk);
	return *(volatile u64 *)&tag->marked == (u64)sk;
}

/* Refuses `op`, because nothing can be known of its socket. */
static __noinline int refuse_unmarked(struct agentd_tag *tag, u32 op)
{
	struct scratch *s;
	u32 slot;
	int error = -EPERM;

	s = begin(&slot);
	if (!s)
		return error;
	shared(slot, JUDGE_UNRESOLVED, op, 0);
	scratch_give(slot);
	return error;
}

SEC("?lsm/socket_post_create")
int BPF_PROG(lsm_socket_post_create, struct socket *sock, int family, int type, int protocol, int kern)
{
	struct agentd_tag *tag = current_tag();
	struct sock *sk;

	if (!tag || kern || !speaks_datagrams(family, type))
		return 0;
	sk = sock->sk;
	return sk && is_marked(tag, sk) ? 0 : refuse_unmarked(tag, AGENTD_OP_SOCKET);
}

/* What a socket does at the address that it is bound to. */
static __always_inline int judge_local(struct socket *sock, u32 op)
{
	struct agentd_tag *tag = current_tag();
	struct peer_address local; /* read once: what is remembered is what was judged */
	struct scratch *s;
	struct sock *sk;
	u32 slot, what;
	int error;

	if (!tag)
		return 0;
	SHARED_FIRST();
	sk = sock->sk;
	if (!sk || (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	local_address(&local, sk);
	what = destination_what(&local, op, true);
	if (constants.memory && !syscall_foreign() && destination_recalled(tag, &local, what))
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->walked[0].epoch = memory_time();
	error = shared_answer(slot, JUDGE_ENDPOINT, op, listen_key(s, &local));
	if (!error && s->v[0].decision == AGENTD_ALLOW)
		destination_remember(s, tag, &local, what);
	scratch_give(slot);
	return error;
}

SEC("?lsm/socket_listen")
int BPF_PROG(lsm_socket_listen, struct socket *sock)
{
	return judge_local(sock, AGENTD_OP_LISTEN);
}

SEC("?lsm/socket_accept")
int BPF_PROG(lsm_socket_accept, struct socket *sock)
{
	return judge_local(sock, AGENTD_OP_ACCEPT);
}

/* `address`: the kernel's copy. */
static __always_inline int judge_told(struct agentd_tag *tag, struct sock *sk, u32 type, const void *address, u32 op)
{
	bool stream = type == SOCK_STREAM, outgoing = op != AGENTD_OP_BIND;
	struct peer_address peer;
	struct asked *a = NULL;
	struct scratch *s;
	u32 slot, len, what;
	int error;

	SHARED_FIRST();
	if (!sk)
		return -EPERM;
	switch (address_read(&peer, sk, address, op)) {
	case ADDRESS_OTHER:
		return 0;
	case ADDRESS_UNREADABLE:
		return refuse_unmarked(tag, op);
	default:
		break;
	}
	if (stream && op == AGENTD_OP_SEND)
		op = AGENTD_OP_CONNECT; /* TCP Fast Open */
	if (speaks_datagrams(sk->__sk_common.skc_family, type)) {
		if (constants.sockets) {
			a = asked_mark(sk);
			if (!a)
				return refuse_unmarked(tag, op);
		} else if (!outgoing && !is_marked(tag, sk)) {
			return refuse_unmarked(tag, op);
		}
	}
	what = destination_what(&peer, op, stream);
	if (constants.memory && !syscall_foreign() && destination_recalled(tag, &peer, what)) {
		if (a && outgoing)
			asked_point(a, tag->agent, 0, sk->__sk_common.skc_net.net->net_cookie);
		return 0;
	}
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->walked[0].epoch = memory_time();
	len = peer_key(s, &peer, stream, outgoing);
	if (outgoing)
		s->netns = sk->__sk_common.skc_net.net->net_cookie;
	error = shared_answer(slot, JUDGE_ENDPOINT, op, len);
	if (!error && s->v[0].decision == AGENTD_ALLOW)
		destination_remember(s, tag, &peer, what);
	if (a && outgoing)
		asked_point(a, tag->agent, error ? 0 : s->resolver, s->netns);
	scratch_give(slot);
	return error;
}

static __always_inline int judge_sockaddr(struct agentd_tag *tag, struct socket *sock, const void *address, u32 op)
{
	return judge_told(tag, sock->sk, sock->type, address, op);
}

SEC("?lsm/socket_connect")
int BPF_PROG(lsm_socket_connect, struct socket *sock, void *address)
{
	struct agentd_tag *tag = current_tag();

	return tag && address ? judge_sockaddr(tag, sock, address, AGENTD_OP_CONNECT) : 0;
}

SEC("?lsm/socket_bind")
int BPF_PROG(lsm_socket_bind, struct socket *sock, void *address)
{
	struct agentd_tag *tag = current_tag();
	struct sock *sk;

	SHARED_FIRST();
	if (!tag || !address)
		return 0;
	sk = sock->sk;
	if (sk && sk->__sk_common.skc_family == AF_XDP && knows_names(tag->agent))
		return refuse_unmarked(tag, AGENTD_OP_BIND); /* from then on poll() sends, and asks no hook */
	return judge_sockaddr(tag, sock, address, AGENTD_OP_BIND);
}

#define SCTP_SOCKOPT_BINDX_ADD 100
#define SCTP_SOCKOPT_CONNECTX 110

/*
 * What else SCTP asks here was judged (the address of a message), names an address that it has already, or is asked by the
 * other side.
 */
SEC("?lsm/sctp_bind_connect")
int BPF_PROG(lsm_sctp_bind_connect, struct sock *sk, int option, struct sockaddr *address, int size)
{
	u32 op = option == SCTP_SOCKOPT_CONNECTX ? AGENTD_OP_CONNECT : AGENTD_OP_BIND;
	struct agentd_tag *tag;
	u16 family = 0;

	SHARED_FIRST();
	if (option != SCTP_SOCKOPT_CONNECTX && option != SCTP_SOCKOPT_BINDX_ADD)
		return 0;
	tag = current_tag();
	if (!tag)
		return 0;
	bpf_probe_read_kernel(&family, sizeof(family), address);
	if (size != (family == AF_INET6 ? 28 : 16))
		return refuse_unmarked(tag, op);
	return judge_told(tag, sk, sk->sk_type, address, op);
}

SEC("?lsm/socket_sendmsg")
int BPF_PROG(lsm_socket_sendmsg, struct socket *sock, struct msghdr *msg)
{
	struct agentd_tag *tag = current_tag();
	struct sock *sk;
	void *address;
	int error;

	if (!tag)
		return 0;
	sk = sock->sk;
	if (sk && is_wire(sk->__sk_common.skc_family) && knows_names(tag->agent))
		return refuse_unmarked(tag, AGENTD_OP_SEND); /* dns.bpf.c doesn't see what it sends */
	if (sk && sk->__sk_common.skc_family == AF_NETLINK && sk->sk_protocol == NETLINK_KOBJECT_UEVENT) {
		error = PREVENT_WORD(AGENTD_OP_MODULE, "module:event");
		if (error)
			return error;
	}
	if (sk && msg->msg_controllen && sk->sk_protocol == IPPROTO_SCTP &&
	    routing_message((u64)KREAD(msg, msg_control), msg->msg_controllen, true))
		return refuse_unmarked(tag, AGENTD_OP_CONNECT);
	if (msg->msg_controllen && routing_message((u64)KREAD(msg, msg_control), msg->msg_controllen, false)) {
		error = PREVENT_WORD(AGENTD_OP_SOCKET, "inet:route");
		if (error)
			return error;
	}
	address = msg->msg_name;
	return address ? judge_sockaddr(tag, sock, address, AGENTD_OP_SEND) : 0;
}

SEC("?lsm/socket_setsockopt")
int BPF_PROG(lsm_socket_setsockopt, struct socket *sock, int level, int option)
{
	return routing_option(level, option) ? PREVENT_WORD(AGENTD_OP_SOCKET, "inet:route") : 0;
}

static __always_inline int judge_peer(struct sock *other)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	int error;
	u32 slot;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->target[0].dentry = (u64)other;
	error = shared_answer(slot, JUDGE_PEER, AGENTD_OP_UNIX_CONNECT, 0);
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
