// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer over the plain C that decides: bpf/lib/verdict.bpf.h, bpf/lib/automaton.bpf.h and bpf/lookup.bpf.c, compiled for
 * this host. The input is a damaged set of tables and an object:
 *
 *     byte 0: operation    byte 1: length of the object, in units of 16    bytes 2, 3: where argv can't be read any more
 *     the object (of an exec it is argv too), then struct agentd_tables, then words of the arena
 *
 * What must hold whatever stands in the tables: nothing outside the arena and the work buffer is touched (the sanitizers
 * say), every loop ends, the verdict is one of the three decisions or the deny it began with, and the same question has
 * the same answer. `./dev fuzz`.
 */
#include "matcher.h"

#define ARENA_WORDS 4096u

const volatile struct agentd_constants constants = { .epoch = 1, .arena_mask = ARENA_WORDS - 1, .top_shift = 39 };

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
	if (cut > object)
		cut = object;
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

	decide(&first, op, data, object, data, object, cut);
	decide(&second, op, data, object, data, object, cut);
	if (memcmp(&first, &second, sizeof(first)))
		abort();
	if (first.outcome == 0xffffffff && first.decision != AGENTD_DENY)
		abort();
	free(work);
	free(words);
	return 0;
}
