/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The handshake without a socket: our initial sequence number is a keyed cookie of the flow, the
 * client's ISN and a coarse time, and carries what the client's SYN offered, so that any node with
 * the cluster's keys can tell a genuine connection from its first data packet alone.
 *
 *   31                             8 7   6  5    4     3      0
 *  +-------------------------------+-----+---+------+---------+
 *  |        SipHash, 24 bits       | mss | 0 | sack | wscale  |   wscale 15: not offered
 *  +-------------------------------+-----+---+------+---------+
 */
#pragma once

#include "packet.h"
#include "siphash.h"

enum domain {
	DOMAIN_COOKIE = 1,
	DOMAIN_CLOCK = 2,
	DOMAIN_MAGLEV = 3,
};

enum { MS = 1000000 };

inline_always __u64 wall_ns(void)
{
	struct live *l = live_values();
	return bpf_ktime_get_ns() + (l ? l->wall_offset_ns : 0);
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

/* Not inlined: it is used several times, and the verifier then walks it once each. */
static __noinline __u32 cookie_of(const struct flow_key *f, __u32 isn, __u32 slot, __u32 low)
{
	struct keys *k = cluster_keys();

	if (!f || !k)
		return 0;
	__u64 h = flow_hash(f, k->cookie, DOMAIN_COOKIE, (__u64)(slot << 8 | low) << 32 | isn);
	return ((__u32)h & 0xffffff00) | low;
}

/* Which slot, counted back from now, the cookie is of; -1 when of none of the last `slots`. The
 * next slot counts as the present one: the node that made the cookie may be ahead a little. */
inline_always int cookie_age(const struct packet *p, __u32 slots)
{
	__u32 cookie = p->ack - 1, isn = p->seq - 1, low = cookie & 0xff;
	__u32 slot = wall_ns() >> COOKIE_SLOT_SHIFT;

	for (int i = -1; i < (int)slots; i++)
		if (cookie_of(&p->flow, isn, (slot - i) & 0xffffff, low) == cookie)
			return i < 0 ? 0 : i;
	return -1;
}

/* The server-side clock of a flow: the same on every node, never running backwards. */
static __noinline __u32 flow_clock(const struct flow_key *f)
{
	struct keys *k = cluster_keys();

	if (!f || !k)
		return 0;
	return (__u32)(wall_ns() / 1000000) + (__u32)flow_hash(f, k->clock, DOMAIN_CLOCK, 0);
}
