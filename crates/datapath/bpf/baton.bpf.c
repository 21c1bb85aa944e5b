// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Baton's packet path: one program for what arrives at a node, one for what its server sends, one
 * that takes held packets back from user space. All roles share them; what a node does is set by
 * settings.roles. docs/datapath.md tells the same story for readers, and the reference model in
 * ../src/model decides the same in Rust.
 *
 * A packet for a service, in order:
 *
 *   1. SYN              switch: to the distributor of its Maglev slot. Distributor: cookie SYN-ACK.
 *   2. bound            owned here: to the stack (the first data packet: adopt). Owned elsewhere:
 *                       forward; the first data packet goes as a handoff packet.
 *   3. not bound        switch: to the distributor of its Maglev slot.
 *   4. held, open       distributor: wait for the decision; read the first request, decide, bind.
 *   5. unknown          a cookie proves a finished handshake: open. A socket of ours: to the stack.
 *                       Anything else is dropped or refused, and counted.
 *
 * No state is kept for a client before its ACK has proved its address. A packet that another member
 * forwarded is never given to a switch again, nor sent back where it came from.
 */
#include "move.h"
#include "order.h"

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
	b->service = p->service;
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

/*
 * Adopts, and begins to follow. A segment of the same list that is not the first (software GSO
 * repeats a handoff packet's wrapping on each) goes up behind the first: by then the stack has made
 * the socket.
 */
inline_always int take(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	struct scratch *s = scratch();
	bool adopted = b->flags & FLAG_ADOPTED;

	if (!s)
		return drop(COUNT_FAULT_MAP);
	/* a client that repeats its request may have put the next one behind it */
	if (!adopted && !follow_from(skb, p, b)) {
		if (released)
			return drop(COUNT_DROP_EARLY_REQUEST);
		if (b->state == STATE_ASKING && !held_too_long(b))
			return hold(skb, p, b, COUNT_HELD_MORE);
		b->state = STATE_ASKING;
		b->since_ns = bpf_ktime_get_ns();
		b->held = 0;
		return hold(skb, p, b, COUNT_HELD_PIPELINED);
	}
	int verdict = adopt(skb, p, b, s->has_clock ? s->clock : clock_for(p, b->rtt_ms));
	if (!adopted && b->flags & FLAG_ADOPTED)
		tell(&p->flow, b, EVENT_BOUND);
	return verdict;
}

/* To this node's stack. */
inline_always int up(struct __sk_buff *skb, struct packet *p)
{
	return bare(skb, p) ? TC_ACT_OK : drop(COUNT_FAULT_REWRITE);
}

/* Whether the stack takes this RST: it is where the next byte is expected (RFC 5961 3.2). */
inline_always bool is_taken(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);

	if (!sk)
		return true;
	struct tcp_sock *tp = sk->state != BPF_TCP_LISTEN ? bpf_skc_to_tcp_sock(sk) : 0;
	/* behind a gap it may be right, too */
	bool taken = !tp || tp->rcv_nxt == p->seq || tp->out_of_order_queue.rb_node;
	bpf_sk_release(sk);
	return taken;
}

