/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A distributor's connection until it is bound: the handshake, its first request, and what comes of
 * a flow that nobody knows.
 */
#pragma once

#include "bound.h"
#include "lease.h"
#include "whose.h"

/* What the distributor knows of a connection whose handshake is complete. */
inline_always void describe(struct packet *p, struct binding *b, __u32 term)
{
	__u32 low = p->ack - 1;

	__builtin_memset(b, 0, sizeof(*b));
	if (p->found & FOUND_TIMESTAMPS) {
		bool wscale = (low & 15) != NO_WSCALE;
		b->mss = mss_of_class(p->v6, low >> 5 & 3);
		b->snd_wscale = wscale ? low & 15 : 0;
		b->options = OPTION_TIMESTAMPS | (wscale ? OPTION_WSCALE : 0) |
			     (low & 16 ? OPTION_SACK : 0);
	} else {
		__u32 profile = low & 7;
		b->mss = mss_of_class(p->v6, low >> 3 & 3);
		b->snd_wscale = profile >= PROFILE_SCALED ? scale_of_profile(profile) : 0;
		b->options = (profile >= PROFILE_SCALED ? OPTION_WSCALE : 0) |
			     (profile >= PROFILE_SACK ? OPTION_SACK : 0);
	}
	b->term = term;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	b->start_seq = p->seq;
	b->start_ack = p->ack;
	b->snd_end = p->ack;
	b->node = NO_NODE;
	b->distributor = settings.self;
	b->state = STATE_OPEN;
	b->aside = 1;
	b->rtt_ms = RTT_UNKNOWN;
	if (!p->payload && (p->found & FOUND_TIMESTAMPS)) {
		__u32 rtt = flow_clock(&p->flow) - p->tsecr;
		b->rtt_ms = rtt < RTT_CAP_MS ? rtt : RTT_CAP_MS;
	}
}

/* Decides a first request. GO_ON: the binding says now whose its packet is. */
inline_always int decide_first(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct choice choice = no_server(COUNT_HELD_HEAD);
	struct scratch *s = scratch();

	if (!s)
		return drop(COUNT_FAULT_MAP);
	count(COUNT_REQUEST_FIRST);
	b->start_seq = p->seq;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	bool listens = daemon_listens();
	bool sealed = p->service_flags & (SERVICE_TLS | SERVICE_TCP);
	enum fed fed = sealed ? FED_DOUBT : read_first(skb, p, s);
	struct reading *r = &s->walk.reading;
	bool whole =
		fed == FED_FOLLOWED && r->flags & (needs_whole_head(p) ? READ_HEAD : READ_LINE);
	if (fed == FED_FOLLOWED && !whole && listens) {
		read_now(b);
		return GO_ON;
	}
	if (!whole)
		r->flags |= READ_NO_PATH; /* whatever its path is, it is not whole */
	if (fed == FED_FOLLOWED && p->service_flags & SERVICE_STRICT && r->flags & READ_AGAIN)
		choice.why = COUNT_HELD_PIPELINED;
	else if (p->service_flags & SERVICE_TLS)
		choice.why = COUNT_HELD_HELLO;
	else
		p->pool = choose_pool(p);
	if (p->pool != POOL_UNKNOWN && choice.why == COUNT_HELD_HEAD)
		decide(p, &choice);
	else if (!listens)
		choice.why = COUNT_DROP_NO_SERVER;
	if (choice.server == NO_NODE) {
		if (choice.why == COUNT_RESET_NO_SERVER)
			return refuse(skb, p, COUNT_RESET_NO_SERVER);
		if (choice.why == COUNT_DROP_NO_SERVER)
			return drop(COUNT_DROP_NO_SERVER);
		b->held = 0;
		b->state = STATE_HELD;
		return hold(skb, p, b, choice.why);
	}
	struct load *l = load_of(choice.server);
	if (l)
		__sync_fetch_and_add(&l->assigned, 1);
	__u32 to = choice.server;
	__u64 *handed = bpf_map_lookup_elem(&handed_to, &to);
	if (handed)
		*handed += 1;
	count(choice.why);
	b->node = choice.server;
	b->state = STATE_BOUND;
	b->issued = issued_after(b);
	if (choice.server == settings.self)
		count(COUNT_HANDOFF_LOCAL);
	return GO_ON;
}

