/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The reader: a listening socket of user space on this node, which takes connections whose next
 * request cannot be told from one packet. It reads the head, and hands the connection off by giving
 * the client's bytes to the server once more; then the programs forget that it was there.
 */
#pragma once

#include "adopt.h"
#include "decide.h"

inline_always struct bpf_sock *reader_listener(struct __sk_buff *skb, const struct packet *p)
{
	struct live *l = live_values();
	struct bpf_sock_tuple t = {};

	if (!l)
		return 0;
	if (!p->v6) {
		t.ipv4.daddr = bpf_htonl(0x7f000001);
		t.ipv4.dport = l->reader_port;
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	t.ipv6.daddr[3] = bpf_htonl(1);
	t.ipv6.dport = l->reader_port_v6;
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

enum { EARLY_MAX = 1 << 20 }; /* bytes that may wait for a connection to take them */

/*
 * The exchange of the connection that the reader has; made with the first packet. What user space
 * has of a connection that was this node's server's it still has (read_later()).
 */
inline_always struct exchange *exchange_read(const struct packet *p, const struct binding *b,
					     struct scratch *s)
{
	struct exchange *x = exchange_of(&p->flow, b);

	if (x)
		return x;
	struct exchange *fresh = &s->exchange;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->start_seq = fresh->requests.at = fresh->requests.boundary = b->start_seq;
	fresh->decided = NO_NODE;
	/* in place: whoever holds the old one may write to it yet */
	x = bpf_map_lookup_elem(&exchanges, &p->flow);
	if (x && x->start_seq == b->start_seq - 1) {
		fresh->early = x->early;
		fresh->early_seq = x->early_seq;
		fresh->early_end = x->early_end;
	}
	if (x)
		*x = *fresh;
	else
		bpf_map_update_elem(&exchanges, &p->flow, fresh, BPF_ANY);
	return bpf_map_lookup_elem(&exchanges, &p->flow);
}

/* What the client has said last, for user space to repeat; the packet's options have been read. */
inline_always void note_heard(struct exchange *x, const struct packet *p)
{
	x->heard_tsval = p->tsval;
	x->heard_tsecr = p->tsecr;
	x->heard_window = p->window;
	x->heard_timestamps = !!(p->found & FOUND_TIMESTAMPS);
}

/*
 * Whether this node's socket has everything up to this sequence number. What it has is noted for
 * user space in `x`, if there is one.
 */
function bool has_all_before(struct __sk_buff *skb, const struct packet *p, __u32 seq,
			     struct exchange *x)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);

	if (!sk)
		return false;
	struct tcp_sock *tp = sk->state != BPF_TCP_LISTEN ? bpf_skc_to_tcp_sock(sk) : 0;
	bool all = tp && (__s32)(tp->rcv_nxt - seq) >= 0;
	if (tp && x) {
		x->taken_ack = tp->rcv_nxt;
		x->taken_window = tp->rcv_wup + tp->rcv_wnd - tp->rcv_nxt;
	}
	bpf_sk_release(sk);
	return all;
}

/* Whether the stack has made a socket of the connection's first packet, which another CPU may have.
 */
function bool is_made(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	bool made = sk && sk->state != BPF_TCP_LISTEN;

	if (sk)
		bpf_sk_release(sk);
	return made;
}

/* For user space, which gives it back when the connection can take it. */
inline_always int hold_early(struct __sk_buff *skb, struct packet *p, struct binding *b,
			     struct exchange *x)
{
	__u32 end = p->seq + p->payload + (p->flags & FIN ? 1 : 0);

	if (!x->early) {
		x->early_seq = p->seq;
		x->early_end = end;
	}
	if ((__s32)(p->seq - x->early_seq) < 0)
		x->early_seq = p->seq;
	if ((__s32)(end - x->early_end) > 0)
		x->early_end = end;
	x->early = 1;
	return hold(skb, p, b, COUNT_HELD_EARLY);
}

/*
 * In a strict service the reader gets one request and nothing behind it: what its socket has
 * acknowledged the client does not repeat, and the next request may be another server's. A
 * packet with both goes to user space, which gives it back in two; what begins behind the first
 * request it keeps until the connection is handed off. GO_ON: the reader may have this.
 */
function int first_alone(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct scratch *s = scratch();

	if (!s)
		return drop(COUNT_FAULT_MAP);
	struct exchange *x = exchange_read(p, b, s);
	if (!x || x->doubt)
		return GO_ON;
	if (__sync_lock_test_and_set(&x->busy, 1))
		return drop(COUNT_DROP_BUSY);
	struct walk *w = &s->walk;
	walk_requests(w, x, false);
	w->answered = w->heads = w->upgrades = 0;
	bool over = x->asked && between_messages(&x->requests);
	int verdict = GO_ON;
	enum fed fed = follow(skb, p);
	__u32 end = over ? x->requests.at : x->cut_seq, beyond = p->seq - end;
	if (fed != FED_OLD && (over || x->cut) && beyond < EARLY_MAX) {
		/* user space keeps it for whoever gets the connection */
		x->early = 1;
		x->early_seq = end;
		x->early_end = p->seq + p->payload;
		verdict = hold(skb, p, b, COUNT_HELD_EARLY);
	} else if (fed == FED_GAP && has_all_before(skb, p, p->seq, x)) {
		/* nobody will repeat what came before the service wanted this */
		x->doubt = 1;
	} else if (fed == FED_GAP && p->seq - x->requests.at < EARLY_MAX && daemon_listens()) {
		/* what is before it may be on another CPU, or lost */
		verdict = hold_early(skb, p, b, x);
	} else if (fed == FED_GAP) {
		verdict = drop(COUNT_DROP_GAP);
	} else if (fed != FED_OLD && w->reading.flags & READ_AGAIN) {
		x->cut_seq = p->seq + w->reading.cut;
		x->cut = 1;
		if ((__s32)(x->cut_seq - x->early_seq) > 0)
			x->early_seq = x->cut_seq; /* what is before it is the reader's */
		verdict = hold(skb, p, b, COUNT_HELD_PIPELINED);
	} else if (fed == FED_DOUBT) {
		x->doubt = 1; /* the reader will say so */
	} else if (fed == FED_FOLLOWED) {
		x->requests = w->follower;
		x->asked = w->asked;
		x->heard_ack = p->ack;
		read_options(skb, p);
		note_heard(x, p);
		forget_passed(x);
		/* what user space has may go on where this packet ends */
		if (x->early && !x->asked)
			tell(&p->flow, b, EVENT_IDLE);
	}
	x->busy = 0;
	return verdict;
}

