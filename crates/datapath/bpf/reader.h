/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The reader: a listening socket of user space on this node, which takes connections whose next
 * request cannot be told from one packet. It reads the head, and hands the connection off by giving
 * the client's bytes to the server once more; then the programs forget that it was there.
 */
#pragma once

#include "adopt.h"

inline_always struct bpf_sock *reader_listener(struct __sk_buff *skb)
{
	struct live *l = live_values();
	struct bpf_sock_tuple t = {.ipv4 = {
					   .daddr = bpf_htonl(0x7f000001),
					   .dport = l ? l->reader_port : 0,
				   }};

	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
}

/* A packet of a connection that the reader has, or is to have. */
function int reading(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	__u32 rst_seq = 0;

	b->seen_ns = bpf_ktime_get_ns();
	if (p->flags & (FIN | RST))
		set_flag(b, FLAG_FIN_IN);
	if (b->flags & FLAG_FROZEN)
		return drop(COUNT_DROP_FROZEN);
	if (b->flags & FLAG_ADOPTED || p->seq != b->start_seq || !p->payload) {
		count(COUNT_READER_PACKET);
		return b->flags & FLAG_ADOPTED ? TC_ACT_OK : drop(COUNT_DROP_EARLY_SEGMENT);
	}
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	if (sk) {
		bool stale = sk->state != BPF_TCP_LISTEN && is_stale(sk, b, &rst_seq);
		bpf_sk_release(sk);
		if (stale)
			return end_stale_socket(skb, p, b, rst_seq);
	}
	read_options(skb, p);
	struct bpf_sock *listener = reader_listener(skb);
	if (!listener)
		return drop(COUNT_DROP_NO_READER);
	int refused = listener->state != BPF_TCP_LISTEN ||
		      assign(skb, p, b, listener, clock_for(p, b->rtt_ms));
	bpf_sk_release(listener);
	if (refused)
		return refuse(skb, p, COUNT_RESET_REFUSED);
	b->tries = 0;
	b->tsval = p->tsval;
	b->tsecr = p->tsecr;
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
	b->issued = wall_ns();
}

/* A later request is: the server's socket ends, the reader goes on with the connection. */
inline_always int read_later(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	__u64 now = wall_ns();

	end_serving(b);
	clear_flag(b, ~FLAG_SYN_SEEN);
	set_flag(b, FLAG_MOVED);
	b->start_seq = p->seq;
	b->start_ack = p->ack;
	b->snd_end = p->ack;
	b->state = STATE_READING;
	b->issued = (__s64)(now - b->issued) > 0 ? now : b->issued + 1;
	b->since_ns = bpf_ktime_get_ns();
	count(COUNT_CLOSED);
	return reading(skb, p, b);
}
