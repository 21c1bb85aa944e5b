/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Orders of user space: the one way in which it changes a binding. Run as a program of its own,
 * once an order, because only in the kernel can the entry be checked and changed in one.
 */
#pragma once

#include "exchange.h"

/* Binds, or closes, what user space decided or was told. */
SEC("syscall")
int apply_order(struct order *o)
{
	struct flow_key flow = o->flow;
	struct binding *b = bpf_map_lookup_elem(&bindings, &flow);
	__u64 now = bpf_ktime_get_ns();

	o->done = 0;
	if (o->kind == ORDER_BIND_HELD) {
		if (!b || b->state != STATE_HELD || b->start_seq != o->start_seq)
			return 0;
		b->node = o->node;
		b->seen_ns = b->since_ns = now;
		b->issued = o->issued = wall_ns();
		b->state = STATE_RELEASING;
	} else if (o->kind == ORDER_RELEASED) {
		/*
		 * More may have been read than is counted: what was on its way when the counting
		 * began. Then one that is counted may be on its way yet, and be overtaken by the
		 * next of the client's: TCP repairs that.
		 */
		if (!b || b->start_seq != o->start_seq || (__s32)(o->held - b->held) < 0)
			return 0;
		if (b->state == STATE_READING && b->flags & FLAG_BEHIND) {
			b->held = 0;
			clear_flag(b, FLAG_BEHIND);
		} else if (b->state == STATE_RELEASING) {
			b->state = STATE_BOUND;
		} else {
			return 0;
		}
	} else if (o->kind == ORDER_READ_HELD) {
		if (!b || b->state != STATE_HELD || b->start_seq != o->start_seq)
			return 0;
		b->node = settings.self;
		b->seen_ns = b->since_ns = now;
		b->issued = wall_ns();
		set_flag(b, FLAG_BEHIND);
		b->state = STATE_READING;
	} else if (o->kind == ORDER_DECIDE_ASKED) {
		struct exchange *x = bpf_map_lookup_elem(&exchanges, &flow);
		if (!b || b->state != STATE_ASKING || !x)
			return 0;
		x->decided_seq = o->start_seq;
		x->decided = o->node;
		b->since_ns = now;
		b->state = STATE_RELEASING;
		o->start_seq = b->start_seq;
	} else if (o->kind == ORDER_FREEZE) {
		if (!b || b->state != STATE_READING || b->start_seq != o->start_seq)
			return 0;
		set_flag(b, FLAG_FROZEN);
	} else if (o->kind == ORDER_BIND_READ) {
		if (!b || b->state != STATE_READING || b->start_seq != o->start_seq)
			return 0;
		b->node = o->node;
		b->seen_ns = b->since_ns = now;
		b->issued = o->issued = b->issued + 1 > wall_ns() ? b->issued + 1 : wall_ns();
		struct exchange *x = bpf_map_lookup_elem(&exchanges, &flow);
		if (x)
			x->early = x->cut = 0; /* its server's node judges now */
		b->replay_end = o->held;
		b->flags = FLAG_REPLAY | (b->flags & (FLAG_MOVED | FLAG_SYN_SEEN));
		b->state = STATE_RELEASING;
	} else if (o->kind == ORDER_CLOSE_TOLD) {
		if (!b || b->start_seq != o->start_seq || b->node == settings.self)
			return 0;
		b->seen_ns = now;
		set_flag(b, FLAG_CLOSED);
	} else {
		/* news may be late: what is known of a younger connection stands */
		if (b && (is_decided(b) || b->state == STATE_READING) &&
		    (__s64)(o->issued - b->issued) <= 0)
			return 0;
		if (b && is_decided(b) && b->start_seq == o->start_seq) {
			/* decided afresh elsewhere, because the handoff packet was lost */
			if (b->flags & FLAG_ADOPTED)
				return 0;
			b->node = o->node;
			b->issued = o->issued;
			if (b->state == STATE_ASKING)
				b->state = STATE_BOUND;
			o->done = 1;
			return 0;
		}
		struct scratch *s = scratch();
		if (!s)
			return 0;
		if (b)
			retire(b);
		struct binding *fresh = &s->told;
		__builtin_memset(fresh, 0, sizeof(*fresh));
		fresh->seen_ns = fresh->since_ns = now;
		fresh->start_seq = o->start_seq;
		fresh->issued = o->issued;
		fresh->node = o->node;
		fresh->distributor = o->distributor;
		fresh->state = STATE_BOUND;
		if (bpf_map_update_elem(&bindings, &flow, fresh, b ? BPF_ANY : BPF_NOEXIST))
			return 0;
	}
	o->done = 1;
	return 0;
}
