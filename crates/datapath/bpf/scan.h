/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * HTTP/1's message syntax, byte by byte: the twin of crates/http/src/scan.rs, which says what each
 * phase means. Whatever is not plain is doubt. The state is a few words, so that a message may be
 * split over packets anywhere. Of the first request of a packet it also notes what routes and keys
 * look at (struct reading).
 */
#pragma once

#include "hash.h"
#include "packet.h"

enum { METHOD_LETTERS = 31, LENGTH_DIGITS = 18, CHUNK_DIGITS = 15 };

enum seen {
	SEEN_LENGTH = 1,
	SEEN_CODING = 2,
	SEEN_HOST = 4,
	SEEN_HTTP10 = 8,
	SEEN_HEAD = 16,
	SEEN_TRAILER = 32,
};

/* of Connection and Upgrade */
enum hop { HOP_CLOSE = 1, HOP_KEEP = 2, HOP_UPGRADE = 4, HOP_H2C = 8 };

enum { WORDS = 5, WORD_MAX = 32 };
enum { WORD_HEAD = 1, WORD_CONNECT = 2, WORD_OPTIONS = 4 };
/* methods have no lower-case letters, so that words which compare in any case compare exactly here
 */
static const char METHODS[WORDS][WORD_MAX] = {"HEAD", "CONNECT", "OPTIONS", "", ""};
enum { WORD_LENGTH = 1, WORD_CODING = 2, WORD_HOST = 4, WORD_CONNECTION = 8, WORD_UPGRADE = 16 };
static const char NAMES[WORDS][WORD_MAX] = {"content-length", "transfer-encoding", "host",
					    "connection", "upgrade"};
enum { WORD_CLOSE = 1, WORD_KEEP = 2, WORD_H2C = 4 };
static const char TOKENS[WORDS][WORD_MAX] = {"close", "keep-alive", "h2c", "", ""};
static const char CHUNKED[8] = "chunked";
static const char VERSION[8] = "HTTP/1.";
static const char SCHEME[8] = {'h', 't', 't', 'p', 's', ':', '/', '/'};

inline_always bool is_digit(__u8 c)
{
	return c >= '0' && c <= '9';
}

