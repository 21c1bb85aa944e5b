/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A later request on a connection that this node serves. The owner decides, because only it knows
 * that the connection is idle: every request answered, every byte of the answers acknowledged, its
 * own socket in the same opinion. Then this very packet is a sufficient basis for a socket at
 * another node (docs/decisions/0007).
 */
#pragma once

#include "decide.h"
#include "reader.h"

/*
 * Begins to follow a connection with its first packet. false: another request begins in that, and
 * whose it is must be seen first.
 */
function bool follow_from(struct __sk_buff *skb, const struct packet *p, const struct binding *b)
{
	struct scratch *s = scratch();

	if (!s || !(p->service_flags & SERVICE_FOLLOWS))
		return true;
	struct exchange *x = &s->exchange;
	__builtin_memset(x, 0, sizeof(*x));
	x->start_seq = b->start_seq;
	x->requests.at = x->requests.boundary = b->start_seq;
	x->responses.at = x->responses.boundary = b->start_ack;
	x->decided = NO_NODE;
	s->follower = x->requests;
	s->asked = s->answered = s->heads = 0;
	s->responses = 0;
	if (follow(skb, p) != FED_FOLLOWED) {
		x->doubt = 1;
		count(COUNT_MOVE_DOUBT);
	}
	bool whole = !(p->service_flags & SERVICE_STRICT) || !(s->reading.flags & READ_AGAIN);
	if (whole) {
		x->requests = s->follower;
		x->asked = s->asked;
		x->heads = s->heads;
	} else {
		x->cut_seq = p->seq + s->reading.cut;
		x->cut = 1;
	}
	bpf_map_update_elem(&exchanges, &p->flow, x, BPF_ANY);
	return whole;
}

/* Whether the server's socket has everything that comes before this packet. */
function bool has_all_before(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);

	if (!sk)
		return false;
	struct tcp_sock *tp = sk->state != BPF_TCP_LISTEN ? bpf_skc_to_tcp_sock(sk) : 0;
	bool all = tp && (__s32)(tp->rcv_nxt - p->seq) >= 0;
	bpf_sk_release(sk);
	return all;
}

/* Whether the server's socket is as idle as its messages say. */
inline_always bool socket_is_idle(struct __sk_buff *skb, const struct packet *p, struct binding *b)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	bool idle = false;

	if (!sk)
		return false;
	struct tcp_sock *tp = sk->state == BPF_TCP_ESTABLISHED ? bpf_skc_to_tcp_sock(sk) : 0;
	if (tp) {
		idle = tp->rcv_nxt == p->seq && tp->snd_nxt == p->ack && tp->write_seq == p->ack &&
		       !tp->out_of_order_queue.rb_node;
		/* what an idle connection has learnt of the path is out of date: RFC 5681 4.1 */
		bool fresh = bpf_ktime_get_ns() - b->seen_ns < (__u64)CWND_FRESH_MS * MS;
		b->cwnd = !fresh ? 0 : tp->snd_cwnd < 0xffff ? tp->snd_cwnd : 0xffff;
		__u32 rtt = tp->srtt_us / 8000;
		b->rtt_ms = rtt < RTT_CAP_MS ? rtt : RTT_CAP_MS;
	}
	bpf_sk_release(sk);
	return idle;
}

/*
 * Ends this node's own socket: a RST that only its stack sees. The packet itself stays as it is; of
 * a wrapped one, which must stay wrapped, the copy is turned into the RST when it comes.
 */
inline_always bool end_own_socket(struct __sk_buff *skb, const struct packet *p)
{
	struct reply rst = {.seq = p->seq, .ack = p->ack, .flags = RST | ACK};
	struct reply was = {.seq = p->seq, .ack = p->ack, .flags = p->flags};

	if (!p->wrapped && renumber(skb, p, &rst))
		return false;
	set_mark(skb, MARK_LOCAL_RESET);
	long failed = bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	set_mark(skb, 0);
	return (p->wrapped || !renumber(skb, p, &was)) && !failed;
}

/* The copy that end_own_socket() has made. */
inline_always int local_reset(struct __sk_buff *skb, struct packet *p)
{
	set_mark(skb, 0);
	int parsed = parse(skb, p, skb->protocol);
	if (parsed != PARSED_UDP)
		return TC_ACT_OK;
	parsed = verify(skb, p);
	struct reply rst = {.seq = p->seq, .ack = p->ack, .flags = RST | ACK};
	if (parsed != PARSED_TCP || !bare(skb, p) || renumber(skb, p, &rst))
		return drop(COUNT_FAULT_REWRITE);
	return TC_ACT_OK;
}

/*
 * Moves the connection to another node with this request. Other CPUs may send on the socket at any
 * time: so the binding changes first, from when on egress drops what the socket sends; then the
 * socket is looked at once more. What it had sent before that has made it busy.
 */
