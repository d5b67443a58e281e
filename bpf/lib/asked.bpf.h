/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The mark at a socket of a workload that sends datagrams: which agent's it is, and which resolver its next one goes to.
 * dns.bpf.c runs in no task that means anything, and reads it there.
 *
 * While a policy has names, every such socket has one from its creation on, because one without could speak in a resolver's
 * name. Socket storage counts as memory of the socket's options, which the owner of a socket can use up: so it is made
 * before the owner has the socket. One that comes from elsewhere, or from before such a policy, gets it when it is first
 * bound, connected or sends to an address; where it can't be made, that is refused.
 *
 * `sk` is whatever the program has: the socket of a cgroup program's context, or a struct sock of an LSM hook's.
 */
#ifndef AGENTD_ASKED_BPF_H
#define AGENTD_ASKED_BPF_H

#include "maps.bpf.h"

/* The mark of a socket, made if it has none. NULL: there is no memory for one. */
static __always_inline struct asked *asked_mark(void *sk)
{
	struct asked *a = bpf_sk_storage_get(&asked, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!a) /* another CPU has just made it? */
		a = bpf_sk_storage_get(&asked, sk, 0, 0);
	return a;
}

/* It is pointed at `resolver` now; 0: at nobody who is believed. */
static __always_inline void asked_point(struct asked *a, u32 agent, u32 resolver, u64 netns)
{
	a->agent = agent;
	a->netns = netns;
	a->resolver = resolver;
}

#endif
