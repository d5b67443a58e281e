/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The skeleton of SQL, byte by byte: no comments, nothing in quotes, lower case, single spaces. The same steps as
 * agentd/policy/sql.py, which says why; tests/bpf/test_sql.py compares the two. Plain C, no loop, no pointer but its own.
 */
#ifndef AGENTD_SQL_BPF_H
#define AGENTD_SQL_BPF_H

#include "buffer.bpf.h"

enum sql_state {
	SQL_CODE = 0,
	SQL_DASH = 1,
	SQL_DASHES = 2,
	SQL_SLASH = 3,
	SQL_LINE = 4,
	SQL_BLOCK = 5,
	SQL_BLOCK_FIRST = 6,
	SQL_STAR = 7,
	SQL_OPENING = 8,
	SQL_SINGLE = 9,
	SQL_DOUBLE = 10,
	SQL_BACKTICK = 11,
	SQL_BRACKET = 12,
	SQL_ESCAPING = 13,
	SQL_ESCAPED = 14,
	SQL_DOUBLE_ESCAPING = 15,
	SQL_DOUBLE_ESCAPED = 16,
	SQL_DOLLAR = 17,
	SQL_OPAQUE = 18,
	SQL_VERSION = 19,
	SQL_BLOCK_M = 20,
	SQL_CODE_STAR = 21,
};

static __always_inline bool sql_space(u8 byte)
{
	return byte == ' ' || (byte >= 9 && byte <= 13) || !byte;
}

static __always_inline bool sql_digit(u8 byte)
{
	return byte >= '0' && byte <= '9';
}

static __always_inline bool sql_word(u8 byte)
{
	return byte >= 0x80 || byte == '_' || sql_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z');
}

static __always_inline void sql_give(struct sql_run *r, u8 byte)
{
	if (sql_space(byte)) {
		if (r->last == ' ')
			return;
		byte = ' ';
	} else if (byte >= 'A' && byte <= 'Z') {
		byte += 0x20;
	}
	r->last = byte;
	r->run = sql_word(byte) ? (r->run ? 2 : 1) : 0;
	r->out[r->n & 3] = byte;
	r->n++;
}

static __always_inline void sql_comment(struct sql_run *r, u8 state)
{
	r->state = r->depth ? SQL_OPAQUE : state;
	sql_give(r, ' ');
}

static __always_inline void sql_held(struct sql_run *r, u8 state)
{
	if (state == SQL_DASHES)
		sql_give(r, '-');
	if (state == SQL_DASHES || state == SQL_DASH)
		sql_give(r, '-');
	else if (state == SQL_SLASH)
		sql_give(r, '/');
	else if (state == SQL_CODE_STAR)
		sql_give(r, '*');
}

static __always_inline void sql_code(struct sql_run *r, u8 byte)
{
	u8 language = r->language;

	if (byte == '-') {
		r->state = SQL_DASH;
		return;
	}
	if (byte == '/') {
		r->state = SQL_SLASH;
		return;
	}
	if (byte == '#' && language == AGENTD_SQL_MYSQL) {
		sql_comment(r, SQL_LINE);
		return;
	}
	if (byte == '*' && r->depth) {
		r->state = SQL_CODE_STAR;
		return;
	}
	if (byte == '$' && language == AGENTD_SQL_POSTGRESQL && !r->run)
		r->state = SQL_DOLLAR;
	else if (byte == '\'')
		r->state = language == AGENTD_SQL_MYSQL ||
					   (language == AGENTD_SQL_POSTGRESQL && r->last == 'e' && r->run == 1) ?
				   SQL_ESCAPING :
				   SQL_SINGLE;
	else if (byte == '"')
		r->state = language == AGENTD_SQL_MYSQL ? SQL_DOUBLE_ESCAPING : SQL_DOUBLE;
	else if (byte == '`' && language != AGENTD_SQL_POSTGRESQL)
		r->state = SQL_BACKTICK;
	else if (byte == '[' && language == AGENTD_SQL_SQLITE)
		r->state = SQL_BRACKET;
	sql_give(r, byte);
}

