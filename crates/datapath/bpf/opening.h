/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A distributor's connection until it is bound: the handshake, its first request, and what comes of
 * a flow that nobody knows.
 */
#pragma once

#include "bound.h"

/* What the distributor knows of a connection whose handshake is complete. */
inline_always void describe(struct packet *p, struct binding *b)
{
	__u32 low = (p->ack - 1) & 0xff;
	bool wscale = (low & 15) != NO_WSCALE;

	__builtin_memset(b, 0, sizeof(*b));
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	b->start_seq = p->seq;
	b->start_ack = p->ack;
	b->snd_end = p->ack;
	b->node = NO_NODE;
	b->distributor = settings.self;
	b->mss = mss_of_class(p->v6, low >> 6);
	b->state = STATE_OPEN;
	b->snd_wscale = wscale ? low & 15 : 0;
	b->options = (wscale ? OPTION_WSCALE : 0) | (low & 16 ? OPTION_SACK : 0) |
		     (p->found & FOUND_TIMESTAMPS ? OPTION_TIMESTAMPS : 0);
	b->rtt_ms = RTT_UNKNOWN;
	if (!p->payload && (p->found & FOUND_TIMESTAMPS)) {
		__u32 rtt = flow_clock(&p->flow) - p->tsecr;
		b->rtt_ms = rtt < RTT_CAP_MS ? rtt : RTT_CAP_MS;
	}
}

/* No verdict yet: the binding says whose packet it is now. */
enum { DECIDED = -2 };

inline_always int decide_first(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	enum counter why = COUNT_HELD_HEAD;
	struct scratch *s = scratch();
	__u16 server = NO_NODE;

	if (!s)
		return drop(COUNT_FAULT_MAP);
	count(COUNT_REQUEST_FIRST);
	b->start_seq = p->seq;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	bool listens = daemon_listens();
	bool sealed = p->service_flags & (SERVICE_TLS | SERVICE_TCP);
	enum fed fed = sealed ? FED_DOUBT : read_first(skb, p, s);
	if (fed != FED_FOLLOWED)
		s->reading.flags |= READ_ODD_PATH; /* whatever it is, it is not to be decided by */
	else if (!(s->reading.flags & (s->whole_head ? READ_HEAD : READ_LINE))) {
		if (listens) {
			read_now(b);
			return DECIDED;
		}
		s->reading.flags |= READ_ODD_PATH; /* nor is half a path */
	}
	if (fed == FED_FOLLOWED && p->service_flags & SERVICE_STRICT &&
	    s->reading.flags & READ_AGAIN)
		why = COUNT_HELD_PIPELINED;
	else if (p->service_flags & SERVICE_TLS)
		why = COUNT_HELD_HELLO;
	else
		p->pool = choose_pool(p, s);
	if (p->pool != POOL_UNKNOWN && why == COUNT_HELD_HEAD)
		server = decide(p, s, &why);
	else if (!listens)
		why = COUNT_DROP_NO_SERVER;
	if (server == NO_NODE) {
		if (why == COUNT_DROP_NO_SERVER || why == COUNT_DECIDED_ALONE)
			return drop(COUNT_DROP_NO_SERVER);
		b->held = 0;
		b->state = STATE_HELD;
		return hold(skb, p, b, why);
	}
	struct load *l = load_of(server);
	if (l)
		__sync_fetch_and_add(&l->assigned, 1);
	__u32 to = server;
	__u64 *handed = bpf_map_lookup_elem(&handed_to, &to);
	if (handed)
		*handed += 1;
	count(why);
	b->node = server;
	b->state = STATE_BOUND;
	b->issued = wall_ns();
	if (server == settings.self)
		count(COUNT_HANDOFF_LOCAL);
	return DECIDED;
}

inline_always bool may_be_decided(const struct binding *b)
{
	return b->state == STATE_OPEN || (b->state == STATE_HELD && held_too_long(b));
}

/*
 * The first request of a connection: decide and bind. Its packet may be here twice at once, on two
 * CPUs: two servers must not both get it.
 */
function int first_request(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	if (set_flag(b, FLAG_CLAIMED) & FLAG_CLAIMED)
		return drop(COUNT_DROP_BUSY);
	int verdict = may_be_decided(b) ? decide_first(skb, p, b) : drop(COUNT_DROP_BUSY);
	clear_flag(b, FLAG_CLAIMED);
	return verdict;
}

/* A FIN before any request: nobody else will answer it. */
function int answer_fin(struct __sk_buff *skb, struct packet *p)
{
	struct reply r = {
		.seq = p->ack,
		.ack = p->seq + 1,
		.window = SYNACK_WINDOW >> RCV_WSCALE,
		.flags = FIN | ACK,
	};

	bpf_map_delete_elem(&bindings, &p->flow);
	read_options(skb, p);
	count(COUNT_FIN_ANSWERED);
	return answer(skb, p, &r);
}

/* The handshake is complete, no request has been decided yet. */
function int open(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	if (p->flags & RST) {
		if (!is_near_start(p, b))
			return drop(COUNT_DROP_BLIND_RESET);
		bpf_map_delete_elem(&bindings, &p->flow);
		return drop(COUNT_OPEN_RESET);
	}
	b->seen_ns = bpf_ktime_get_ns();
	if (p->payload && p->seq == b->start_seq)
		return first_request(skb, p, b);
	if (p->seq == b->start_seq - 1 && p->payload <= 1) { /* RFC 9293 3.8.4 */
		struct reply r = {
			.seq = b->start_ack,
			.ack = b->start_seq,
			.window = SYNACK_WINDOW >> (b->options & OPTION_WSCALE ? RCV_WSCALE : 0),
			.flags = ACK,
		};
		read_options(skb, p);
		count(COUNT_KEEPALIVE_ANSWERED);
		return answer(skb, p, &r);
	}
	if (p->payload || ((p->flags & FIN) && p->seq != b->start_seq))
		return drop(COUNT_DROP_EARLY_SEGMENT);
	if (p->flags & FIN)
		return answer_fin(skb, p);
	return drop(COUNT_HANDSHAKE_ACK);
}

