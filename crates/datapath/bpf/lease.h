/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which distributor decides a connection (docs/decisions/0012). Its cookie says who answered its
 * handshake, by the term. A switch finds that one by trying the makers that the flow's slot has
 * had of late; a distributor takes a cookie of its own terms, or of terms that it has inherited,
 * and decides only while the lease that goes with the term holds.
 */
#pragma once

#include "binding.h"
#include "rewrite.h"

inline_always struct lease *lease_at(__u32 i)
{
	struct lease *l = bpf_map_lookup_elem(&leases, &i);

	return l && l->kind != LEASE_NONE ? l : 0;
}

inline_always bool holds(const struct lease *l)
{
	return bpf_ktime_get_ns() < l->until_ns;
}

/* The lease for packets that came by this switch; from anybody else the first one. */
inline_always struct lease *lease_of(__u16 from)
{
	for (__u32 i = 1; i < LEASES_MAX && from != NO_NODE; i++) {
		struct lease *l = lease_at(i);
		if (!l)
			break;
		if (l->from == from && l->kind == LEASE_OWN)
			return l;
	}
	return lease_at(0);
}

inline_always struct lease *lease_of_term(__u32 term)
{
	for (__u32 i = 0; i < LEASES_MAX; i++) {
		struct lease *l = lease_at(i);
		if (!l || l->term == term)
			return l;
	}
	return 0;
}

/* What was left to this node may have been decided by who left it. */
inline_always bool must_ask(const struct binding *b)
{
	struct lease *l = lease_of_term(b->term);

	return l && l->kind == LEASE_HEIR && !(b->flags & (FLAG_ASKED | FLAG_MOVED));
}

/*
 * Whether the node may decide a connection now: a distributor by its lease, and who had a
 * connection and has moved it, again, when nobody took it.
 */
inline_always bool may_decide(const struct binding *b)
{
	if (b->flags & FLAG_MOVED)
		return true;
	struct lease *l = lease_of_term(b->term);
	return l && holds(l) && (l->kind == LEASE_OWN || b->flags & FLAG_ASKED);
}

/*
 * Nor ever: the node knows the connection's term no more. A young connection's may yet be left to
 * it again.
 */
inline_always bool is_left(const struct binding *b)
{
	return !(b->flags & FLAG_MOVED) && !lease_of_term(b->term) &&
	       bpf_ktime_get_ns() - b->since_ns > (__u64)LOST_TERM_MS * MS;
}

/* Wrong cookies without timestamps are too many to go on looking: each is a guess at 27 bits. */
inline_always bool may_prove(const struct packet *p)
{
	__u32 zero = 0;
	struct guesses *g = bpf_map_lookup_elem(&guesses, &zero);
	__u64 second = bpf_ktime_get_ns() >> 30;

	if (!g || p->found & FOUND_TIMESTAMPS)
		return true;
	if (g->second != second) {
		g->second = second;
		g->wrong = 0;
	}
	if (g->wrong < GUESSES_MAX)
		return true;
	count(COUNT_COOKIE_LIMITED);
	return false;
}

/*
 * Whether so many cookies were wrong in this second that a packet's own, which may be right, was
 * not looked at. Then it is not known whether its connection is one of this node's.
 */
inline_always bool was_not_looked_at(const struct packet *p)
{
	__u32 zero = 0;
	struct guesses *g = bpf_map_lookup_elem(&guesses, &zero);

	return g && !(p->found & FOUND_TIMESTAMPS) && g->wrong >= GUESSES_MAX &&
	       g->second == bpf_ktime_get_ns() >> 30;
}

inline_always void guessed_wrong(const struct packet *p)
{
	__u32 zero = 0;
	struct guesses *g = bpf_map_lookup_elem(&guesses, &zero);

	if (g && !(p->found & FOUND_TIMESTAMPS))
		g->wrong += 1;
}

/*
 * The lease of the term that the packet's cookie was made in, if the connection is this node's to
 * decide. What came by a switch may have been answered by way of another one; what was left to this
 * node by a switch is its own only by way of that one. After read_options().
 */
function struct lease *proven(const struct packet *p, __u16 from)
{
	struct lease *mine = lease_of(from);
	bool direct = !mine || mine->from == NO_NODE;

	if (!echoes(p) || !may_prove(p))
		return 0;
	for (__u32 i = 0; i < LEASES_MAX; i++) {
		struct lease *l = lease_at(i);
		if (!l)
			break;
		if ((l->from == NO_NODE) != direct || (l->kind == LEASE_HEIR && l->from != from))
			continue;
		if (is_cookie(p, l->term, false))
			return l;
	}
	guessed_wrong(p);
	return 0;
}

