/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Addresses that were allowed, remembered as memory.bpf.h does it for files. The verdict on an address depends on the policy
 * and on nothing else, as long as the policy has no names of hosts: where it has some, nothing is kept.
 */
#ifndef AGENTD_DESTINATION_BPF_H
#define AGENTD_DESTINATION_BPF_H

#include "memory.bpf.h"
#include "sockets.bpf.h"

/* An operation on an address of this family, by a socket of this kind. */
static __always_inline u32 destination_what(const struct peer_address *peer, u32 op, bool stream)
{
	return op | (u32)peer->family << 8 | (u32)stream << 24;
}

/* The address as it is kept: an IPv4 one has three words of zeros. (No copy of it: Linux 6.1 has no stack left for one.) */
static __always_inline u64 destination_half(const struct peer_address *peer, u32 half)
{
	if (peer->family == AF_INET6)
		return peer->words[2 * half] | (u64)peer->words[2 * half + 1] << 32;
	return half ? 0 : peer->words[0];
}

static __always_inline struct destination *destination_at(const struct peer_address *peer, u32 what)
{
	u64 address = destination_half(peer, 0) ^ destination_half(peer, 1) * 3;
	u32 at = spread(address ^ (u64)peer->port << 32 ^ (u64)what << 24) & (DESTINATIONS - 1);

	return bpf_map_lookup_elem(&destinations, &at);
}

/* Was that allowed before? Then it is counted. */
static __noinline bool destination_recalled(const struct agentd_tag *tag, const struct peer_address *peer, u32 what)
{
	const struct destination *d;
	u32 version, generation, hit;

	if (!constants.memory || !tag || !peer)
		return false;
	generation = memory_generation(tag);
	d = destination_at(peer, what);
	if (!d || !generation)
		return false;
	version = *(volatile const u32 *)&d->version;
	hit = d->hit;
	if (version & 1 || d->generation != generation || d->agent != tag->agent || d->epoch != memory_time() ||
	    d->what != what || d->port != peer->port || d->address[0] != destination_half(peer, 0) ||
	    d->address[1] != destination_half(peer, 1) || *(volatile const u32 *)&d->version != version)
		return false;
	hit_count(hit);
	return true;
}

/* Keeps that it was allowed, as scratch->v[0] and scratch->hit tell. */
static __noinline void destination_remember(const struct scratch *s, const struct agentd_tag *tag,
					    const struct peer_address *peer, u32 what)
{
	const struct agentd_agent *ag;
	struct destination *d;
	u32 set, generation;

	if (!constants.memory || !s || !tag || !peer || !s->hit)
		return;
	generation = s->v[0].generation;
	ag = agent_get(tag->agent);
	if (!ag || !generation)
		return;
	set = *(volatile const u32 *)&ag->active & 1;
	if (ag->generation[set] != generation || ag->tables[set].n_names)
		return;
	d = destination_at(peer, what);
	if (!d || !entry_open(&d->version))
		return;
	d->agent = tag->agent;
	d->generation = generation;
	d->epoch = s->walked[0].epoch;
	d->address[0] = destination_half(peer, 0);
	d->address[1] = destination_half(peer, 1);
	d->what = what;
	d->port = peer->port;
	d->hit = s->hit;
	entry_close(&d->version);
}

#endif
