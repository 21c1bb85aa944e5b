/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Bindings: where packets of a connection go now. The table is a bounded LRU; entries also age, and
 * an aged one counts as absent, so no sweeper is needed.
 */
#pragma once

#include "cookie.h"

inline_always __u32 set_flag(struct binding *b, __u32 flag)
{
	return __sync_fetch_and_or(&b->flags, flag);
}

inline_always __u32 clear_flag(struct binding *b, __u32 flag)
{
	return __sync_fetch_and_and(&b->flags, ~flag);
}

/* The flow's binding, whatever its age: nearly always one look-up. */
inline_always struct binding *find_binding(const struct flow_key *flow)
{
	struct binding *b = bpf_map_lookup_elem(&bindings, flow);

	if (b)
		return b;
	b = bpf_map_lookup_elem(&aside, flow);
	return b && b->state != STATE_NONE ? b : 0;
}

/* Forgets the flow. */
inline_always void forget_binding(const struct flow_key *flow)
{
	if (!bpf_map_delete_elem(&bindings, flow))
		count_population(POPULATION_REMOVED);
	bpf_map_delete_elem(&aside, flow);
}

/*
 * A connection has got an owner, and leaves those aside: first it is in the other table, which is
 * looked at first, then no more in this one. So no packet finds it undecided, or not at all, in
 * between. What stays behind says that it was decided here: who found it before must not decide it
 * again. `copy` is room for it. false: the flow is in the other table already, by a later word.
 */
inline_always bool promote(const struct flow_key *flow, struct binding *b, struct binding *copy)
{
	if (!b->aside)
		return true;
	__builtin_memcpy(copy, b, sizeof(*copy));
	copy->aside = 0;
	copy->flags &= ~FLAG_CLAIMED;
	if (bpf_map_update_elem(&bindings, flow, copy, BPF_NOEXIST))
		return false;
	b->state = STATE_NONE;
	count_population(POPULATION_MADE);
	return true;
}

/* The flow's binding, if it has one that has not aged. */
inline_always struct binding *binding_of(const struct flow_key *flow)
{
	struct binding *b = find_binding(flow);

	if (!b)
		return 0;
	__u64 now = bpf_ktime_get_ns(), idle = now - b->seen_ns;
	__u64 age = b->flags & FLAG_CLOSED   ? LINGER_MS
		    : b->flags & FLAG_FIN_IN ? HALF_CLOSED_MS
					     : IDLE_MS;
	if ((__s64)idle > (__s64)(age * MS))
		return 0;
	return b;
}

/* Held longer than a decision may take: it is open again, and decided afresh. */
inline_always bool held_too_long(const struct binding *b)
{
	return (__s64)(bpf_ktime_get_ns() - b->since_ns) > (__s64)HELD_MS * MS;
}

/* It is known whose the connection is. */
inline_always bool is_decided(const struct binding *b)
{
	return b->state == STATE_BOUND || b->state == STATE_RELEASING || b->state == STATE_ASKING;
}

/*
 * No clock that has been agreed on is so far ahead: it was decided before this node's was set back
 * to its peers', when it had just started. So it is an early one.
 */
inline_always bool is_of_the_future(__u64 issued)
{
	return (__s64)(issued - cluster_ns()) > (__s64)FUTURE_MS * MS;
}

/* Whether another decision about the flow is later than the one that the binding is by. */
inline_always bool is_later(__u64 issued, const struct binding *b)
{
	return (__s64)(issued - b->issued) > 0 ||
	       (is_of_the_future(b->issued) && !is_of_the_future(issued));
}

/* The time of a decision that comes behind the connection's last one, whatever the clocks say. */
inline_always __u64 issued_after(const struct binding *b)
{
	__u64 now = cluster_ns();

	return is_later(now, b) ? now : b->issued + 1;
}

/* Known by another node's word alone: whose it is, but not what its handshake agreed on. */
inline_always bool is_hearsay(const struct binding *b)
{
	return b->mss == 0;
}

/* Told that the connection is this node's own: without its handoff packet it is nobody's here. */
inline_always bool is_nobody(const struct binding *b)
{
	return is_decided(b) && b->node == settings.self && is_hearsay(b);
}

inline_always void tell(const struct flow_key *flow, const struct binding *b, enum event_kind kind)
{
	struct scratch *s = scratch();

	if (!s || !(settings.has_switch || requests_move() || kind == EVENT_TAKEN))
		return;
	struct event *e = &s->event;
	e->flow = *flow;
	e->start_seq = b->start_seq;
	e->kind = kind;
	e->node = b->node;
	/* who handed it off knows; when it has moved, the first one must be told */
	e->distributor =
		kind == EVENT_BOUND && !(b->flags & FLAG_MOVED) ? settings.self : b->distributor;
	e->issued = b->issued;
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		count(COUNT_EVENT_LOST);
}

/* A sign that this node's server does not work; `spoke`: its socket had said something before. */
inline_always void tell_failed(const struct flow_key *flow, const struct binding *b, enum sign sign,
			       bool spoke)
{
	struct scratch *s = scratch();

	if (!s)
		return;
	struct event *e = &s->event;
	e->flow = *flow;
	e->start_seq = b->start_seq;
	e->kind = EVENT_FAILED;
	e->node = sign;
	e->distributor = b->distributor;
	e->issued = spoke;
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		count(COUNT_EVENT_LOST);
}