inline_always struct slot_makers *slot_of(const struct flow_key *f)
{
	__u32 zero = 0;
	struct spread *s = bpf_map_lookup_elem(&spreads, &zero);
	struct keys *k = cluster_keys();

	if (!s || !k || s->table >= SPREADS_MAX)
		return 0;
	__u32 slot = flow_hash(f, k->clock, DOMAIN_MAGLEV, 0) % MAGLEV_SLOTS;
	__u32 at = s->table * SPREAD_PAGES + slot / SPREAD_PAGE;
	struct spread_page *page = bpf_map_lookup_elem(&maglev, &at);
	return page ? &page->slots[slot % SPREAD_PAGE] : 0;
}

inline_always struct maker *maker_at(const struct slot_makers *slot, __u32 place)
{
	__u32 number = slot->makers[place % SLOT_MAKERS];

	return bpf_map_lookup_elem(&makers, &number);
}

/* Whether distributors have been missing for so long that clients are to be told. */
inline_always bool refuses(void)
{
	__u32 zero = 0;
	struct spread *s = bpf_map_lookup_elem(&spreads, &zero);

	return s && bpf_ktime_get_ns() >= s->refuse_ns;
}

/* The distributor that the switch sends a flow's packets to: the one in force. */
inline_always __u16 choice(const struct flow_key *f)
{
	struct slot_makers *slot = slot_of(f);
	struct maker *m = slot ? maker_at(slot, 0) : 0;

	return m ? m->node : NO_NODE;
}

inline_always __u64 *latest_syn(__u64 hash)
{
	__u32 slot = hash % LATEST_SYNS;

	return bpf_map_lookup_elem(&latest_syns, &slot);
}

/* All that a switch remembers of a SYN: floods of them fill no table. */
inline_always void note_syn(const struct packet *p)
{
	struct keys *k = cluster_keys();

	if (!k)
		return;
	__u64 hash = flow_hash(&p->flow, k->clock, DOMAIN_MAGLEV, 0), *latest = latest_syn(hash);
	if (latest)
		*latest = hash >> 32 << 32 | p->seq;
}

/*
 * Whether a connection began before the flow's latest SYN: the client has used its port again
 * before another node's word about that connection was here. The later one's sequence numbers are
 * ahead (RFC 9293 3.6.1).
 */
inline_always bool is_past(const struct flow_key *flow, __u32 start_seq)
{
	struct keys *k = cluster_keys();

	if (!k)
		return false;
	__u64 hash = flow_hash(flow, k->clock, DOMAIN_MAGLEV, 0), *latest = latest_syn(hash);
	return latest && *latest >> 32 == hash >> 32 && (__s32)(start_seq - (__u32)*latest) <= 0;
}

/* Who decides instead of a maker that may be over: NO_NODE, nobody as yet. */
inline_always __u16 decider(const struct slot_makers *slot, __u32 place)
{
	/* heirs may be gone too, and have heirs: nobody else has inherited the flow */
	for (__u32 depth = 0; depth < SLOT_MAKERS; depth++) {
		struct maker *m = place < SLOT_MAKERS ? maker_at(slot, place) : 0;
		if (!m) {
			m = maker_at(slot, 0);
			return m ? m->node : NO_NODE;
		}
		if (m->over == OVER_NOT)
			return m->node;
		if (m->over == OVER_SOON)
			break;
		place = slot->heirs[place % SLOT_MAKERS];
	}
	return NO_NODE;
}

/*
 * As choice(), but what follows a handshake goes to who answered that, whoever is in force since;
 * or to the heir of one that is gone for sure.
 */
global __u32 choice_for(struct __sk_buff *skb, struct packet *p)
{
	__u32 zero = 0;
	struct spread *s = bpf_map_lookup_elem(&spreads, &zero);

	if (!p)
		return NO_NODE;
	if (!s || p->flags & SYN || bpf_ktime_get_ns() >= s->unsettled_ns)
		return choice(&p->flow);
	struct slot_makers *slot = slot_of(&p->flow);
	if (!slot)
		return NO_NODE;
	read_options(skb, p);
	for (__u32 place = 0; place < SLOT_MAKERS; place++) {
		struct maker *m = maker_at(slot, place);
		if (!m || !is_cookie(p, m->term, false))
			continue;
		if (place || m->over)
			count(COUNT_SPREAD_EARLIER);
		return decider(slot, place);
	}
	struct maker *m = maker_at(slot, 0);
	return m ? m->node : NO_NODE;
}
