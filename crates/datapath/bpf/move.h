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
 * Begins to follow a connection with its first packet, whose first request is this node's. false:
 * something comes behind it, from x->cut_seq on, that may be another's.
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
	x->heard_ack = p->ack;
	note_heard(x, p);
	struct walk *w = &s->walk;
	walk_requests(w, x, p->service_flags & SERVICE_STRICT);
	w->fresh = 1;
	enum fed fed = follow(skb, p);
	bool whole = fed != FED_FOLLOWED || !w->judge || !(w->reading.flags & READ_AGAIN);
	if (fed != FED_FOLLOWED || w->broken) {
		x->doubt = w->broken ? DOUBT_BROKEN : DOUBT_ALL;
		count(COUNT_MOVE_DOUBT);
	}
	/* user space may have what comes behind this, which it has cut off */
	struct exchange *before = exchange_of(&p->flow, b);
	if (before && before->early) {
		x->early = 1;
		x->early_seq = before->early_seq;
		x->early_end = before->early_end;
	}
	if (whole) {
		keep_requests(x, w);
		x->closing = w->closing;
		forget_passed(x);
	} else {
		x->cut_seq = p->seq + w->reading.cut;
		x->cut = 1;
		x->early = 1;
		x->early_seq = p->seq;
		x->early_end = p->seq + p->payload;
	}
	bpf_map_update_elem(&exchanges, &p->flow, x, BPF_ANY);
	return whole;
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
 * socket is looked at once more. What it had sent before that has made it busy: GO_ON.
 */
function int move_to(struct __sk_buff *skb, struct packet *p, struct binding *b, __u16 to)
{
	__u64 since = b->since_ns;
	__u8 state = b->state;

	/* nothing that another CPU forwards may overtake the handoff packet */
	b->since_ns = bpf_ktime_get_ns();
	b->state = STATE_RELEASING;
	b->node = to;
	set_flag(b, FLAG_HANDED);
	if (!socket_is_idle(skb, p, b)) {
		b->node = settings.self;
		b->state = state;
		b->since_ns = since;
		clear_flag(b, FLAG_HANDED);
		count(COUNT_MOVE_SOCKET_BUSY);
		return GO_ON;
	}
	leave(b, p);
	if (!end_own_socket(skb, p))
		count(COUNT_FAULT_REWRITE); /* it stays muzzled, until its server tires of it */
	count(COUNT_MOVED);
	struct load *l = load_of(to);
	if (l)
		__sync_fetch_and_add(&l->assigned, 1);
	b->tries = 0;
	set_flag(b, FLAG_HANDED | FLAG_MOVED);
	read_options(skb, p);
	int sent = send_handoff(skb, p, b);
	/* it has not left yet: the next one takes the way up and down, which ends this state */
	b->held = 0;
	b->state = p->service_flags & SERVICE_STRICT && daemon_listens() ? STATE_RELEASING
									 : STATE_BOUND;
	return sent;
}

/* What becomes of a later request. */
enum later {
	LATER_STAYS,
	LATER_MOVES, /* to another node */
	LATER_ASKED, /* held for user space */
	LATER_WAITS, /* not before the connection is idle: dropped, the client repeats it */
	LATER_READ,  /* by the reader */
};

/* Where a later request belongs. `c` says to which node it moves, or why it is held. */
function enum later place(struct packet *p, struct scratch *s, struct exchange *x, bool idle,
			  struct choice *c)
{
	bool strict = p->service_flags & SERVICE_STRICT;
	__u32 need = needs_whole_head(p) ? READ_HEAD : READ_LINE;