function int move_to(struct __sk_buff *skb, struct packet *p, struct binding *b, __u16 to)
{
	__u64 now = wall_ns();

	b->node = to;
	set_flag(b, FLAG_HANDED);
	if (!socket_is_idle(skb, p, b)) {
		b->node = settings.self;
		clear_flag(b, FLAG_HANDED);
		count(COUNT_MOVE_SOCKET_BUSY);
		return -1;
	}
	end_serving(b);
	clear_flag(b, ~FLAG_SYN_SEEN);
	b->start_seq = p->seq;
	b->start_ack = p->ack;
	b->state = STATE_BOUND;
	b->issued = (__s64)(now - b->issued) > 0 ? now : b->issued + 1;
	b->seen_ns = b->since_ns = bpf_ktime_get_ns();
	if (!end_own_socket(skb, p))
		count(COUNT_FAULT_REWRITE); /* it stays muzzled, until its server tires of it */
	count(COUNT_CLOSED);
	count(COUNT_MOVED);
	struct load *l = load_of(to);
	if (l)
		__sync_fetch_and_add(&l->assigned, 1);
	b->tries = 0;
	set_flag(b, FLAG_HANDED | FLAG_MOVED);
	read_options(skb, p);
	return send_handoff(skb, p, b);
}

/* What becomes of a later request. */
enum later {
	LATER_STAYS,
	LATER_MOVES, /* to s->to */
	LATER_ASKED, /* held for user space, for the reason s->why */
	LATER_WAITS, /* not before the connection is idle: dropped, the client repeats it */
	LATER_READ,  /* by the reader */
};

function enum later place(struct packet *p, struct scratch *s, struct exchange *x, bool idle)
{
	bool strict = p->service_flags & SERVICE_STRICT;
	enum counter why;
	__u32 need = p->service_flags & (SERVICE_HOSTS | SERVICE_STRICT) ? READ_HEAD : READ_LINE;

	if (strict && s->reading.flags & READ_AGAIN) {
		if (!idle)
			return LATER_WAITS;
		x->cut_seq = p->seq + s->reading.cut;
		x->cut = 1;
		s->why = COUNT_HELD_PIPELINED;
		return LATER_ASKED;
	}
	if (!(s->reading.flags & need)) {
		count(COUNT_MOVE_NOT_READ);
		return !strict ? LATER_STAYS : idle ? LATER_READ : LATER_WAITS;
	}
	if (x->decided != NO_NODE && x->decided_seq == p->seq) {
		s->to = x->decided;
	} else {
		p->pool = choose_pool(p, s);
		s->why = COUNT_HELD_HEAD;
		if (p->pool == POOL_UNKNOWN)
			return idle || strict ? LATER_ASKED : LATER_STAYS;
		struct pool *pool = pool_of(p->pool);
		if (!pool)
			return LATER_STAYS;
		bool member = is_member(pool, settings.self);
		if (!member)
			count(COUNT_OUTSIDE_POOL);
		if (member && (pool->p_http == P_HTTP_STAY || !daemon_listens())) {
			count(COUNT_MOVE_STAYED);
			return LATER_STAYS;
		}
		if (!idle) {
			count(COUNT_MOVE_NOT_IDLE);
			return member ? LATER_STAYS : LATER_WAITS;
		}
		__u32 id = p->pool;
		struct guide *g = bpf_map_lookup_elem(&guides, &id);
		if (member && g && g->kind == GUIDE_ROTA)
			return LATER_STAYS; /* blind to content: nothing is gained by a move */
		if (member && pool->p_http == P_HTTP_EXTENDED) {
			/* whether another server is cheaper, only the dispatcher can say */
			s->why = COUNT_HELD_MISS;
			if (!names_this_node(p, s, g))
				return LATER_ASKED;
			count(COUNT_MOVE_DECIDED_HERE);
			return LATER_STAYS;
		}
		s->to = decide(p, s, &why);
		s->why = why;
		if (s->to == NO_NODE && (why == COUNT_DROP_NO_SERVER || why == COUNT_DECIDED_ALONE))
			return member ? LATER_STAYS : LATER_WAITS;
		if (s->to == NO_NODE)
			return LATER_ASKED;
	}
	if (s->to == settings.self) {
		count(COUNT_MOVE_DECIDED_HERE);
		return LATER_STAYS;
	}
	return idle ? LATER_MOVES : strict ? LATER_WAITS : LATER_STAYS;
}

/* Keeps what was followed of this packet, which the server gets. */
inline_always void keep(struct exchange *x, const struct scratch *s)
{
	x->requests = s->follower;
	x->heads = s->heads;
	x->asked = s->asked;
	x->early = 0;
}

inline_always int outside_messages(struct exchange *x, const struct packet *p)
{
	x->doubt = 1;
	count(COUNT_MOVE_DOUBT);
	return TC_ACT_OK;
}

/*
 * User space keeps the packet until the connection is idle; or the client repeats it. Of one that
 * is idle it would come back at once, for ever.
 */
inline_always int wait_for_idle(struct __sk_buff *skb, struct packet *p, struct binding *b,
				struct exchange *x, bool idle)
{
	if (idle || !daemon_listens())
		return drop(COUNT_DROP_EARLY_REQUEST);
	x->early = 1;
	x->early_seq = p->seq;
	return hold(skb, p, b, COUNT_HELD_EARLY);
}

