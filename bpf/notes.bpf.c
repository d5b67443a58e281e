// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What dns.bpf.c has to know of a socket, where the LSM hooks are `fmod_ret`, which can't have socket storage. Programs of
 * the kinds fentry and fexit can, on the same functions: in one call the kernel runs first the fentry programs, then those
 * of fmod_ret, then its own, then the fexit programs.
 *
 * note_created    a socket for datagrams gets its mark; the hook refuses it if it has none (agentd_tag.marked)
 * note_bound      the same, for one that comes from elsewhere
 * note_connected  which resolver it is pointed at, after the verdict
 * note_sent       the same, for a datagram with an address of its own
 *
 * Fails: a socket from elsewhere that can't be marked when it is connected or sends ends the process (contained).
 */
#include "lib/asked.bpf.h"
#include "lib/act.bpf.h"
#include "lib/sockets.bpf.h"

/* agentd_tag.marked says that this very socket is marked: lsm_socket.bpf.c looks in the same call. */
static __always_inline void note_mark(struct agentd_tag *tag, struct socket *sock)
{
	struct sock *sk = sock->sk;

	tag->marked = sk && asked_mark(sk) ? (u64)sk : 0;
}

SEC("?fentry/security_socket_post_create")
int BPF_PROG(note_created, struct socket *sock, int family, int type, int protocol, int kern)
{
	struct agentd_tag *tag = current_tag();

	if (tag && !kern && speaks_datagrams(family, type))
		note_mark(tag, sock);
	return 0;
}

SEC("?fentry/security_socket_bind")
int BPF_PROG(note_bound, struct socket *sock)
{
	struct agentd_tag *tag = current_tag();

	if (tag && sock->sk && speaks_datagrams(sock->sk->__sk_common.skc_family, sock->type))
		note_mark(tag, sock);
	return 0;
}

static __noinline void note_end(struct agentd_tag *tag, u32 slot, u32 op)
{
	struct scratch *s = scratch_get(slot);
	struct emission *m;

	if (slot == NO_SLOT || !s) {
		kill_current(tag, NULL);
		return;
	}
	verdict_unresolved(&s->v[0], tag->agent, op);
	s->v[0].decision = AGENTD_DENY;
	s->v[0].action = AGENTD_ACTION_KILL;
	m = emission_begin(s, op, AGENTD_POINT_FMOD_RET, AGENTD_CONTAINED);
	act(slot, tag, &s->v[0], m, false);
}

/* The call goes on (`error` is 0), or doesn't, and then the socket is not pointed at anybody. */
static __always_inline void note_point(struct socket *sock, const void *address, u32 op, int error)
{
	struct agentd_tag *tag = current_tag();
	struct sock *sk = sock->sk;
	struct peer_address peer;
	struct scratch *s;
	struct asked *a;
	u32 slot;

	if (!tag || !address || !sk || !speaks_datagrams(sk->__sk_common.skc_family, sock->type))
		return;
	a = asked_mark(sk);
	slot = scratch_take();
	s = scratch_get(slot);
	if (!a)
		note_end(tag, slot, op);
	else if (slot == NO_SLOT || !s)
		asked_point(a, tag->agent, 0, 0); /* asks nobody: the name stays unknown */
	else {
		s->netns = sk->__sk_common.skc_net.net->net_cookie;
		if (!error && address_read(&peer, sk, address, op) == ADDRESS_INET) {
			host_key(s, peer.words, peer.family == AF_INET6, peer.port, false, true);
			s->resolver = names_key(s, tag->agent);
		}
		asked_point(a, tag->agent, s->resolver, s->netns);
	}
	if (slot != NO_SLOT)
		scratch_give(slot);
}

SEC("?fexit/security_socket_connect")
int BPF_PROG(note_connected, struct socket *sock, void *address, int size, int error)
{
	note_point(sock, address, AGENTD_OP_CONNECT, error);
	return 0;
}

SEC("?fexit/security_socket_sendmsg")
int BPF_PROG(note_sent, struct socket *sock, struct msghdr *msg, int size, int error)
{
	note_point(sock, msg->msg_name, AGENTD_OP_SEND, error);
	return 0;
}