/* A packet for a connection that this node owns. */
function int own(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	if (p->payload && p->seq == b->start_seq && !(b->flags & (FLAG_CONFIRMED | FLAG_CLOSED))) {
		if (p->ack != b->start_ack)
			return drop(COUNT_DROP_EARLY_SEGMENT);
		read_options(skb, p);
		return take(skb, p, b, released);
	}
	if (p->payload && p->service_flags & SERVICE_FOLLOWS) {
		if (b->state == STATE_ASKING) {
			if (!held_too_long(b))
				return hold(skb, p, b, COUNT_HELD_MORE);
			b->state = STATE_BOUND;
		}
		int verdict = later(skb, p, b, released);
		if (verdict != TC_ACT_OK || b->state == STATE_READING)
			return verdict;
	}
	if (!p->payload && p->service_flags & SERVICE_STRICT)
		heard(skb, p, b);
	count(COUNT_OWNED);
	if (!(p->flags & RST) || is_taken(skb, p))
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
	/* Whether a RST is a valid one only the owner's stack can tell; it will say so by a close.
	 */
	if (p->flags & (FIN | RST) && !(set_flag(b, FLAG_FIN_IN) & FLAG_FIN_IN))
		unassign(b);
	if (!is_hearsay(b) && p->payload) {
		/*
		 * Whoever sent it: its owner-to-be, too, when the handoff packet was lost. Not with
		 * another ack: it would not be the packet that the move was made of.
		 */
		if (p->seq == b->start_seq && p->ack == b->start_ack)
			return hand_off(skb, p, b);
		/* what the socket here had taken: its ACK was lost, and nobody else has one for it
		 */
		if (b->flags & FLAG_MOVED && (__s32)(p->seq - b->start_seq) < 0)
			return answer_old(skb, p, b);
	}
	if (from == b->node)
		return drop(COUNT_DROP_LOOP);
	return forward(skb, p, b->node, COUNT_FORWARDED_BINDING);
}

/* No verdict yet: the binding says whose packet it is now. */
enum { DECIDED = -2 };

/* The first request of a connection: decide and bind. */
function int first_request(struct __sk_buff *skb, struct packet *p, struct binding *b)
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
		if (p->seq - b->start_seq > SYNACK_WINDOW)
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
		if (p->seq - b->start_seq > SYNACK_WINDOW)
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
	struct binding *old = bpf_map_lookup_elem(&bindings, &p->flow);
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
	if (bpf_map_update_elem(&bindings, &p->flow, b, BPF_ANY))
		return drop(COUNT_FAULT_MAP);
	if (!p->payload)
		return TC_ACT_SHOT;
	struct binding *fresh = bpf_map_lookup_elem(&bindings, &p->flow);
	if (!fresh)
		return drop(COUNT_FAULT_MAP);
	return first_request(skb, p, fresh);
}

/*
 * While user space gives back what it held, nothing may overtake that: the server's node would drop
 * what comes before the handoff packet, and the client would have to repeat it.
 */
inline_always bool may_pass(const struct packet *p, struct binding *b, bool released)
{
	if (b->state == STATE_RELEASING && held_too_long(b))
		b->state = STATE_BOUND;
	if (b->state != STATE_RELEASING || released)
		return true;
	/* what carries nothing overtakes nothing */
	return !p->payload && !(p->flags & FIN);
}

