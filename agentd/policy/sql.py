"""The skeleton of SQL: what is left of a text when comments are taken out and what stands in quotes is emptied.

Patterns for SQL look at the skeleton, so that `select 'x; drop table y'` holds no statement that drops, and
`drop/**/table` does. One byte in, at most three out, no look-ahead: bpf/lib/sql.bpf.h takes the same steps in the
kernel.

* a comment is a space; PostgreSQL's nest; MySQL has `#` too, and wants a space behind `--`
* MySQL's `/*!50000 ... */` (MariaDB: `/*M!`) is code, or a comment, by the server's version: what is in it is read as
  code, and where the two readings would go on differently (a `*` in quotes, a comment in it), `unresolved`
* a string or a quoted name keeps its quotes; a backslash escapes in MySQL's strings and in PostgreSQL's E'...'
* letters are lower case, a run of white space is one space
* PostgreSQL's dollar quotes ($$...$$, $tag$...$tag$) can't be followed in a fixed number of states: `unresolved`

Sources: PostgreSQL 15 documentation, 4.1 "Lexical Structure"; MySQL 8.0 Reference Manual, 9.1 and 9.7;
sqlite.org/lang_comment.html.
"""

from __future__ import annotations

import enum
from typing import Final


class Sql(enum.IntEnum):
    """How a text is read before patterns look at it (AGENTD_SQL_*)."""

    PLAIN = 0
    POSTGRESQL = 1
    MYSQL = 2
    SQLITE = 3

    @property
    def word(self) -> str:
        return self.name.lower()


CODE: Final = 0
DASH: Final = 1  # behind a `-` that may begin a comment; it has not been given out yet
DASHES: Final = 2  # MySQL: behind `--`, which begins one before white space only
SLASH: Final = 3
LINE: Final = 4  # in a comment up to the end of the line
BLOCK: Final = 5
BLOCK_FIRST: Final = 6  # behind `/*`: in MySQL a `!` makes it code
STAR: Final = 7  # in a block comment, behind a `*`
OPENING: Final = 8  # PostgreSQL: in a block comment, behind a `/`
SINGLE: Final = 9
DOUBLE: Final = 10
BACKTICK: Final = 11
BRACKET: Final = 12  # SQLite: [a name]
ESCAPING: Final = 13  # in a '...' where a backslash escapes
ESCAPED: Final = 14
DOUBLE_ESCAPING: Final = 15
DOUBLE_ESCAPED: Final = 16
DOLLAR: Final = 17  # PostgreSQL: behind a `$` that may begin a quote
OPAQUE: Final = 18  # nothing from here on can be told
VERSION: Final = 19  # MySQL: behind `/*!`, in the digits
BLOCK_M: Final = 20  # MySQL: behind `/*M`
CODE_STAR: Final = 21  # MySQL: in such a comment, behind a `*`

MAX_DEPTH: Final = 255
SPACES: Final = frozenset(b" \t\n\r\f\v\0")
_CLOSING: Final = {SINGLE: 0x27, ESCAPING: 0x27, DOUBLE: 0x22, DOUBLE_ESCAPING: 0x22, BACKTICK: 0x60, BRACKET: 0x5D}


def is_word(byte: int) -> bool:
    """Can `byte` be part of a name?"""
    return byte >= 0x80 or byte == 0x5F or 0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A


