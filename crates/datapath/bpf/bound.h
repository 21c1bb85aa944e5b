/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A connection that is bound: here, where its packets go to the stack and the first one is adopted,
 * or elsewhere, where they are forwarded and the first one is handed off.
 */
#pragma once

#include "move.h"

/*
 * Adopts, and begins to follow. A segment of the same list that is not the first (software GSO
 * repeats a handoff packet's wrapping on each) goes up behind the first: by then the stack has made
 * the socket.
 */
inline_always int take(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	struct scratch *s = scratch();
	bool adopted = b->flags & FLAG_ADOPTED;

	if (!s)
		return drop(COUNT_FAULT_MAP);
	/* a client that repeats its request may have put the next one behind it */
	if (!adopted && !follow_from(skb, p, b)) {
		if (released)
			return drop(COUNT_DROP_EARLY_REQUEST);
		if (b->state == STATE_ASKING && !held_too_long(b))
			return hold(skb, p, b, COUNT_HELD_MORE);
		b->state = STATE_ASKING;
		b->since_ns = bpf_ktime_get_ns();
		b->held = 0;
		return hold(skb, p, b, COUNT_HELD_PIPELINED);
	}
	/* again, and longer, before the socket has spoken: it may be the next request that is new
	 */
	struct exchange *x =
		adopted && p->service_flags & SERVICE_STRICT ? exchange_of(&p->flow, b) : 0;
	if (x && !x->doubt && (__s32)(p->seq + p->payload - x->requests.at) > 0)
		return drop(COUNT_DROP_EARLY_REQUEST);
	int verdict = adopt(skb, p, b, s->has_clock ? s->clock : clock_for(p, b->rtt_ms));
	if (!adopted && b->flags & FLAG_ADOPTED)
		tell(&p->flow, b, EVENT_BOUND);
	return verdict;
}

/* To this node's stack. */
inline_always int up(struct __sk_buff *skb, struct packet *p)
{
	return bare(skb, p) ? TC_ACT_OK : drop(COUNT_FAULT_REWRITE);
}

/* A packet for a connection that this node owns. */
function int own(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (p->payload && p->seq == b->start_seq && !(b->flags & (FLAG_CONFIRMED | FLAG_CLOSED))) {
		if (p->ack != b->start_ack)
			return drop(COUNT_DROP_EARLY_SEGMENT);
		read_options(skb, p);
		return take(skb, p, b, released);
	}
	if (p->payload && p->service_flags & SERVICE_FOLLOWS) {
		if (b->state == STATE_ASKING) {
			if (!held_too_long(b))
				return hold(skb, p, b, COUNT_HELD_MORE);
			b->state = STATE_BOUND;
		}
		int verdict = later(skb, p, b, released);
		if (verdict != TC_ACT_OK || b->state == STATE_READING)
			return verdict;
	}
	if (!p->payload && p->service_flags & SERVICE_STRICT)
		heard(skb, p, b);
	count(COUNT_OWNED);
	if (!is_news(p, b) || is_taken(skb, p, b))
		track_in(p, b);
	return up(skb, p);
}

/* The first data packet of a connection that another node is to own. */
function int hand_off(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	count(set_flag(b, FLAG_HANDED) & FLAG_HANDED ? COUNT_HANDOFF_AGAIN : COUNT_HANDOFF_SENT);
	read_options(skb, p);
	return send_handoff(skb, p, b);
}

/* Bytes that were acknowledged before the connection moved from here. */
inline_always int answer_old(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct reply r = {
		.seq = b->start_ack,
		.ack = b->start_seq,
		.window = SYNACK_WINDOW >> (b->options & OPTION_WSCALE ? RCV_WSCALE : 0),
		.flags = ACK,
		.echo_clock = true, /* the owner's clock may be behind the flow's */
	};

	read_options(skb, p);
	count(COUNT_OLD_ANSWERED);
	return answer(skb, p, &r);
}

/* A packet for a connection that another node owns. */
function int elsewhere(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	__u16 from = sender(skb, p);

	b->seen_ns = bpf_ktime_get_ns();
	/*
	 * Whether its client has really ended it only the owner's stack can tell, which will say so
	 * by a close. The load of a short one is given back here already: an error lasts until the
	 * server's next report.
	 */
	if (p->flags & (FIN | RST) && is_near_start(p, b) && !(set_flag(b, FLAG_LEFT) & FLAG_LEFT))
		unassign(b);
	if (!is_hearsay(b) && p->payload) {
		/*
		 * Whoever sent it: its owner-to-be, too, when the handoff packet was lost. Not with
		 * another ack: it would not be the packet that the move was made of.
		 */
		if (p->seq == b->start_seq && p->ack == b->start_ack)
			return hand_off(skb, p, b);
		/* what the socket here had taken: its ACK was lost, and nobody else has one for it
		 */
		if (b->flags & FLAG_MOVED && (__s32)(p->seq - b->start_seq) < 0)
			return answer_old(skb, p, b);
	}
	if (from == b->node)
		return drop(COUNT_DROP_LOOP);
	return forward(skb, p, b->node, COUNT_FORWARDED_BINDING);
}
