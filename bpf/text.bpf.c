// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Looking through the text of a library call: read from the caller's memory in pieces of 2 KiB, SQL as its skeleton, each
 * piece through every automaton of the call's class; the groups found on the way are gathered in scratch->masks.
 *
 * Two forms. call_verdict() can't sleep: 64 KiB, and pages that are in memory; else it says CALL_LATER and nothing has
 * happened. call_verdict_sleeping() reads what must be fetched first, up to 256 MiB, and other tasks run meanwhile. Its loop
 * ends early when the process has been killed.
 *
 * Loops: 33 or 131,073 pieces, 8 automata, blocks of 16 bytes. A longer text, memory that can't be read, SQL that can't be told:
 * scratch->args.failed, and the call is `unresolved`.
 *
 * Streams: lib/stream.bpf.h. Functions that call one another: lib/nested.bpf.h.
 *
 * Not trusted, and not held still: the text is the caller's memory, another thread of it may write there meanwhile.
 */
#include "lib/nested.bpf.h"
#include "lib/sql.bpf.h"
#include "lib/stream.bpf.h"
#include "lib/verdict.bpf.h"

#ifndef SIGKILL
#define SIGKILL 9
#endif
#define TEXT_PIECE 2048 /* a power of two; what comes of one fits into a page */
#define TEXT_PIECES ((64 << 10) / TEXT_PIECE + 1)
#define TEXT_PIECES_SLEEPING ((256 << 20) / TEXT_PIECE + 1)

enum { CALL_NOBODYS = 0, CALL_JUDGED = 1, CALL_LATER = 2 };

/* The automata and the list of the class `class` of calls. False: nothing is to be judged. */
static __always_inline bool text_open(struct scratch *s, const u32 *a, const struct agentd_tables *t, u32 class)
{
	u32 at = t->base + arena_word(a, t->base + t->call_classes + class), n = arena_word(a, at);

	if (n == AGENTD_NOT_ASKED)
		return false;
	s->args.failed = n > AGENTD_TEXTS_MAX; /* user space writes no more */
	s->text.n = n;
	s->args.list = at + 1 + n * AGENTD_TEXT_WORDS;
	for (u32 i = 0; i < AGENTD_TEXTS_MAX; i++) {
		struct dfa_run *run = &s->text.dfa[i];
		u32 word = at + 1 + i * AGENTD_TEXT_WORDS;

		run->base = t->base;
		run->classes = (t->base + arena_word(a, word)) << 2;
		run->states = (t->base + arena_word(a, word + 1)) << 2;
		run->comb = (t->base + arena_word(a, word + 2)) << 2;
		run->state = arena_word(a, word + 3);
		s->text.masks[i] = t->base + arena_word(a, word + 4);
	}
	for (u32 i = 0; i < AGENTD_ARG_WORDS; i++)
		s->masks[i] = 0;
	return true;
}

static __always_inline void text_gather(struct scratch *s, const u32 *a, u32 at)
{
	for (u32 i = 0; i < AGENTD_ARG_WORDS; i++)
		s->masks[i] |= arena_word(a, at + i);
}

static long text_block(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	u32 number = s->text.automaton & (AGENTD_TEXTS_MAX - 1);
	struct dfa_run *run = &s->text.dfa[number];
	const u32 *a = loop->arena;
	u32 state = run->state, pos = s->text.pos, end = s->text.out;

	for (int j = 0; j < BLOCK; j++) {
		u32 found;

		if (pos >= end)
			break;
		state = dfa_step(a, run, state, s->name[0][pos & (2 * AGENTD_PATH_MAX - 1)]);
		found = dfa_says(a, run, state);
		if (found)
			text_gather(s, a, s->text.masks[number] + found * 2 * AGENTD_ARG_WORDS);
		pos++;
	}
	run->state = state;
	s->text.pos = pos;
	return pos >= end;
}

static long text_automaton(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;

	if (i >= s->text.n)
		return 1;
	s->text.automaton = i;
	s->text.pos = 0;
	bpf_loop(AGENTD_PATH_MAX / BLOCK, text_block, loop, 0);
	return 0;
}

/* What the automata look at, of the bytes in scratch->data: up to the NUL of a string, SQL as its skeleton. */
static long text_byte(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	struct text_run *t = &s->text;
	u8 byte;

	if (t->pos >= s->dfa.end)
		return 1;
	byte = s->data[t->pos & (TEXT_PIECE - 1)];
	if (!byte && t->flags & AGENTD_CALLED_STRING) {
		t->ended = 1;
		return 1;
	}
	t->pos++;
	hash_step(s->args.hash, byte);
	if (!t->sql.language) {
		s->name[0][t->out & (AGENTD_PATH_MAX - 1)] = byte;
		t->out++;
		return 0;
	}
	t->sql.n = 0;
	sql_step(&t->sql, byte);
	for (u32 j = 0; j < 3; j++) {
		if (j >= t->sql.n)
			break;
		s->name[0][t->out & (AGENTD_PATH_MAX - 1)] = t->sql.out[j];
		t->out++;
	}
	return 0;
}

