// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The network, before the effect, where there are no LSM hooks: cgroup programs on the root of the v2 hierarchy, so that no
 * move between cgroups leaves them. (Where there are, lsm_socket.bpf.c judges, and nothing here is attached.)
 *
 * cgroup/connect4, connect6   TCP (also Fast Open) and UDP connect
 * cgroup/sendmsg4, sendmsg6   a datagram with an address of its own
 * cgroup/bind4, bind6
 * cgroup/sock_create          raw, ping, SCTP, MPTCP and other inet sockets, which the hooks above don't see
 *
 * A socket for datagrams also gets its mark (lib/asked.bpf.h), or is refused, and connect and sendmsg note there which
 * resolver it is pointed at: for dns.bpf.c.
 *
 * The address is the kernel's copy. v4-mapped is judged as v4; the unspecified address means this host when connecting,
 * and is judged as loopback. Guarantee: prevented. Fails: to EPERM. A hold returns -ERESTARTNOINTR; the SIGSTOP comes
 * from trace.bpf.c at the exit of the same call.
 */
#include "lib/asked.bpf.h"
#include "lib/hold.bpf.h"
#include "lib/sockets.bpf.h"

/* Judges the host key in scratch->path[0..len); 0: what can't be judged. 1: go on, 0: refused (the errno is set). */
static __always_inline int judge_host(struct agentd_tag *tag, u32 slot, u32 op, u32 len)
{
	struct scratch *s = scratch_get(slot);
	u64 begin = bpf_ktime_get_ns();
	int error = -EPERM;

	if (s) {
		struct emission *m = emission_begin(s, op, AGENTD_POINT_CGROUP, AGENTD_PREVENTED);

		if (len)
			m->object_len = host_verdict(&s->v[0], slot, tag->agent, op, len);
		else
			verdict_unresolved(&s->v[0], tag->agent, op);
		verdict_time(begin);
		error = refuse_or_hold(slot, tag, &s->v[0], m);
		if (error == -ERESTARTNOINTR && s->netns)
			name_hold(slot, s->v[0].timeout);
	}
	if (error)
		bpf_set_retval(error);
	return !error;
}

/* What dns.bpf.c has to know of the socket, after a verdict about it. */
static __noinline void note_socket(struct bpf_sock_addr *ctx, u32 slot, u32 agent, bool allowed)
{
	struct scratch *s = scratch_get(slot);
	struct bpf_sock *sk = ctx->sk;
	struct asked *a = sk ? bpf_sk_storage_get(&asked, sk, 0, 0) : NULL;

	if (s && a)
		asked_point(a, agent, allowed ? s->resolver : 0, s->netns);
}

/* Has the socket a mark, if it must? */
static __noinline bool is_noted(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return ctx->type == SOCK_STREAM || (sk && asked_mark(sk));
}

static __always_inline int judge_address(struct bpf_sock_addr *ctx, u32 op, bool v6)
{
	struct agentd_tag *tag = current_tag();
	bool outgoing = op == AGENTD_OP_CONNECT || op == AGENTD_OP_SEND;
	struct scratch *s;
	u32 *words, slot, len;
	int ok;

	if (!tag)
		return 1;
	slot = scratch_take();
	s = scratch_get(slot);
	if (slot == NO_SLOT || !s) {
		bpf_set_retval(-EPERM);
		return 0;
	}
	words = (u32 *)s->names.key.address; /* not on the stack: with every function below, it is full */
	words[1] = words[2] = words[3] = 0;
	if (v6) {
		words[0] = ctx->user_ip6[0];
		words[1] = ctx->user_ip6[1];
		words[2] = ctx->user_ip6[2];
		words[3] = ctx->user_ip6[3];
	} else {
		words[0] = ctx->user_ip4;
	}
	len = host_key(s, words, v6, ctx->user_port, ctx->type == SOCK_STREAM, outgoing);
	if (outgoing)
		s->netns = bpf_get_netns_cookie(ctx);
	ok = judge_host(tag, slot, op, is_noted(ctx) ? len : 0);
	if (outgoing && ctx->type != SOCK_STREAM)
		note_socket(ctx, slot, tag->agent, ok);
	scratch_give(slot);
	return ok;
}

SEC("cgroup/connect4")
int net_connect4(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_CONNECT, false);
}

SEC("cgroup/connect6")
int net_connect6(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_CONNECT, true);
}

SEC("cgroup/sendmsg4")
int net_sendmsg4(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_SEND, false);
}

SEC("cgroup/sendmsg6")
int net_sendmsg6(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_SEND, true);
}

SEC("cgroup/bind4")
int net_bind4(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_BIND, false);
}

SEC("cgroup/bind6")
int net_bind6(struct bpf_sock_addr *ctx)
{
	return judge_address(ctx, AGENTD_OP_BIND, true);
}

SEC("cgroup/sock_create")
int net_sock_create(struct bpf_sock *ctx)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot, len;
	int error = 0;

	if (!tag)
		return 1;
	slot = scratch_take();
	s = scratch_get(slot);
	if (slot == NO_SLOT || !s) {
		bpf_set_retval(-EPERM);
		return 0;
	}
	len = unusual_socket(s, ctx->type, ctx->protocol);
	if (len) {
		struct emission *m = emission_begin(s, AGENTD_OP_SOCKET, AGENTD_POINT_CGROUP, AGENTD_PREVENTED);

		m->object_len = len;
		m->object_off = s->path_off;
		path_verdict(&s->v[0], slot, tag->agent, AGENTD_OP_SOCKET);
		error = refuse_or_hold(slot, tag, &s->v[0], m);
	}
	scratch_give(slot);
	if (!error && ctx->type != SOCK_STREAM && !asked_mark(ctx))
		error = -EPERM;
	if (error)
		bpf_set_retval(error);
	return !error;
}
