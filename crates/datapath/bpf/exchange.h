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

inline_always void note_end(struct scratch *s, struct follower *f)
{
	if (!between_messages(f))
		return;
	f->boundary = f->at;
	if (s->responses && !is_interim(&f->scan))
		s->answered++;
}

/* A head is whole. */
inline_always void head_done(struct scratch *s, struct follower *f)
{
	struct scan *m = &f->scan;

	if (!s->responses) {
		__u32 bit = 1U << (s->asked % OUTSTANDING_MAX);
		bool upgrade = (m->hop & (HOP_UPGRADE | HOP_H2C)) == HOP_UPGRADE;
		if (s->asked - s->answered >= OUTSTANDING_MAX) {
			m->phase = PHASE_DOUBT;
			return;
		}
		s->heads = m->seen & SEEN_HEAD ? s->heads | bit : s->heads & ~bit;
		s->upgrades = upgrade ? s->upgrades | bit : s->upgrades & ~bit;
		s->closing |= is_last(m);
		s->asked++;
		if (s->capture) {
			s->reading.flags |= READ_HEAD;
			s->capture = 0;
			s->judged = s->judge;
		}
		enter_body(m);
		return;
	}
	s->closing |= !is_interim(m) && is_last(m);
	/* RFC 9112 6.3, as far as a length is known */
	if (m->status == 204 || m->status == 304 || is_interim(m) ||
	    s->heads & (1U << (s->answered % OUTSTANDING_MAX))) {
		m->left = 0;
		m->phase = PHASE_START;
	} else if (m->seen & (SEEN_CODING | SEEN_LENGTH)) {
		enter_body(m);
	} else {
		m->phase = PHASE_DOUBT; /* lasts until the connection is closed */
	}
}

inline_always void begin_reading(struct scratch *s)
{
	struct reading *r = &s->reading;
	struct keys *k = cluster_keys();

	if (!k)
		return;
	s->capture = 1;
	r->flags = 0;
	r->hash = r->hash_all = r->host = r->method = FNV_OFFSET ^ k->target;
	r->secret = mix(k->target) | 1;
	r->path_len = r->begin = 0;
	r->loud = ~0U;
	r->segment = SEGMENT_OTHER;
	r->high = r->host_last = 0;
}

/* What begins here must not go along with what is before it. */
inline_always void cut_at(struct scratch *s, __u32 at)
{
	s->reading.flags |= READ_AGAIN;
	s->reading.cut = at;
}

static long byte_step(__u32 step, void *context)
{
	struct scratch *s = *(struct scratch **)context;
	struct follower *f = &s->follower;
	__u32 i = s->at;

	if (i >= s->end || i >= HEAD_MAX || skippable(&f->scan) || f->scan.phase == PHASE_DOUBT)
		return 1;
	__u8 c = s->head[i & (HEAD_MAX - 1)], from = f->scan.phase;
	if (from == PHASE_START) {
		if (s->responses && s->asked == s->answered) {
			f->scan.phase = PHASE_DOUBT; /* the server speaks unasked */
			return 1;
		}
		if (s->judge && !ends_line(c)) {
			s->begun = s->used + i;
			if (s->asked - s->answered >= OUTSTANDING_MAX) {
				cut_at(s, s->begun);
				return 1;
			}
			begin_reading(s);
		}
		/* not the packet's first request, or behind something that has not come */
		if (!s->judge && !s->capture && !ends_line(c) && !(s->reading.flags & READ_AGAIN)) {
			s->reading.flags |= READ_AGAIN;
			s->reading.cut = s->used + i;
		}
		if (s->capture && !ends_line(c))
			s->reading.begin = s->used + i;
	}
	scan_byte(&f->scan, c, s->responses);
	if (f->scan.phase == PHASE_DOUBT)
		return 1;
	if (s->capture)
		note(&s->reading, &f->scan, from, c);
	s->at = i + 1;
	f->at++;
	if (f->scan.phase == PHASE_HEAD_DONE)
		head_done(s, f);
	if (f->scan.phase == PHASE_DOUBT) {
		f->at--;
		return 1;
	}
	note_end(s, f);
	return s->judged || (s->line_only && s->reading.flags & READ_LINE);
}

/* Whether this node's server may have the request that s->reading is of. */
function bool is_own(struct scratch *s, const struct packet *p)
{
	__u16 of = choose_pool(p, s);
	struct pool *pool = of == POOL_UNKNOWN ? 0 : pool_of(of);

	return pool && is_member(pool, settings.self);
}

/*
 * Whether the request that is read is the packet's first one, about which is decided elsewhere.
 * Empty lines before it are for the server that has the connection; before a connection's first
 * request they are a part of it.
 */
inline_always bool is_first(const struct scratch *s)
{
	return s->opens && !s->saved && (!s->begun || s->fresh);
}

/* The head of a request that is judged is whole. false: nothing goes along from there on. */
inline_always bool judge(struct scratch *s)
{
	struct packet *p = this_packet_again();

	s->judged = 0;
	if (!p)
		return false;
	if (is_first(s)) {
		s->first = s->reading;
		s->saved = 1;
		return true;
	}
	if (is_own(s, p))
		return true;
	cut_at(s, s->begun);
	return false;
}

struct walk {
	struct scratch *s;
	struct __sk_buff *skb;
	__u32 from; /* of the payload, in the frame */
	__u32 length;
};

inline_always void pass_over(struct scratch *s, struct follower *f, __u32 n)
{
	skip(&f->scan, n);
	f->at += n;
	note_end(s, f);
}

