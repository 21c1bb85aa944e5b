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
inline_always int take(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct scratch *s = scratch();
	bool adopted = b->flags & FLAG_ADOPTED;
	struct exchange *x = 0;

	if (!s)
		return drop(COUNT_FAULT_MAP);
	if (p->service_flags & SERVICE_STRICT && set_flag(b, FLAG_FOLLOWED) & FLAG_FOLLOWED) {
		x = exchange_of(&p->flow, b);
		/* the same packet, on another CPU */
		if (!x)
			return drop(COUNT_DROP_BUSY);
	} else if (!adopted && !follow_from(skb, p, b)) {
		/* what comes behind the request may not be this server's: user space parts them */
		clear_flag(b, FLAG_FOLLOWED);
		return daemon_listens() ? hold(skb, p, b, COUNT_HELD_EARLY)
					: drop(COUNT_DROP_EARLY_REQUEST);
	}
	/* again, and longer, before the socket has spoken: it may be the next request that is new
	 */
	if (x && !x->doubt && (__s32)(p->seq + p->payload - x->requests.at) > 0)
		return drop(COUNT_DROP_EARLY_REQUEST);
	int verdict = adopt(skb, p, b, p->has_clock ? p->clock : clock_for(p, b->rtt_ms));
	if (!adopted && b->flags & FLAG_ADOPTED)
		tell(&p->flow, b, EVENT_BOUND);
	return verdict;
}

/* To this node's stack. */
inline_always int up(struct __sk_buff *skb, struct packet *p)
{
	return bare(skb, p) ? TC_ACT_OK : drop(COUNT_FAULT_REWRITE);
}

/*
 * Whether the packet came before the one that makes the socket, on another CPU, or while the stack
 * has no room for one. Its listener would answer with a RST.
 */
inline_always bool is_ahead_of_adoption(struct __sk_buff *skb, const struct packet *p,
					const struct binding *b)
{
	if (b->flags & (FLAG_CONFIRMED | FLAG_CLOSED) || p->flags & RST ||
	    (!p->payload && !(p->flags & FIN)) ||
	    bpf_ktime_get_ns() - b->since_ns > (__u64)HANDOFF_AGE_MS * MS)
		return false;
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	bool none = !sk || sk->state == BPF_TCP_LISTEN;
	if (sk)
		bpf_sk_release(sk);
	return none;
}

/* A packet for a connection that this node owns. */
global int own(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (!p || !b)
		return drop(COUNT_FAULT_MAP);
	bool strict = p->service_flags & SERVICE_STRICT;
	if (p->payload && p->seq == b->start_seq && !(b->flags & (FLAG_CONFIRMED | FLAG_CLOSED))) {
		if (p->ack == b->start_ack) {
			read_options(skb, p);
			return take(skb, p, b);
		}
		/* an older copy that was in user space: it may be longer than the first packet.
		 * Here user space has parted them, and the first one is all that is missing */
		if (!strict || released)
			return drop(COUNT_DROP_EARLY_SEGMENT);
	}
	/* the first one is about to be adopted: what comes behind it waits */
	if (p->payload && strict && !(b->flags & (FLAG_CONFIRMED | FLAG_CLOSED)) &&
	    !is_made(skb, p)) {
		struct exchange *x = exchange_of(&p->flow, b);
		if (x && x->doubt != DOUBT_ALL && daemon_listens())
			return hold_early(skb, p, b, x);
		/* another CPU is about to follow the first one; but never for ever */
		return (released && has_lasted(b)) || !daemon_listens()
			       ? drop(COUNT_DROP_EARLY_SEGMENT)
			       : hold(skb, p, b, COUNT_HELD_MORE);
	}
	if (strict) {
		/* of what user space gives back it has said so before */
		if (!released || !p->payload)
			heard(skb, p, b);
		if (!p->payload && p->flags & FIN && b->state != STATE_ASKING &&
		    is_early_fin(p, b)) {
			struct exchange *x = exchange_of(&p->flow, b);
			return x ? hold_early(skb, p, b, x) : TC_ACT_OK;
		}
	}
	if (is_ahead_of_adoption(skb, p, b))
		return drop(COUNT_DROP_EARLY_SEGMENT);
	if (p->payload && p->service_flags & SERVICE_FOLLOWS) {
		if (b->state == STATE_ASKING) {
			if (!held_too_long(b))
				return hold(skb, p, b, COUNT_HELD_MORE);
			b->state = STATE_BOUND;
		}
		int verdict = later(skb, p, b, released);
		if (verdict != GO_ON)
			return verdict;
	}
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
		struct load *owner = load_of(b->node);
		if (p->seq == b->start_seq && p->ack == b->start_ack && !(owner && owner->gone))
			return hand_off(skb, p, b);
		/* the socket that was here has acknowledged this, and its ACK was lost */
		if (b->flags & FLAG_MOVED && (__s32)(p->seq - b->start_seq) < 0)
			return answer_old(skb, p, b);
	}
	if (from == b->node)
		return drop(COUNT_DROP_LOOP);
	/* its owner hears nothing any more, and will not tell the client so */
	struct load *l = load_of(b->node);
	if (l && l->gone && (p->flags & (ACK | RST)) == ACK)
		return refuse(skb, p, COUNT_RESET_NODE_GONE);
	return forward(skb, p, b->node, COUNT_FORWARDED_BINDING);
}
