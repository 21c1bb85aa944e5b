/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Where each message on a connection ends, followed over the packets of both directions: the twin
 * of crates/http/src/framing.rs, which is the reference. Packets come lost, doubled and out of
 * order.
 */
#pragma once

#include "binding.h"
#include "scan.h"

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
		if (s->asked - s->answered >= OUTSTANDING_MAX) {
			m->phase = PHASE_DOUBT;
			return;
		}
		s->heads = m->seen & SEEN_HEAD ? s->heads | bit : s->heads & ~bit;
		s->asked++;
		if (s->capture) {
			s->reading.flags |= READ_HEAD;
			s->capture = 0;
		}
		enter_body(m);
		return;
	}
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
		/* not the packet's first byte, or behind something that has not come */
		if ((s->used + i || !s->capture) && !(s->reading.flags & READ_AGAIN)) {
			s->reading.flags |= READ_AGAIN;
			s->reading.cut = s->used + i;
		}
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
	return s->line_only && s->reading.flags & READ_LINE;
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
	    (s->line_only && s->reading.flags & READ_LINE))
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
	return 0;
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
	struct keys *k = cluster_keys();

	if (!s || !k)
		return FED_DOUBT;
	struct follower *f = &s->follower;
	__u32 ahead = seq - f->at, behind = f->at - seq;
	struct walk w = {.s = s, .skb = skb, .from = from, .length = length};

	if (f->scan.phase == PHASE_DOUBT)
		return FED_DOUBT;
	s->used = 0;
	s->capture = 0;
	s->reading.flags = 0;
	if (ahead == 0 || ahead >= 1U << 31) {
		if (behind >= length)
			return FED_OLD;
		s->used = behind;
	} else if (ahead <= skippable(&f->scan)) {
		pass_over(s, f, ahead);
	} else {
		return FED_GAP;
	}
	if (!s->responses && ahead == 0 && between_messages(f)) {
		struct reading *r = &s->reading;
		s->capture = 1;
		r->hash = r->hash_all = r->host = FNV_OFFSET ^ k->target;
		r->secret = mix(k->target) | 1;
		r->method = 2166136261U;
		r->path_len = 0;
		r->segment = SEGMENT_OTHER;
		r->high = r->host_at = r->host_last = 0;
	}
	bpf_loop(70000, piece_step, &w, 0);
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

/* A packet of the server. */
inline_always void follow_response(struct __sk_buff *skb, const struct packet *p,
				   const struct binding *b)
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
	enum fed fed = follow(skb, p);
	if (fed == FED_OLD)
		return;
	x->responses = s->follower;
	x->answered = s->answered;
	if (fed != FED_FOLLOWED)
		x->doubt = 1;
}
