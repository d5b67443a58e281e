// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reading a message of the domain name system (RFC 1035, 4), in scratch->name[0].
 *
 * question_read()   the header and the one question
 * message_learn()   an answer: its addresses fill the table of names (hosts.bpf.c)
 *
 * The name that was asked for is what its addresses are known by; aliases (CNAME) lead on in the order of the message, as
 * the C library reads them, and are no names of their own. Authority and additional records are not looked at. A message
 * is read whole before anything is learned: what is malformed, truncated (TC) or of more than one question teaches nothing.
 *
 * Loops: a name is at most 255 bytes, with pointers that lead strictly backwards, 512 steps in all: more is malformed. Of
 * the answers the first 128 records are read, those behind are not.
 */
#include "lib/verdict.bpf.h"

#define MESSAGE_MAX 4096
#define HEADER 12
#define WIRE_STEPS 512
#define RECORDS_MAX 128

#define TYPE_A 1
#define TYPE_CNAME 5
#define TYPE_AAAA 28
#define CLASS_IN 1
/* the second 16 bits of a message */
#define FLAG_QR 0x8000
#define FLAGS_OPCODE 0x7800
#define FLAG_TC 0x0200
#define FLAGS_RCODE 0x000f

enum {
	READING,
	WHOLE,
	BAD,
};

static __always_inline u32 message_u16(const struct scratch *s, u32 at)
{
	const u8 *m = (const u8 *)s->name[0];

	return (u32)m[at & (MESSAGE_MAX - 1)] << 8 | m[(at + 1) & (MESSAGE_MAX - 1)];
}

static __always_inline void wire_text(struct scratch *s, struct wire_name *w, u8 byte)
{
	if (w->keep)
		s->path[NAME_AT + (w->len & 255)] = byte;
	w->len++;
	if (w->len > AGENTD_HOST_NAME_MAX)
		w->state = BAD;
}

static __always_inline bool host_byte(u8 byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
}

/* One byte of a name, or one pointer. */
static long wire_step(u32 i, struct scratch **context)
{
	struct scratch *s = *context;
	struct wire_name *w = &s->wire;
	u32 pos = w->pos, to;
	u8 byte;

	if (pos >= s->message.len) {
		w->state = BAD;
		return 1;
	}
	byte = s->name[0][pos & (MESSAGE_MAX - 1)];
	w->pos = pos + 1;
	if (w->left) {
		if (byte >= 'A' && byte <= 'Z')
			byte += 'a' - 'A';
		if (!host_byte(byte))
			w->odd = 1;
		w->left--;
		hash_step(w->hash, byte);
		wire_text(s, w, byte);
		return w->state == BAD;
	}
	if (!byte) {
		if (!w->end)
			w->end = pos + 1;
		w->state = WHOLE;
		return 1;
	}
	if (byte >= 0xc0) {
		to = message_u16(s, pos) & 0x3fff;
		if (pos + 1 >= s->message.len || to >= w->below) {
			w->state = BAD;
			return 1;
		}
		if (!w->end)
			w->end = pos + 2;
		w->below = to;
		w->pos = to;
		return 0;
	}
	if (byte > 63) {
		w->state = BAD;
		return 1;
	}
	if (w->len)
		wire_text(s, w, '.');
	w->left = byte;
	hash_step(w->hash, byte);
	return w->state == BAD;
}

/* Reads the name at `at` of the message into scratch->wire. Returns where the message goes on; 0: malformed. */
__noinline u32 wire_read(u32 slot, u32 at, u32 keep)
{
	struct scratch *s = scratch_get(slot);
	struct agentd_control *c = control_get();
	struct wire_name *w;

	if (!s || !c)
		return 0;
	w = &s->wire;
	w->pos = at;
	w->below = at;
	w->end = 0;
	w->left = 0;
	w->len = 0;
	w->state = READING;
	w->keep = keep;
	w->odd = 0;
	w->hash[0] = c->hash_seed[0];
	w->hash[1] = c->hash_seed[1];
	bpf_loop(WIRE_STEPS, wire_step, &s, 0);
	return w->state == WHOLE ? w->end : 0;
}

/*
 * The header and the one question of the message in scratch->name[0]. Its name stands in scratch->path[NAME_AT..] and
 * scratch->wire then. Returns where the answers begin; 0: not such a message.
 */
__noinline u32 question_read(u32 slot)
{
	struct scratch *s = scratch_get(slot);
	u32 at;

	if (!s || s->message.len < HEADER || s->message.len > MESSAGE_MAX || message_u16(s, 4) != 1)
		return 0;
	at = wire_read(slot, HEADER, 1);
	if (!at || at + 4 > s->message.len || message_u16(s, at + 2) != CLASS_IN)
		return 0;
	/* no label of a question was seen before: a pointer leads into the header */
	if (s->wire.odd || !s->wire.len || at != HEADER + s->wire.len + 2)
		return 0;
	s->message.type = message_u16(s, at);
	if (s->message.type != TYPE_A && s->message.type != TYPE_AAAA)
		return 0;
	return at + 4;
}

