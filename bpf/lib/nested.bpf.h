/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A judged function that calls another one with the text that it was given (PQexec calls PQsendQuery, sqlite3_exec
 * sqlite3_prepare_v2): one call of the program, which is judged, counted and asked about once.
 *
 * It is told by the stack: the other's frame lies below, and the return address of the first still stands where it stood when
 * the first began, so the first has not returned. The text must be the same, byte by byte, at the same address, and the
 * tables must judge both functions alike. (Of a stream's text how it begins: it must be known before it is read, because what
 * is read goes on from there.) Each is left out for the frame of the one above only: a second
 * call from there is at the same height, and judged. What jumps to the other instead of calling it (gnutls_record_send to
 * gnutls_record_send2) leaves its own frame to it; that can't be told from two calls at one place of the program, one behind
 * the other, and counts for streams only: there it is the same text to the same connection.
 *
 * Not trusted: the caller's stack and memory. A program that builds a frame by hand may have one text judged that it then
 * changes; so it may with any text, which is its own memory.
 * Map: evicts what was not used for the longest time; then, and where the stack or the text can't be read, both are judged.
 */
#ifndef AGENTD_NESTED_BPF_H
#define AGENTD_NESTED_BPF_H

#include "verdict.bpf.h"

struct frame {
	u64 at; /* the stack pointer when the function began, */
	u64 back; /* and what it points at: the return address */
	u64 text;
	u64 hash[2]; /* of the text, or in a stream of how it begins, and its length; the second 0: it could not be read */
	u32 agent, class, generation, language; /* who judged it, and how */
	u32 call; /* the function's number */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* thread */
	__type(value, struct frame);
} frames SEC(".maps");

#define HEAD_WORDS 16

/*
 * How a text begins, into scratch->args.hash. (The address isn't the text: what calls whatever it is told to, libffi, has one
 * return address for all of it, and a buffer may be filled anew.) Uses the buffer that a text is read into.
 */
static __noinline int text_head(struct scratch *s, const struct agentd_called *called)
{
	u64 head = 0x9E3779B97F4A7C15ull;
	u32 most = HEAD_WORDS * 8 - 1;
	u64 *words;

	if (!s || !called)
		return 0;
	words = (u64 *)s->name[0];
	__builtin_memset(words, 0, HEAD_WORDS * 8);
	s->args.hash[0] = s->args.hash[1] = 0;
	if (called->len < most)
		most = called->len;
	if (bpf_probe_read_user(words, bounded(most, HEAD_WORDS * 8 - 1), (void *)called->text))
		return 0;
	for (int i = 0; i < HEAD_WORDS; i++)
		head = (head ^ words[i]) * 0x100000001b3ull;
	s->args.hash[0] = head;
	s->args.hash[1] = called->len + 1;
	return 0;
}

/* Is it the same text? */
static __always_inline bool text_again(const struct frame *now, const struct frame *before)
{
	return now->text && now->text == before->text && now->hash[1] && now->hash[0] == before->hash[0] &&
	       now->hash[1] == before->hash[1];
}

/* Was `now` called by the function of `before`, or jumped to? */
static __always_inline bool frame_below(const struct frame *now, const struct frame *before, bool stream)
{
	return now->at < before->at || (stream && now->at == before->at && now->call != before->call);
}

static __always_inline bool judged_alike(const struct frame *one, const struct frame *other)
{
	return one->agent == other->agent && one->class == other->class && one->generation == other->generation &&
	       one->language == other->language;
}

/* Has the function that this frame is of not returned? */
static __always_inline bool frame_stands(const struct frame *frame)
{
	u64 back = 0;

	return !bpf_probe_read_user(&back, sizeof(back), (void *)frame->at) && back == frame->back;
}

/* Is this call, whose text's hash is in scratch->args, a part of one that was judged? It is remembered for those that it makes. */
static __noinline int call_nested(const struct scratch *s, const struct agentd_called *called)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	u32 thread = bpf_get_current_pid_tgid();
	struct frame *before, now = {};
	int nested;

	if (!s || !called)
		return 0;
	now.at = KREAD(regs, sp);
	now.text = called->text;
	now.hash[0] = s->args.hash[0];
	now.hash[1] = s->args.hash[1];
	now.call = called->call;
	now.agent = s->text.agent;
	now.class = s->text.class;
	now.generation = s->text.generation;
	now.language = s->text.sql.language;
	if (bpf_probe_read_user(&now.back, sizeof(now.back), (void *)now.at)) {
		bpf_map_delete_elem(&frames, &thread);
		return 0;
	}
	before = bpf_map_lookup_elem(&frames, &thread);
	if (!before) {
		bpf_map_update_elem(&frames, &thread, &now, BPF_ANY);
		return 0;
	}
	nested = frame_below(&now, before, called->stream) && judged_alike(&now, before) && text_again(&now, before) &&
		 frame_stands(before);
	*before = now;
	return nested;
}

#endif