/* Behind the first byte or bytes of what may be a comment or a dollar quote. */
static __always_inline void sql_pending(struct sql_run *r, u8 byte)
{
	u8 state = r->state;
	bool mysql = r->language == AGENTD_SQL_MYSQL;

	r->state = SQL_CODE;
	if (state == SQL_DOLLAR) {
		if (byte == '$' || (sql_word(byte) && !sql_digit(byte))) {
			r->state = SQL_OPAQUE;
			return;
		}
	} else if (state == SQL_DASH && byte == '-') {
		r->state = mysql ? SQL_DASHES : SQL_LINE;
		if (!mysql)
			sql_give(r, ' ');
		return;
	} else if (state == SQL_DASHES && sql_space(byte)) {
		sql_comment(r, byte == '\n' ? SQL_CODE : SQL_LINE);
		return;
	} else if (state == SQL_SLASH && byte == '*') {
		sql_comment(r, SQL_BLOCK_FIRST);
		return;
	} else if (state == SQL_CODE_STAR && byte == '/') {
		r->depth = 0;
		sql_give(r, ' ');
		return;
	} else {
		sql_held(r, state);
	}
	sql_code(r, byte);
}

static __always_inline void sql_block(struct sql_run *r, u8 byte)
{
	u8 state = r->state;
	bool mysql = r->language == AGENTD_SQL_MYSQL;

	r->state = SQL_BLOCK;
	if (byte == '!' && (state == SQL_BLOCK_M || (state == SQL_BLOCK_FIRST && mysql))) {
		r->state = SQL_VERSION;
		r->depth = 1;
	} else if (state == SQL_BLOCK_FIRST && byte == 'M' && mysql) {
		r->state = SQL_BLOCK_M;
	} else if (state == SQL_STAR && byte == '/') {
		if (!r->depth)
			r->state = SQL_CODE;
		else
			r->depth--;
	} else if (state == SQL_OPENING && byte == '*') {
		if (r->depth == 255)
			r->state = SQL_OPAQUE;
		else
			r->depth++;
	} else if (byte == '*') {
		r->state = SQL_STAR;
	} else if (byte == '/' && r->language == AGENTD_SQL_POSTGRESQL) {
		r->state = SQL_OPENING;
	}
}

static __always_inline void sql_quoted(struct sql_run *r, u8 byte)
{
	u8 state = r->state, closing = '"';

	if (byte == '*' && r->depth) {
		r->state = SQL_OPAQUE;
		return;
	}
	if (state == SQL_ESCAPED) {
		r->state = SQL_ESCAPING;
		return;
	}
	if (state == SQL_DOUBLE_ESCAPED) {
		r->state = SQL_DOUBLE_ESCAPING;
		return;
	}
	if (byte == '\\' && (state == SQL_ESCAPING || state == SQL_DOUBLE_ESCAPING)) {
		r->state = state == SQL_ESCAPING ? SQL_ESCAPED : SQL_DOUBLE_ESCAPED;
		return;
	}
	if (state == SQL_SINGLE || state == SQL_ESCAPING)
		closing = '\'';
	else if (state == SQL_BACKTICK)
		closing = '`';
	else if (state == SQL_BRACKET)
		closing = ']';
	if (byte == closing) {
		r->state = SQL_CODE;
		sql_give(r, byte);
	}
}

static __always_inline void sql_version(struct sql_run *r, u8 byte)
{
	if (sql_digit(byte))
		return;
	r->state = SQL_CODE;
	sql_code(r, byte);
}

static __always_inline void sql_step(struct sql_run *r, u8 byte)
{
	u8 state = r->state;

	if (state == SQL_CODE)
		sql_code(r, byte);
	else if (state <= SQL_SLASH || state == SQL_DOLLAR || state == SQL_CODE_STAR)
		sql_pending(r, byte);
	else if (state == SQL_LINE)
		r->state = byte == '\n' ? SQL_CODE : SQL_LINE;
	else if (state <= SQL_OPENING || state == SQL_BLOCK_M)
		sql_block(r, byte);
	else if (state == SQL_VERSION)
		sql_version(r, byte);
	else if (state != SQL_OPAQUE)
		sql_quoted(r, byte);
}

#endif