/* No request that the client did not mean to be repeated: RFC 9110 9.2.1, RFC 8446 8. */
inline_always bool is_repeatable(struct __sk_buff *skb, const struct packet *p)
{
	char method[5] = {};

	if (p->service_flags & SERVICE_TLS)
		return true;
	if (p->service_flags & SERVICE_TCP || p->payload < sizeof(method) ||
	    bpf_skb_load_bytes(skb, p->l4 + p->header, method, sizeof(method)))
		return false;
	return !__builtin_memcmp(method, "GET ", 4) || !__builtin_memcmp(method, "HEAD ", 5);
}

/*
 * Whether the packet is the first one, again, of a connection that this node has decided for one
 * that is down. The client has heard nothing: so the packet never got there, or what the server's
 * stack said to it is lost. A node is down, too, when only its daemon is: it has been asked once
 * more since, and again the client has heard nothing.
 */
function bool is_unheard(struct __sk_buff *skb, const struct packet *p, struct binding *b)
{
	if (!p->payload || p->seq != b->start_seq || p->ack != b->start_ack || is_hearsay(b) ||
	    b->state != STATE_BOUND || b->node == settings.self || b->flags & FLAG_REPLAY ||
	    !(b->flags & FLAG_HANDED) ||
	    (b->distributor != settings.self && !(b->flags & FLAG_MOVED)))
		return false;
	struct load *l = load_of(b->node);
	if (!l || l->live || !is_repeatable(skb, p))
		return false;
	__u64 now = bpf_ktime_get_ns();
	if (!l->gone && !(set_flag(b, FLAG_ASKED_AGAIN) & FLAG_ASKED_AGAIN)) {
		b->since_ns = now;
		return false;
	}
	return l->gone || now - b->since_ns > (__u64)DEAF_MS * MS;
}

inline_always bool may_be_decided(const struct binding *b)
{
	return b->state == STATE_OPEN || (b->state == STATE_HELD && held_too_long(b));
}

/*
 * The first request of a connection: decide and bind. Its packet may be here twice at once, on two
 * CPUs: two servers must not both get it.
 */
global int first_request(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	if (!p || !b)
		return drop(COUNT_FAULT_MAP);
	if (must_ask(b)) {
		/* known from when it was this node's own */
		forget_binding(&p->flow);
		return ask_whose(skb, p, NO_NODE, ASK_HEIR, COUNT_RESET_UNKNOWN);
	}
	if (is_left(b)) {
		forget_binding(&p->flow);
		return ask_whose(skb, p, NO_NODE, ASK_WHOSE, COUNT_RESET_UNKNOWN);
	}
	if (!may_decide(b))
		return drop(COUNT_DROP_NO_LEASE);
	if (set_flag(b, FLAG_CLAIMED) & FLAG_CLAIMED)
		return drop(COUNT_DROP_BUSY);
	int verdict = may_be_decided(b) ? decide_first(skb, p, b) : drop(COUNT_DROP_BUSY);
	struct scratch *s = scratch();
	if (verdict == GO_ON && b->state == STATE_BOUND &&
	    (!s || !promote(&p->flow, b, &s->binding)))
		verdict = drop(COUNT_DROP_BUSY);
	clear_flag(b, FLAG_CLAIMED);
	return verdict;
}

