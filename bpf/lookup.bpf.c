// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Running the automata over an object.
 *
 * The arguments of a program that was just loaded, read from its new address space, which nobody but the kernel has
 * written and nobody else can reach yet: [arg_start, arg_end) of the new mm, NUL-terminated strings, argv[0] first.
 * Each argument from argv[1] on runs through the argument automaton; the groups it belongs to are collected.
 *
 * Loops: 64 chunks of 4 KiB. More, or a page that can't be read: incomplete, and where an argument could decide, the exec
 * is `unresolved`.
 */
#include "lib/verdict.bpf.h"

/*
 * Runs the automata of `op` and of the rules over scratch->path[path_off..) and keeps the hash. Returns the class of the
 * first, or NO_SLOT; that of the rules stands in scratch->rules_class.
 */
__noinline u32 path_class(u32 slot, u32 agent, u32 op)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_run *run;
	u32 generation;

	if (!s || !ag || !a || !(ag->flags & AGENTD_AGENT_USED))
		return NO_SLOT;
	t = tables_of(ag, s, &generation);
	run = &s->dfa;
	dfa_open(run, t->base, op == AGENTD_OP_EXEC ? &t->exec : &t->path);
	run->pos = s->path_off;
	run->end = AGENTD_PATH_MAX;
	dfa_seed(run);
	if (run->pos >= run->end)
		return NO_SLOT;
	dfa_open(&s->rules, t->base, &t->rules);
	dfa_feed_pair(s, a);
	if (run->pos != run->end)
		return NO_SLOT;
	s->hash[0] = run->hash[0];
	s->hash[1] = run->hash[1];
	s->rules_class = dfa_accept(a, &s->rules);
	return dfa_accept(a, run);
}

static __always_inline void args_accept(struct scratch *s, const u32 *a)
{
	u32 class = dfa_accept(a, &s->dfa);

	for (u32 i = 0; i < AGENTD_ARG_WORDS; i++)
		s->masks[i] |= arena_word(a, s->args.masks + class * AGENTD_ARG_WORDS + i);
}

static long args_block(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	struct dfa_run *run = &s->dfa;
	const u32 *a = loop->arena;

	for (int j = 0; j < BLOCK; j++) {
		u32 pos = run->pos;
		u8 byte;

		if (pos >= run->end)
			return 1;
		byte = s->path[pos & (AGENTD_PATH_MAX - 1)];
		run->pos = pos + 1;
		if (byte) {
			run->state = dfa_step(a, run, run->state, byte);
			continue;
		}
		if (s->args.index)
			args_accept(s, a);
		s->args.index++;
		run->state = s->args.start;
	}
	return 0;
}

static long args_chunk(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	struct args_run *r = &s->args;
	u64 at = r->at, left;
	u32 n;

	if (at >= r->end)
		return 1;
	left = r->end - at;
	n = left < AGENTD_ARGV_CHUNK ? left : AGENTD_ARGV_CHUNK;
	if (bpf_probe_read_user(s->path, n & (2 * AGENTD_ARGV_CHUNK - 1), (void *)at)) {
		r->failed = 1;
		return 1;
	}
	r->at = at + n;
	s->dfa.pos = 0;
	s->dfa.end = n;
	bpf_loop(AGENTD_ARGV_CHUNK / BLOCK + 1, args_block, loop, 0);
	return 0;
}

/* Fills scratch->masks for the current task's argv; uses scratch->path. 0: complete; else scratch->args.failed is set. */
__noinline int args_scan(u32 slot, u32 agent, u64 start, u64 end)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_loop loop;
	u32 generation;

	if (!s)
		return -1;
	for (u32 i = 0; i < AGENTD_ARG_WORDS; i++)
		s->masks[i] = 0;
	s->args.failed = 1;
	if (!ag || !a || end < start)
		return -1;
	t = tables_of(ag, s, &generation);
	dfa_open(&s->dfa, t->base, &t->args);
	s->args.at = start;
	s->args.end = end;
	s->args.start = s->dfa.state;
	s->args.index = 0;
	s->args.failed = 0;
	s->args.masks = t->base + t->arg_masks;
	loop.s = s;
	loop.arena = a;
	bpf_loop(AGENTD_ARGV_CHUNKS, args_chunk, &loop, 0);
	if (s->args.at < s->args.end)
		s->args.failed = 1;
	return s->args.failed ? -1 : 0;
}