/* The switch's choice for a flow without binding; NO_NODE when there is none. */
inline_always __u16 maglev_choice(const struct flow_key *f)
{
	struct keys *k = cluster_keys();

	if (!k)
		return NO_NODE;
	__u32 slot = flow_hash(f, k->clock, DOMAIN_MAGLEV, 0) % MAGLEV_SLOTS;
	__u16 *node = bpf_map_lookup_elem(&maglev, &slot);
	return node ? *node : NO_NODE;
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
		if (fold(pseudo_sum(p, n) +
			 bpf_csum_diff(0, 0, (__be32 *)s->head, n & ~3, 0)) != 0xffff)
			return drop(COUNT_DROP_CHECKSUM);
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

inline_always int undecided(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = binding_of(&p->flow);
	__u16 from = NO_NODE;
	bool released = skb->mark == MARK_RELEASED;

	if (released) {
		count(COUNT_RELEASED);
		set_mark(skb, 0);
	}
	if ((p->flags & SYN) ? (p->flags & (ACK | RST | FIN)) : !(p->flags & (ACK | RST)))
		return drop(COUNT_DROP_FLAGS);
	/* urgent data is data (RFC 6093 3.2): else the server would not get what is read here */
	if (p->flags & URG) {
		struct reply calm = {.seq = p->seq, .ack = p->ack, .flags = p->flags & ~URG};
		if (renumber(skb, p, &calm))
			return drop(COUNT_FAULT_REWRITE);
		p->flags = calm.flags;
	}
	/* a SYN from just before what the binding is about is a late copy of its own */
	if (b && (p->flags & SYN) &&
	    (b->flags & FLAG_CLOSED || b->start_seq - p->seq - 1 >= SYN_REACH)) {
		b->syn_isn = p->seq;
		set_flag(b, FLAG_SYN_SEEN);
	}
	/* Packets next to a newer SYN belong to a connection that the binding is not about. */
	if (b && (p->flags & SYN || (b->flags & FLAG_SYN_SEEN && b->start_seq != b->syn_isn + 1 &&
				     p->seq - b->syn_isn - 1 < SYN_REACH)))
		b = 0;
	/* Told that the connection is ours: without its handoff packet we cannot own it. */
	/* nobody is told that what it has not taken is its own */
	if (b && is_decided(b) && b->node == settings.self && is_hearsay(b))
		b = 0;
	if (b && b->state == STATE_READING)
		return reading(skb, p, b, released);
	if (b && is_decided(b) && may_pass(p, b, released))
		return b->node == settings.self ? own(skb, p, b, released) : elsewhere(skb, p, b);

	if (settings.roles & ROLE_SWITCH || !(settings.roles & ROLE_DISTRIBUTOR))
		from = sender(skb, p);
	/* whose server is known needs no distributor, which may have forgotten it */
	if (settings.roles & ROLE_SWITCH && from == NO_NODE && !(b && is_decided(b))) {
		__u16 to = maglev_choice(&p->flow);
		if (to == NO_NODE)
			return drop(COUNT_DROP_NO_DISTRIBUTOR);
		if (to != settings.self)
			return forward(skb, p, to, COUNT_FORWARDED_DISTRIBUTOR);
	}
	if (p->flags & SYN)
		return syn(skb, p, b);
	if (b)
		return b->state != STATE_OPEN && !held_too_long(b) ? held(skb, p, b, released)
								   : open(skb, p, b);
	if (!(settings.roles & (ROLE_DISTRIBUTOR | ROLE_SERVER)))
		return drop(COUNT_DROP_NO_ROLE);
	return unknown(skb, p, from);
}

/* The packet that its connection was decided with. */
inline_always int decided(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = bpf_map_lookup_elem(&bindings, &p->flow);

	if (!b)
		return drop(COUNT_FAULT_MAP);
	if (b->state == STATE_READING)
		return reading(skb, p, b, false);
	return b->node == settings.self ? own(skb, p, b, false) : hand_off(skb, p, b);
}

/* What a handoff packet says of its connection. */
inline_always void learn(struct binding *b, const struct handoff_option *o, const struct packet *p)
{
	b->start_ack = p->ack;
	b->snd_end = p->ack;
	b->issued = issued_of(o);
	b->distributor = bpf_ntohs(o->distributor);
	b->service = p->service;
	b->mss = bpf_ntohs(o->mss);
	b->rtt_ms = bpf_ntohs(o->rtt_ms);
	b->options = o->options;
	b->snd_wscale = o->snd_wscale;
	b->cwnd = bpf_ntohs(o->cwnd);
	b->replay_end = bpf_ntohl(o->replay_end);
	set_flag(b, bpf_ntohs(o->flags) & (FLAG_REPLAY | FLAG_MOVED));
}

/* A handoff packet from a distributor: this node is to own the connection. */
inline_always int handoff(struct __sk_buff *skb, struct packet *p, struct scratch *s)
{
	const struct handoff_option *o = &s->wrapping.option;

	if (!(settings.roles & ROLE_SERVER))
		return drop(COUNT_DROP_NO_ROLE);
	__u32 start_seq = bpf_ntohl(o->start_seq);
	struct binding *b = binding_of(&p->flow);
	bool later = b && (__s64)(issued_of(o) - b->issued) > 0;
	/* repeated, and what it began was over when this node's reader got the connection */
	if (b && b->state == STATE_READING && !later)
		return drop(COUNT_DROP_HANDOFF_STALE);
	if (b && !is_decided(b))
		b = 0;
	count(COUNT_HANDOFF_RECEIVED);
	if (b && b->start_seq == start_seq && b->node != settings.self && !later)
		return hand_on(skb, p, b);
	read_options(skb, p);
	if (b) {
		if (b->start_seq != start_seq) {
			if ((__s64)(b->issued - issued_of(o)) > 0)
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
		if (bpf_map_update_elem(&bindings, &p->flow, fresh, BPF_ANY))
			return drop(COUNT_FAULT_MAP);
		b = bpf_map_lookup_elem(&bindings, &p->flow);
		if (!b)
			return drop(COUNT_FAULT_MAP);
	}
	s->clock = bpf_ntohl(o->tsval);
	s->has_clock = 1;
	return DECIDED;
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
		to = maglev_choice(&p->flow);
	if (to == NO_NODE || (to == settings.self && !b))
		return drop(COUNT_DROP_ICMP_UNKNOWN);
	if (to != settings.self)
		return to == from ? drop(COUNT_DROP_LOOP)
				  : forward(skb, p, to, COUNT_ICMP_FORWARDED);
	count(COUNT_ICMP_OWNED);
	return up(skb, p);
}

SEC("tcx/ingress")
int ingress(struct __sk_buff *skb)
{
	struct packet *p = this_packet();
	struct scratch *s = scratch();
	int verdict;

	if (!p || !s)
		return NEXT_PROGRAM;
	if (skb->mark == MARK_LOCAL_RESET)
		return local_reset(skb, p);
	s->has_clock = 0;
	int parsed = parse(skb, p, skb->protocol);
	bool wrapped = parsed == PARSED_UDP, forwarded = false;
	if (wrapped) {
		parsed = verify(skb, p);
		forwarded = s->wrapping.option.flags & bpf_htons(WIRE_FORWARDED);
		if (parsed == PARSED_ICMP && !forwarded)
			return drop(COUNT_DROP_HANDOFF_MALFORMED);
		if (parsed != PARSED_DROP && forwarded)
			count(COUNT_WRAPPED_RECEIVED);
	} else if (parsed == PARSED_DROP) {
		count(p->why);
	}
	switch (parsed) {
	case PARSED_TCP:
		verdict = wrapped && !forwarded ? handoff(skb, p, s) : undecided(skb, p);
		return verdict == DECIDED ? decided(skb, p) : verdict;
	case PARSED_ICMP:
		return icmp(skb, p);
	case PARSED_DROP:
		return TC_ACT_SHOT;
	default:
		return NEXT_PROGRAM;
	}
}

/*
 * A RST without ACK answers a packet that found no socket. Just after an adoption that is a packet
 * which overtook the adopting one on another CPU; its RST would kill the connection.
 */
inline_always bool is_stray_reset(__u8 flags, const struct binding *b)
{
	return (flags & (RST | ACK)) == RST &&
	       bpf_ktime_get_ns() - b->since_ns < (__u64)YOUNG_MS * MS;
}

/* The server's timestamp, where Linux puts it in a segment: behind two NOPs (RFC 7323, appendix A).
 */
inline_always void note_clock(struct __sk_buff *skb, const struct packet *p, struct binding *b)
{
	__be32 option[2];

	if (!(b->options & OPTION_TIMESTAMPS) || p->header < TCP_MIN + 12 ||
	    bpf_skb_load_bytes(skb, p->l4 + TCP_MIN, option, sizeof(option)) ||
	    option[0] != bpf_htonl(0x0101080a))
		return;
	__u32 tsval = bpf_ntohl(option[1]);
	if ((__s32)(tsval - b->clock) > 0)
		b->clock = tsval;
}

/* What the node's server sends: load, ends, and the RSTs that must not leave. */
SEC("tcx/egress")
int egress(struct __sk_buff *skb)
{
	struct packet p = {.l3 = L3};
	struct tcphdr tcp;
	struct ip ip;

	if (skb->mark == MARK_ANSWER) {
		set_mark(skb, 0);
		return NEXT_PROGRAM;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!read_v4(skb, &p, &ip))
			return NEXT_PROGRAM;
	} else if (skb->protocol != bpf_htons(ETH_P_IPV6) || !read_v6(skb, &p, &ip)) {
		return NEXT_PROGRAM;
	}
	if (p.protocol != IPPROTO_TCP || ip.odd || ip.fragment ||
	    bpf_skb_load_bytes(skb, p.l4, &tcp, sizeof(tcp)))
		return NEXT_PROGRAM;
	struct addr client = p.flow.vip;
	p.flow.vip = p.flow.client;
	p.flow.client = client;
	p.flow.client_port = tcp.dest;
	p.flow.vip_port = tcp.source;
	struct binding *b = bpf_map_lookup_elem(&bindings, &p.flow);
	if (!b)
		return NEXT_PROGRAM;
	if (b->flags & FLAG_FROZEN)
		return drop(COUNT_DROP_FROZEN);
	if (b->state == STATE_READING && is_stray_reset(tcp_flags(&tcp), b))
		return drop(COUNT_DROP_OVERTAKEN_RESET);
	if (!is_decided(b))
		return NEXT_PROGRAM;
	/* a socket of ours that has not heard yet that its connection has moved */
	if (b->node != settings.self)
		return drop(COUNT_DROP_MOVED_AWAY);
	p.header = tcp.doff * 4;
	if (p.header < TCP_MIN || skb->len < p.l4 + p.header)
		return NEXT_PROGRAM;
	p.payload = skb->len - p.l4 - p.header;
	p.seq = bpf_ntohl(tcp.seq);
	p.ack = bpf_ntohl(tcp.ack_seq);
	p.flags = tcp_flags(&tcp);
	/* the socket may have spoken meanwhile */
	if (!(b->flags & FLAG_CLOSED) && is_stray_reset(p.flags, b))
		return drop(COUNT_DROP_OVERTAKEN_RESET);
	if (settings.follows) {
		note_clock(skb, &p, b);
		if (p.payload)
			follow_response(skb, &p, b);
	}
	track_out(&p, b);
	return NEXT_PROGRAM;
}

/* verifier: two functions, or clang makes one read of both, at an address that it computes */
function void addresses_v4(struct bpf_sock_ops *ops, struct flow_key *flow)
{
	map_v4(&flow->client, ops->remote_ip4);
	map_v4(&flow->vip, ops->local_ip4);
}

/* Of a listener for both families IPv4 addresses are mapped already. */
function void addresses_v6(struct bpf_sock_ops *ops, struct flow_key *flow)
{
	flow->client.w[0] = ops->remote_ip6[0];
	flow->client.w[1] = ops->remote_ip6[1];
	flow->client.w[2] = ops->remote_ip6[2];
	flow->client.w[3] = ops->remote_ip6[3];
	flow->vip.w[0] = ops->local_ip6[0];
	flow->vip.w[1] = ops->local_ip6[1];
	flow->vip.w[2] = ops->local_ip6[2];
	flow->vip.w[3] = ops->local_ip6[3];
}

/*
 * A socket has been made for a connection: it begins with the congestion window that the server
 * before had. Called for every socket of the machine.
 */
SEC("sockops")
int carry_cwnd(struct bpf_sock_ops *ops)
{
	struct flow_key flow = {};

	if (ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (ops->family == FAMILY_IPV4)
		addresses_v4(ops, &flow);
	else
		addresses_v6(ops, &flow);
	flow.client_port = bpf_htons(bpf_ntohl(ops->remote_port));
	flow.vip_port = bpf_htons(ops->local_port);
	struct binding *b = bpf_map_lookup_elem(&bindings, &flow);
	if (!b || b->node != settings.self || b->cwnd <= INITIAL_CWND)
		return 1;
	int cwnd = b->cwnd;
	if (!bpf_setsockopt(ops, IPPROTO_TCP, TCP_BPF_IW, &cwnd, sizeof(cwnd)))
		count(COUNT_CWND_CARRIED);
	return 1;
}

/* User space has written a held packet back: it arrives again where it came from. */
SEC("tcx/ingress")
int release(struct __sk_buff *skb)
{
	set_mark(skb, MARK_RELEASED);
	return bpf_redirect(settings.cluster_ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