/* The same once more: what it was decided for is down. */
function int decide_again(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	if (!may_decide(b))
		return drop(COUNT_DROP_NO_LEASE);
	if (set_flag(b, FLAG_CLAIMED) & FLAG_CLAIMED)
		return drop(COUNT_DROP_BUSY);
	int verdict;
	/* another CPU may have done it meanwhile */
	if (b->state == STATE_BOUND && b->flags & FLAG_HANDED) {
		clear_flag(b, FLAG_HANDED | FLAG_ASKED_AGAIN | FLAG_LEFT);
		b->state = STATE_OPEN;
		count(COUNT_DECIDED_AGAIN);
		verdict = decide_first(skb, p, b);
	} else {
		verdict = drop(COUNT_DROP_BUSY);
	}
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

	forget_binding(&p->flow);
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
		forget_binding(&p->flow);
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
	if (p->payload || ((p->flags & FIN) && p->seq != b->start_seq)) {
		if (may_decide(b))
			return drop(COUNT_DROP_EARLY_SEGMENT);
		/* whoever decides now may have taken what comes before */
		forget_binding(&p->flow);
		return ask_whose(skb, p, NO_NODE, ASK_WHOSE, COUNT_RESET_UNKNOWN);
	}
	if (p->flags & FIN)
		return answer_fin(skb, p);
	return drop(COUNT_HANDSHAKE_ACK);
}

inline_always int held(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (p->flags & RST) {
		if (!is_near_start(p, b))
			return drop(COUNT_DROP_BLIND_RESET);
		forget_binding(&p->flow);
		return drop(COUNT_OPEN_RESET);
	}
	if (!p->payload && !(p->flags & FIN))
		return drop(COUNT_DROP_HELD_ACK);
	/* user space has given it back too late; holding it again might never end */
	if (released)
		return drop(COUNT_DROP_EARLY_SEGMENT);
	return hold(skb, p, b, COUNT_HELD_MORE);
}

/*
 * For a socket whose binding is lost. Nobody knows any more where its requests begin, and in a
 * strict service the next one may be another pool's: then the connection ends, once all is
 * answered.
 */
function int unfollowed(struct __sk_buff *skb, struct packet *p, __u32 state)
{
	struct scratch *s = scratch();
	struct reply rst = {.seq = p->ack, .flags = RST};

	if (!s || !(p->service_flags & SERVICE_STRICT) || !p->payload || p->flags & RST ||
	    state != BPF_TCP_ESTABLISHED || has_all_before(skb, p, p->seq + p->payload, 0)) {
		count(COUNT_OWNED_UNBOUND);
		return up(skb, p);
	}
	if (!socket_is_idle(skb, p, &s->binding))
		return drop(COUNT_DROP_DOUBT);
	if (!end_own_socket(skb, p))
		count(COUNT_FAULT_REWRITE);
	count(COUNT_RESET_DOUBT);
	return answer(skb, p, &rst);
}