class Skeleton:
    """Reads a text byte by byte. `last`: the byte given out last; `run`: how many of a word stand there, 2 at most."""

    def __init__(self, language: Sql) -> None:
        self.language = language
        self.state = CODE
        self.depth = 0  # of comments; MySQL: 1 in a `/*! ... */`
        self.last = 0x20
        self.run = 0
        self.out = bytearray()

    def give(self, byte: int) -> None:
        if byte in SPACES:
            if self.last == 0x20:
                return
            byte = 0x20
        elif 0x41 <= byte <= 0x5A:
            byte += 0x20
        self.last = byte
        self.run = min(self.run + 1, 2) if is_word(byte) else 0
        self.out.append(byte)

    def step(self, byte: int) -> None:
        state = self.state
        if state == CODE:
            self.code(byte)
        elif state in (DASH, DASHES, SLASH, DOLLAR, CODE_STAR):
            self.pending(byte)
        elif state == LINE:
            self.state = CODE if byte == 0x0A else LINE
        elif state in (BLOCK, BLOCK_FIRST, BLOCK_M, STAR, OPENING):
            self.block(byte)
        elif state == VERSION:
            if not 0x30 <= byte <= 0x39:
                self.state = CODE
                self.code(byte)
        elif state != OPAQUE:
            self.quoted(byte)

    def pending(self, byte: int) -> None:
        """Behind the first byte or bytes of what may be a comment or a dollar quote."""
        state, mysql = self.state, self.language is Sql.MYSQL
        self.state = CODE
        if state == DOLLAR:
            if byte == 0x24 or (is_word(byte) and not 0x30 <= byte <= 0x39):
                self.state = OPAQUE
                return
        elif state == DASH and byte == 0x2D:
            self.state = DASHES if mysql else LINE
            if not mysql:
                self.give(0x20)
            return
        elif state == DASHES and byte in SPACES:
            self.comment(CODE if byte == 0x0A else LINE)
            return
        elif state == SLASH and byte == 0x2A:
            self.comment(BLOCK_FIRST)
            return
        elif state == CODE_STAR and byte == 0x2F:
            self.depth = 0
            self.give(0x20)
            return
        else:
            self.held(state)
        self.code(byte)

    def comment(self, state: int) -> None:
        self.state = OPAQUE if self.depth else state
        self.give(0x20)

    def held(self, state: int) -> None:
        """Gives out what began no comment."""
        if state == DASHES:
            self.give(0x2D)
        if state in (DASH, DASHES):
            self.give(0x2D)
        elif state == SLASH:
            self.give(0x2F)
        elif state == CODE_STAR:
            self.give(0x2A)

    def code(self, byte: int) -> None:
        language = self.language
        if byte == 0x2D:
            self.state = DASH
            return
        if byte == 0x2F:
            self.state = SLASH
            return
        if byte == 0x23 and language is Sql.MYSQL:
            self.comment(LINE)
            return
        if byte == 0x2A and self.depth:
            self.state = CODE_STAR
            return
        if byte == 0x24 and language is Sql.POSTGRESQL and not self.run:
            self.state = DOLLAR
        elif byte == 0x27:
            escaping = language is Sql.POSTGRESQL and self.last == 0x65 and self.run == 1  # E'...'
            self.state = ESCAPING if escaping or language is Sql.MYSQL else SINGLE
        elif byte == 0x22:
            self.state = DOUBLE_ESCAPING if language is Sql.MYSQL else DOUBLE
        elif byte == 0x60 and language is not Sql.POSTGRESQL:
            self.state = BACKTICK
        elif byte == 0x5B and language is Sql.SQLITE:
            self.state = BRACKET
        self.give(byte)

    def block(self, byte: int) -> None:
        state = self.state
        nests = self.language is Sql.POSTGRESQL
        self.state = BLOCK
        if byte == 0x21 and (state == BLOCK_M or (state == BLOCK_FIRST and self.language is Sql.MYSQL)):
            self.state = VERSION
            self.depth = 1
        elif state == BLOCK_FIRST and byte == 0x4D and self.language is Sql.MYSQL:
            self.state = BLOCK_M
        elif state == STAR and byte == 0x2F:
            if self.depth == 0:
                self.state = CODE
            else:
                self.depth -= 1
        elif state == OPENING and byte == 0x2A:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self.state = OPAQUE
        elif byte == 0x2A:
            self.state = STAR
        elif byte == 0x2F and nests:
            self.state = OPENING

    def quoted(self, byte: int) -> None:
        state = self.state
        if byte == 0x2A and self.depth:
            self.state = OPAQUE
        elif state in (ESCAPED, DOUBLE_ESCAPED):
            self.state = ESCAPING if state == ESCAPED else DOUBLE_ESCAPING
        elif byte == 0x5C and state in (ESCAPING, DOUBLE_ESCAPING):
            self.state = ESCAPED if state == ESCAPING else DOUBLE_ESCAPED
        elif byte == _CLOSING[state]:
            self.state = CODE
            self.give(byte)


def skeleton(text: bytes, language: Sql) -> bytes | None:
    """What patterns look at; None: the text can't be told. PLAIN is the text itself."""
    if language is Sql.PLAIN:
        return text
    reader = Skeleton(language)
    for byte in text:
        reader.step(byte)
    reader.held(reader.state)
    return None if reader.state == OPAQUE else bytes(reader.out)