/* Runs what stands in scratch->data, `n` bytes, through everything. */
static __always_inline void text_piece(struct dfa_loop *loop, u32 n)
{
	struct scratch *s = loop->s;

	s->dfa.end = n;
	s->text.pos = 0;
	s->text.out = 0;
	bpf_loop(TEXT_PIECE, text_byte, loop, 0);
	s->text.read = s->text.pos;
	bpf_loop(AGENTD_TEXTS_MAX, text_automaton, loop, 0);
}

/* SIGKILL is taken when this program has ended. */
static __always_inline bool text_in_vain(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return KREAD(task, pending.signal.sig[0]) & (1ull << (SIGKILL - 1));
}

/* The next bytes of the text, in scratch->data: how many. 0: there are none, or they can't be read. */
static __always_inline u32 text_fetch(struct scratch *s, bool sleeping)
{
	u64 at = s->args.at, left = s->args.end - at;
	u32 n = TEXT_PIECE - (at & (TEXT_PIECE - 1));
	long failed;

	if (at >= s->args.end)
		return 0;
	if (left < n)
		n = left;
	if (sleeping)
		failed = text_in_vain() || bpf_copy_from_user(s->data, n & (2 * TEXT_PIECE - 1), (void *)at);
	else
		failed = bpf_probe_read_user(s->data, n & (2 * TEXT_PIECE - 1), (void *)at);
	if (failed) {
		s->args.failed = 1;
		return 0;
	}
	s->args.at = at + n;
	return n;
}

static __always_inline long text_take(struct dfa_loop *loop, u32 n)
{
	struct scratch *s = loop->s;

	if (!n)
		return 1;
	text_piece(loop, n);
	args_keep(s, s->data, s->text.read); /* as it was written */
	return s->text.ended != 0;
}

static long text_read(u32 i, struct dfa_loop *loop)
{
	return text_take(loop, text_fetch(loop->s, false));
}

static long text_read_sleeping(u32 i, struct dfa_loop *loop)
{
	return text_take(loop, text_fetch(loop->s, true));
}

static long text_hash_block(u32 i, struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	u32 pos = s->text.pos, end = s->dfa.end;
	u64 hash[2] = { s->args.hash[0], s->args.hash[1] };

	for (int j = 0; j < BLOCK; j++) {
		if (pos >= end)
			break;
		hash_step(hash, s->data[pos & (TEXT_PIECE - 1)]);
		pos++;
	}
	s->args.hash[0] = hash[0];
	s->args.hash[1] = hash[1];
	s->text.pos = pos;
	return pos >= end;
}

static __always_inline long text_hash(struct dfa_loop *loop, u32 n)
{
	if (!n)
		return 1;
	loop->s->dfa.end = n;
	loop->s->text.pos = 0;
	bpf_loop(TEXT_PIECE / BLOCK, text_hash_block, loop, 0);
	return 0;
}

static long text_hash_read(u32 i, struct dfa_loop *loop)
{
	return text_hash(loop, text_fetch(loop->s, false));
}

static long text_hash_read_sleeping(u32 i, struct dfa_loop *loop)
{
	return text_hash(loop, text_fetch(loop->s, true));
}

/* What SQL has held back gives out at the end, and what is found because the text ends there. */
static __always_inline void text_end(struct dfa_loop *loop)
{
	struct scratch *s = loop->s;
	const u32 *a = loop->arena;

	if (s->text.sql.state == SQL_OPAQUE)
		s->args.failed = 1;
	s->text.sql.n = 0;
	sql_held(&s->text.sql, s->text.sql.state);
	for (u32 j = 0; j < 3; j++)
		s->name[0][j] = s->text.sql.out[j];
	s->text.out = s->text.sql.n;
	bpf_loop(AGENTD_TEXTS_MAX, text_automaton, loop, 0);
	for (u32 i = 0; i < AGENTD_TEXTS_MAX; i++) {
		struct dfa_run *run = &s->text.dfa[i];

		if (i < s->text.n)
			text_gather(s, a, s->text.masks[i] + (dfa_accept(a, run) * 2 + 1) * AGENTD_ARG_WORDS);
	}
}

