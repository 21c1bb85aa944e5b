/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* From bytes to headers: Ethernet, IPv4 without options, TCP and its options, each with bounds. */
#pragma once

#include "maps.h"

enum {
	L3 = ETH_HLEN,
	L4 = ETH_HLEN + sizeof(struct iphdr),
	TCP_MIN = sizeof(struct tcphdr),
	TCP_OPTIONS_MAX = 40,
};

struct packet {
	struct flow_key flow;
	__u32 seq, ack;
	__u32 payload;	    /* bytes */
	__u32 tsval, tsecr; /* with found & FOUND_TIMESTAMPS, after read_options() */
	__u16 service;
	__u16 pool;	     /* the service's default one, or the request's once that is known */
	__u32 service_flags; /* enum service_flag */
	__u16 window;
	__u16 mss; /* as offered, after read_options() */
	__u8 flags;
	__u8 header; /* length of the TCP header, bytes */
	__u8 ttl;
	__u8 found; /* enum found, after read_options() */
	__u8 wscale;
};

TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct packet, packets);

/* The packet of this run: not on the stack, which is small. */
inline_always struct packet *this_packet(void)
{
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);

	if (p)
		__builtin_memset(p, 0, sizeof(*p));
	return p;
}

enum found {
	FOUND_MSS = 1,
	FOUND_WSCALE = 2,
	FOUND_SACK = 4,
	FOUND_TIMESTAMPS = 8,
};

enum parsed {
	PARSED_TCP,   /* TCP for a service */
	PARSED_OTHER, /* not ours: pass */
	PARSED_UDP,   /* UDP to this node's handoff port */
	PARSED_DROP,  /* for a service, but refused; counted */
};

struct headers {
	struct iphdr ip;
	struct tcphdr tcp;
};

inline_always __u8 tcp_flags(const struct tcphdr *t)
{
	return ((const __u8 *)t)[13];
}

inline_always void map_v4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

inline_always struct service *service_of(struct packet *p)
{
	struct service_key k = {.vip = p->flow.vip, .port = p->flow.vip_port};
	return bpf_map_lookup_elem(&services, &k);
}

/* Reads the packet's headers. A packet that is not for a service is never dropped here. */
inline_always enum parsed parse(struct __sk_buff *skb, struct packet *p)
{
	struct headers h = {};

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return PARSED_OTHER;
	if (bpf_skb_load_bytes(skb, L3, &h, sizeof(h)) &&
	    bpf_skb_load_bytes(skb, L3, &h.ip, sizeof(h.ip)))
		return PARSED_OTHER;
	if (h.ip.protocol == IPPROTO_UDP) {
		struct udphdr *udp = (struct udphdr *)&h.tcp;
		if (h.ip.ihl == 5 && h.ip.daddr == settings.address &&
		    udp->dest == settings.handoff_port && !(h.ip.frag_off & bpf_htons(0x3fff)))
			return PARSED_UDP;
		return PARSED_OTHER;
	}
	if (h.ip.protocol != IPPROTO_TCP)
		return PARSED_OTHER;

	map_v4(&p->flow.client, h.ip.saddr);
	map_v4(&p->flow.vip, h.ip.daddr);
	if (h.ip.ihl != 5 || (h.ip.frag_off & bpf_htons(0x3fff))) {
		/* The port may be out of reach: any service on this address counts. */
		struct service_key k = {.vip = p->flow.vip};
		if (!bpf_map_lookup_elem(&services, &k))
			return PARSED_OTHER;
		count(h.ip.ihl != 5 ? COUNT_DROP_IP_OPTIONS : COUNT_DROP_FRAGMENT);
		return PARSED_DROP;
	}
	p->flow.client_port = h.tcp.source;
	p->flow.vip_port = h.tcp.dest;
	struct service *s = service_of(p);
	if (!s)
		return PARSED_OTHER;

	__u32 total = bpf_ntohs(h.ip.tot_len);
	p->header = h.tcp.doff * 4;
	if (p->header < TCP_MIN || total < sizeof(struct iphdr) + p->header ||
	    total > skb->len - L3) {
		count(COUNT_DROP_MALFORMED);
		return PARSED_DROP;
	}
	if (!h.tcp.dest) /* port 0 is nobody's; its entry is for fragments */
		return PARSED_OTHER;
	p->payload = total - sizeof(struct iphdr) - p->header;
	p->service = s->id;
	p->pool = s->pool;
	p->service_flags = s->flags;
	p->seq = bpf_ntohl(h.tcp.seq);
	p->ack = bpf_ntohl(h.tcp.ack_seq);
	p->window = bpf_ntohs(h.tcp.window);
	p->flags = tcp_flags(&h.tcp);
	p->ttl = h.ip.ttl;
	return PARSED_TCP;
}

inline_always __u32 load_be32(const __u8 *b, __u32 i)
{
	return (__u32)b[i & 63] << 24 | (__u32)b[(i + 1) & 63] << 16 | (__u32)b[(i + 2) & 63] << 8 |
	       b[(i + 3) & 63];
}

/* One TCP option. A length that cannot be ends the reading; what was read before it stands. */
static long option_step(__u32 step, void *context)
{
	struct scratch *s = *(struct scratch **)context;
	__u32 i = s->at;

	if (i >= s->end || i >= TCP_OPTIONS_MAX)
		return 1;
	__u8 kind = s->options[i & 63], length = s->options[(i + 1) & 63];
	if (kind == 0)
		return 1;
	if (kind == 1) {
		s->at = i + 1;
		return 0;
	}
	if (length < 2 || i + length > s->end)
		return 1;
	if (kind == 2 && length == 4) {
		s->found |= FOUND_MSS;
		s->mss = (__u16)s->options[(i + 2) & 63] << 8 | s->options[(i + 3) & 63];
	} else if (kind == 3 && length == 3) {
		__u8 wscale = s->options[(i + 2) & 63];
		s->found |= FOUND_WSCALE;
		s->wscale = wscale > 14 ? 14 : wscale; /* RFC 7323 2.3 */
	} else if (kind == 4 && length == 2) {
		s->found |= FOUND_SACK;
	} else if (kind == 8 && length == 10) {
		s->found |= FOUND_TIMESTAMPS;
		s->tsval = load_be32(s->options, i + 2);
		s->tsecr = load_be32(s->options, i + 6);
	}
	s->at = i + length;
	return 0;
}

function void read_options(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *s = scratch();
	__u32 n = (p->header - TCP_MIN) & 63; /* verifier: a bound that clang cannot fold away */

	p->found = 0;
	if (!s || n == 0)
		return;
	if (bpf_skb_load_bytes(skb, L4 + TCP_MIN, s->options, n))
		return;
	s->at = 0;
	s->end = n;
	s->found = 0;
	s->tsval = s->tsecr = 0; /* not those of another packet */
	bpf_loop(TCP_OPTIONS_MAX, option_step, &s, 0);
	p->found = s->found;
	p->mss = s->mss;
	p->wscale = s->wscale;
	p->tsval = s->tsval;
	p->tsecr = s->tsecr;
}