	/*
	 * Empty lines are for the server that has the connection: many take none before a
	 * connection's first request, which this one would be elsewhere.
	 */
	if (s->walk.reading.begin)
		return LATER_STAYS;
	if (!(s->walk.reading.flags & need)) {
		count(COUNT_MOVE_NOT_READ);
		return !strict ? LATER_STAYS : idle ? LATER_READ : LATER_WAITS;
	}
	if (x->closing) {
		/* RFC 9112 9.6: nobody is to serve it, and who has the connection knows that */
		count(COUNT_MOVE_CLOSING);
		return !strict || is_own(s, p) ? LATER_STAYS : LATER_WAITS;
	}
	if (x->decided != NO_NODE && x->decided_seq == p->seq) {
		c->server = x->decided;
	} else {
		p->pool = choose_pool(p);
		c->why = COUNT_HELD_HEAD;
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
			c->why = COUNT_HELD_MISS;
			if (!names_this_node(p, s, g))
				return LATER_ASKED;
			count(COUNT_MOVE_DECIDED_HERE);
			return LATER_STAYS;
		}
		decide(p, c);
		if (c->server == NO_NODE &&
		    (c->why == COUNT_DROP_NO_SERVER || c->why == COUNT_RESET_NO_SERVER))
			return member ? LATER_STAYS : LATER_WAITS;
		if (c->server == NO_NODE)
			return LATER_ASKED;
	}
	if (c->server == NODE_READER)
		return idle ? LATER_READ : LATER_WAITS;
	if (c->server == settings.self) {
		count(COUNT_MOVE_DECIDED_HERE);
		return LATER_STAYS;
	}
	return idle ? LATER_MOVES : strict ? LATER_WAITS : LATER_STAYS;
}

/* Keeps what was followed of this packet, which the server gets. */
inline_always void keep(const struct packet *p, const struct binding *b, struct exchange *x,
			const struct walk *w, bool released)
{
	keep_requests(x, w);
	x->cut = 0;
	if (w->closing)
		x->closing = 1;
	if (w->broken) {
		x->doubt = DOUBT_BROKEN;
		count(COUNT_MOVE_DOUBT);
	}
	forget_passed(x);
	/* what user space has may go on where this packet ends */
	if (x->early && !released)
		tell(&p->flow, b, EVENT_IDLE);
}

inline_always int outside_messages(struct exchange *x, const struct packet *p)
{
	x->doubt = DOUBT_ALL;
	count(COUNT_MOVE_DOUBT);
	return GO_ON;
}

/*
 * Ends the connection, because nobody can tell any more where a request begins, or whether the
 * answer to the one before is whole: no other server may go on with it, and this one is not in the
 * pool of what may come. `idle`: not before its socket has nothing more to say; GO_ON: not yet.
 */
function int condemn(struct __sk_buff *skb, struct packet *p, struct binding *b, bool idle)
{
	/* behind the bytes that are on their way to the client: before them the client would take
	 * the RST for a forged one */
	bool more = (__s32)(b->snd_end - p->ack) > 0;
	struct reply rst = {.seq = more ? b->snd_end : p->ack, .flags = RST};

	if (idle && !socket_is_idle(skb, p, b))
		return GO_ON;
	close_binding(&p->flow, b);
	if (!end_own_socket(skb, p))
		count(COUNT_FAULT_REWRITE);
	count(COUNT_RESET_DOUBT);
	return answer(skb, p, &rst);
}

/*
 * User space keeps the packet until the connection is idle; or the client repeats it. Of one that
 * is idle it would come back at once, for ever.
 */
inline_always int wait_for_idle(struct __sk_buff *skb, struct packet *p, struct binding *b,
				struct exchange *x, bool idle, bool released)
{
	if (x->doubt == DOUBT_RESPONSES && !released) {
		int ended = condemn(skb, p, b, true);
		if (ended != GO_ON)
			return ended;
	}
	if (idle || !daemon_listens())
		return drop(COUNT_DROP_EARLY_REQUEST);
	x->cut_seq = p->seq;
	x->cut = 1;
	return hold_early(skb, p, b, x);
}