/* User space is to say whose the request is. */
inline_always int ask(struct __sk_buff *skb, struct packet *p, struct binding *b,
		      struct exchange *x)
{
	struct scratch *s = scratch();

	x->early = 0;
	b->state = STATE_ASKING;
	b->since_ns = bpf_ktime_get_ns();
	b->held = 0;
	return hold(skb, p, b, s ? s->why : COUNT_HELD_ASK);
}

/* The client acknowledges: that may make the connection idle, which user space may wait for. */
inline_always void heard(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct exchange *x = exchange_of(&p->flow, b);

	/* an older acknowledgement says nothing, and more than was sent is not the client's */
	if (!x || x->doubt || p->ack != b->snd_end)
		return;
	read_options(skb, p);
	x->heard_ack = p->ack;
	x->heard_tsval = p->tsval;
	x->heard_tsecr = p->tsecr;
	x->heard_window = p->window;
	x->heard_timestamps = !!(p->found & FOUND_TIMESTAMPS);
	if (x->early && x->asked == x->answered && between_messages(&x->responses) &&
	    p->ack == x->responses.at)
		tell(&p->flow, b, EVENT_IDLE);
}

/* A packet with payload of a connection that is followed: to the server, unless it moves. */
inline_always int later_packet(struct __sk_buff *skb, struct packet *p, struct binding *b,
			       struct exchange *x, bool released)
{
	struct scratch *s = scratch();

	if (!s)
		return TC_ACT_OK;
	s->follower = x->requests;
	s->asked = x->asked;
	s->answered = x->answered;
	s->heads = x->heads;
	s->responses = 0;
	/* user space has had it, and has said all that it can */
	bool answered = released && x->decided != NO_NODE && x->decided_seq == p->seq;
	x->cut = 0;
	bool boundary = p->seq == x->requests.at && between_messages(&x->requests);
	bool idle = boundary && x->asked == x->answered && between_messages(&x->responses) &&
		    p->ack == x->responses.at;
	enum fed fed = follow(skb, p);
	if (fed == FED_OLD)
		return TC_ACT_OK;
	if (fed == FED_GAP) {
		if (x->early && p->seq - x->early_seq < EARLY_MAX)
			return hold(skb, p, b, COUNT_HELD_EARLY);
		/* nobody will repeat it: it came while the service did not follow */
		return has_all_before(skb, p) ? outside_messages(x, p) : drop(COUNT_DROP_GAP);
	}
	if (fed == FED_DOUBT && !(boundary && p->service_flags & SERVICE_STRICT))
		return outside_messages(x, p);
	if (!boundary) {
		if (!(p->service_flags & SERVICE_STRICT) || !(s->reading.flags & READ_AGAIN)) {
			keep(x, s);
			return TC_ACT_OK;
		}
		/* the end of one request, and the next one with it */
		if (answered)
			return drop(COUNT_DROP_EARLY_REQUEST);
		x->cut_seq = p->seq + s->reading.cut;
		x->cut = 1;
		b->state = STATE_ASKING;
		b->since_ns = bpf_ktime_get_ns();
		b->held = 0;
		return hold(skb, p, b, COUNT_HELD_PIPELINED);
	}
	enum later then =
		fed == FED_DOUBT ? (idle ? LATER_READ : LATER_WAITS) : place(p, s, x, idle);
	if (then == LATER_ASKED && answered)
		then = p->service_flags & SERVICE_STRICT ? LATER_WAITS : LATER_STAYS;
	switch (then) {
	case LATER_MOVES: {
		int sent = move_to(skb, p, b, s->to);
		if (sent >= 0)
			return sent;
		if (p->service_flags & SERVICE_STRICT) {
			/* its server's CPU may be about to say so: once more, after the way up and
			 * down */
			if (answered)
				return drop(COUNT_DROP_EARLY_REQUEST);
			s->why = COUNT_HELD_BUSY;
			return ask(skb, p, b, x);
		}
		break;
	}
	case LATER_ASKED:
		return ask(skb, p, b, x);
	case LATER_WAITS:
		return wait_for_idle(skb, p, b, x, idle);
	case LATER_READ:
		return read_later(skb, p, b);
	default:
		break;
	}
	keep(x, s);
	return TC_ACT_OK;
}

/* As above, one packet of a connection at a time. */
function int later(struct __sk_buff *skb, struct packet *p, struct binding *b, bool released)
{
	struct exchange *x = exchange_of(&p->flow, b);

	if (!x || x->doubt)
		return TC_ACT_OK;
	if (__sync_lock_test_and_set(&x->busy, 1))
		return drop(COUNT_DROP_BUSY);
	/* another CPU may have moved it meanwhile */
	int verdict = b->node == settings.self && x->start_seq == b->start_seq
			      ? later_packet(skb, p, b, x, released)
			      : drop(COUNT_DROP_BUSY);
	x->busy = 0;
	return verdict;
}
