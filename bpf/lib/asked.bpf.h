/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The mark at a socket of a workload: which agent's it is, and which resolver its next datagram goes to. dns.bpf.c runs
 * in no task that means anything, and reads it there.
 *
 * `sk` is whatever the program has: the socket of a cgroup program's context, or a struct sock of an lsm program's. A
 * failed allocation leaves no mark: answers to that socket teach nothing.
 */
#ifndef AGENTD_ASKED_BPF_H
#define AGENTD_ASKED_BPF_H

#include "maps.bpf.h"

/* It is pointed at `resolver` now; 0: at nobody who is believed. A socket that never was has no mark. */
static __always_inline void asked_point(void *sk, u32 agent, u32 resolver, u64 netns)
{
	struct asked *a = bpf_sk_storage_get(&asked, sk, 0, resolver ? BPF_SK_STORAGE_GET_F_CREATE : 0);

	if (!a)
		return;
	a->agent = agent;
	a->netns = netns;
	a->resolver = resolver;
}

/* It could send in a resolver's name: it has a UDP port of its own choice, or makes its own headers. */
static __always_inline void asked_mark(void *sk)
{
	bpf_sk_storage_get(&asked, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

#endif
