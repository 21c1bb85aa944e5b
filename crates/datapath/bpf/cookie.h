/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The handshake without a socket: our initial sequence number is a keyed cookie of the flow, the
 * client's ISN, a coarse time and the term of the distributor that made it (struct lease), and
 * carries what the client's SYN offered. So the distributor, or its heir, can tell a genuine
 * connection from its first data packet alone, and a switch whose connection it is.
 *
 *   with timestamps    31                        7 6   5    4    3      0
 *                     +---------------------------+-----+------+--------+
 *                     |      SipHash, 25 bits     | mss | sack | wscale |   wscale 15: not offered
 *                     +---------------------------+-----+------+--------+
 *   without                                        5 4   3 2       0
 *                     +-----------------------------+-----+---------+
 *                     |      SipHash, 27 bits       | mss | profile |   sack and wscale in one
 *                     +-----------------------------+-----+---------+
 *
 * A client that echoes timestamps proves with that echo too: docs/decisions/0013.
 */
#pragma once

#include "packet.h"
#include "siphash.h"

enum domain {
	DOMAIN_COOKIE = 1,
	DOMAIN_CLOCK = 2,
	DOMAIN_MAGLEV = 3,
	DOMAIN_COOKIE_PLAIN = 4,
	DOMAIN_PREFIX = 9,
};

enum { MS = 1000000 };
/* of the number that says what a cookie carries: no timestamps were offered */
enum { COOKIE_PLAIN = 1u << 31 };

/* The clock on which the nodes agree: docs/decisions/0023. */
inline_always __u64 cluster_ns(void)
{
	struct live *l = live_values();
	return bpf_ktime_get_ns() + (l ? l->clock_ahead_ns : 0);
}

inline_always __u64 flow_hash(const struct flow_key *f, const __u64 *key, enum domain domain,
			      __u64 extra)
{
	__u64 w[FLOW_WORDS + 1];

	flow_words(f, w);
	w[4] |= (__u64)domain << 32;
	w[FLOW_WORDS] = extra;
	return siphash(w, FLOW_WORDS + 1, key, 1, 3);
}

/*
 * MSS classes a cookie can tell apart; the client's offer is rounded down to one. The lowest are
 * what any client must take (RFC 9293 3.7.1), and the least that the kernel adopts with.
 */
inline_always __u16 mss_of_class(bool v6, __u32 class)
{
	if (v6)
		return class == 0 ? 1220 : class == 1 ? 1280 : class == 2 ? 1420 : 1440;
	return class == 0 ? 536 : class == 1 ? 1300 : class == 2 ? 1440 : 1460;
}

inline_always __u32 class_of_mss(bool v6, __u16 mss)
{
	for (__u32 class = 3; class > 0; class --)
		if (mss >= mss_of_class(v6, class))
			return class;
	return 0;
}

/* The window scales that a cookie without timestamps tells apart, behind sack; one offered is
 * rounded down, which only makes the client's window look smaller. */
enum { PROFILE_NONE = 0, PROFILE_SACK = 1, PROFILE_SCALED = 2 };
enum { LOW_BITS = 7, LOW_BITS_PLAIN = 5 };

inline_always __u8 scale_of_profile(__u32 profile)
{
	return profile == 2 ? 0 : profile == 3 ? 2 : profile + 1; /* 5, 6, 7, 8 */
}

inline_always __u32 profile_of(bool sack, bool scaled, __u8 wscale)
{
	if (!sack || !scaled)
		return sack ? PROFILE_SACK : PROFILE_NONE;
	return wscale >= 8 ? 7 : wscale >= 5 ? wscale - 1u : wscale >= 2 ? 3 : PROFILE_SCALED;
}

/* What the client's SYN offers, as its cookie keeps it; after read_options(). */
inline_always __u32 offer_bits(const struct packet *p)
{
	__u32 class = class_of_mss(p->v6, p->found & FOUND_MSS ? p->mss : 0);
	bool sack = p->found & FOUND_SACK, scaled = p->found & FOUND_WSCALE;

	if (p->found & FOUND_TIMESTAMPS)
		return class << 5 | (sack ? 16 : 0) | (scaled ? p->wscale : NO_WSCALE);
	return class << 3 | profile_of(sack, scaled, p->wscale);
}

global __u32 cookie_of(const struct flow_key *f, __u32 isn, __u32 slot, __u32 low, __u32 term)
{
	struct keys *k = cluster_keys();
	__u64 w[FLOW_WORDS + 2];

	if (!f || !k)
		return 0;
	__u32 bits = low & COOKIE_PLAIN ? LOW_BITS_PLAIN : LOW_BITS, mask = (1u << bits) - 1;
	__u64 domain = low & COOKIE_PLAIN ? DOMAIN_COOKIE_PLAIN : DOMAIN_COOKIE;
	flow_words(f, w);
	w[4] |= domain << 32;
	w[FLOW_WORDS] = (__u64)((slot & 0xffffff) << 8 | (low & mask)) << 32 | isn;
	w[FLOW_WORDS + 1] = term;
	return ((__u32)siphash(w, FLOW_WORDS + 2, k->cookie, 1, 3) & ~mask) | (low & mask);
}

/*
 * Whether the packet acknowledges a cookie of this term that is as young as one must be; or, `old`,
 * one that was. Nothing but hash and age: what the packet's timestamps say is not looked at.
 */
global int is_cookie(const struct packet *p, __u32 term, __u32 old)
{
	if (!p)
		return false;
	__u32 cookie = p->ack - 1, isn = p->seq - 1;
	__u32 low = p->found & FOUND_TIMESTAMPS ? cookie & ~COOKIE_PLAIN : cookie | COOKIE_PLAIN;
	__u64 now = cluster_ns();
	__u32 newest = (now + (__u64)COOKIE_SKEW_MS * MS) >> COOKIE_SLOT_SHIFT;
	__u32 oldest = (now - (__u64)COOKIE_LIFE_MS * MS) >> COOKIE_SLOT_SHIFT;

	if (old) {
		newest = oldest - 1;
		oldest -= COOKIE_SLOTS_OLD;
	}
	for (__u32 i = 0; i < COOKIE_SLOTS_OLD; i++) {
		if ((__s32)(newest - i - oldest) < 0)
			break;
		if (cookie_of(&p->flow, isn, newest - i, low, term) == cookie)
			return true;
	}
	return false;
}

/* The server-side clock of a flow: the same on every node, never running backwards. */
global __u32 flow_clock(const struct flow_key *f)
{
	struct keys *k = cluster_keys();

	if (!f || !k)
		return 0;
	return (__u32)(cluster_ns() / 1000000) + (__u32)flow_hash(f, k->clock, DOMAIN_CLOCK, 0);
}

/*
 * Whether the client echoes what a node has said to it within the life of a cookie. The flow's
 * clock begins at a secret number, so that the echo proves as the cookie does.
 */
inline_always bool echoes(const struct packet *p)
{
	__s32 age = flow_clock(&p->flow) - p->tsecr;

	return !(p->found & FOUND_TIMESTAMPS) ||
	       (age >= -COOKIE_SKEW_MS && age <= COOKIE_LONGEST_MS);
}
