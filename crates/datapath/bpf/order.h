/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Orders of user space: the one way in which it changes a binding. Run as a program of its own,
 * once an order, because only in the kernel can the entry be checked and changed in one.
 */
#pragma once

#include "exchange.h"
#include "lease.h"

/* The order is about this connection, and not about an earlier or later one of the same flow. */
inline_always bool is_about(const struct order *o, const struct binding *b)
{
	return b && b->start_seq == o->start_seq;
}

inline_always bool is_held_here(const struct order *o, const struct binding *b)
{
	return is_about(o, b) && b->state == STATE_HELD && may_decide(b);
}

/* From now on the connection is `node`'s; user space gives back what it has held. */
inline_always bool to_releasing(struct order *o, const struct flow_key *flow, struct binding *b,
				__u64 issued, struct scratch *s)
{
	b->node = o->node;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	b->issued = o->issued = issued;
	b->state = STATE_RELEASING;
	return promote(flow, b, &s->told);
}

inline_always bool bind_held(struct order *o, const struct flow_key *flow, struct binding *b,
			     struct scratch *s)
{
	return is_held_here(o, b) && to_releasing(o, flow, b, issued_after(b), s);
}

/*
 * More may have been read than is counted: what was on its way when the counting began. Then one
 * that is counted may be on its way yet, and be overtaken by the next of the client's: TCP repairs
 * that.
 */
inline_always bool released_all(struct order *o, struct binding *b)
{
	if (!is_about(o, b) || (__s32)(o->held - b->held) < 0)
		return false;
	if (b->state == STATE_READING && b->flags & FLAG_BEHIND) {
		b->held = 0;
		clear_flag(b, FLAG_BEHIND);
		return true;
	}
	if (b->state != STATE_RELEASING)
		return false;
	b->state = STATE_BOUND;
	return true;
}

inline_always bool read_held(struct order *o, struct binding *b)
{
	if (!is_held_here(o, b))
		return false;
	b->node = settings.self;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	b->issued = issued_after(b);
	set_flag(b, FLAG_BEHIND);
	b->state = STATE_READING;
	return true;
}

inline_always bool decide_asked(struct order *o, const struct flow_key *flow, struct binding *b)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, flow);

	if (!b || b->state != STATE_ASKING || !x)
		return false;
	x->decided_seq = o->start_seq;
	x->decided = o->node;
	b->since_ns = bpf_ktime_get_ns();
	b->state = STATE_RELEASING;
	o->start_seq = b->start_seq;
	return true;
}

inline_always bool freeze(struct order *o, struct binding *b)
{
	if (!is_about(o, b) || b->state != STATE_READING)
		return false;
	set_flag(b, FLAG_FROZEN);
	return true;
}

/* Of a connection that had a server before, this node is the owner: no lease is needed. */
inline_always bool bind_read(struct order *o, const struct flow_key *flow, struct binding *b,
			     struct scratch *s)
{
	if (!is_about(o, b) || b->state != STATE_READING || !may_decide(b))
		return false;
	struct exchange *x = bpf_map_lookup_elem(&exchanges, flow);
	if (x)
		x->early = x->cut = 0; /* its server's node judges now */
	b->replay_end = o->held;
	b->flags = FLAG_REPLAY | (b->flags & (FLAG_MOVED | FLAG_SYN_SEEN));
	return to_releasing(o, flow, b, issued_after(b), s);
}

inline_always bool close_told(struct order *o, struct binding *b)
{
	if (!is_about(o, b) || b->node == settings.self)
		return false;
	b->seen_ns = bpf_ktime_get_ns();
	set_flag(b, FLAG_CLOSED);
	return true;
}

/*
 * Decided afresh elsewhere, because the handoff packet was lost. If it was not, two servers have
 * the connection, which must never be: the later decision stands, and what the socket here sends
 * goes nowhere any more.
 */
inline_always bool bind_afresh(struct order *o, struct binding *b)
{
	if (b->flags & FLAG_ADOPTED && b->node == settings.self) {
		if (o->node == settings.self)
			return false;
		count(COUNT_TWO_OWNERS);
		retire(b);
		clear_flag(b, ~FLAG_SYN_SEEN);
	}
	b->node = o->node;
	b->issued = o->issued;
	if (b->state == STATE_ASKING)
		b->state = STATE_BOUND;
	return true;
}