static __always_inline u64 question_hash(const struct scratch *s)
{
	return s->wire.hash[0] ^ s->wire.hash[1] << 1 ^ s->message.type;
}

static __always_inline void answer_keep(struct scratch *s, u32 at, u32 size, u32 ttl)
{
	struct message *m = &s->message;
	struct answer *to = (struct answer *)&s->name[1][(m->found & (RECORDS_MAX - 1)) * sizeof(struct answer)];
	u32 address[4] = { 0, 0, bpf_htonl(0xffff), 0 };

	if (size == 16)
		__builtin_memcpy(address, &s->name[0][at & (MESSAGE_MAX - 1)], 16);
	else
		__builtin_memcpy(&address[3], &s->name[0][at & (MESSAGE_MAX - 1)], 4);
	__builtin_memcpy(to->addresses, address, 16);
	to->ttl = ttl;
	m->found++;
}

/* One record of the answers. */
static long record_step(u32 i, u32 *slot)
{
	struct scratch *s = scratch_get(*slot);
	struct message *m;
	u32 at, type, class, ttl, size;

	if (!s)
		return 1;
	m = &s->message;
	at = wire_read(*slot, m->at, 0);
	if (!at || at + 10 > m->len) {
		m->failed = 1;
		return 1;
	}
	type = message_u16(s, at);
	class = message_u16(s, at + 2);
	ttl = message_u16(s, at + 4) << 16 | message_u16(s, at + 6);
	size = message_u16(s, at + 8);
	at += 10;
	if (at + size > m->len) {
		m->failed = 1;
		return 1;
	}
	m->at = at + size;
	if (class != CLASS_IN || s->wire.hash[0] != m->owner[0] || s->wire.hash[1] != m->owner[1])
		return 0;
	if (ttl >> 31) /* RFC 2181, 8 */
		ttl = 0;
	if (ttl > m->ttl)
		ttl = m->ttl;
	if (type == TYPE_CNAME) {
		if (wire_read(*slot, at, 0) != at + size) {
			m->failed = 1;
			return 1;
		}
		m->ttl = ttl;
		m->owner[0] = s->wire.hash[0];
		m->owner[1] = s->wire.hash[1];
		return 0;
	}
	if (type == m->type && size == (type == TYPE_A ? 4 : 16))
		answer_keep(s, at, size, ttl);
	return 0;
}

/*
 * Reads the answers from `at` on; they stand in scratch->name[1] then. Returns how many; -1: malformed, and nothing of the
 * message counts.
 */
__noinline int answers_read(u32 slot, u32 at)
{
	struct scratch *s = scratch_get(slot);
	struct message *m;
	u32 count;

	if (!s)
		return -1;
	m = &s->message;
	m->at = at;
	m->ttl = 0x7fffffff;
	m->found = 0;
	m->failed = 0;
	m->owner[0] = s->wire.hash[0];
	m->owner[1] = s->wire.hash[1];
	count = message_u16(s, 6);
	if (count > RECORDS_MAX)
		count = RECORDS_MAX;
	bpf_loop(count, record_step, &slot, 0);
	return m->failed ? -1 : (int)m->found;
}

static long answer_learn(u32 i, u32 *slot)
{
	struct scratch *s = scratch_get(*slot);
	const struct answer *from;

	if (!s || i >= RECORDS_MAX)
		return 1;
	from = (const struct answer *)&s->name[1][(i & (RECORDS_MAX - 1)) * sizeof(*from)];
	__builtin_memcpy(s->names.key.address, from->addresses, 16);
	name_learn(*slot, s->names.name_class, s->names.len, from->ttl);
	return 0;
}

/*
 * The message in scratch->name[0] is an answer that `agent` asked for; what question_read() said stands. Returns how many
 * addresses it had, -1 if it was malformed.
 */
__noinline int message_learn(u32 slot, u32 agent, u32 at)
{
	struct scratch *s = scratch_get(slot);
	u32 flags, class, len;
	int found;

	if (!s)
		return -1;
	flags = message_u16(s, 2);
	if (!(flags & FLAG_QR) || flags & (FLAGS_OPCODE | FLAG_TC | FLAGS_RCODE))
		return -1;
	len = s->wire.len;
	class = name_class(slot, agent, len);
	if (!class)
		return 0; /* a name that decides nothing for this agent */
	found = answers_read(slot, at);
	if (found <= 0)
		return found;
	s->names.key.agent = agent;
	s->names.key.reserved = 0;
	s->names.key.netns = s->netns;
	s->names.name_class = class;
	s->names.len = len;
	bpf_loop(found, answer_learn, &slot, 0);
	return found;
}
