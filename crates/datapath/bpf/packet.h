/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* From bytes to headers: Ethernet, IPv4 or IPv6, TCP and its options, each with bounds. */
#pragma once

#include "maps.h"

enum {
	L3 = ETH_HLEN,
	TCP_MIN = sizeof(struct tcphdr),
	TCP_OPTIONS_MAX = 40,
	V6_HOP_BY_HOP = 0,
	V6_ROUTING = 43,
	V6_FRAGMENT = 44,
	V6_AUTHENTICATION = 51,
	V6_ICMP = 58,
	V6_DESTINATION = 60,
	V6_MOBILITY = 135,
	JUMBO_LEN = 8, /* hop-by-hop header with nothing but a jumbo payload option, RFC 2675 2 */
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
	__u8 protocol; /* of what IP carries */
	__u8 l3, l4;   /* where the headers of IP and of what it carries begin in the frame */
	__u8 v6;
	__u8 wrapped; /* by another member: headers before l3 are the wrapping */
	__u8 hops;    /* with wrapped: how often since */
	__u8 has_clock;
	__u16 from;  /* with wrapped: by which member */
	__u16 why;   /* with PARSED_DROP: enum counter */
	__u32 clock; /* with has_clock: of the flow, as the node that handed it off says */
};

TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct packet, packets);

/* The packet of this run: not on the stack, which is small. */
inline_always struct packet *this_packet(void)
{
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);

	if (p) {
		__builtin_memset(p, 0, sizeof(*p));
		p->l3 = L3;
	}
	return p;
}

/* As it has been read. */
inline_always struct packet *this_packet_again(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&packets, &zero);
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
	PARSED_ICMP,  /* an error about a connection of a service, p->flow */
	PARSED_DROP,  /* for a service, but refused, for the reason p->why */
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

inline_always bool is_v4(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

inline_always bool same_address(const struct addr *a, const volatile struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

inline_always struct service *service_of(struct packet *p)
{
	struct service_key k = {.vip = p->flow.vip, .port = p->flow.vip_port};
	return bpf_map_lookup_elem(&services, &k);
}

/* Whether the packet is for an address of a service, whatever the port. */
inline_always bool is_for_a_service(struct packet *p)
{
	struct service_key k = {.vip = p->flow.vip};
	return bpf_map_lookup_elem(&services, &k);
}

/* What of an IP header counts, but for its addresses: they are in p->flow, the sender as client. */
struct ip {
	__u32 length; /* of the packet with this header, bytes */
	bool odd;     /* options, or extension headers: not read any further */
	bool fragment;
};

inline_always bool read_v4(struct __sk_buff *skb, struct packet *p, struct ip *ip)
{
	struct iphdr h;

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)) || h.version != 4)
		return false;
	p->v6 = 0;
	p->l4 = p->l3 + sizeof(h);
	p->protocol = h.protocol;
	p->ttl = h.ttl;
	map_v4(&p->flow.client, h.saddr);
	map_v4(&p->flow.vip, h.daddr);
	ip->length = bpf_ntohs(h.tot_len);
	if (!ip->length && skb->gso_size) /* merged from more than its field can say */
		ip->length = skb->len - p->l3;
	ip->odd = h.ihl != 5;
	ip->fragment = h.frag_off & bpf_htons(0x3fff);
	return true;
}

