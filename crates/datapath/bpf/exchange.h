/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Where each message on a connection ends, followed over the packets of both directions: the twin
 * of crates/http/src/framing.rs, which is the reference. Packets come lost, doubled and out of
 * order.
 */
#pragma once

#include "binding.h"
#include "route.h"

enum { OUTSTANDING_MAX = 32 };

enum fed {
	FED_FOLLOWED,
	FED_OLD, /* nothing new in it */
	FED_GAP, /* something that matters is missing before it: nothing was taken */
	FED_DOUBT,
};

inline_always bool between_messages(const struct follower *f)
{
	return f->scan.phase == PHASE_START;
}

inline_always bool is_interim(const struct scan *m)
{
	return m->status >= 100 && m->status < 200;
}

inline_always void note_end(struct walk *w, struct follower *f)
{
	if (!between_messages(f))
		return;
	f->boundary = f->at;
	if (w->responses && !is_interim(&f->scan))
		w->answered++;
}

/* A head is whole. */
inline_always void head_done(struct walk *w, struct follower *f)
{
	struct scan *m = &f->scan;

	if (!w->responses) {
		__u32 bit = 1U << (w->asked % OUTSTANDING_MAX);
		bool upgrade = (m->hop & (HOP_UPGRADE | HOP_H2C)) == HOP_UPGRADE;
		if (w->asked - w->answered >= OUTSTANDING_MAX) {
			m->phase = PHASE_DOUBT;
			return;
		}
		w->heads = m->seen & SEEN_HEAD ? w->heads | bit : w->heads & ~bit;
		w->upgrades = upgrade ? w->upgrades | bit : w->upgrades & ~bit;
		w->closing |= is_last(m);
		w->asked++;
		if (w->capture) {
			w->reading.flags |= READ_HEAD;
			w->capture = 0;
			w->judged = w->judge;
		}
		enter_body(m);
		return;
	}
	w->closing |= !is_interim(m) && is_last(m);
	/* RFC 9112 6.3, as far as a length is known */
	if (m->status == 204 || m->status == 304 || is_interim(m) ||
	    w->heads & (1U << (w->answered % OUTSTANDING_MAX))) {
		m->left = 0;
		m->phase = PHASE_START;
	} else if (m->seen & (SEEN_CODING | SEEN_LENGTH)) {
		enter_body(m);
	} else {
		m->phase = PHASE_DOUBT; /* lasts until the connection is closed */
	}
}

inline_always void begin_reading(struct walk *w)
{
	struct reading *r = &w->reading;
	struct keys *k = cluster_keys();

	if (!k)
		return;
	w->capture = 1;
	r->flags = 0;
	r->hash = r->hash_all = r->host = r->method = FNV_OFFSET ^ k->target;
	r->secret = mix(k->target) | 1;
	r->path_len = r->begin = 0;
	r->loud = ~0U;
	r->segment = SEGMENT_OTHER;
	r->high = r->host_last = 0;
}

/* What begins here must not go along with what is before it. */
inline_always void cut_at(struct walk *w, __u32 at)
{
	w->reading.flags |= READ_AGAIN;
	w->reading.cut = at;
}

static long byte_step(__u32 step, void *context)
{
	struct walk *w = *(struct walk **)context;
	struct follower *f = &w->follower;
	__u32 i = w->at;

	if (i >= w->end || i >= HEAD_MAX || skippable(&f->scan) || f->scan.phase == PHASE_DOUBT)
		return 1;
	__u8 c = w->head[i & (HEAD_MAX - 1)], from = f->scan.phase;
	if (from == PHASE_START) {
		if (w->responses && w->asked == w->answered) {
			f->scan.phase = PHASE_DOUBT; /* the server speaks unasked */
			return 1;
		}
		if (w->judge && !ends_line(c)) {
			w->begun = w->used + i;
			if (w->asked - w->answered >= OUTSTANDING_MAX) {
				cut_at(w, w->begun);
				return 1;
			}
			begin_reading(w);
		}
		/* not the packet's first request, or behind something that has not come */
		if (!w->judge && !w->capture && !ends_line(c) && !(w->reading.flags & READ_AGAIN)) {
			w->reading.flags |= READ_AGAIN;
			w->reading.cut = w->used + i;
		}
		if (w->capture && !ends_line(c))
			w->reading.begin = w->used + i;
	}
	scan_byte(&f->scan, c, w->responses);
	if (f->scan.phase == PHASE_DOUBT)
		return 1;
	if (w->capture)
		note(&w->reading, &f->scan, from, c);
	w->at = i + 1;
	f->at++;
	if (f->scan.phase == PHASE_HEAD_DONE)
		head_done(w, f);
	if (f->scan.phase == PHASE_DOUBT) {
		f->at--;
		return 1;
	}
	note_end(w, f);
	return w->judged || (w->line_only && w->reading.flags & READ_LINE);
}