/* User space is to say whose the request is. */
inline_always int ask(struct __sk_buff *skb, struct packet *p, struct binding *b,
		      struct exchange *x, enum counter why)
{
	x->early = 0;
	b->state = STATE_ASKING;
	b->since_ns = bpf_ktime_get_ns();
	b->held = 0;
	return hold(skb, p, b, why);
}

/*
 * What the client says of what it has got: user space repeats it in what it gives back. It may also
 * make the connection idle, which user space may wait for.
 */
inline_always void heard(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	struct exchange *x = exchange_of(&p->flow, b);

	if (!x || x->doubt == DOUBT_ALL || p->seq - x->requests.boundary >= EARLY_MAX)
		return;
	/* an older acknowledgement says nothing, and more than was sent is not the client's */
	__u32 before = x->heard_ack;
	if (p->ack - before > b->snd_end - before)
		return;
	/* nor must one take back what another CPU has heard meanwhile */
	if (__sync_val_compare_and_swap(&x->heard_ack, before, p->ack) != before) {
		before = x->heard_ack;
		if (p->ack - before > b->snd_end - before ||
		    __sync_val_compare_and_swap(&x->heard_ack, before, p->ack) != before)
			return;
	}
	read_options(skb, p);
	note_heard(x, p);
	/* of a packet that carries something user space hears by getting it */
	if (x->early && !p->payload && !x->doubt && !x->closing && x->asked == x->answered &&
	    between_messages(&x->responses) && p->ack == x->responses.at)
		tell(&p->flow, b, EVENT_IDLE);
}

/*
 * In a strict service, behind what nobody can read: nothing of it is for this server. What its
 * socket has had before may come again: GO_ON.
 */
inline_always int behind_doubt(struct __sk_buff *skb, struct packet *p, struct binding *b,
			       const struct exchange *x, bool released)
{
	/* the byte that brought the doubt went along */
	__u32 end = x->requests.at + (x->doubt == DOUBT_BROKEN ? 1 : 0);

	if ((__s32)(p->seq + p->payload - end) <= 0)
		return GO_ON;
	return released ? drop(COUNT_DROP_DOUBT) : condemn(skb, p, b, false);
}

/* A packet with payload of a connection that is followed. GO_ON: it is for the server here. */
inline_always int later_packet(struct __sk_buff *skb, struct packet *p, struct binding *b,
			       struct exchange *x, bool released)
{
	struct scratch *s = scratch();
	bool strict = p->service_flags & SERVICE_STRICT;