inline_always bool read_v6(struct __sk_buff *skb, struct packet *p, struct ip *ip)
{
	struct ipv6hdr h;
	__u8 next[JUMBO_LEN];

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)) || h.version != 6)
		return false;
	p->v6 = 1;
	p->l4 = p->l3 + sizeof(h);
	p->protocol = h.nexthdr;
	p->ttl = h.hop_limit;
	__builtin_memcpy(&p->flow.client, &h.saddr, sizeof(struct addr));
	__builtin_memcpy(&p->flow.vip, &h.daddr, sizeof(struct addr));
	ip->length = sizeof(h) + bpf_ntohs(h.payload_len);
	ip->fragment = h.nexthdr == V6_FRAGMENT;
	ip->odd = h.nexthdr == V6_HOP_BY_HOP || h.nexthdr == V6_ROUTING ||
		  h.nexthdr == V6_AUTHENTICATION || h.nexthdr == V6_DESTINATION ||
		  h.nexthdr == V6_MOBILITY;
	if (!ip->odd && !ip->fragment)
		return true;
	if (bpf_skb_load_bytes(skb, p->l4, next, sizeof(next)))
		next[0] = IPPROTO_TCP;
	else if (h.nexthdr == V6_HOP_BY_HOP && !h.payload_len && skb->gso_size && !next[1] &&
		 next[2] == 0xc2) {
		/* merged from more than the length field can say */
		ip->odd = false;
		ip->length = skb->len - p->l3;
		p->l4 += JUMBO_LEN;
	}
	/* one header is looked behind; whatever hides behind two counts as the worst */
	p->protocol = next[0] == IPPROTO_UDP || next[0] == V6_ICMP ? next[0] : IPPROTO_TCP;
	return true;
}

inline_always enum parsed refused(struct packet *p, enum counter why)
{
	p->why = why;
	return PARSED_DROP;
}

inline_always bool is_icmp_error(const struct packet *p, __u8 type)
{
	/* unreachable, time exceeded, parameter problem: RFC 792, RFC 4443 3 */
	return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* An ICMP packet to a VIP: when it is an error, what it is about. */
inline_always enum parsed read_icmp(struct __sk_buff *skb, struct packet *p)
{
	__u8 type;
	__be16 ports[2];
	__u32 quoted = p->l4 + 8;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1) || !is_icmp_error(p, type))
		return PARSED_OTHER;
	if (p->v6) {
		struct ipv6hdr h;
		if (bpf_skb_load_bytes(skb, quoted, &h, sizeof(h)) || h.nexthdr != IPPROTO_TCP)
			return PARSED_OTHER;
		__builtin_memcpy(&p->flow.client, &h.daddr, sizeof(struct addr));
		__builtin_memcpy(&p->flow.vip, &h.saddr, sizeof(struct addr));
		quoted += sizeof(h);
	} else {
		struct iphdr h;
		if (bpf_skb_load_bytes(skb, quoted, &h, sizeof(h)) || h.protocol != IPPROTO_TCP ||
		    h.ihl != 5)
			return PARSED_OTHER;
		map_v4(&p->flow.client, h.daddr);
		map_v4(&p->flow.vip, h.saddr);
		quoted += sizeof(h);
	}
	if (bpf_skb_load_bytes(skb, quoted, ports, sizeof(ports)) || !ports[0])
		return PARSED_OTHER;
	p->flow.vip_port = ports[0];
	p->flow.client_port = ports[1];
	p->ack = 0;
	return service_of(p) ? PARSED_ICMP : PARSED_OTHER;
}

/*
 * Reads the headers of the packet at p->l3, of the protocol `ethertype`. A packet that is not for a
 * service is never refused here. Nothing is counted: it may be a wrapped one that proves forged.
 */