/* The flow is a connection that this node knows nothing of but whose it is. */
inline_always bool bind_anew(const struct order *o, const struct flow_key *flow, struct binding *b,
			     struct scratch *s)
{
	bool there = b && !b->aside;
	if (b)
		retire(b);
	struct binding *fresh = &s->told;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->seen_ns = fresh->since_ns = bpf_ktime_get_ns();
	fresh->start_seq = o->start_seq;
	fresh->issued = o->issued;
	fresh->node = o->node;
	fresh->distributor = o->distributor;
	fresh->state = STATE_BOUND;
	if (bpf_map_update_elem(&bindings, flow, fresh, there ? BPF_ANY : BPF_NOEXIST))
		return false;
	if (!there)
		count_population(POPULATION_MADE);
	if (b && !there)
		bpf_map_delete_elem(&aside, flow);
	return true;
}

/* News may be late: what is known of a younger connection stands. */
inline_always bool bind_told(struct order *o, const struct flow_key *flow, struct binding *b,
			     struct scratch *s)
{
	if (is_past(flow, o->start_seq))
		return false;
	if (b && (is_decided(b) || b->state == STATE_READING) && !is_later(o->issued, b))
		return false;
	if (is_about(o, b) && is_decided(b))
		return bind_afresh(o, b);
	return bind_anew(o, flow, b, s);
}

/* Nothing here was about the packet that was asked about: what came since stands. */
inline_always bool bind_found(struct order *o, const struct flow_key *flow, struct binding *b,
			      struct scratch *s)
{
	struct binding *since = binding_of(flow);

	return (!since || is_nobody(since)) && bind_anew(o, flow, b, s);
}

/* Carries an order out; `done` says whether it was one that still makes sense. */
SEC("syscall")
int apply_order(struct order *o)
{
	struct flow_key flow = o->flow;
	struct binding *b = find_binding(&flow);
	struct scratch *s = scratch();

	o->done = 0;
	if (!s)
		return 0;
	switch (o->kind) {
	case ORDER_BIND_HELD:
		o->done = bind_held(o, &flow, b, s);
		break;
	case ORDER_BIND_TOLD:
		o->done = bind_told(o, &flow, b, s);
		break;
	case ORDER_BIND_FOUND:
		o->done = bind_found(o, &flow, b, s);
		break;
	case ORDER_BIND_READ:
		o->done = bind_read(o, &flow, b, s);
		break;
	case ORDER_READ_HELD:
		o->done = read_held(o, b);
		break;
	case ORDER_RELEASED:
		o->done = released_all(o, b);
		break;
	case ORDER_DECIDE_ASKED:
		o->done = decide_asked(o, &flow, b);
		break;
	case ORDER_FREEZE:
		o->done = freeze(o, b);
		break;
	case ORDER_CLOSE_TOLD:
		o->done = close_told(o, b);
		break;
	default: /* of another version's daemon */
		count(COUNT_FAULT_ORDER);
	}
	return 0;
}

struct beginning {
	struct packet p;
	__u32 found;
};

/* One byte further back. */
static long begins_before(__u32 bytes, void *context)
{
	struct beginning *of = context;

	of->p.seq--;
	for (__u32 i = 0; i < LEASES_MAX; i++) {
		struct lease *l = lease_at(i);
		if (!l)
			break;
		if (is_cookie(&of->p, l->term, false)) {
			of->found = 1;
			return 1;
		}
	}
	return 0;
}

/*
 * A cookie says where its connection begins, and what comes before that was acknowledged by nobody.
 */
SEC("syscall")
int has_begun(struct begun *o)
{
	struct beginning of = {};

	of.p.flow = o->flow;
	of.p.seq = o->seq + 2; /* a keepalive's is one short of where it begins */
	of.p.ack = o->ack;
	of.p.tsecr = o->tsecr;
	of.p.found = o->timestamps ? FOUND_TIMESTAMPS : 0;
	if (echoes(&of.p))
		bpf_loop(BEGUN_REACH + 2, begins_before, &of, 0);
	o->answer = of.found;
	return 0;
}