/* Before the first byte of a text is read. */
static __noinline int text_begin(struct scratch *s, const struct agentd_called *called)
{
	bool open_ended;

	if (!s || !called)
		return 0;
	open_ended = called->flags & AGENTD_CALLED_STRING && !(called->flags & AGENTD_CALLED_LIMIT);
	s->text.flags = called->flags;
	s->text.ended = 0;
	s->text.sql.state = SQL_CODE;
	s->text.sql.depth = 0;
	s->text.sql.last = ' ';
	s->text.sql.run = 0;
	s->args.kept = 0;
	s->args.index = 0;
	s->args.argc = 0;
	s->args.failed = 0;
	s->args.hash[0] = constants.arena_mask;
	s->args.hash[1] = 0;
	s->args.at = called->text;
	s->args.end = open_ended ? ~0ull : called->text + called->len;
	if (s->args.end < s->args.at)
		s->args.failed = 1;
	return 0;
}

/* Not all that was asked for has been read. */
static __always_inline bool text_left(const struct scratch *s, const struct agentd_called *called)
{
	return s->args.failed || (called->text && s->args.at < s->args.end && !s->text.ended);
}

static __always_inline int text_verdict(struct verdict *v, u32 slot, u32 agent, const struct agentd_called *called,
					bool sleeping)
{
	struct dfa_loop loop = { .s = scratch_get(slot), .arena = arena_get() };
	const struct agentd_agent *ag = agent_get(agent);
	struct scratch *s = loop.s;
	const struct agentd_tables *t;
	struct stream_key key;
	u32 class;

	if (!v)
		return CALL_JUDGED;
	verdict_deny(v);
	if (!s || !ag || !loop.arena || !called || !(ag->flags & AGENTD_AGENT_USED))
		return CALL_JUDGED;
	class = path_class(slot, agent, AGENTD_OP_CALL);
	t = tables_of(ag, s, &v->generation);
	if (class == NO_SLOT)
		return CALL_JUDGED;
	if (!text_open(s, loop.arena, t, class))
		return CALL_NOBODYS;
	if (s->args.failed)
		goto unresolved;
	s->text.agent = agent;
	s->text.class = class;
	s->text.generation = v->generation;
	if (called->stream) {
		text_head(s, called);
		if (call_nested(s, called))
			return CALL_NOBODYS;
	}
	stream_key_set(&key, called->stream);
	if (stream_rest(s, &key, called)) {
		text_begin(s, &s->text.whole);
		if (sleeping)
			bpf_loop(TEXT_PIECES_SLEEPING, text_hash_read_sleeping, &loop, 0);
		else
			bpf_loop(TEXT_PIECES, text_hash_read, &loop, 0);
		if (text_left(s, &s->text.whole) && !sleeping)
			return CALL_LATER;
		if (!s->args.failed && stream_same(s, &key))
			return CALL_NOBODYS;
	}
	stream_resume(s, &key);
	text_begin(s, called);
	if (called->text) { /* a function that is given NULL is told nothing */
		if (sleeping)
			bpf_loop(TEXT_PIECES_SLEEPING, text_read_sleeping, &loop, 0);
		else
			bpf_loop(TEXT_PIECES, text_read, &loop, 0);
	}
	if (text_left(s, called)) {
		if (!sleeping)
			return CALL_LATER;
		s->args.failed = 1;
	}
	if (!called->stream && !s->args.failed && call_nested(s, called))
		return CALL_NOBODYS;
	if (stream_repeated(s, &key, called))
		return CALL_NOBODYS;
	if (key.stream)
		stream_keep(s, &key, called);
	text_end(&loop);
	if (!s->args.failed)
		class_verdict(v, s, loop.arena, t, class, AGENTD_OP_CALL);
unresolved:
	if (s->args.failed || v->outcome == 0xffffffff)
		verdict_unresolved(v, agent, AGENTD_OP_CALL);
	return CALL_JUDGED;
}

/*
 * The verdict on a library call: its word stands in scratch->path, its text where `called` says. CALL_NOBODYS: it is none of
 * anybody's business, or has been judged. Uses scratch->data, name[0] and name[1], where the beginning of the text is left
 * for the record.
 */
__noinline int call_verdict(struct verdict *v, u32 slot, u32 agent, const struct agentd_called *called)
{
	return text_verdict(v, slot, agent, called, false);
}

/* The same for programs that may sleep; it has no later. */
static __noinline int call_verdict_sleeping(struct verdict *v, u32 slot, u32 agent, const struct agentd_called *called)
{
	return text_verdict(v, slot, agent, called, true);
}