	if (!s)
		return GO_ON;
	if (x->doubt == DOUBT_BROKEN || x->doubt == DOUBT_REFUSED)
		return behind_doubt(skb, p, b, x, released);
	if (x->doubt == DOUBT_RESPONSES)
		x->answered = x->asked; /* nobody knows better */
	struct walk *w = &s->walk;
	walk_requests(w, x, strict);
	/* user space has had it, and has said all that it can */
	bool answered = released && x->decided != NO_NODE && x->decided_seq == p->seq;
	bool boundary = p->seq == x->requests.at && between_messages(&x->requests);
	bool idle = boundary && !x->doubt && !x->closing && x->asked == x->answered &&
		    between_messages(&x->responses) && p->ack == x->responses.at;
	enum fed fed = follow(skb, p);
	if (fed == FED_OLD)
		return GO_ON;
	if (fed == FED_GAP) {
		/* the socket has the missing bytes: they came while the service did not follow
		 * messages, so the client will not repeat them */
		if (has_all_before(skb, p, p->seq, x))
			return outside_messages(x, p);
		if (strict && p->seq - x->requests.at < EARLY_MAX && daemon_listens())
			return hold_early(skb, p, b, x);
		return drop(COUNT_DROP_GAP);
	}
	bool cut = strict && w->reading.flags & READ_AGAIN;
	if (fed == FED_DOUBT && !strict)
		return outside_messages(x, p);
	/* empty lines, and no request behind them yet: whoever has the connection may have them */
	if (fed == FED_FOLLOWED && w->capture && between_messages(&w->follower)) {
		x->requests = w->follower;
		x->cut = 0;
		forget_passed(x);
		/* they bring no answer that says so: what user space has may go on behind them */
		if (x->early)
			tell(&p->flow, b, EVENT_IDLE);
		return GO_ON;
	}
	struct choice choice = {.server = NO_NODE, .why = COUNT_HELD_ASK};
	enum later then = LATER_STAYS;
	if (boundary && cut && !w->reading.cut)
		then = LATER_WAITS; /* too many are unanswered */
	else if (boundary)
		then = fed == FED_DOUBT ? (idle ? LATER_READ : LATER_WAITS)
					: place(p, s, x, idle, &choice);
	if (then == LATER_ASKED && answered)
		then = strict ? LATER_WAITS : LATER_STAYS;
	switch (then) {
	case LATER_MOVES: {
		int sent = move_to(skb, p, b, choice.server);
		if (sent != GO_ON) {
			/* user space may have got something since it gave this back */
			if (x->early)
				tell(&p->flow, b, EVENT_IDLE);
			return sent;
		}
		if (strict) {
			/* another CPU may be about to finish the answer: user space gives the
			 * packet back, and it is looked at once more; after a moment, if once is
			 * too early */
			if (answered)
				return wait_for_idle(skb, p, b, x, false, released);
			return ask(skb, p, b, x, COUNT_HELD_BUSY);
		}
		break;
	}
	case LATER_ASKED:
		return ask(skb, p, b, x, choice.why);
	case LATER_WAITS:
		return wait_for_idle(skb, p, b, x, idle, released);
	case LATER_READ:
		return read_later(skb, p, b);
	default:
		break;
	}
	if (cut) {
		/* its beginning may pass: user space parts them */
		if (!daemon_listens())
			return drop(COUNT_DROP_EARLY_REQUEST);
		x->cut_seq = p->seq + w->reading.cut;
		x->cut = 1;
		return hold_early(skb, p, b, x);
	}
	keep(p, b, x, w, released);
	return GO_ON;
}

/* Another packet of the connection is being looked at: this one comes again, by way of user space.
 */
inline_always int once_more(struct __sk_buff *skb, struct packet *p, struct binding *b)
{
	return daemon_listens() ? hold(skb, p, b, COUNT_HELD_MORE) : drop(COUNT_DROP_BUSY);
}

/* As above, one packet of a connection at a time. verifier: it is the largest part of the program.
 */
global int later(struct __sk_buff *skb, struct packet *p, struct binding *b, __u32 released)
{
	if (!p || !b)
		return GO_ON;
	struct exchange *x = exchange_of(&p->flow, b);

	/* it has moved meanwhile, on another CPU: its socket here must not have any more of it */
	if (!x && b->node != settings.self)
		return once_more(skb, p, b);
	/* a server that has ended its side answers nothing any more: its stack knows what to say */
	if (!x || x->doubt == DOUBT_ALL || b->flags & FLAG_FIN_OUT)
		return GO_ON;
	/* the other one needs microseconds, the client's repetition of what is dropped 200 ms */
	if (__sync_lock_test_and_set(&x->busy, 1))
		return once_more(skb, p, b);
	/* another CPU may have moved it meanwhile */
	int verdict = b->node == settings.self && x->start_seq == b->start_seq
			      ? later_packet(skb, p, b, x, released)
			      : once_more(skb, p, b);
	x->busy = 0;
	return verdict;
}

/* A FIN behind what waits in user space: in front of that the socket would not be idle. */
inline_always bool is_early_fin(const struct packet *p, const struct binding *b)
{
	struct exchange *x = exchange_of(&p->flow, b);

	return x && x->early && x->doubt != DOUBT_ALL && !(b->flags & FLAG_FIN_OUT) &&
	       p->seq != x->requests.at && p->seq - x->requests.at < EARLY_MAX && daemon_listens();
}