/* The first word of a connection's socket: this node's kernel has taken the connection. */
inline_always void note_spoken(struct packet *p)
{
	struct service *s = service_of(p);
	__u32 id = s ? s->id : 2 * MAX_SERVICES;
	__u64 *n = bpf_map_lookup_elem(&spoken, &id);

	if (n)
		*n += 1;
}

inline_always void start_serving(struct binding *b)
{
	if (!(set_flag(b, FLAG_SERVING) & FLAG_SERVING))
		count(COUNT_SERVING_STARTED);
}

inline_always void end_serving(struct binding *b)
{
	if (clear_flag(b, FLAG_SERVING) & FLAG_SERVING)
		count(COUNT_SERVING_ENDED);
}

/* The connection that this distributor assigned has ended before its server's next report. */
inline_always void unassign(const struct binding *b)
{
	struct load *l = b->distributor == settings.self ? load_of(b->node) : 0;

	if (l && (__s32)l->assigned > 0)
		__sync_fetch_and_add(&l->assigned, -1);
}

/* A short connection has ended before an update would have spared anybody a packet. */
inline_always bool has_lasted(const struct binding *b)
{
	return bpf_ktime_get_ns() - b->since_ns > (__u64)LASTING_MS * MS;
}

/* The connection is over at its owner: load given back, once; the others are told. */
inline_always void close_binding(const struct flow_key *flow, struct binding *b)
{
	if (set_flag(b, FLAG_CLOSED) & FLAG_CLOSED)
		return;
	end_serving(b);
	if (b->flags & FLAG_ADOPTED) {
		count(COUNT_CLOSED);
		unassign(b);
		if (has_lasted(b))
			tell(flow, b, EVENT_CLOSED);
	}
}

/*
 * This node's server has nothing more to do with the connection, which goes on elsewhere with this
 * packet. The caller says where.
 */
inline_always void leave(struct binding *b, const struct packet *p)
{
	end_serving(b);
	clear_flag(b, ~FLAG_SYN_SEEN);
	b->start_seq = p->seq;
	b->start_ack = p->ack;
	b->issued = issued_after(b);
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	count(COUNT_CLOSED);
}

/* A binding gives way to the next connection of the same flow. */
inline_always void retire(struct binding *b)
{
	if (set_flag(b, FLAG_CLOSED) & FLAG_CLOSED)
		return;
	end_serving(b);
	if (b->flags & FLAG_ADOPTED)
		count(COUNT_CLOSED);
}

/*
 * Whether a packet, if it is the client's, tells more than that the client is there. An
 * acknowledgement of exactly what was sent nobody can guess who has not seen that.
 */
inline_always bool is_news(const struct packet *p, const struct binding *b)
{
	if (p->flags & RST || (p->flags & FIN && !(b->flags & FLAG_FIN_IN)))
		return true;
	return p->payload && (b->flags & (FLAG_SERVING | FLAG_ANSWERED)) != FLAG_SERVING;
}

/* Owner: a packet from the client. Busy from a request on; idle when all answers are acknowledged.
 */
inline_always void track_in(const struct packet *p, struct binding *b)
{
	b->seen_ns = bpf_ktime_get_ns();
	if (p->flags & RST) {
		close_binding(&p->flow, b);
		return;
	}
	if (p->payload && !(b->flags & FLAG_CLOSED)) {
		start_serving(b);
		clear_flag(b, FLAG_ANSWERED);
	} else if ((b->flags & (FLAG_SERVING | FLAG_ANSWERED)) == (FLAG_SERVING | FLAG_ANSWERED) &&
		   p->ack == b->snd_end) {
		end_serving(b);
	}
	if (p->flags & FIN)
		set_flag(b, FLAG_FIN_IN);
	if ((b->flags & (FLAG_FIN_IN | FLAG_FIN_OUT)) == (FLAG_FIN_IN | FLAG_FIN_OUT))
		close_binding(&p->flow, b);
}

/* Owner: a packet from the server. */
inline_always void track_out(struct packet *p, struct binding *b)
{
	__u32 end = p->seq + p->payload + (p->flags & FIN ? 1 : 0);
	bool spoke = set_flag(b, FLAG_CONFIRMED) & FLAG_CONFIRMED;

	if (!spoke && !(p->flags & RST))
		note_spoken(p);
	/* not when the client has left: then the server may well let it go without an answer */
	if (p->flags & RST && !(b->flags & (FLAG_CLOSED | FLAG_FIN_IN)) &&
	    b->snd_end == b->start_ack)
		tell_failed(&p->flow, b, SIGN_RESET, spoke);
	if (b->flags & FLAG_REPLAY && (__s32)(p->ack - b->replay_end) >= 0 &&
	    clear_flag(b, FLAG_REPLAY) & FLAG_REPLAY) {
		count(COUNT_REPLAY_TAKEN);
		tell(&p->flow, b, EVENT_TAKEN);
	}
	if ((__s32)(end - b->snd_end) > 0)
		b->snd_end = end;
	if (p->payload) {
		count_many(COUNT_BYTES_SERVED, p->payload);
		if (!(b->flags & FLAG_CLOSED))
			start_serving(b);
		set_flag(b, FLAG_ANSWERED);
	}
	if (p->flags & FIN)
		set_flag(b, FLAG_FIN_OUT);
	if ((p->flags & RST) ||
	    (b->flags & (FLAG_FIN_IN | FLAG_FIN_OUT)) == (FLAG_FIN_IN | FLAG_FIN_OUT))
		close_binding(&p->flow, b);
}