/* A flow that has no binding, at a node that may make one. */
global int unknown(struct __sk_buff *skb, struct packet *p, __u16 from, bool released)
{
	if (!p)
		return drop(COUNT_FAULT_MAP);
	struct scratch *s = scratch();
	struct lease *lease = 0;

	if (settings.roles & ROLE_DISTRIBUTOR && (p->flags & (ACK | RST)) == ACK) {
		read_options(skb, p);
		lease = proven(p, from);
	}
	/* An old connection's socket does not stand in the way of a proven new one. */
	if (!lease) {
		if (settings.roles & ROLE_SERVER) {
			struct bpf_sock *sk = socket_of(skb, &p->flow);
			__u32 state = sk ? sk->state : 0;
			if (sk)
				bpf_sk_release(sk);
			if (state && state != BPF_TCP_LISTEN)
				return unfollowed(skb, p, state);
		}
		if (p->flags & RST)
			return drop(COUNT_DROP_UNKNOWN_RESET);
		struct lease *mine = lease_of(from);
		bool expired = settings.roles & ROLE_DISTRIBUTOR && p->flags & ACK && mine &&
			       is_cookie(p, mine->term, true);
		return ask_whose(skb, p, from, released ? ASK_AGAIN : ASK_WHOSE,
				 expired ? COUNT_RESET_EXPIRED : COUNT_RESET_UNKNOWN);
	}
	/* a distributor that is gone may have decided it: nothing is done before that is known */
	if (lease->kind == LEASE_HEIR && !(released && p->payload))
		return p->payload || p->flags & FIN
			       ? ask_whose(skb, p, from, ASK_HEIR, COUNT_RESET_UNKNOWN)
			       : drop(COUNT_HANDSHAKE_ACK);
	/*
	 * The ACK and the request behind it, or one of them twice, may be here at the same time, on
	 * two CPUs. Neither may undo the other's decision: both go on with the binding that was
	 * made first, and only one of them replaces the binding of an earlier connection.
	 */
	struct binding *old = bpf_map_lookup_elem(&bindings, &p->flow);
	if (!old)
		old = bpf_map_lookup_elem(&aside, &p->flow);
	if (old && old->start_seq == p->seq && old->start_ack == p->ack &&
	    (old->state == STATE_NONE || binding_of(&p->flow)))
		old = 0;
	if (old && set_flag(old, FLAG_REPLACED) & FLAG_REPLACED)
		return drop(COUNT_DROP_BUSY);
	if (old)
		retire(old);
	if (!s)
		return drop(COUNT_FAULT_MAP);
	struct binding *b = &s->binding;
	describe(p, b, lease->term);
	if (lease->kind == LEASE_HEIR)
		b->flags = FLAG_ASKED;
	if (!p->payload) {
		if (p->flags & FIN)
			return answer_fin(skb, p);
		count(COUNT_HANDSHAKE_ACK);
	}
	long failed = bpf_map_update_elem(&aside, &p->flow, b, old ? BPF_ANY : BPF_NOEXIST);
	if (failed && failed != -EEXIST) {
		if (old)
			clear_flag(old, FLAG_REPLACED);
		return drop(COUNT_FAULT_MAP);
	}
	/* an earlier connection's, that would be found first */
	if (old && !old->aside && !bpf_map_delete_elem(&bindings, &p->flow))
		count_population(POPULATION_REMOVED);
	if (!p->payload)
		return TC_ACT_SHOT;
	struct binding *fresh = bpf_map_lookup_elem(&aside, &p->flow);
	if (!fresh)
		return drop(COUNT_FAULT_MAP);
	return fresh->start_seq == p->seq ? first_request(skb, p, fresh) : drop(COUNT_DROP_BUSY);
}

function int syn(struct __sk_buff *skb, struct packet *p, __u16 from)
{
	if (!(settings.roles & ROLE_DISTRIBUTOR))
		return drop(COUNT_DROP_NO_ROLE);
	/* The receiver verified most; what a device left unverified must be right to be answered.
	 */
	if (ip_summed(skb) == CHECKSUM_NONE && !p->payload) {
		struct scratch *s = scratch();
		__u32 n = p->header & 63; /* verifier: a bound that clang cannot fold away */
		if (!s || n < TCP_MIN || bpf_skb_load_bytes(skb, p->l4, s->walk.head, n))
			return drop(COUNT_DROP_MALFORMED);
		if (fold(pseudo_sum(p, n) +
			 bpf_csum_diff(0, 0, (__be32 *)s->walk.head, n & ~3, 0)) != 0xffff)
			return drop(COUNT_DROP_CHECKSUM);
	}
	if (p->service_flags & SERVICE_ENDING)
		return refuse_syn(skb, p, COUNT_RESET_ENDING);
	struct lease *lease = lease_of(from);
	/* not yet granted, it will be when the request is here */
	if (!lease || (lease->until_ns && !holds(lease)))
		return drop(COUNT_DROP_NO_LEASE);
	read_options(skb, p);
	__u32 low = offer_bits(p);
	if (!(p->found & FOUND_TIMESTAMPS)) {
		if ((low & 7) < PROFILE_SCALED)
			p->found &= ~FOUND_WSCALE; /* its cookie could not say so */
		low |= COOKIE_PLAIN;
	}
	struct reply r = {
		.seq = cookie_of(&p->flow, p->seq, cluster_ns() >> COOKIE_SLOT_SHIFT, low,
				 lease->term),
		.ack = p->seq + 1,
		.window = SYNACK_WINDOW,
		.flags = SYN | ACK,
	};
	count(COUNT_SYN_ANSWERED);
	return answer(skb, p, &r);
}