/*
 * While the server's socket is being ended, the connection's first packet comes again behind the
 * packets that arrived with it. So this packet, which must follow the first one, comes again, too.
 */
inline_always int requeue(struct __sk_buff *skb, bool released)
{
	if (released)
		set_mark(skb, MARK_RELEASED);
	if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
		return drop(COUNT_FAULT_REWRITE);
	return TC_ACT_SHOT;
}

/* A packet of a connection that the reader has, or is to have. */
global int reading(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (!p || !b)
		return drop(COUNT_FAULT_MAP);
	__u32 rst_seq = 0;

	if (!bare(skb, p))
		return drop(COUNT_FAULT_REWRITE);
	b->seen_ns = bpf_ktime_get_ns();
	if (p->flags & (FIN | RST) && !(b->flags & FLAG_FIN_IN) && is_taken(skb, p, b))
		set_flag(b, FLAG_FIN_IN);
	if (b->flags & FLAG_FROZEN) {
		/* it goes behind the replay; so does a packet that user space gave back just
		 * before, but not for ever, if the reader fails */
		if ((p->payload || p->flags & FIN) && (!released || b->held < FROZEN_MAX))
			return hold(skb, p, b, COUNT_HELD_MORE);
		return drop(COUNT_DROP_FROZEN);
	}
	if (b->flags & FLAG_BEHIND && !released) {
		if (held_too_long(b))
			clear_flag(b, FLAG_BEHIND);
		else if (p->payload || p->flags & FIN)
			return hold(skb, p, b, COUNT_HELD_MORE);
	}
	/* with another ack than the first one's the reader's answer would stand in the wrong place
	 */
	bool first = p->seq == b->start_seq && p->payload && p->ack == b->start_ack;
	if (!(b->flags & FLAG_ADOPTED) && !first) {
		count(COUNT_READER_PACKET);
		if (p->payload && b->tries && b->seen_ns - b->since_ns < (__u64)LASTING_MS * MS)
			return requeue(skb, released);
		return drop(COUNT_DROP_EARLY_SEGMENT);
	}
	/* what comes behind the first one waits for the socket, which another CPU makes */
	if (p->payload && p->seq != b->start_seq && !has_lasted(b) && !is_made(skb, p) &&
	    daemon_listens())
		return hold(skb, p, b, COUNT_HELD_MORE);
	if (p->payload && p->service_flags & SERVICE_STRICT) {
		int verdict = first_alone(skb, p, b);
		if (verdict != GO_ON)
			return verdict;
	}
	if (b->flags & FLAG_ADOPTED) {
		count(COUNT_READER_PACKET);
		return TC_ACT_OK;
	}
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	if (sk) {
		bool stale = sk->state != BPF_TCP_LISTEN && is_stale(sk, b, &rst_seq);
		bpf_sk_release(sk);
		if (stale)
			return end_stale_socket(skb, p, b, rst_seq);
	}
	read_options(skb, p);
	struct bpf_sock *listener = reader_listener(skb, p);
	if (!listener)
		return drop(COUNT_DROP_NO_READER);
	__u32 clock = clock_after(p, b);
	int refused = listener->state != BPF_TCP_LISTEN || assign(skb, p, b, listener, clock);
	bpf_sk_release(listener);
	if (refused)
		return refuse(skb, p, COUNT_RESET_REFUSED);
	b->tries = 0;
	b->since_ns = bpf_ktime_get_ns();
	b->tsval = p->tsval;
	b->clock = clock;
	b->window = p->window;
	set_flag(b, FLAG_ADOPTED);
	count(COUNT_READER_ADOPTED);
	return TC_ACT_OK;
}

/* The first request of a connection is the reader's. */
inline_always void read_now(struct binding *b)
{
	b->node = settings.self;
	b->state = STATE_READING;
	b->issued = issued_after(b);
}

/* A later request is: the server's socket ends, the reader goes on with the connection. */
inline_always int read_later(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &p->flow);

	if (x)
		x->start_seq = p->seq - 1; /* no connection's: it is followed anew */
	leave(b, p);
	set_flag(b, FLAG_MOVED);
	b->snd_end = p->ack;
	b->held = 0;
	b->state = STATE_READING;
	return reading(skb, p, b, false);
}