/* Whether this node's server may have the request that s->walk.reading is of. */
inline_always bool is_own(struct scratch *s, const struct packet *p)
{
	__u16 of = choose_pool(p);
	struct pool *pool = of == POOL_UNKNOWN ? 0 : pool_of(of);

	return pool && is_member(pool, settings.self);
}

/*
 * Whether the request that is read is the packet's first one, about which is decided elsewhere.
 * Empty lines before it are for the server that has the connection; before a connection's first
 * request they are a part of it.
 */
inline_always bool is_first(const struct walk *w)
{
	return w->opens && !w->saved && (!w->begun || w->fresh);
}

/* The head of a request that is judged is whole. false: nothing goes along from there on. */
inline_always bool judge(struct scratch *s)
{
	struct packet *p = this_packet_again();
	struct walk *w = &s->walk;

	w->judged = 0;
	if (!p)
		return false;
	if (is_first(w)) {
		w->first = w->reading;
		w->saved = 1;
		return true;
	}
	if (is_own(s, p))
		return true;
	cut_at(w, w->begun);
	return false;
}

/* The payload of one packet. */
struct payload {
	struct scratch *s;
	struct __sk_buff *skb;
	__u32 from; /* where in the frame */
	__u32 length;
};

inline_always void pass_over(struct walk *w, struct follower *f, __u32 n)
{
	skip(&f->scan, n);
	f->at += n;
	note_end(w, f);
}

/* A run of body, or a piece of what must be read. */
static long piece_step(__u32 step, void *context)
{
	struct payload *all = context;
	struct walk *w = &all->s->walk;
	struct follower *f = &w->follower;

	if (w->used >= all->length || f->scan.phase == PHASE_DOUBT ||
	    (w->line_only && w->reading.flags & READ_LINE) ||
	    (w->judge && w->reading.flags & READ_AGAIN))
		return 1;
	__u32 rest = all->length - w->used;
	__u64 run = skippable(&f->scan);
	if (run) {
		__u32 n = run < rest ? run : rest;
		pass_over(w, f, n);
		w->used += n;
		return 0;
	}
	/* between chunks there is little to read */
	__u32 n = f->scan.phase >= PHASE_CHUNK_SIZE && f->scan.phase <= PHASE_CHUNK_LF ? 32
										       : HEAD_MAX;
	if (n > rest)
		n = rest;
	opaque(n); /* verifier: 1 to HEAD_MAX, which it is already */
	n = ((n - 1) & (HEAD_MAX - 1)) + 1;
	if (bpf_skb_load_bytes(all->skb, all->from + w->used, w->head, n)) {
		f->scan.phase = PHASE_DOUBT;
		return 1;
	}
	w->at = 0;
	w->end = n;
	bpf_loop(HEAD_MAX + 1, byte_step, &w, 0);
	w->used += w->at;
	return w->judged && !judge(all->s);
}

/* What of a packet that was judged may pass: all, or what is before s->walk.reading.cut. */
inline_always int judgement(struct walk *w, __u32 length)
{
	bool first = is_first(w);

	if (!(w->reading.flags & READ_AGAIN)) {
		if (w->capture) {
			/* its head is not whole, or in doubt */
			if (first)
				return w->follower.scan.phase == PHASE_DOUBT ? FED_DOUBT
									     : FED_FOLLOWED;
			cut_at(w, w->begun);
		} else if (w->follower.scan.phase == PHASE_DOUBT) {
			/* the server whose request it is may say so */
			if (w->used + 1 < length)
				cut_at(w, w->used + 1);
			else
				w->broken = 1;
		}
	}
	if (w->saved) {
		__u32 again = w->reading.flags & READ_AGAIN, cut = w->reading.cut;
		w->reading = w->first;
		w->reading.flags |= again;
		w->reading.cut = cut;
	}
	return FED_FOLLOWED;
}

/*
 * Takes a packet's payload into the walk, whose first part the caller has filled. Of the first
 * request that begins with the packet's first byte it leaves a reading.
 *
 * verifier: no static function, so that it is walked once and not from each place that uses it.
 */
