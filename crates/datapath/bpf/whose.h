/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A packet of a connection that nobody here knows: its binding was evicted, or this node's daemon
 * was restarted, or the switch has chosen another distributor. Another node may own the connection:
 * user space asks them all (docs/decisions/0020). Where there is no other node, the answer is a
 * RST.
 */
#pragma once

#include "decide.h"
#include "lease.h"
#include "rewrite.h"

/* Whether one more packet may be asked about in this window, by the count in one slot. */
inline_always bool within(__u32 slot, __u32 window, __u32 most)
{
	struct budget *b = bpf_map_lookup_elem(&unknowns, &slot);

	if (!b)
		return false;
	if (b->window != window) {
		b->window = window;
		b->count = 0;
	}
	if (b->count >= most)
		return false;
	__sync_fetch_and_add(&b->count, 1);
	return true;
}

/*
 * Strangers can send such packets as fast as they like. So many are asked about for each prefix of
 * clients (a /24, or a /56 of IPv6), and so many in all: the table has a slot for each of some
 * prefixes, by a keyed hash, and the last slot counts all.
 */
inline_always bool may_ask(const struct packet *p)
{
	struct keys *k = cluster_keys();
	struct flow_key prefix = {.client = p->flow.client};
	__u32 window = bpf_ktime_get_ns() >> UNKNOWN_WINDOW_SHIFT;

	if (!k)
		return false;
	if (p->v6) {
		prefix.client.w[1] &= bpf_htonl(0xffffff00);
		prefix.client.w[2] = prefix.client.w[3] = 0;
	} else {
		prefix.client.w[3] &= bpf_htonl(0xffffff00);
	}
	__u32 slot = flow_hash(&prefix, k->clock, DOMAIN_PREFIX, 0) % UNKNOWN_SLOTS;
	return within(slot, window, UNKNOWN_PREFIX_MAX) &&
	       within(UNKNOWN_SLOTS, window, UNKNOWN_MAX);
}

/*
 * The client's last ACK, behind the FIN that was answered for a connection without request:
 * answer_fin() has forgotten the connection, and nobody is to be asked about it.
 */
inline_always bool is_last_ack(struct packet *p, __u16 from)
{
	if (!(settings.roles & ROLE_DISTRIBUTOR) || p->payload || p->flags & FIN)
		return false;
	struct lease *mine = lease_of(from);
	if (!mine)
		return false;
	p->seq--;
	p->ack--;
	bool last = is_cookie(p, mine->term, false) || is_cookie(p, mine->term, true);
	p->seq++;
	p->ack++;
	return last;
}

enum question {
	ASK_WHOSE,
	ASK_HEIR,  /* it is this node's to decide if nobody has it */
	ASK_AGAIN, /* user space has given it back, but what it knew is gone again */
};

/*
 * Gives the packet to user space, which asks. The frame's destination tells it from the packets of
 * connections that are known: user space puts this node's address there again. `alone`: how the RST
 * is counted where no other node can own the connection.
 */
global int ask_whose(struct __sk_buff *skb, struct packet *p, __u16 from, enum question question,
		     enum counter alone)
{
	if (!p)
		return drop(COUNT_FAULT_MAP);
	const __be32 mark = bpf_htonl(question == ASK_HEIR ? HEIR_MAC : UNKNOWN_MAC);
	const __be32 sent = bpf_htonl(SENDER_MAC);
	const __be16 by = bpf_htons(p->from);
	bool wrapped = p->wrapped;

	if (question != ASK_HEIR && is_last_ack(p, from))
		return drop(COUNT_LAST_ACK);
	if (question == ASK_AGAIN)
		return drop(COUNT_DROP_UNKNOWN_FLOW);
	/* it may be a connection's first packet: the client repeats it */
	if (settings.roles & ROLE_DISTRIBUTOR && was_not_looked_at(p))
		return drop(COUNT_DROP_UNKNOWN_RATE);
	/* user space can tell whether it has just begun, and its first packets were lost */
	bool begins = settings.roles & ROLE_DISTRIBUTOR && (p->flags & (ACK | RST)) == ACK &&
		      alone != COUNT_RESET_EXPIRED && echoes(p) && daemon_listens();
	if (!settings.others && !begins)
		return refuse(skb, p, alone);
	if (!daemon_listens())
		return drop(COUNT_DROP_UNKNOWN_FLOW);
	if (!may_ask(p))
		return drop(COUNT_DROP_UNKNOWN_RATE);
	if (!bare(skb, p) || bpf_skb_store_bytes(skb, 0, &mark, sizeof(mark), 0))
		return drop(COUNT_FAULT_REWRITE);
	if (wrapped && (bpf_skb_store_bytes(skb, ETH_ALEN, &sent, sizeof(sent), 0) ||
			bpf_skb_store_bytes(skb, ETH_ALEN + sizeof(sent), &by, sizeof(by), 0)))
		return drop(COUNT_FAULT_REWRITE);
	count(COUNT_HELD_UNKNOWN);
	return bpf_redirect(settings.hold_ifindex, 0);
}