inline_always int held(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (p->flags & RST) {
		if (!is_near_start(p, b))
			return drop(COUNT_DROP_BLIND_RESET);
		bpf_map_delete_elem(&bindings, &p->flow);
		return drop(COUNT_OPEN_RESET);
	}
	if (!p->payload && !(p->flags & FIN))
		return drop(COUNT_DROP_HELD_ACK);
	/* given back too late: never for ever */
	if (released)
		return drop(COUNT_DROP_EARLY_SEGMENT);
	return hold(skb, p, b, COUNT_HELD_MORE);
}

/* A flow that has no binding, at a node that may make one. */
function int unknown(struct __sk_buff *skb, struct packet *p, __u16 from)
{
	struct scratch *s = scratch();
	int age = (p->flags & (ACK | RST)) == ACK ? cookie_age(p, 2) : -1;

	/* An old connection's socket does not stand in the way of a proven new one. */
	if (age < 0) {
		if (settings.roles & ROLE_SERVER) {
			struct bpf_sock *sk = socket_of(skb, &p->flow);
			__u32 state = sk ? sk->state : 0;
			if (sk)
				bpf_sk_release(sk);
			if (state && state != BPF_TCP_LISTEN) {
				count(COUNT_OWNED_UNBOUND);
				return up(skb, p);
			}
		}
		if (p->flags & RST)
			return drop(COUNT_DROP_UNKNOWN_RESET);
		if (!(settings.roles & ROLE_DISTRIBUTOR) || !(p->flags & ACK) ||
		    (!p->payload && !(p->flags & FIN)) || cookie_age(p, COOKIE_SLOTS_OLD) < 0)
			return drop(COUNT_DROP_UNKNOWN_FLOW);
		return refuse(skb, p, COUNT_RESET_EXPIRED);
	}
	if (!(settings.roles & ROLE_DISTRIBUTOR))
		return drop(COUNT_DROP_UNKNOWN_FLOW);
	/*
	 * The ACK and the request behind it, or either twice, may be here at once, on two CPUs.
	 * What the request was decided for none must take back: each goes on with the binding that
	 * is there first, and of an earlier connection's only one of them takes the place.
	 */
	struct binding *old = bpf_map_lookup_elem(&bindings, &p->flow);
	if (old && old->start_seq == p->seq && old->start_ack == p->ack && binding_of(&p->flow))
		old = 0;
	if (old && set_flag(old, FLAG_REPLACED) & FLAG_REPLACED)
		return drop(COUNT_DROP_BUSY);
	if (old)
		retire(old);
	read_options(skb, p);
	if (!s)
		return drop(COUNT_FAULT_MAP);
	struct binding *b = &s->binding;
	describe(p, b);
	if (!p->payload) {
		if (p->flags & FIN)
			return answer_fin(skb, p);
		count(COUNT_HANDSHAKE_ACK);
	}
	long failed = bpf_map_update_elem(&bindings, &p->flow, b, old ? BPF_ANY : BPF_NOEXIST);
	if (failed && failed != -EEXIST) {
		if (old)
			clear_flag(old, FLAG_REPLACED);
		return drop(COUNT_FAULT_MAP);
	}
	if (!p->payload)
		return TC_ACT_SHOT;
	struct binding *fresh = bpf_map_lookup_elem(&bindings, &p->flow);
	if (!fresh)
		return drop(COUNT_FAULT_MAP);
	return fresh->start_seq == p->seq ? first_request(skb, p, fresh) : drop(COUNT_DROP_BUSY);
}

function int syn(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	if (!(settings.roles & ROLE_DISTRIBUTOR))
		return drop(COUNT_DROP_NO_ROLE);
	/* The receiver verified most; what a device left unverified must be right to be answered.
	 */
	if (ip_summed(skb) == CHECKSUM_NONE && !p->payload) {
		struct scratch *s = scratch();
		__u32 n = p->header & 63; /* verifier: a bound that clang cannot fold away */
		if (!s || n < TCP_MIN || bpf_skb_load_bytes(skb, p->l4, s->head, n))
			return drop(COUNT_DROP_MALFORMED);
		if (fold(pseudo_sum(p, n) + bpf_csum_diff(0, 0, (__be32 *)s->head, n & ~3, 0)) !=
		    0xffff)
			return drop(COUNT_DROP_CHECKSUM);
	}
	/* as at a port where nobody listens (RFC 9293 3.10.7.1) */
	if (p->service_flags & SERVICE_ENDING) {
		struct reply closed = {.ack = p->seq + 1 + p->payload, .flags = RST | ACK};
		count(COUNT_RESET_ENDING);
		return answer(skb, p, &closed);
	}
	read_options(skb, p);
	__u32 low = class_of_mss(p->v6, p->found & FOUND_MSS ? p->mss : 0) << 6 |
		    (p->found & FOUND_SACK ? 16 : 0) |
		    (p->found & FOUND_WSCALE ? p->wscale : NO_WSCALE);
	__u32 slot = (wall_ns() >> COOKIE_SLOT_SHIFT) & 0xffffff;
	struct reply r = {
		.seq = cookie_of(&p->flow, p->seq, slot, low),
		.ack = p->seq + 1,
		.window = SYNACK_WINDOW,
		.flags = SYN | ACK,
	};
	count(COUNT_SYN_ANSWERED);
	return answer(skb, p, &r);
}