__noinline int follow_bytes(struct __sk_buff *skb, __u32 seq, __u32 from, __u32 length)
{
	struct scratch *s = scratch();

	if (!s)
		return FED_DOUBT;
	struct walk *w = &s->walk;
	struct follower *f = &w->follower;
	__u32 ahead = seq - f->at, behind = f->at - seq;
	struct payload all = {.s = s, .skb = skb, .from = from, .length = length};

	if (f->scan.phase == PHASE_DOUBT)
		return FED_DOUBT;
	w->used = 0;
	w->capture = w->judged = w->saved = w->broken = 0;
	w->begun = 0;
	w->reading.flags = 0;
	w->opens = !w->responses && ahead == 0 && between_messages(f);
	if (ahead == 0 || ahead >= 1U << 31) {
		if (behind >= length)
			return FED_OLD;
		w->used = behind;
	} else if (ahead <= skippable(&f->scan)) {
		pass_over(w, f, ahead);
	} else {
		return FED_GAP;
	}
	if (w->opens)
		begin_reading(w);
	bpf_loop(70000, piece_step, &all, 0);
	if (w->judge)
		return judgement(w, length);
	return f->scan.phase == PHASE_DOUBT ? FED_DOUBT : FED_FOLLOWED;
}

inline_always enum fed follow(struct __sk_buff *skb, const struct packet *p)
{
	return follow_bytes(skb, p->seq, p->l4 + p->header, p->payload);
}

/* The connection's exchange, if its messages are followed. */
inline_always struct exchange *exchange_of(const struct flow_key *flow, const struct binding *b)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, flow);

	return x && x->start_seq == b->start_seq ? x : 0;
}

/* User space has nothing any more of what has passed. */
inline_always void forget_passed(struct exchange *x)
{
	if ((__s32)(x->requests.at - x->early_end) >= 0)
		x->early = 0;
}

/*
 * A response cannot be read. In a strict service the requests can be followed all the same. Another
 * protocol is the client's and this server's own affair from now on, if the client has asked for
 * it; but never HTTP/2, whose requests nobody would see.
 */
inline_always enum doubt doubt_of_response(struct packet *p, const struct scratch *s, bool upgrades)
{
	struct service *service = service_of(p);

	if (!service || !(service->flags & SERVICE_STRICT))
		return DOUBT_ALL;
	if (s->walk.follower.scan.status != 101)
		return DOUBT_RESPONSES;
	return upgrades ? DOUBT_ALL : DOUBT_REFUSED;
}

/* Begins a walk over what a client sends, where the exchange says that its requests are. */
inline_always void walk_requests(struct walk *w, const struct exchange *x, bool judge)
{
	w->follower = x->requests;
	w->asked = x->asked;
	w->answered = x->answered;
	w->heads = x->heads;
	w->upgrades = x->upgrades;
	w->responses = w->closing = w->fresh = w->line_only = 0;
	w->judge = judge;
}

/* The same over what its server answers. */
inline_always void walk_responses(struct walk *w, const struct exchange *x)
{
	walk_requests(w, x, false);
	w->follower = x->responses;
	w->responses = 1;
}

/* Notes in the exchange where a walk over requests has come to. */
inline_always void keep_requests(struct exchange *x, const struct walk *w)
{
	x->requests = w->follower;
	x->asked = w->asked;
	x->heads = w->heads;
	x->upgrades = w->upgrades;
}

/* A packet of the server. */
inline_always void follow_response(struct __sk_buff *skb, struct packet *p, const struct binding *b)
{
	struct exchange *x = exchange_of(&p->flow, b);
	struct scratch *s = scratch();

	if (!x || !s || x->doubt)
		return;
	struct walk *w = &s->walk;
	walk_responses(w, x);
	bool upgrades = x->upgrades & (1U << (w->answered % OUTSTANDING_MAX));
	bool was_full = w->asked - w->answered > OUTSTANDING_MAX / 2;
	enum fed fed = follow(skb, p);
	if (fed == FED_OLD)
		return;
	x->responses = w->follower;
	x->answered = w->answered;
	if (w->closing)
		x->closing = 1;
	if (fed != FED_FOLLOWED)
		x->doubt = doubt_of_response(p, s, upgrades);
	else if (x->early && was_full && w->asked - w->answered <= OUTSTANDING_MAX / 2)
		tell(&p->flow, b, EVENT_IDLE); /* there is room for what waits in user space */
}

/* Whether the request's line alone does not say which pool is to serve it. */
inline_always bool needs_whole_head(const struct packet *p)
{
	return p->service_flags & (SERVICE_HOSTS | SERVICE_STRICT);
}

/* Reads the first request of a connection from its first packet, as far as its service needs. */
inline_always enum fed read_first(struct __sk_buff *skb, const struct packet *p, struct scratch *s)
{
	struct walk *w = &s->walk;

	__builtin_memset(&w->follower, 0, sizeof(w->follower));
	w->follower.at = w->follower.boundary = p->seq;
	w->asked = w->answered = w->heads = 0;
	w->responses = w->judge = w->closing = w->fresh = 0;
	w->line_only = !needs_whole_head(p);
	return follow(skb, p);
}