global int parse(struct __sk_buff *skb, struct packet *p, __u32 ethertype)
{
	struct tcphdr tcp = {};
	struct ip ip;

	if (!p)
		return PARSED_OTHER;
	if (ethertype == bpf_htons(ETH_P_IP)) {
		if (!read_v4(skb, p, &ip))
			return PARSED_OTHER;
	} else if (ethertype != bpf_htons(ETH_P_IPV6) || !read_v6(skb, p, &ip)) {
		return PARSED_OTHER;
	}
	if (p->protocol == IPPROTO_UDP && !ip.odd && !ip.fragment) {
		struct udphdr udp;
		if (!bpf_skb_load_bytes(skb, p->l4, &udp, sizeof(udp)) &&
		    udp.dest == settings.handoff_port &&
		    same_address(&p->flow.vip, &settings.address))
			return PARSED_UDP;
		return PARSED_OTHER;
	}
	if (p->protocol != IPPROTO_TCP) {
		if (p->protocol != (p->v6 ? V6_ICMP : IPPROTO_ICMP) || ip.odd || ip.fragment ||
		    !is_for_a_service(p))
			return PARSED_OTHER;
		return read_icmp(skb, p);
	}
	if (ip.odd || ip.fragment) {
		/* The port may be out of reach. */
		if (!is_for_a_service(p))
			return PARSED_OTHER;
		return refused(p, ip.odd ? COUNT_DROP_IP_OPTIONS : COUNT_DROP_FRAGMENT);
	}
	bool whole = !bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp));
	p->flow.client_port = tcp.source;
	p->flow.vip_port = tcp.dest;
	struct service *s = service_of(p);
	if (!s)
		return PARSED_OTHER;

	__u32 before = p->l4 - p->l3;
	p->header = tcp.doff * 4;
	if (!whole || p->header < TCP_MIN || ip.length < before + p->header ||
	    ip.length > skb->len - p->l3)
		return refused(p, COUNT_DROP_MALFORMED);
	if (!tcp.dest) /* port 0 is nobody's; its entry is for fragments */
		return PARSED_OTHER;
	p->payload = ip.length - before - p->header;
	p->service = s->id;
	p->pool = s->pool;
	p->service_flags = s->flags;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack_seq);
	p->window = bpf_ntohs(tcp.window);
	p->flags = tcp_flags(&tcp);
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
	__u32 i = s->options.at;

	if (i >= s->options.end || i >= TCP_OPTIONS_MAX)
		return 1;
	__u8 kind = s->options.bytes[i & 63], length = s->options.bytes[(i + 1) & 63];
	if (kind == 0)
		return 1;
	if (kind == 1) {
		s->options.at = i + 1;
		return 0;
	}
	if (length < 2 || i + length > s->options.end)
		return 1;
	if (kind == 2 && length == 4) {
		s->options.found |= FOUND_MSS;
		s->options.mss =
			(__u16)s->options.bytes[(i + 2) & 63] << 8 | s->options.bytes[(i + 3) & 63];
	} else if (kind == 3 && length == 3) {
		__u8 wscale = s->options.bytes[(i + 2) & 63];
		s->options.found |= FOUND_WSCALE;
		s->options.wscale = wscale > 14 ? 14 : wscale; /* RFC 7323 2.3 */
	} else if (kind == 4 && length == 2) {
		s->options.found |= FOUND_SACK;
	} else if (kind == 8 && length == 10) {
		s->options.found |= FOUND_TIMESTAMPS;
		s->options.tsval = load_be32(s->options.bytes, i + 2);
		s->options.tsecr = load_be32(s->options.bytes, i + 6);
	}
	s->options.at = i + length;
	return 0;
}

/* Reads the TCP options into the packet's fields. Always 0. verifier: a global returns a number. */
global int read_options(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *s = scratch();

	if (!p)
		return 0;
	__u32 n = (p->header - TCP_MIN) & 63; /* verifier: a bound that clang cannot fold away */
	p->found = 0;
	if (!s || n == 0 || bpf_skb_load_bytes(skb, p->l4 + TCP_MIN, s->options.bytes, n))
		return 0;
	s->options.at = 0;
	s->options.end = n;
	s->options.found = 0;
	s->options.tsval = s->options.tsecr = 0; /* not those of another packet */
	bpf_loop(TCP_OPTIONS_MAX, option_step, &s, 0);
	p->found = s->options.found;
	p->mss = s->options.mss;
	p->wscale = s->options.wscale;
	p->tsval = s->options.tsval;
	p->tsecr = s->options.tsecr;
	return 0;
}
