/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A judged function that calls another one with the text that it was given (PQexec calls PQsendQuery, sqlite3_exec
 * sqlite3_prepare_v2): one call of the program, which is judged, counted and asked about once.
 *
 * It is told by where the other returns to: into the code of the function that was judged last in this thread. So that
 * one runs, has not returned, and was not begun anew since, which would have been judged. Its frame must stand above, the
 * text be the same, byte by byte and at the same address, and the tables judge both functions alike. (Of a stream's text
 * how it begins: it must be known before it is read, because what is read goes on from there.) What was left out is the
 * function judged last from then on: a second call from the one above is judged.
 *
 * What jumps to the other instead of calling it (gnutls_record_send to gnutls_record_send2) leaves its own frame to it.
 * That two calls at one place of the program, one behind the other, look like, too; so a jump is believed only to a
 * function that does nothing else, and only to where it leads (jumps_to()).
 *
 * Judged twice: what is called by way of a third function that isn't judged, or from a part of the first that the compiler
 * moved elsewhere (`.cold`, `.part`); what jumps from the middle of a function; functions whose symbol has no size.
 *
 * Not trusted: the caller's stack, memory and code. A program that builds a frame by hand may have one text judged that it
 * then changes; so it may with any text, which is its own memory.
 * Map: evicts what was not used for the longest time; then, and where the stack or the text can't be read, both are judged.
 */
#ifndef AGENTD_NESTED_BPF_H
#define AGENTD_NESTED_BPF_H

#include "verdict.bpf.h"

struct frame {
	u64 at; /* the stack pointer when the function began, */
	u64 back; /* and what it points at: the return address */
	u64 entry; /* the function's first instruction */
	u64 text;
	u64 hash[2]; /* of the text, or in a stream of how it begins, and its length; the second 0: it could not be read */
	u32 agent, class, generation, language; /* who judged it, and how */
	u32 size; /* of the function's code, in bytes; 0: not known */
	u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* thread */
	__type(value, struct frame);
} frames SEC(".maps");

#define HEAD_WORDS 16

/*
 * How a text begins, into scratch->args.hash. (The address isn't the text: a buffer may be filled anew.) Uses the buffer
 * that a text is read into.
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

static __always_inline bool judged_alike(const struct frame *one, const struct frame *other)
{
	return one->agent == other->agent && one->class == other->class && one->generation == other->generation &&
	       one->language == other->language;
}

/* Was `now` called by the code of the function of `before`? */
static __always_inline bool called_by(const struct frame *now, const struct frame *before)
{
	return now->at < before->at && now->back - before->entry < before->size;
}

#define JUMPER 24 /* bytes: the most that a function has that only passes its arguments on */
#define ENDBR64 0xfa1e0ff3u
#define BND 0xf2
struct jump { /* jmp rel32 */
	u8 code; /* e9 */
	s32 offset; /* from behind it */
} __attribute__((packed));
struct stub { /* jmp *offset(%rip), of a procedure linkage table */
	u16 code; /* ff 25 */
	s32 offset;
} __attribute__((packed));

/* Where a stub at `at` leads; 0: there is none. */
static __noinline u64 stub_target(u64 at)
{
	struct stub stub = {};
	u64 target = 0;
	u32 first = 0;
	u8 prefix = 0;

	if (bpf_probe_read_user(&first, sizeof(first), (void *)at))
		return 0;
	if (first == ENDBR64)
		at += sizeof(first);
	if (bpf_probe_read_user(&prefix, sizeof(prefix), (void *)at))
		return 0;
	if (prefix == BND)
		at += sizeof(prefix);
	if (bpf_probe_read_user(&stub, sizeof(stub), (void *)at) || stub.code != 0x25ff)
		return 0;
	if (bpf_probe_read_user(&target, sizeof(target), (void *)(at + sizeof(stub) + (s64)stub.offset)))
		return 0;
	return target;
}

/* Does a function pass its arguments on to `target`, and nothing else? It has no call and no return, and ends with a jump. */
static __noinline int jumps_to(const struct frame *frame, u64 target)
{
	struct jump jump = {};
	u8 code[JUMPER] = {};
	u64 end;
	u32 size;

	if (!frame)
		return 0;
	size = frame->size;
	if (size < sizeof(jump) || size > JUMPER)
		return 0;
	end = frame->entry + size;
	if (bpf_probe_read_user(code, sizeof(code), (void *)frame->entry) ||
	    bpf_probe_read_user(&jump, sizeof(jump), (void *)(end - sizeof(jump))) || jump.code != 0xe9)
		return 0;
	for (int i = 1; i < JUMPER; i++) { /* at the first byte is the probe */
		u8 byte = code[i];

		if (i + sizeof(jump) < size && (byte == 0xc2 || byte == 0xc3 || byte == 0xe8 || byte == 0xff))
			return 0;
	}
	end += (s64)jump.offset;
	return end == target || stub_target(end) == target;
}

/* Did the function of `before` jump to that of `now`? */
static __always_inline bool jumped_to(const struct frame *now, const struct frame *before)
{
	return now->at == before->at && now->entry != before->entry && jumps_to(before, now->entry);
}

/* Does the return address of this frame stand where it stood? */
static __always_inline bool frame_stands(const struct frame *frame)
{
	u64 back = 0;

	return !bpf_probe_read_user(&back, sizeof(back), (void *)frame->at) && back == frame->back;
}

/*
 * Is this call, whose text's hash is in scratch->args, a part of the one that was judged last? It is remembered for those
 * that it makes.
 */
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
	now.entry = KREAD(regs, ip);
	now.size = s->text.code;
	now.text = called->text;
	now.hash[0] = s->args.hash[0];
	now.hash[1] = s->args.hash[1];
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
	nested = judged_alike(&now, before) && text_again(&now, before) && frame_stands(before) &&
		 (called_by(&now, before) || jumped_to(&now, before));
	*before = now;
	return nested;
}

#endif
