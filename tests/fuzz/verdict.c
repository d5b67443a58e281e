// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer over the plain C that decides: bpf/lib/verdict.bpf.h, bpf/lib/automaton.bpf.h and bpf/lookup.bpf.c, compiled for
 * this host. The input is a damaged set of tables and an object:
 *
 *     byte 0: operation    byte 1: length of the object, in units of 16    bytes 2, 3: where argv is cut
 *     the object, then struct agentd_tables, then words of the arena
 *
 * What must hold whatever stands in the tables: nothing outside the arena and the work buffer is touched (the sanitizers
 * say), every loop ends, the verdict is one of the three decisions or the deny it began with, and the same question has
 * the same answer. `./dev fuzz [SECONDS]`.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *host_lookup(void *map, const void *key);
static long host_loop(unsigned int count, void *callback, void *context);
static long host_read(void *to, unsigned int size, const void *from);

#define bpf_map_lookup_elem host_lookup
#define bpf_loop(count, callback, context, flags) host_loop(count, callback, context)
#define bpf_probe_read_user host_read
#define bpf_get_current_task_btf() ((struct task_struct *)0)
#define bpf_task_storage_get(map, task, value, flags) ((void *)0)
#define bpf_get_smp_processor_id() 0

#include "../../bpf/lookup.bpf.c"

#define ARENA_WORDS 4096u

const volatile struct agentd_constants constants = { .arena_mask = ARENA_WORDS - 1 };
static struct agentd_agent agent_slot;
static struct agentd_control control_slot = { .hash_seed = { 1, 2 } };
static struct scratch *work;
static u32 *words; /* of the arena: exactly as long as the mask says */
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
	abort();
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

static const uint8_t *argv_bytes;
static size_t argv_size;

/* A page that can't be read lies behind the end. Addresses are offsets. */
static long host_read(void *to, unsigned int size, const void *from)
{
	size_t at = (size_t)from;

	if (at > argv_size || size > argv_size - at)
		return -14; /* EFAULT */
	memcpy(to, argv_bytes + at, size);
	return 0;
}

static void decide(struct verdict *v, u32 op, const uint8_t *object, size_t size, size_t cut)
{
	memset(v, 0xee, sizeof(*v));
	work->set = 0;
	if (op >= AGENTD_PATH_OPS) {
		size = size < AGENTD_HOST_KEY_MAX ? size : AGENTD_HOST_KEY_MAX;
		memcpy(work->path, object, size);
		host_verdict(v, 0, 0, op, size);
		return;
	}
	if (op == AGENTD_OP_EXEC) {
		argv_bytes = object;
		argv_size = cut < size ? cut : size;
		args_scan(0, 0, 0, size);
	}
	work->path_off = AGENTD_PATH_MAX - size;
	memcpy(work->path + work->path_off, object, size);
	path_verdict(v, 0, 0, op);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct verdict first, second;
	size_t object, cut, n;
	u32 op;

	if (size < 4)
		return -1;
	op = data[0] % AGENTD_OP_COUNT;
	object = data[1] * 16;
	cut = data[2] | data[3] << 8;
	data += 4;
	size -= 4;
	if (object > size)
		object = size;
	work = calloc(1, sizeof(*work)); /* fresh, and exactly as large: the sanitizer sees each byte beyond */
	words = calloc(ARENA_WORDS, sizeof(*words));
	memset(&agent_slot, 0, sizeof(agent_slot));
	agent_slot.flags = AGENTD_AGENT_USED;
	n = size - object < sizeof(agent_slot.tables[0]) ? size - object : sizeof(agent_slot.tables[0]);
	memcpy(&agent_slot.tables[0], data + object, n);
	size -= object + n;
	if (size > ARENA_WORDS * sizeof(*words))
		size = ARENA_WORDS * sizeof(*words);
	memcpy(words, data + object + n, size);

	decide(&first, op, data, object, cut);
	decide(&second, op, data, object, cut);
	if (memcmp(&first, &second, sizeof(first)))
		abort();
	if (first.outcome == 0xffffffff && first.decision != AGENTD_DENY)
		abort();
	free(work);
	free(words);
	return 0;
}
