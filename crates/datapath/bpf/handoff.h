/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The handoff packet: a wrapped packet of a client that the receiving node's server is to have. */
#pragma once

#include "rewrite.h"

/*
 * What the flow's clock reads now, for the server's socket to go on from: never behind what the
 * client echoed, and ahead of it by the round trip measured at the handshake, so that the socket's
 * first RTT sample is honest. The client's own pause before its request must not count. What a
 * reader replays echoes the clock as the reader's socket had it last.
 */
inline_always __u32 clock_for(const struct packet *p, __u16 rtt_ms)
{
	__u32 ahead = flow_clock(&p->flow) - p->tsecr;
	__u32 cap = rtt_ms == RTT_UNKNOWN ? RTT_CAP_MS : rtt_ms;

	if ((__s32)ahead < 0)
		ahead = 0;
	return p->tsecr + (ahead > cap ? cap : ahead);
}

/* As above, for a connection that has had a server: not behind what that one said last. */
inline_always __u32 clock_after(const struct packet *p, const struct binding *b)
{
	__u32 clock = clock_for(p, b->rtt_ms);

	return b->flags & FLAG_MOVED && (__s32)(b->clock - clock) > 0 ? b->clock : clock;
}

inline_always struct passed *passed_with(__u32 node)
{
	return bpf_map_lookup_elem(&handoffs_passed, &node);
}

/* Wraps the packet and sends it to the server's node. read_options() must have been called. */
function int send_handoff(struct __sk_buff *skb, const struct packet *p, const struct binding *b)
{
	struct scratch *s = scratch();

	if (!s)
		return drop(COUNT_FAULT_MAP);
	struct wrapping *w = &s->wrapping;

	__builtin_memset(w, 0, sizeof(*w));
	w->option.options = b->options;
	w->option.snd_wscale = b->snd_wscale;
	w->option.start_seq = bpf_htonl(b->start_seq);
	w->option.tsval = bpf_htonl(clock_after(p, b));
	set_issued(&w->option, b->issued);
	w->option.mss = bpf_htons(b->mss);
	w->option.distributor = bpf_htons(b->distributor);
	w->option.rtt_ms = bpf_htons(b->rtt_ms);
	w->option.cwnd = bpf_htons(b->cwnd);
	w->option.flags = bpf_htons(b->flags & (FLAG_REPLAY | FLAG_MOVED));
	w->option.replay_end = bpf_htonl(b->replay_end);
	int verdict = wrap(skb, p, b->node);
	if (verdict != TC_ACT_SHOT && b->distributor == settings.self) {
		struct passed *passed = passed_with(b->node);
		if (passed)
			passed->sent++;
	}
	return verdict;
}

/*
 * Sends a handoff packet on, as it is, to the node that the connection has been decided for since:
 * s->wrapping is what verify() has read.
 */
inline_always int hand_on(struct __sk_buff *skb, const struct packet *p, const struct binding *b)
{
	struct scratch *s = scratch();

	if (!s)
		return drop(COUNT_FAULT_MAP);
	if (p->hops + 1 >= HOPS_MAX)
		return drop(COUNT_DROP_LOOP);
	__builtin_memset(s->wrapping.ip, 0, sizeof(s->wrapping.ip));
	__builtin_memset(s->wrapping.udp, 0, sizeof(s->wrapping.udp));
	__builtin_memset(s->wrapping.geneve, 0, sizeof(s->wrapping.geneve));
	s->wrapping.option.hops = p->hops + 1;
	set_issued(&s->wrapping.option, b->issued);
	return wrap(skb, p, b->node);
}
