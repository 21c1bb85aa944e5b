/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What other nodes, and the network, send about a connection: handoff packets, ICMP errors. */
#pragma once

#include "opening.h"

/* What a handoff packet says of its connection. */
inline_always void learn(struct binding *b, const struct handoff_option *o, const struct packet *p)
{
	b->start_ack = p->ack;
	b->snd_end = p->ack;
	b->issued = issued_of(o);
	b->distributor = bpf_ntohs(o->distributor);
	b->mss = bpf_ntohs(o->mss);
	b->rtt_ms = bpf_ntohs(o->rtt_ms);
	b->options = o->options;
	b->snd_wscale = o->snd_wscale;
	b->cwnd = bpf_ntohs(o->cwnd);
	b->replay_end = bpf_ntohl(o->replay_end);
	set_flag(b, bpf_ntohs(o->flags) & (FLAG_REPLAY | FLAG_MOVED));
}

/* A handoff packet from a distributor: this node is to own the connection. GO_ON: it does. */
inline_always int handoff(struct __sk_buff *skb, struct packet *p, struct scratch *s)
{
	const struct handoff_option *o = &s->wrapping.option;

	if (!(settings.roles & ROLE_SERVER))
		return drop(COUNT_DROP_NO_ROLE);
	struct passed *passed = passed_with(p->from);
	if (passed)
		passed->taken++;
	__u32 start_seq = bpf_ntohl(o->start_seq);
	struct binding *b = binding_of(&p->flow);
	bool later = b && is_later(issued_of(o), b);
	/* repeated, and what it began was over when this node's reader got the connection */
	if (b && b->state == STATE_READING && !later)
		return drop(COUNT_DROP_HANDOFF_STALE);
	bool aside_too = b && b->aside;
	if (b && !is_decided(b))
		b = 0;
	count(COUNT_HANDOFF_RECEIVED);
	if (b && b->start_seq == start_seq && b->node != settings.self && !later)
		return hand_on(skb, p, b);
	read_options(skb, p);
	if (b) {
		if (b->start_seq != start_seq) {
			if (!later && b->issued != issued_of(o))
				return drop(COUNT_DROP_HANDOFF_STALE);
			retire(b);
			b = 0;
		} else if (b->node == settings.self) {
			if (is_hearsay(b))
				learn(b, o, p);
			else if (o->flags & bpf_htons(FLAG_REPLAY) && !(b->flags & FLAG_REPLAY) &&
				 b->flags & FLAG_CONFIRMED)
				/* the reader repeats it: the word that it was taken got lost */
				tell(&p->flow, b, EVENT_TAKEN);
		} else {
			/*
			 * The node we had handed it to never got it, and has decided the client's
			 * repetition afresh: for us.
			 */
			b->node = settings.self;
			b->state = STATE_BOUND;
			b->flags = 0;
			b->start_seq = start_seq;
			learn(b, o, p);
		}
	}
	if (!b) {
		struct binding *fresh = &s->binding;
		__builtin_memset(fresh, 0, sizeof(*fresh));
		fresh->seen_ns = fresh->since_ns = bpf_ktime_get_ns();
		fresh->start_seq = start_seq;
		fresh->node = settings.self;
		fresh->state = STATE_BOUND;
		learn(fresh, o, p);
		bool there = bpf_map_lookup_elem(&bindings, &p->flow);
		if (bpf_map_update_elem(&bindings, &p->flow, fresh, BPF_ANY))
			return drop(COUNT_FAULT_MAP);
		if (!there)
			count_population(POPULATION_MADE);
		if (aside_too)
			bpf_map_delete_elem(&aside, &p->flow);
		b = bpf_map_lookup_elem(&bindings, &p->flow);
		if (!b)
			return drop(COUNT_FAULT_MAP);
	}
	p->clock = bpf_ntohl(o->tsval);
	p->has_clock = 1;
	return GO_ON;
}

/* An ICMP error about a connection: for the stack of the node that has it. */
function int icmp(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = binding_of(&p->flow);
	__u16 from = sender(skb, p), to = NO_NODE;

	if (b && is_decided(b))
		to = b->node;
	else if (b)
		to = settings.self;
	else if (settings.roles & ROLE_SWITCH && from == NO_NODE)
		to = choice(&p->flow);
	if (to == NO_NODE || (to == settings.self && !b))
		return drop(COUNT_DROP_ICMP_UNKNOWN);
	if (to != settings.self)
		return to == from ? drop(COUNT_DROP_LOOP)
				  : forward(skb, p, to, COUNT_ICMP_FORWARDED);
	count(COUNT_ICMP_OWNED);
	return up(skb, p);
}