inline_always __u8 lower(__u8 c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

inline_always bool is_letter(__u8 c)
{
	return lower(c) >= 'a' && lower(c) <= 'z';
}

/* RFC 9110 5.6.2: letters, digits and !#$%&'*+-.^_`|~ */
inline_always bool is_token(__u8 c)
{
	return is_letter(c) || is_digit(c) || c == '!' || (c >= '#' && c <= '\'') || c == '*' ||
	       c == '+' || c == '-' || c == '.' || c == '^' || c == '_' || c == '`' || c == '|' ||
	       c == '~';
}

/* Some servers take `get` for `GET`. */
inline_always bool is_method(__u8 c)
{
	return is_token(c) && !(c >= 'a' && c <= 'z');
}

inline_always bool is_value(__u8 c)
{
	return c == '\t' || (c >= 0x20 && c != 0x7f);
}

/* The value of a hexadecimal digit; 255 for anything else. */
inline_always __u8 hex(__u8 c)
{
	if (is_digit(c))
		return c - '0';
	c = lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 255;
}

/* RFC 3986 2.3 */
inline_always bool is_unreserved(__u8 c)
{
	return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_' || c == '~';
}

/* The byte of a word at this place, which is within it. */
inline_always __u8 letter(const char *w, __u32 at, __u32 size)
{
	opaque(at);
	return w[at & (size - 1)];
}

inline_always void match_word(struct scan *m, const char (*words)[WORD_MAX], __u8 c)
{
	__u32 at = m->count;

	for (int i = 0; i < WORDS; i++)
		if (at >= WORD_MAX - 1 || lower(letter(words[i], at, WORD_MAX)) != lower(c))
			m->words &= ~(1 << i);
	if (at < 255)
		m->count = at + 1;
}

inline_always void begin_word(struct scan *m, const char (*words)[WORD_MAX], __u8 c)
{
	m->count = 0;
	m->words = 255;
	match_word(m, words, c);
}

/* At the end of a word: the bit of the one that it was, 0 for none. */
inline_always __u8 word(const struct scan *m, const char (*words)[WORD_MAX])
{
	__u32 at = m->count;

	for (int i = 0; i < WORDS; i++)
		if (m->words & (1 << i) && at && at < WORD_MAX && !letter(words[i], at, WORD_MAX))
			return 1 << i;
	return 0;
}

inline_always __u8 text(__u8 c, __u8 stay, __u8 end)
{
	return c == '\r' ? end : is_value(c) ? stay : PHASE_DOUBT;
}

inline_always __u8 tail(__u8 c, __u8 stay)
{
	return c == ' ' || c == '\t' ? stay : c == '\r' ? PHASE_LINE_END : PHASE_DOUBT;
}

inline_always __u8 next_chunk(struct scan *m)
{
	m->count = 0;
	m->left = 0;
	return PHASE_CHUNK_SIZE;
}

inline_always bool ends_line(__u8 c)
{
	return c == '\r' || c == '\n';
}

inline_always __u8 start(struct scan *m, __u8 c, bool responses)
{
	m->left = 0;
	m->status = 0;
	m->count = m->words = m->seen = m->hop = 0;
	if (responses) {
		m->count = 1;
		return c == 'H' ? PHASE_STATUS : PHASE_DOUBT;
	}
	if (ends_line(c))
		return PHASE_START; /* RFC 9112 2.2: empty lines before a request are ignored */
	if (!is_method(c))
		return PHASE_DOUBT;
	begin_word(m, METHODS, c);
	return PHASE_METHOD;
}

inline_always __u8 method(struct scan *m, __u8 c)
{
	if (c == ' ') {
		__u8 which = word(m, METHODS);
		if (which == WORD_HEAD)
			m->seen |= SEEN_HEAD;
		return which == WORD_CONNECT ? PHASE_DOUBT : PHASE_TARGET;
	}
	if (!is_method(c) || m->count == METHOD_LETTERS)
		return PHASE_DOUBT;
	match_word(m, METHODS, c);
	return PHASE_METHOD;
}

/* RFC 9112 3.2: the origin form, the absolute form, or the asterisk. */
inline_always __u8 target(struct scan *m, __u8 c)
{
	if (c == '/')
		return PHASE_PATH;
	/* the method is still the word that was compared last */
	if (c == '*')
		return word(m, METHODS) == WORD_OPTIONS ? PHASE_ASTERISK : PHASE_DOUBT;
	m->count = 1;
	return lower(c) == 'h' ? PHASE_SCHEME : PHASE_DOUBT;
}

/* http:// or https://, in any case (RFC 3986 3.1) */
inline_always __u8 scheme(struct scan *m, __u8 c)
{
	__u8 at = m->count == 4 && c == ':' ? 5 : m->count; /* the s may be left out */

	if (letter(SCHEME, at, 8) != lower(c))
		return PHASE_DOUBT;
	m->count = at + 1;
	if (at < 7)
		return PHASE_SCHEME;
	m->count = HOST_BEFORE;
	return PHASE_AUTHORITY;
}

/* The next byte of a host with its port, as narrow as hosts are in practice (RFC 3986 3.2.2). */
inline_always __u8 host_step(__u8 at, __u8 c)
{
	bool name = is_letter(c) || is_digit(c) || c == '-' || c == '_';

	if (at == HOST_PORT)
		return is_digit(c) ? HOST_PORT : HOST_NOT;
	if (c == ':' && (at == HOST_NAME || at == HOST_DOT || at == HOST_CLOSED))
		return HOST_PORT;
	if (at <= HOST_DOT && name)
		return HOST_NAME;
	if (at == HOST_NAME && c == '.')
		return HOST_DOT;
	if (at == HOST_BEFORE && c == '[')
		return HOST_OPEN;
	if ((at == HOST_OPEN || at == HOST_ADDRESS) && (hex(c) < 16 || c == ':' || c == '.'))
		return HOST_ADDRESS;
	return at == HOST_ADDRESS && c == ']' ? HOST_CLOSED : HOST_NOT;
}

inline_always bool ends_host(__u8 at)
{
	return at == HOST_NAME || at == HOST_DOT || at >= HOST_CLOSED;
}

/* Host and port of the absolute form. */
inline_always __u8 authority(struct scan *m, __u8 c)
{
	if (ends_host(m->count) && (c == '/' || c == '?' || c == ' ')) {
		m->count = 0;
		return c == '/' ? PHASE_PATH : c == '?' ? PHASE_QUERY : PHASE_VERSION;
	}
	m->count = host_step(m->count, c);
	return m->count == HOST_NOT ? PHASE_DOUBT : PHASE_AUTHORITY;
}

/* The value of Host: nothing, or host and port with blanks around them. */
inline_always __u8 host(struct scan *m, __u8 c)
{
	bool may_end = m->count == HOST_BEFORE || ends_host(m->count);

	if (may_end && c == '\r')
		return PHASE_LINE_END;
	if (may_end && (c == ' ' || c == '\t')) {
		if (m->count != HOST_BEFORE)
			m->count = HOST_AFTER;
		return PHASE_HOST;
	}
	m->count = host_step(m->count, c);
	return m->count == HOST_NOT ? PHASE_DOUBT : PHASE_HOST;
}

inline_always __u8 version(struct scan *m, __u8 c)
{
	__u8 at = m->count;

	m->count = at + 1;
	if (at < 7)
		return letter(VERSION, at, 8) == c ? PHASE_VERSION : PHASE_DOUBT;
	if (at == 7) {
		if (c == '0')
			m->seen |= SEEN_HTTP10;
		return c == '0' || c == '1' ? PHASE_VERSION : PHASE_DOUBT;
	}
	return at == 8 && c == '\r' ? PHASE_LINE_END : PHASE_DOUBT;
}

inline_always __u8 status(struct scan *m, __u8 c)
{
	__u8 at = m->count;

	m->count = at + 1;
	if (at < 7)
		return letter(VERSION, at, 8) == c ? PHASE_STATUS : PHASE_DOUBT;
	if (at == 7) {
		if (c == '0')
			m->seen |= SEEN_HTTP10;
		return is_digit(c) ? PHASE_STATUS : PHASE_DOUBT;
	}
	if (at == 8)
		return c == ' ' ? PHASE_STATUS : PHASE_DOUBT;
	if (at < 12) {
		if (!is_digit(c))
			return PHASE_DOUBT;
		m->status = m->status * 10 + (c - '0');
		return at == 11 && m->status == 101 ? PHASE_DOUBT : PHASE_STATUS;
	}
	return c == ' ' ? PHASE_VALUE : c == '\r' ? PHASE_LINE_END : PHASE_DOUBT;
}

/* At the colon: which header is it, and may it be here? */
inline_always __u8 header(struct scan *m)
{
	__u8 which = m->seen & SEEN_TRAILER ? 0 : word(m, NAMES);

	m->count = 0;
	m->words = 255;
	if (which == WORD_LENGTH) {
		if (m->seen & (SEEN_LENGTH | SEEN_CODING))
			return PHASE_DOUBT;
		m->seen |= SEEN_LENGTH;
		return PHASE_LENGTH;
	}
	if (which == WORD_CODING) {
		if (m->seen & (SEEN_LENGTH | SEEN_CODING | SEEN_HTTP10))
			return PHASE_DOUBT;
		m->seen |= SEEN_CODING;
		return PHASE_CODING;
	}
	if (which == WORD_HOST) {
		if (m->seen & SEEN_HOST)
			return PHASE_DOUBT;
		m->seen |= SEEN_HOST;
		return PHASE_HOST;
	}
	return which == WORD_CONNECTION ? PHASE_OPTIONS
	       : which == WORD_UPGRADE	? PHASE_UPGRADE
					: PHASE_VALUE;
}

/* A byte of a list of words, which end at commas and blanks. */
inline_always __u8 token(struct scan *m, __u8 c)
{
	__u8 at = m->phase;

	if (c != '\r' && c != ',' && c != ' ' && c != '\t') {
		match_word(m, TOKENS, c);
		return text(c, at, PHASE_LINE_END);
	}
	__u8 which = word(m, TOKENS);
	if (at == PHASE_OPTIONS)
		m->hop |= which == WORD_CLOSE ? HOP_CLOSE : which == WORD_KEEP ? HOP_KEEP : 0;
	else if (m->count)
		m->hop |= which == WORD_H2C ? HOP_UPGRADE | HOP_H2C : HOP_UPGRADE;
	m->count = 0;
	m->words = 255;
	return text(c, at, PHASE_LINE_END);
}

/* Whether the connection ends with this message (RFC 9112 9.3), as its head says. */
inline_always bool is_last(const struct scan *m)
{
	return m->hop & HOP_CLOSE || (m->seen & SEEN_HTTP10 && !(m->hop & HOP_KEEP));
}

inline_always __u8 name(struct scan *m, __u8 c)
{
	if (c == ':')
		return header(m);
	if (!is_token(c))
		return PHASE_DOUBT;
	match_word(m, NAMES, c);
	return PHASE_NAME;
}

inline_always __u8 line(struct scan *m, __u8 c)
{
	if (c == '\r')
		return PHASE_HEAD_END;
	if (!is_token(c))
		return PHASE_DOUBT;
	begin_word(m, NAMES, c);
	return PHASE_NAME;
}

inline_always __u8 length(struct scan *m, __u8 c)
{
	if (is_digit(c) && m->count < LENGTH_DIGITS) {
		m->count++;
		m->left = m->left * 10 + (c - '0');
		return PHASE_LENGTH;
	}
	if (m->count == 0)
		return c == ' ' || c == '\t' ? PHASE_LENGTH : PHASE_DOUBT;
	return tail(c, PHASE_LENGTH_TAIL);
}

inline_always __u8 coding(struct scan *m, __u8 c)
{
	if (m->count >= 7)
		return tail(c, PHASE_CODING_TAIL);
	if (letter(CHUNKED, m->count, 8) == lower(c)) {
		m->count++;
		return PHASE_CODING;
	}
	return m->count == 0 && (c == ' ' || c == '\t') ? PHASE_CODING : PHASE_DOUBT;
}

inline_always __u8 chunk_size(struct scan *m, __u8 c)
{
	__u8 digit = hex(c);

	if (digit < 16 && m->count < CHUNK_DIGITS) {
		m->count++;
		m->left = m->left * 16 + digit;
		return PHASE_CHUNK_SIZE;
	}
	if (m->count == 0)
		return PHASE_DOUBT;
	return c == ';' ? PHASE_CHUNK_EXTENSION : c == '\r' ? PHASE_CHUNK_LINE_END : PHASE_DOUBT;
}

inline_always __u8 chunk_data(struct scan *m)
{
	if (m->left)
		return PHASE_CHUNK_DATA;
	m->seen |= SEEN_TRAILER;
	return PHASE_LINE;
}

inline_always __u8 escape(__u8 c, __u8 then)
{
	return hex(c) < 16 ? then : PHASE_DOUBT;
}

/* One byte of a message; not in the phases that are skipped. */
inline_always void scan_byte(struct scan *m, __u8 c, bool responses)
{
	__u8 at = m->phase, then = PHASE_DOUBT;

	switch (at) {
	case PHASE_START:
		then = start(m, c, responses);
		break;
	case PHASE_METHOD:
		then = method(m, c);
		break;
	case PHASE_TARGET:
		then = target(m, c);
		break;
	case PHASE_SCHEME:
		then = scheme(m, c);
		break;
	case PHASE_AUTHORITY:
		then = authority(m, c);
		break;
	case PHASE_ASTERISK:
		m->count = 0;
		then = c == ' ' ? PHASE_VERSION : PHASE_DOUBT;
		break;
	case PHASE_PATH:
	case PHASE_QUERY:
		if (c == ' ') {
			m->count = 0;
			then = PHASE_VERSION;
		} else if (c > 0x20 && c != 0x7f && c != '#') {
			then = at == PHASE_QUERY ? PHASE_QUERY
			       : c == '%'	 ? PHASE_ESCAPE_HIGH
			       : c == '?'	 ? PHASE_QUERY
						 : PHASE_PATH;
		}
		break;
	case PHASE_ESCAPE_HIGH:
		then = escape(c, PHASE_ESCAPE_LOW);
		break;
	case PHASE_ESCAPE_LOW:
		then = escape(c, PHASE_PATH);
		break;
	case PHASE_VERSION:
		then = version(m, c);
		break;
	case PHASE_STATUS:
		then = status(m, c);
		break;
	case PHASE_LINE_END:
		then = c == '\n' ? PHASE_LINE : PHASE_DOUBT;
		break;
	case PHASE_LINE:
		then = line(m, c);
		break;
	case PHASE_NAME:
		then = name(m, c);
		break;
	case PHASE_HOST:
		then = host(m, c);
		break;
	case PHASE_VALUE:
		then = text(c, PHASE_VALUE, PHASE_LINE_END);
		break;
	case PHASE_OPTIONS:
	case PHASE_UPGRADE:
		then = token(m, c);
		break;
	case PHASE_LENGTH:
		then = length(m, c);
		break;
	case PHASE_LENGTH_TAIL:
		then = tail(c, PHASE_LENGTH_TAIL);
		break;
	case PHASE_CODING:
		then = coding(m, c);
		break;
	case PHASE_CODING_TAIL:
		then = tail(c, PHASE_CODING_TAIL);
		break;
	case PHASE_HEAD_END:
		if (c == '\n')
			then = m->seen & SEEN_TRAILER ? PHASE_START : PHASE_HEAD_DONE;
		break;
	case PHASE_CHUNK_SIZE:
		then = chunk_size(m, c);
		break;
	case PHASE_CHUNK_EXTENSION:
		then = text(c, PHASE_CHUNK_EXTENSION, PHASE_CHUNK_LINE_END);
		break;
	case PHASE_CHUNK_LINE_END:
		if (c == '\n')
			then = chunk_data(m);
		break;
	case PHASE_CHUNK_CR:
		then = c == '\r' ? PHASE_CHUNK_LF : PHASE_DOUBT;
		break;
	case PHASE_CHUNK_LF:
		if (c == '\n')
			then = next_chunk(m);
		break;
	}
	m->phase = then;
	read_again();
}

/* Bytes that may be skipped unseen. */
inline_always __u64 skippable(const struct scan *m)
{
	return m->phase == PHASE_BODY || m->phase == PHASE_CHUNK_DATA ? m->left : 0;
}

inline_always void skip(struct scan *m, __u64 n)
{
	m->left -= n;
	if (!m->left)
		m->phase = m->phase == PHASE_CHUNK_DATA ? PHASE_CHUNK_CR : PHASE_START;
}

/* After a head: on to the body that its headers announce. */
inline_always void enter_body(struct scan *m)
{
	m->phase = m->seen & SEEN_CODING ? next_chunk(m) : m->left ? PHASE_BODY : PHASE_START;
}

/*
 * What the first request of a packet asks for. `from` is the phase that the byte was met in.
 * Whether the path is its own normal form is told by its segments: SEGMENT_EMPTY after a slash,
 * then one dot, two dots, or anything else.
 */
inline_always void note(struct reading *r, const struct scan *m, __u8 from, __u8 c)
{
	__u8 to = m->phase;

	if (from == PHASE_START || from == PHASE_METHOD) {
		if (to == PHASE_METHOD)
			r->method = secret_step(r->method, c, r->secret);
		return;
	}
	/* a host in the target, and a target without a path, are left to user space */
	if (to == PHASE_SCHEME || to == PHASE_AUTHORITY || to == PHASE_ASTERISK) {
		r->flags |= to == PHASE_ASTERISK ? READ_NO_PATH : READ_ODD_HOST;
		return;
	}
	if (from == PHASE_AUTHORITY && to != PHASE_PATH) {
		r->flags |= READ_NO_PATH;
		return;
	}
	bool in_path = from == PHASE_TARGET || from == PHASE_AUTHORITY || from == PHASE_PATH ||
		       from == PHASE_ESCAPE_HIGH || from == PHASE_ESCAPE_LOW;
	if (in_path || from == PHASE_QUERY) {
		if (to == PHASE_VERSION || (from != PHASE_QUERY && to == PHASE_QUERY)) {
			/* the path ends here, if it has not before */
			if (in_path && (r->segment == SEGMENT_DOT || r->segment == SEGMENT_DOTS))
				r->flags |= READ_NO_PATH;
			if (in_path)
				r->hash = r->hash_all;
			if (to == PHASE_VERSION)
				return;
		}
		r->hash_all = fnv(r->hash_all, c);
		if (!in_path || to == PHASE_QUERY)
			return;
		if (r->loud == ~0U && c >= 'A' && c <= 'Z' && from != PHASE_ESCAPE_HIGH &&
		    from != PHASE_ESCAPE_LOW)
			r->loud = r->path_len;
		if (r->path_len < PATH_MAX)
			r->path[r->path_len & (PATH_MAX - 1)] = c;
		r->path_len++;
		if (c == '/') {
			if (r->segment != SEGMENT_OTHER && r->path_len > 1)
				r->flags |= READ_NO_PATH;
			r->segment = SEGMENT_EMPTY;
		} else if (c == '.' && r->segment < SEGMENT_DOTS) {
			r->segment++;
		} else {
			r->segment = SEGMENT_OTHER;
		}
		if (from == PHASE_ESCAPE_HIGH)
			r->high = hex(c);
		if ((from == PHASE_ESCAPE_HIGH || from == PHASE_ESCAPE_LOW) && c >= 'a')
			r->flags |= READ_NO_PATH;
		if (c >= 0x80)
			r->flags |= READ_NO_PATH;
		__u8 meant = from == PHASE_ESCAPE_LOW ? r->high << 4 | hex(c) : c;
		if (from == PHASE_ESCAPE_LOW && is_unreserved(meant))
			r->flags |= READ_NO_PATH;
		/* crates/http/src/readings.rs */
		if (c == ';' || c == '\\' ||
		    (from == PHASE_ESCAPE_LOW &&
		     (meant == '/' || meant == '\\' || meant == 0 || meant == '?' || meant == '#')))
			r->flags |= READ_UNLIKE;
		return;
	}
	if (from == PHASE_VERSION && to == PHASE_LINE_END)
		r->flags |= READ_LINE_CR;
	if (to == PHASE_LINE && r->flags & READ_LINE_CR)
		r->flags |= READ_LINE;
	if (from == PHASE_HOST && to == PHASE_HOST) {
		/* names alone; anything else is left to user space */
		if (m->count == HOST_NAME || m->count == HOST_DOT) {
			r->host = secret_step(r->host, lower(c), r->secret);
			r->host_last = c;
		} else if (m->count == HOST_OPEN) {
			r->flags |= READ_ODD_HOST;
		}
	}
	if (from == PHASE_HOST && to == PHASE_LINE_END) {
		if (m->count != HOST_BEFORE)
			r->flags |= READ_HOST;
		if (r->host_last == '.')
			r->flags |= READ_ODD_HOST;
	}
}
