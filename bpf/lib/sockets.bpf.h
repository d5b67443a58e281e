/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a socket and an address are called: unusual families and protocols, host keys (abi.h), names of unix sockets. */
#ifndef AGENTD_SOCKETS_BPF_H
#define AGENTD_SOCKETS_BPF_H

#include "path.bpf.h"

#define AF_UNSPEC 0
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_MPTCP 262

#define AF_UNIX 1
#define AF_NETLINK 16
#define NETLINK_KOBJECT_UEVENT 15
#define AF_PACKET 17
#define AF_ALG 38
#define AF_VSOCK 40
#define AF_SMC 43
#define AF_XDP 44

/* Could a socket of this kind send a datagram in a resolver's name, or ask one? */
static __always_inline bool speaks_datagrams(u32 family, u32 type)
{
	return (family == AF_INET || family == AF_INET6) && type != SOCK_STREAM;
}

/* Does a socket of this family send packets that pass no hook of an inet socket, in anybody's name? */
static __always_inline bool is_wire(u32 family)
{
	return family == AF_PACKET || family == AF_XDP;
}

static __always_inline u32 family_word(struct scratch *s, u16 family)
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

/* Is it one that unusual_socket() or family_word() has no name for? */
static __always_inline bool usual_socket(u32 family, u32 type, u32 protocol)
{
	if (family == AF_UNIX || family == AF_NETLINK)
		return true;
	if (family != AF_INET && family != AF_INET6)
		return false;
	if (type == SOCK_STREAM)
		return protocol == 0 || protocol == IPPROTO_TCP;
	return type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
}

/* The name of an unusual inet socket, right-aligned in scratch->path; 0 for the usual ones. */
static __always_inline u32 unusual_socket(struct scratch *s, u32 type, u32 protocol)
{
	if (type == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP))
		return 0;
	if (type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP))
		return 0;
	if (type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6))
		return word_set(s, "inet:icmp"); /* sends to any address, and no hook sees it (net/ipv4/ping.c) */
	if (type == SOCK_RAW)
		return word_set(s, "inet:raw");
	if (protocol == IPPROTO_SCTP)
		return word_set(s, "inet:sctp");
	if (protocol == IPPROTO_MPTCP)
		return word_set(s, "inet:mptcp");
	return word_set(s, "inet:other");
}

/*
 * The host key of an address and a port, both in network order, in scratch->path. v4-mapped is v4; the unspecified address
 * means this host to one who sends, and is loopback. Returns its length.
 */
static __always_inline u32 host_key(struct scratch *s, u32 *words, bool v6, u16 port, bool stream, bool outgoing)
{
	u32 len;

	if (v6) {
		if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff)) {
			v6 = false;
			words[0] = words[3];
		} else if (outgoing && !words[0] && !words[1] && !words[2] && !words[3]) {
			words[3] = bpf_htonl(1);
		}
	}
	if (!v6 && outgoing && !words[0])
		words[0] = bpf_htonl(0x7f000001);
	s->path[0] = v6 ? '6' : '4';
	s->path[1] = stream ? 't' : 'u';
	__builtin_memcpy(&s->path[2], words, 16);
	len = v6 ? 18 : 6;
	s->path[len] = port;
	s->path[len + 1] = port >> 8;
	return len + 2;
}

/*
 * A source route sends packets to another host first than the address that was judged: IPv4 options (loose and strict
 * routes), and routing headers of IPv6, also by way of a flow label. `inet:route`, like a raw socket.
 */
#define IPPROTO_IP 0
#define IPPROTO_IPV6 41
#define IP_OPTIONS 4
#define IP_RETOPTS 7
#define IPV6_2292RTHDR 5
#define IPV6_2292PKTOPTIONS 6
#define IPV6_FLOWLABEL_MGR 32
#define IPV6_RTHDR 57

/* Can setsockopt(level, option) set one? */
static __always_inline bool routing_option(u32 level, u32 option)
{
	if (level == IPPROTO_IP)
		return option == IP_OPTIONS;
	return level == IPPROTO_IPV6 &&
	       (option == IPV6_RTHDR || option == IPV6_2292PKTOPTIONS || option == IPV6_FLOWLABEL_MGR);
}

#define SCTP_DSTADDRV4 7 /* linux/sctp.h */
#define SCTP_DSTADDRV6 8

#define CONTROLS_MAX 16 /* of one message; more: taken for one that routes */

struct control_message {
	u64 len;
	s32 level, type;
};

/*
 * Does one of the control messages at `at`, the kernel's copy of `size` bytes, set one for this message? Or (`addresses`) tell
 * SCTP that its other side is at another address, too?
 */
static __noinline bool routing_message(u64 at, u64 size, bool addresses)
{
	struct control_message c;

	for (u32 i = 0; i < CONTROLS_MAX; i++) {
		if (size < sizeof(c))
			return false;
		if (bpf_probe_read_kernel(&c, sizeof(c), (void *)at))
			return true;
		if (c.len < sizeof(c) || c.len > size)
			return false; /* the protocol refuses it */
		if (addresses && c.level == IPPROTO_SCTP && (c.type == SCTP_DSTADDRV4 || c.type == SCTP_DSTADDRV6))
			return true;
		if (c.level == IPPROTO_IP && c.type == IP_RETOPTS)
			return true;
		if (c.level == IPPROTO_IPV6 && (c.type == IPV6_RTHDR || c.type == IPV6_2292RTHDR))
			return true;
		c.len = (c.len + 7) & ~7ull;
		if (c.len > size)
			return false;
		at += c.len;
		size -= c.len;
	}
	return true;
}

