/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * SipHash (Aumasson and Bernstein, 2012) over whole 64-bit words: 1-3 rounds where a client could
 * only guess (cookies, clocks, the Maglev slot), 2-4 where a packet is authenticated.
 */
#pragma once

#include "kernel.h"

#define ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

struct sip {
	__u64 v0, v1, v2, v3;
};

inline_always void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTATE(s->v1, 13) ^ s->v0;
	s->v0 = ROTATE(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTATE(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTATE(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTATE(s->v1, 17) ^ s->v2;
	s->v2 = ROTATE(s->v2, 32);
}

inline_always __u64 siphash(const __u64 *words, int n, const __u64 *key, int c, int d)
{
	struct sip s = {
		.v0 = key[0] ^ 0x736f6d6570736575ULL,
		.v1 = key[1] ^ 0x646f72616e646f6dULL,
		.v2 = key[0] ^ 0x6c7967656e657261ULL,
		.v3 = key[1] ^ 0x7465646279746573ULL,
	};
#pragma unroll
	for (int i = 0; i <= n; i++) {
		__u64 word = i < n ? words[i] : (__u64)(n * 8 & 0xff) << 56;
		s.v3 ^= word;
#pragma unroll
		for (int r = 0; r < c; r++)
			sip_round(&s);
		s.v0 ^= word;
	}
	s.v2 ^= 0xff;
#pragma unroll
	for (int r = 0; r < d; r++)
		sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

enum { FLOW_WORDS = 5 };

/* The flow as words: addresses in the order they stand in memory, then the ports. */
inline_always void flow_words(const struct flow_key *f, __u64 *w)
{
	w[0] = (__u64)bpf_ntohl(f->client.w[0]) << 32 | bpf_ntohl(f->client.w[1]);
	w[1] = (__u64)bpf_ntohl(f->client.w[2]) << 32 | bpf_ntohl(f->client.w[3]);
	w[2] = (__u64)bpf_ntohl(f->vip.w[0]) << 32 | bpf_ntohl(f->vip.w[1]);
	w[3] = (__u64)bpf_ntohl(f->vip.w[2]) << 32 | bpf_ntohl(f->vip.w[3]);
	w[4] = (__u64)bpf_ntohs(f->client_port) << 16 | bpf_ntohs(f->vip_port);
}
