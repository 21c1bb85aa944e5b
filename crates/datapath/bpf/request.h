/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The request line, read only when nothing about it is in doubt:
 *
 *   METHOD SP /path[?query] SP HTTP/1.(0|1) CR LF     within the first HEAD_MAX bytes
 *
 * METHOD is 1 to 15 upper-case letters, the path printable ASCII. Anything else is left to user
 * space. The target is a keyed FNV-1a of the path (or path and query), finished by a mixer; it
 * needs to spread well, not to resist: a collision costs locality only.
 */
#pragma once

#include "packet.h"

enum phase { PHASE_METHOD, PHASE_PATH, PHASE_QUERY, PHASE_DONE, PHASE_REFUSED };

#define FNV_OFFSET 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

static long request_step(__u32 step, void *context)
{
	struct scratch *s = *(struct scratch **)context;
	__u32 i = s->at;

	if (i >= s->end || i >= HEAD_MAX) {
		s->phase = PHASE_REFUSED;
		return 1;
	}
	__u8 c = s->head[i & (HEAD_MAX - 1)];
	s->at = i + 1;
	if (s->phase == PHASE_METHOD) {
		if (c == ' ' && i > 0 && s->head[(i + 1) & (2 * HEAD_MAX - 1)] == '/') {
			s->phase = PHASE_PATH;
			return 0;
		}
		if (c >= 'A' && c <= 'Z' && i < METHOD_MAX - 1)
			return 0;
		s->phase = PHASE_REFUSED;
		return 1;
	}
	if (c == ' ') {
		s->space = i;
		s->phase = PHASE_DONE;
		return 1;
	}
	if (c <= 0x20 || c >= 0x7f) {
		s->phase = PHASE_REFUSED;
		return 1;
	}
	if (c == '?' && s->stop_at_query)
		s->phase = PHASE_QUERY;
	if (s->phase == PHASE_PATH)
		s->hash = (s->hash ^ c) * FNV_PRIME;
	return 0;
}

inline_always bool version_at(const struct scratch *s, __u32 i)
{
	const __u8 *h = s->head;
	const __u32 m = 2 * HEAD_MAX - 1;

	return i + 10 <= s->end && h[i & m] == 'H' && h[(i + 1) & m] == 'T' &&
	       h[(i + 2) & m] == 'T' && h[(i + 3) & m] == 'P' && h[(i + 4) & m] == '/' &&
	       h[(i + 5) & m] == '1' && h[(i + 6) & m] == '.' &&
	       (h[(i + 7) & m] == '0' || h[(i + 7) & m] == '1') && h[(i + 8) & m] == '\r' &&
	       h[(i + 9) & m] == '\n';
}

/* murmur3's 64-bit finaliser */
inline_always __u64 mix(__u64 h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdULL;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ULL;
	return h ^ h >> 33;
}

/* Reads the target from the payload; false when the line must be read in user space. */
inline_always bool read_target(struct __sk_buff *skb, const struct packet *p, __u64 *target)
{
	struct scratch *s = scratch();
	struct keys *k = cluster_keys();
	__u32 n = p->payload > HEAD_MAX ? HEAD_MAX : p->payload;

	n &= 2 * HEAD_MAX - 1; /* verifier: a bound that clang cannot fold away */
	if (!s || !k || n == 0)
		return false;
	if (bpf_skb_load_bytes(skb, L4 + p->header, s->head, n))
		return false;
	s->at = 0;
	s->end = n;
	s->phase = PHASE_METHOD;
	s->hash = FNV_OFFSET ^ k->target;
	s->stop_at_query = p->key == KEY_PATH;
	bpf_loop(HEAD_MAX + 1, request_step, &s, 0);
	if (s->phase != PHASE_DONE || !version_at(s, s->space + 1))
		return false;
	*target = mix(s->hash);
	return true;
}