/* A struct sockaddr_in or sockaddr_in6; `words` has the address of both, when address_read() is done. */
struct peer_address {
	u16 family, port; /* the port in network order */
	u32 v4;
	u32 words[4];
	u32 scope;
};

/* Its host key. The address stays as it came, by which a verdict on it is remembered. */
static __noinline u32 peer_key(struct scratch *s, const struct peer_address *peer, bool stream, bool outgoing)
{
	u32 words[4];

	if (!s || !peer)
		return 0;
	__builtin_memcpy(words, peer->words, sizeof(words));
	return host_key(s, words, peer->family == AF_INET6, peer->port, stream, outgoing);
}

/* Copies an address of the kernel's; false: it can't be read. */
static __always_inline bool address_copy(struct peer_address *to, const void *address)
{
	u64 word;

	if (!can_cast())
		return !bpf_probe_read_kernel(to, sizeof(*to), address);
	word = WORD_AT(address); /* a helper's call would be a third of a verdict from memory */
	to->family = word;
	to->port = word >> 16;
	to->v4 = word >> 32;
	to->words[0] = to->words[1] = to->words[2] = to->words[3] = 0;
	if (to->family != AF_INET) {
		word = WORD_AT((u64)address + 8);
		to->words[0] = word;
		to->words[1] = word >> 32;
		word = WORD_AT((u64)address + 16);
		to->words[2] = word;
		to->words[3] = word >> 32;
	}
	return true;
}

enum address_kind {
	ADDRESS_OTHER, /* of no inet family: judged elsewhere, or refused by the protocol itself */
	ADDRESS_INET,
	ADDRESS_UNREADABLE,
};

/*
 * Reads an address that the kernel has copied from the caller. It counts by its own family, not the socket's: SMC and RDS,
 * which are families of sockets, connect to inet addresses, and a TCP socket can be made one of SMC.
 */
static __always_inline enum address_kind address_read(struct peer_address *to, const struct sock *sk,
						      const void *address, u32 op)
{
	u16 own = sk->__sk_common.skc_family;

	if (own == AF_UNIX)
		return ADDRESS_OTHER;
	if (!address_copy(to, address))
		return ADDRESS_UNREADABLE;
	/* net/ipv4: udp_sendmsg and inet_bind take it for an inet address; a connect ends the connection */
	if (to->family == AF_UNSPEC && op != AGENTD_OP_CONNECT && (own == AF_INET || own == AF_SMC))
		to->family = AF_INET;
	/* net/ipv6/raw.c, rawv6_sendmsg; others take it for no address at all */
	if (to->family == AF_UNSPEC && op == AGENTD_OP_SEND && own == AF_INET6 && sk->sk_type == SOCK_RAW)
		to->family = AF_INET6;
	if (to->family == AF_INET)
		to->words[0] = to->v4;
	else if (to->family != AF_INET6)
		return ADDRESS_OTHER;
	return ADDRESS_INET;
}

/* The path or the name that a unix socket is bound to; `@`: none (a socket pair, or one that was not bound). 0: unresolved. */
static __always_inline u32 unix_name(u32 slot, struct scratch *s, struct sock *sk)
{
	struct unix_sock *u = (struct unix_sock *)sk;
	struct unix_address *address;
	u32 len;

	if (!u)
		return 0;
	if (KREAD(u, path.dentry))
		return path_resolve(slot, (u64)KREAD(u, path.mnt), (u64)KREAD(u, path.dentry), AGENTD_PATH_MAX);
	address = KREAD(u, addr);
	if (!address)
		return word_set(s, "@");
	len = KREAD(address, len);
	if (len < 3 || len > 110)
		return 0;
	len -= 2; /* sun_family; the first byte of an abstract name is NUL */
	s->path_off = AGENTD_PATH_MAX - len;
	if (bpf_probe_read_kernel(&s->path[bounded(s->path_off, AGENTD_PATH_MAX - 1)], bounded(len, 127),
				  (char *)address + bpf_core_field_offset(struct unix_address, name) + 2))
		return 0;
	s->path[s->path_off & (AGENTD_PATH_MAX - 1)] = '@';
	return len;
}

/* What a socket is bound to. */
static __always_inline void local_address(struct peer_address *to, struct sock *sk)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->family = LOAD(struct sock, sk, __sk_common.skc_family);
	to->port = bpf_htons(LOAD(struct sock, sk, __sk_common.skc_num)); /* the kernel has it in host order */
	if (to->family == AF_INET6)
		bpf_core_read(to->words, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	else
		to->words[0] = LOAD(struct sock, sk, __sk_common.skc_rcv_saddr);
}

/* The host key (abi.h) of what a TCP socket is bound to, in scratch->path. Returns its length. */
static __always_inline u32 listen_key(struct scratch *s, const struct peer_address *local)
{
	bool v6 = local->family == AF_INET6;
	u32 len;

	s->path[0] = v6 ? '6' : '4';
	s->path[1] = 't';
	__builtin_memcpy(&s->path[2], local->words, 16);
	len = v6 ? 18 : 6;
	s->path[len] = local->port;
	s->path[len + 1] = local->port >> 8;
	return len + 2;
}

#endif
