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

static u32 page_read(struct scratch *s, u64 pgd, u64 address, u64 most); /* pages.bpf.c */

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
	dfa_open(run, t->base, op == AGENTD_OP_EXEC ? &t->exec : op == AGENTD_OP_CALL ? &t->call : &t->path);
	run->pos = s->path_off;
	run->end = AGENTD_PATH_MAX;
	dfa_seed(run);
	if (run->pos >= run->end)
		return NO_SLOT;
	dfa_open(&s->rules, t->base, &t->rules);
	if (s->split >= run->pos && s->split && s->split < AGENTD_PATH_MAX) {
		struct walked *k = &s->walked[s->look & 1];

		k->len = s->split - run->pos;
		run->end = s->split;
		dfa_feed_pair(s, a);
		k->path_state = run->state;
		k->rules_state = s->rules.state;
		k->hash[0] = run->hash[0];
		k->hash[1] = run->hash[1];
		k->generation = generation;
		run->end = AGENTD_PATH_MAX;
	}
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
		hash_step(s->args.hash, byte);
		if (byte) {
			run->state = dfa_step(a, run, run->state, byte);
			continue;
		}
		if (s->args.index)
			args_accept(s, a);
		s->args.index++;
		run->state = s->args.start;
		if (s->args.index >= s->args.argc) {
			run->end = pos + 1; /* behind it stands the environment */
			return 1;
		}
	}
	return 0;
}

/* The next piece of the arguments, in scratch->path. Returns its length, 0: unreadable. */
static __always_inline u32 args_read(struct scratch *s, u64 at, u64 left)
{
	u32 n = left < AGENTD_ARGV_CHUNK ? left : AGENTD_ARGV_CHUNK;

	if (s->args.pgd)
		return page_read(s, s->args.pgd, at, left);
	return bpf_probe_read_user(s->path, n & (2 * AGENTD_ARGV_CHUNK - 1), (void *)at) ? 0 : n;
}

/* The first page or less is kept for the record: `n` bytes more, from a buffer of the scratch. */
static __always_inline void args_keep(struct scratch *s, const char *from, u32 n)
{
	u32 kept = s->args.kept, room = AGENTD_ARGV_KEPT - kept;

	if (kept >= AGENTD_ARGV_KEPT)
		return;
	n = n < room ? n : room;
	bpf_probe_read_kernel(&s->name[1][kept & (AGENTD_ARGV_KEPT - 1)], bounded(n, 2 * AGENTD_ARGV_KEPT - 1), from);
	s->args.kept = kept + n;
}

static long args_chunk(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	struct args_run *r = &s->args;
	u64 at = r->at;
	u32 n;

	if (at >= r->end || r->index >= r->argc)
		return 1;
	n = args_read(s, at, r->end - at);
	if (!n) {
		r->failed = 1;
		return 1;
	}
	s->dfa.pos = 0;
	s->dfa.end = n;
	bpf_loop(AGENTD_ARGV_CHUNK / BLOCK + 1, args_block, loop, 0);
	r->at = at + s->dfa.end;
	if (r->pgd)
		args_keep(s, s->path, s->dfa.end);
	return 0;
}

/*
 * Fills scratch->masks for the arguments that scratch->program tells of; uses scratch->path. Those of a program that is not
 * in place yet are kept for the record. 0: complete; else scratch->args.failed is set.
 */
__noinline int args_scan(u32 slot, u32 agent)
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
	s->args.kept = 0;
	if (!ag || !a || s->program.args_end < s->program.args)
		return -1;
	t = tables_of(ag, s, &generation);
	dfa_open(&s->dfa, t->base, &t->args);
	s->args.at = s->program.args;
	s->args.end = s->program.args_end;
	s->args.start = s->dfa.state;
	s->args.index = 0;
	s->args.failed = 0;
	s->args.masks = t->base + t->arg_masks;
	s->args.pgd = s->program.pgd;
	s->args.argc = s->program.argc;
	s->args.hash[0] = constants.arena_mask; /* any start; it is mixed with keyed hashes (hold.bpf.h) */
	s->args.hash[1] = 0;
	loop.s = s;
	loop.arena = a;
	bpf_loop(AGENTD_ARGV_CHUNKS, args_chunk, &loop, 0);
	if (s->args.at < s->args.end && s->args.index < s->args.argc)
		s->args.failed = 1;
	return s->args.failed ? -1 : 0;
}
