// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Answers of the configured resolvers, read before the workload sees them. Attached only while a policy with names is in
 * force; cgroup programs on the root of the v2 hierarchy, so in every cgroup.
 *
 * cgroup_skb/egress   a question leaves a socket that a workload has pointed at a resolver (lsm_socket.bpf.c or net.bpf.c):
 *                     its id, name and type are noted at the socket. A packet of a workload that claims to come from a
 *                     resolver is dropped, and so is what a raw socket sends that could become one on its way (fragments,
 *                     tunnels).
 * cgroup_skb/ingress  before the packet is queued to the socket, and so before recv returns: an answer from that very
 *                     resolver, with that id, name and type, fills the table of names (hosts.bpf.c).
 *
 * What is believed: UDP from a configured resolver's address and port, to a socket by which a task of a workload has asked
 * exactly this there in the last minute, once. So an answer that nobody asked for, from anybody else or with another id
 * teaches nothing. DNS is not signed: who can send in the resolver's name and sees the questions can lie to everybody.
 *
 * TCP, fragments that were not put together, IPv6 with extension headers, questions over 1,024 and answers over 4,096 bytes
 * teach nothing. Fails: to not knowing the name. Nothing is dropped but the workload's own forgeries.
 */
#include "lib/sockets.bpf.h"
#include "lib/verdict.bpf.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define QUERY_MAX 1024
#define QUESTION_NS 60000000000ull

struct datagram {
	struct agentd_resolver_key source;
	u32 payload; /* offset */
	u32 len; /* of the payload */
};

/* Is this a whole UDP datagram? The data of a cgroup_skb program begins with the IP header. */
static __always_inline bool datagram_read(struct __sk_buff *skb, struct datagram *d)
{
	u8 ip[40];
	u16 udp[4];
	u32 at;

	__builtin_memset(d, 0, sizeof(*d));
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, ip, 20) || ip[9] != IPPROTO_UDP || (ip[6] & 0x3f) || ip[7])
			return false;
		at = (ip[0] & 15) * 4;
		d->source.address[10] = d->source.address[11] = 0xff;
		__builtin_memcpy(&d->source.address[12], &ip[12], 4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, 0, ip, 40) || ip[6] != IPPROTO_UDP)
			return false;
		at = 40;
		__builtin_memcpy(d->source.address, &ip[8], 16);
	} else {
		return false;
	}
	if (bpf_skb_load_bytes(skb, at, udp, 8))
		return false;
	d->source.port = udp[0];
	d->payload = at + 8;
	d->len = bpf_ntohs(udp[2]);
	d->len = d->len < 8 ? 0 : d->len - 8;
	return true;
}

/* What a raw socket sends, and is no whole datagram: can it not become one? */
static __always_inline bool harmless(struct __sk_buff *skb)
{
	bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
	u8 protocol;

	if (bpf_skb_load_bytes(skb, v4 ? 9 : 6, &protocol, 1))
		return false;
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_TCP || protocol == IPPROTO_ICMPV6;
}

/* Could a resolver have this port? */
static __always_inline bool resolver_port(u16 port)
{
	struct agentd_control *c = control_get();

	return !c || c->resolver_ports >> (bpf_ntohs(port) & 63) & 1;
}

/* Takes a work buffer with the payload of the packet as its message. NO_SLOT: none is free, or it is too long. */
static __always_inline u32 message_load(struct __sk_buff *skb, const struct datagram *d, u32 most)
{
	struct scratch *s;
	u32 slot, len = d->len;

	if (len < HEADER || len > most)
		return NO_SLOT;
	slot = scratch_take();
	s = scratch_get(slot);
	if (slot == NO_SLOT || !s)
		return NO_SLOT;
	if (bpf_skb_load_bytes(skb, d->payload, s->name[0], len)) {
		scratch_give(slot);
		return NO_SLOT;
	}
	s->message.len = len;
	return slot;
}

static __always_inline struct asked *asked_by(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return sk ? bpf_sk_storage_get(&asked, sk, 0, 0) : NULL;
}

static __always_inline bool sends_raw(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return !sk || sk->type == SOCK_RAW;
}

/* Notes the question in the packet. */
static __noinline void question_note(struct __sk_buff *skb, const struct datagram *d, struct asked *from, u32 resolver)
{
	u32 slot = message_load(skb, d, QUERY_MAX), number;
	struct scratch *s = scratch_get(slot);
	struct question *q;

	if (slot == NO_SLOT || !s)
		return;
	if (!(message_u16(s, 2) & (FLAG_QR | FLAGS_OPCODE)) && question_read(slot)) {
		number = __sync_fetch_and_add(&from->next, 1);
		q = &from->questions[number & (QUESTIONS - 1)];
		q->resolver = 0;
		q->hash = question_hash(s);
		q->id = message_u16(s, 0);
		q->at = bpf_ktime_get_boot_ns();
		__sync_lock_test_and_set(&q->resolver, resolver);
	}
	scratch_give(slot);
}

SEC("cgroup_skb/egress")
int dns_asks(struct __sk_buff *skb)
{
	struct asked *from;
	struct datagram d;
	u32 resolver;

	from = asked_by(skb);
	if (!from || !in_charge())
		return 1;
	if (!datagram_read(skb, &d))
		return !sends_raw(skb) || harmless(skb);
	if (resolver_port(d.source.port) && bpf_map_lookup_elem(&resolvers, &d.source))
		return 0; /* a workload that answers in the resolver's name */
	resolver = from->resolver;
	if (resolver)
		question_note(skb, &d, from, resolver);
	return 1;
}

static __always_inline bool question_take(struct asked *from, u64 hash, u32 resolver, u32 id)
{
	u64 now = bpf_ktime_get_boot_ns();

	for (u32 i = 0; i < QUESTIONS; i++) {
		struct question *q = &from->questions[i];

		if (q->resolver == resolver && q->id == id && q->hash == hash && q->at + QUESTION_NS > now)
			return __sync_val_compare_and_swap(&q->resolver, resolver, 0) == resolver;
	}
	return false;
}

static __noinline void answer_read(struct __sk_buff *skb, const struct datagram *d, struct asked *from, u32 resolver)
{
	u32 slot = message_load(skb, d, MESSAGE_MAX), at;
	struct scratch *s = scratch_get(slot);

	if (slot == NO_SLOT || !s)
		return;
	s->netns = from->netns;
	at = question_read(slot);
	if (at && question_take(from, question_hash(s), resolver, message_u16(s, 0)))
		message_learn(slot, from->agent, at);
	scratch_give(slot);
}

SEC("cgroup_skb/ingress")
int dns_answers(struct __sk_buff *skb)
{
	struct asked *to = asked_by(skb);
	struct datagram d;
	u32 *resolver;

	if (!to || !to->next || !in_charge() || !datagram_read(skb, &d)) /* the second: it has never asked anything */
		return 1;
	resolver = bpf_map_lookup_elem(&resolvers, &d.source);
	if (resolver)
		answer_read(skb, &d, to, *resolver);
	return 1;
}
