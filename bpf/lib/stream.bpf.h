/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Streams of texts: what stands behind one another in several calls, as the writes to one connection, is looked through as one
 * text: the states that the automata have come to are kept until the next call, or the stream's end (stream_end()). The map
 * evicts what was not used for the longest time, and may: such a stream begins anew.
 * A write that the connection has not taken is repeated (OpenSSL demands the same text; of one taken in part, the rest).
 * Such a repetition is the same text, or the end of the same memory with the same text: it has been judged, and is no
 * news. That is told by a hash, and only of texts of 32 bytes: no number, key or token is two equal parts of that length.
 *
 * Not trusted: the handle and the memory are the caller's. Full map: see above. A process whose number another one had is
 * told apart by when it began.
 */
#ifndef AGENTD_STREAM_BPF_H
#define AGENTD_STREAM_BPF_H

#include "verdict.bpf.h"

#define REPEATED_LEAST 32 /* bytes */

struct stream_key {
	u64 stream;
	u32 process;
	u32 unused;
};
struct stream {
	u64 began; /* the process, whose number may be another's later */
	u64 text, len; /* of the latest call */
	u64 hash[2];
	u32 agent, class, generation; /* whose tables the states are of */
	u32 states[AGENTD_TEXTS_MAX];
	u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct stream_key);
	__type(value, struct stream);
} streams SEC(".maps");

static __always_inline u64 process_began(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return KREAD(task, group_leader, start_boottime);
}

static __always_inline void stream_key_set(struct stream_key *key, u64 stream)
{
	key->stream = stream;
	key->process = bpf_get_current_pid_tgid() >> 32;
	key->unused = 0;
}

/* What is remembered of a stream, if it is of this process and these tables. */
static __always_inline struct stream *stream_get(struct scratch *s, const struct stream_key *key)
{
	struct stream *stream = key->stream ? bpf_map_lookup_elem(&streams, key) : NULL;

	if (!stream || stream->began != process_began() || stream->agent != s->text.agent ||
	    stream->class != s->text.class || stream->generation != s->text.generation)
		return NULL;
	return stream;
}

static __noinline int stream_resume(struct scratch *s, struct stream_key *key)
{
	struct stream *stream;

	if (!s || !key)
		return 0;
	stream = stream_get(s, key);
	for (u32 i = 0; stream && i < AGENTD_TEXTS_MAX; i++)
		s->text.dfa[i].state = stream->states[i];
	return 0;
}

/* Fails to forgetting: without memory the next call begins anew. */
static __noinline int stream_keep(struct scratch *s, struct stream_key *key, const struct agentd_called *called)
{
	struct stream stream = {};

	if (!s || !key || !called)
		return 0;
	stream.began = process_began();
	stream.text = called->text;
	stream.len = called->len;
	stream.hash[0] = s->args.hash[0];
	stream.hash[1] = s->args.hash[1];
	stream.agent = s->text.agent;
	stream.class = s->text.class;
	stream.generation = s->text.generation;
	for (u32 i = 0; i < AGENTD_TEXTS_MAX; i++)
		stream.states[i] = s->text.dfa[i].state;
	bpf_map_update_elem(&streams, key, &stream, BPF_ANY);
	return 0;
}

/* The connection is closed: another one that gets its handle begins anew. */
static __always_inline void stream_end(u64 handle)
{
	struct stream_key key;

	stream_key_set(&key, handle);
	bpf_map_delete_elem(&streams, &key);
}

/* Is this the text of the call before once more, wherever it lies? */
static __noinline int stream_repeated(struct scratch *s, struct stream_key *key, const struct agentd_called *called)
{
	struct stream *stream;

	if (!s || !key || !called || called->flags & AGENTD_CALLED_STRING)
		return 0;
	stream = stream_get(s, key);
	if (!stream)
		return 0;
	if (!called->text) /* "go on with what you have" (GnuTLS) */
		return 1;
	return stream->len == called->len && called->len >= REPEATED_LEAST && stream->hash[0] == s->args.hash[0] &&
	       stream->hash[1] == s->args.hash[1];
}

static __always_inline bool stream_same(struct scratch *s, const struct stream_key *key)
{
	struct stream *stream = stream_get(s, key);

	return stream && stream->hash[0] == s->args.hash[0] && stream->hash[1] == s->args.hash[1];
}

/*
 * May this be the call before once more, or the rest of it, of which a part was taken? Then scratch->text.whole is that one: from where
 * it began it is hashed again up to the end, which is twenty times faster than judging it.
 */
static __noinline int stream_rest(struct scratch *s, struct stream_key *key, const struct agentd_called *called)
{
	struct stream *stream;

	if (!s || !key || !called || called->flags & AGENTD_CALLED_STRING)
		return 0;
	stream = stream_get(s, key);
	if (!stream || called->len < REPEATED_LEAST || called->len > stream->len ||
	    called->text + called->len != stream->text + stream->len)
		return 0;
	s->text.whole.text = stream->text;
	s->text.whole.len = stream->len;
	s->text.whole.flags = 0;
	return 1;
}

#endif
