// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's side compiled for this host: what its plain C asks of the kernel. Maps have one element each, a string that
 * a program may read ends where the sanitizer sees it, time stands still. Include it before any bpf/ file.
 */
#ifndef AGENTD_TEST_FUZZ_HOST_H
#define AGENTD_TEST_FUZZ_HOST_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *host_lookup(void *map, const void *key);
static long host_update(void *map, const void *key, const void *value);
static long host_loop(unsigned int count, void *callback, void *context);
static long host_read(void *to, unsigned int size, const void *from);
static long host_copy(void *to, unsigned int size, const void *from);
static long host_load(const void *skb, unsigned int at, void *to, unsigned int size);

#define bpf_map_lookup_elem host_lookup
#define bpf_map_update_elem(map, key, value, flags) host_update(map, key, value)
#define bpf_loop(count, callback, context, flags) host_loop(count, callback, context)
#define bpf_probe_read_user host_read
#define bpf_probe_read_kernel host_copy
#define bpf_skb_load_bytes host_load
#define bpf_get_current_task_btf() ((struct task_struct *)0)
#define bpf_task_storage_get(map, task, value, flags) ((void *)0)
#define bpf_sk_storage_get(map, sk, value, flags) ((void *)&asked_slot)
#define bpf_sk_fullsock(sk) (sk)
#define bpf_get_smp_processor_id() 0
#define bpf_ktime_get_boot_ns() 1000000000ull
/* of the kernel's own structures, which nothing here has */
#undef BPF_CORE_READ
#define BPF_CORE_READ(...) 0
#undef bpf_core_read
#define bpf_core_read(...) -1
#undef bpf_core_field_offset
#define bpf_core_field_offset(...) 0
#undef bpf_core_field_exists
#define bpf_core_field_exists(...) 0

#define sigset_t kernel_sigset_t /* the kernel's is another one */

#include "../../bpf/lib/scratch.bpf.h"

static u32 *words; /* of the arena: exactly as long as the mask says */
static struct agentd_agent agent_slot;
static struct agentd_control control_slot = { .epoch = 1,
					      .hash_seed = { 1, 2 },
					      .name_ttl_min = 60,
					      .name_ttl_max = 86400 };
static struct scratch *work;
static struct asked asked_slot;
static struct agentd_name_entry name_slot;
static struct agentd_name_key name_key; /* of what is in it */
static int name_there;
static u32 resolver_slot;
static u64 counters[AGENTD_STAT_COUNT];

static void *host_lookup(void *map, const void *key)
{
	if (map == &arena)
		return words;
	if (map == &agents)
		return *(const u32 *)key ? NULL : &agent_slot;
	if (map == &control)
		return &control_slot;
	if (map == &scratch)
		return work;
	if (map == &stats)
		return &counters[*(const u32 *)key % AGENTD_STAT_COUNT];
	if (map == &resolvers)
		return resolver_slot ? &resolver_slot : NULL;
	if (map == &names)
		return name_there && !memcmp(key, &name_key, sizeof(name_key)) ? &name_slot : NULL;
	abort();
}

static long host_update(void *map, const void *key, const void *value)
{
	if (map != &names)
		abort();
	name_there = 1;
	memcpy(&name_key, key, sizeof(name_key));
	memcpy(&name_slot, value, sizeof(name_slot));
	return 0;
}

static long host_loop(unsigned int count, void *callback, void *context)
{
	long (*step)(u32, void *) = (long (*)(u32, void *))callback;

	if (count > 1u << 23) /* BPF_MAX_LOOPS */
		return -7; /* E2BIG */
	for (u32 i = 0; i < count; i++)
		if (step(i, context))
			return i + 1;
	return count;
}

static const uint8_t *user_bytes; /* what a user address is an offset into; a page that can't be read lies behind it */
static size_t user_size;

static long host_read(void *to, unsigned int size, const void *from)
{
	size_t at = (size_t)from;

	if (at > user_size || size > user_size - at)
		return -14; /* EFAULT */
	memcpy(to, user_bytes + at, size);
	return 0;
}

static long host_copy(void *to, unsigned int size, const void *from)
{
	memmove(to, from, size);
	return 0;
}

static const uint8_t *packet;
static size_t packet_size;

static long host_load(const void *skb, unsigned int at, void *to, unsigned int size)
{
	if (at > packet_size || size > packet_size - at)
		return -14;
	memcpy(to, packet + at, size);
	return 0;
}

#endif