/* A run of body, or a piece of what must be read. */
static long piece_step(__u32 step, void *context)
{
	struct walk *w = context;
	struct scratch *s = w->s;
	struct follower *f = &s->follower;

	if (s->used >= w->length || f->scan.phase == PHASE_DOUBT ||
	    (s->line_only && s->reading.flags & READ_LINE) ||
	    (s->judge && s->reading.flags & READ_AGAIN))
		return 1;
	__u32 rest = w->length - s->used;
	__u64 run = skippable(&f->scan);
	if (run) {
		__u32 n = run < rest ? run : rest;
		pass_over(s, f, n);
		s->used += n;
		return 0;
	}
	/* between chunks there is little to read */
	__u32 n = f->scan.phase >= PHASE_CHUNK_SIZE && f->scan.phase <= PHASE_CHUNK_LF ? 32
										       : HEAD_MAX;
	if (n > rest)
		n = rest;
	opaque(n); /* verifier: 1 to HEAD_MAX, which it is already */
	n = ((n - 1) & (HEAD_MAX - 1)) + 1;
	if (bpf_skb_load_bytes(w->skb, w->from + s->used, s->head, n)) {
		f->scan.phase = PHASE_DOUBT;
		return 1;
	}
	s->at = 0;
	s->end = n;
	bpf_loop(HEAD_MAX + 1, byte_step, &s, 0);
	s->used += s->at;
	return s->judged && !judge(s);
}

/* What of a packet that was judged may pass: all, or what is before s->reading.cut. */
inline_always int judgement(struct scratch *s, __u32 length)
{
	bool first = is_first(s);

	if (!(s->reading.flags & READ_AGAIN)) {
		if (s->capture) {
			/* its head is not whole, or in doubt */
			if (first)
				return s->follower.scan.phase == PHASE_DOUBT ? FED_DOUBT
									     : FED_FOLLOWED;
			cut_at(s, s->begun);
		} else if (s->follower.scan.phase == PHASE_DOUBT) {
			/* the server whose request it is may say so */
			if (s->used + 1 < length)
				cut_at(s, s->used + 1);
			else
				s->broken = 1;
		}
	}
	if (s->saved) {
		__u32 again = s->reading.flags & READ_AGAIN, cut = s->reading.cut;
		s->reading = s->first;
		s->reading.flags |= again;
		s->reading.cut = cut;
	}
	return FED_FOLLOWED;
}

/*
 * Takes a packet's payload into s->follower, which the caller has filled, and s->asked, answered
 * and heads. Of the first request that begins with the packet's first byte it leaves a reading.
 *
 * verifier: no static function, so that it is walked once and not from each place that uses it.
 */
__noinline int follow_bytes(struct __sk_buff *skb, __u32 seq, __u32 from, __u32 length)
{
	struct scratch *s = scratch();

	if (!s)
		return FED_DOUBT;
	struct follower *f = &s->follower;
	__u32 ahead = seq - f->at, behind = f->at - seq;
	struct walk w = {.s = s, .skb = skb, .from = from, .length = length};

	if (f->scan.phase == PHASE_DOUBT)
		return FED_DOUBT;
	s->used = 0;
	s->capture = s->judged = s->saved = s->broken = 0;
	s->begun = 0;
	s->reading.flags = 0;
	s->opens = !s->responses && ahead == 0 && between_messages(f);
	if (ahead == 0 || ahead >= 1U << 31) {
		if (behind >= length)
			return FED_OLD;
		s->used = behind;
	} else if (ahead <= skippable(&f->scan)) {
		pass_over(s, f, ahead);
	} else {
		return FED_GAP;
	}
	if (s->opens)
		begin_reading(s);
	bpf_loop(70000, piece_step, &w, 0);
	if (s->judge)
		return judgement(s, length);
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
	if (s->follower.scan.status != 101)
		return DOUBT_RESPONSES;
	return upgrades ? DOUBT_ALL : DOUBT_REFUSED;
}

/* A packet of the server. */
inline_always void follow_response(struct __sk_buff *skb, struct packet *p, const struct binding *b)
{
	struct exchange *x = exchange_of(&p->flow, b);
	struct scratch *s = scratch();

	if (!x || !s || x->doubt)
		return;
	s->follower = x->responses;
	s->asked = x->asked;
	s->answered = x->answered;
	s->heads = x->heads;
	s->responses = 1;
	s->closing = s->judge = 0;
	bool upgrades = x->upgrades & (1U << (s->answered % OUTSTANDING_MAX));
	bool was_full = s->asked - s->answered > OUTSTANDING_MAX / 2;
	enum fed fed = follow(skb, p);
	if (fed == FED_OLD)
		return;
	x->responses = s->follower;
	x->answered = s->answered;
	if (s->closing)
		x->closing = 1;
	if (fed != FED_FOLLOWED)
		x->doubt = doubt_of_response(p, s, upgrades);
	else if (x->early && was_full && s->asked - s->answered <= OUTSTANDING_MAX / 2)
		tell(&p->flow, b, EVENT_IDLE); /* there is room for what waits in user space */
}

/* Reads the first request of a connection from its first packet, as far as its service needs. */
inline_always enum fed read_first(struct __sk_buff *skb, const struct packet *p, struct scratch *s)
{
	__builtin_memset(&s->follower, 0, sizeof(s->follower));
	s->follower.at = s->follower.boundary = p->seq;
	s->asked = s->answered = s->heads = 0;
	s->responses = 0;
	s->judge = s->closing = 0;
	s->whole_head = !!(p->service_flags & (SERVICE_HOSTS | SERVICE_STRICT));
	s->line_only = !s->whole_head;
	enum fed fed = follow(skb, p);
	s->line_only = 0;
	return fed;
}
