/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * One step a byte, whatever the number of rules. Tables as abi.h describes them; every index is masked with the size of
 * the arena, so a damaged table gives a wrong verdict at worst, never an access outside.
 *
 * Loops: a string is at most 4,096 bytes, cut in blocks of 16: the call per iteration is paid once a block, and the
 * verifier, which looks at every turn of a loop inside each program, has little to look at.
 */
#ifndef AGENTD_AUTOMATON_BPF_H
#define AGENTD_AUTOMATON_BPF_H

#include "maps.bpf.h"

#define BLOCK 16

struct dfa_loop { /* pointers stay on the stack */
	struct scratch *s;
	const u32 *arena;
};

static __always_inline const u32 *arena_get(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&arena, &zero);
}

static __always_inline u32 arena_word(const u32 *a, u32 index)
{
	u64 offset = (u64)(index & constants.arena_mask) << 2;

	return *(const u32 *)((const char *)a + offset);
}

static __always_inline u32 arena_at(const u32 *a, u32 mask, u32 offset)
{
	return *(const u32 *)((const char *)a + (u64)(offset & mask));
}

/* arena_mask, but of bytes, and of whole words. Who needs it for many bytes reads it once. */
static __always_inline u32 arena_bytes(void)
{
	return constants.arena_mask << 2;
}

static __always_inline void dfa_open(struct dfa_run *run, u32 base, const struct agentd_dfa *dfa)
{
	run->base = base;
	run->classes = (base + dfa->classes) << 2;
	run->states = (base + dfa->states) << 2;
	run->comb = (base + dfa->comb) << 2;
	run->state = dfa->start;
}

#define OFTEN(field) (*(volatile const u32 *)&(field)) /* read where it is used: the stack has no room to keep it */

static __always_inline u32 dfa_go(const u32 *a, u32 mask, const struct dfa_run *run, u32 state, u8 byte)
{
	u32 class = *((const u8 *)a + (u64)((OFTEN(run->classes) + byte) & (mask | 3))); /* little endian */
	u32 at = OFTEN(run->states) + (state * AGENTD_STATE_WORDS << 2);
	u32 entry = OFTEN(run->comb) + ((arena_at(a, mask, at) + class) * AGENTD_COMB_WORDS << 2);

	return arena_at(a, mask, entry) == state ? arena_at(a, mask, entry + 4) : arena_at(a, mask, at + 4);
}

static __always_inline u32 dfa_step(const u32 *a, const struct dfa_run *run, u32 state, u8 byte)
{
	return dfa_go(a, arena_bytes(), run, state, byte);
}

static __always_inline void dfa_seed(struct dfa_run *run)
{
	u32 zero = 0;
	struct agentd_control *c = bpf_map_lookup_elem(&control, &zero);

	run->hash[0] = c ? c->hash_seed[0] : 0;
	run->hash[1] = c ? c->hash_seed[1] : 0;
}

/* What a state of it says. */
static __always_inline u32 dfa_says(const u32 *a, const struct dfa_run *run, u32 state)
{
	return arena_at(a, arena_bytes(), run->states + ((state * AGENTD_STATE_WORDS + 2) << 2));
}

static __always_inline u32 dfa_accept(const u32 *a, const struct dfa_run *run)
{
	return dfa_says(a, run, run->state);
}

static __always_inline void hash_step(u64 *hash, u8 byte)
{
	hash[0] = (hash[0] ^ byte) * 0x9E3779B97F4A7C15ull;
	hash[0] ^= hash[0] >> 29;
	hash[1] = (hash[1] + byte) * 0xC2B2AE3D27D4EB4Full;
	hash[1] ^= hash[1] >> 31;
}

static long dfa_block(u32 i, struct dfa_loop *loop)
{
	struct dfa_run *run = &loop->s->dfa;
	const u32 *a = loop->arena;
	u32 mask = arena_bytes();
	u32 state = run->state;
	u64 hash[2] = { run->hash[0], run->hash[1] };
	u32 pos = run->pos;

	for (int j = 0; j < BLOCK; j++) {
		u8 byte;

		if (pos >= OFTEN(run->end))
			break;
		byte = loop->s->path[pos & (AGENTD_PATH_MAX - 1)];
		state = dfa_go(a, mask, run, state, byte);
		hash_step(hash, byte);
		pos++;
	}
	run->state = state;
	run->hash[0] = hash[0];
	run->hash[1] = hash[1];
	run->pos = pos;
	return pos >= run->end;
}

/* Feeds path[pos..end) to the automaton and to the hash. A function of its own: it is verified once, not at every call. */
__noinline int dfa_feed(u32 slot)
{
	struct dfa_loop loop = { .s = scratch_get(slot), .arena = arena_get() };

	if (loop.s && loop.arena)
		bpf_loop(AGENTD_PATH_MAX / BLOCK + 1, dfa_block, &loop, 0);
	return 0;
}

static long dfa_pair_block(u32 i, struct dfa_loop *loop)
{
	struct dfa_run *run = &loop->s->dfa, *rules = &loop->s->rules;
	const u32 *a = loop->arena;
	u32 mask = arena_bytes();
	u32 state = run->state, other = rules->state;
	u64 hash[2] = { run->hash[0], run->hash[1] };
	u32 pos = run->pos;

	for (int j = 0; j < BLOCK; j++) {
		u8 byte;

		if (pos >= OFTEN(run->end))
			break;
		byte = loop->s->path[pos & (AGENTD_PATH_MAX - 1)];
		state = dfa_go(a, mask, run, state, byte);
		other = dfa_go(a, mask, rules, other, byte);
		hash_step(hash, byte);
		pos++;
	}
	run->state = state;
	rules->state = other;
	run->hash[0] = hash[0];
	run->hash[1] = hash[1];
	run->pos = pos;
	return pos >= run->end;
}

/* The same for two automata at once, `dfa` and `rules`: each byte is read and hashed once. */
static __always_inline void dfa_feed_pair(struct scratch *s, const u32 *a)
{
	struct dfa_loop loop = { .s = s, .arena = a };

	bpf_loop(AGENTD_PATH_MAX / BLOCK + 1, dfa_pair_block, &loop, 0);
}

#endif
