/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Packets on their way out: forwarded, answered, or turned into a RST. */
#pragma once

#include "wrap.h"

inline_always __u32 ip_summed(struct __sk_buff *skb)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(kernel_skb, ip_summed);
}

inline_always int set_ttl(struct __sk_buff *skb, const struct packet *p, __u8 to)
{
	if (p->v6)
		return bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, hop_limit), &to, 1,
					   0);
	__u16 old = bpf_htons((__u16)p->ttl << 8 | p->protocol);
	__u16 new = bpf_htons((__u16)to << 8 | p->protocol);

	if (bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), old, new, 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, ttl), &to, 1, 0);
}

/*
 * The member that the packet came from: who wrapped it, or by the frame's source MAC address;
 * NO_NODE for anybody else.
 */
inline_always __u16 sender(struct __sk_buff *skb, const struct packet *p)
{
	__u64 mac = 0;

	if (p->wrapped)
		return p->from;
	if (bpf_skb_load_bytes(skb, ETH_ALEN, &mac, ETH_ALEN))
		return NO_NODE;
	if ((__u32)mac == bpf_htonl(SENDER_MAC))
		return bpf_ntohs((__u16)(mac >> 32));
	__u16 *node = bpf_map_lookup_elem(&members, &mac);
	return node ? *node : NO_NODE;
}

/* To a node behind a router, or of the other address family than the packet. */
inline_always int forward_wrapped(struct __sk_buff *skb, const struct packet *p, __u32 to)
{
	struct scratch *s = scratch();

	if (!s)
		return drop(COUNT_FAULT_MAP);
	if (p->wrapped && p->hops + 1 >= HOPS_MAX)
		return drop(COUNT_DROP_LOOP);
	struct wrapping *w = &s->wrapping;
	__builtin_memset(w, 0, sizeof(*w));
	w->option.hops = p->wrapped ? p->hops + 1 : 0;
	w->option.distributor = bpf_htons(settings.self);
	w->option.flags = bpf_htons(WIRE_FORWARDED);
	set_issued(&w->option, cluster_ns() / MS * MS);
	return wrap(skb, p, to);
}

/*
 * Sends the packet on to another node as it is: new MAC addresses, and a time to live that is one
 * less, and short: there is no router on the way.
 */
global int forward(struct __sk_buff *skb, const struct packet *p, __u32 to, __u32 why)
{
	struct node *n = node_of(to);

	if (!n || !p)
		return drop(COUNT_FAULT_MAP);
	if (p->wrapped || n->routed || !!p->v6 != !!settings.address_v6) {
		count(why);
		return forward_wrapped(skb, p, to);
	}
	if (p->ttl <= 1)
		return drop(COUNT_DROP_TTL);
	__u8 ttl = p->ttl - 1;
	if (set_ttl(skb, p, ttl < TTL_BETWEEN ? ttl : TTL_BETWEEN))
		return drop(COUNT_FAULT_REWRITE);
	count(why);
	return redirect_to(n);
}

struct answer {
	struct tcphdr tcp;
	__be32 options[5];
};

/* Seq, ack, flags and window of a packet of our own. */
struct reply {
	__u32 seq, ack;
	__u16 window;
	__u8 flags;
	bool echo_clock; /* say no later time than the client has heard */
	bool plain;	 /* renumbered: no options any more, they are payload */
};

inline_always __be32 option_word(__u8 a, __u8 b, __u8 c, __u8 d)
{
	return bpf_htonl((__u32)a << 24 | (__u32)b << 16 | (__u32)c << 8 | d);
}

/*
 * Options of our answer, in layouts with constant places (a SYN-ACK repeats exactly what the SYN
 * offered, RFC 9293 3.2 and RFC 7323 1.3); their length in bytes.
 */
inline_always __u32 answer_options(struct answer *a, const struct packet *p, const struct reply *r)
{
	bool ts = p->found & FOUND_TIMESTAMPS;
	bool syn = r->flags & SYN;
	__be32 tsval = !ts ? 0 : bpf_htonl(r->echo_clock ? p->tsecr : flow_clock(&p->flow));
	__be32 tsecr = bpf_htonl(p->tsval);

	if (!syn) {
		if (!ts)
			return 0;
		a->options[0] = option_word(1, 1, 8, 10);
		a->options[1] = tsval;
		a->options[2] = tsecr;
		return 12;
	}
	bool sack = p->found & FOUND_SACK, wscale = p->found & FOUND_WSCALE;
	__u32 headers = (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + TCP_MIN;
	__u16 mss = path_mtu() - wrapping_bytes() - headers;
	/* what is not sent must be zero: the checksum is taken over all five words */
	__be32 wscale_word = wscale ? option_word(1, 3, 3, RCV_WSCALE) : 0;

	a->options[0] = option_word(2, 4, mss >> 8, mss & 0xff);
	if (ts) {
		a->options[1] = sack ? option_word(4, 2, 8, 10) : option_word(1, 1, 8, 10);
		a->options[2] = tsval;
		a->options[3] = tsecr;
		a->options[4] = wscale_word;
		return wscale ? 20 : 16;
	}
	a->options[1] = sack ? option_word(1, 1, 4, 2) : wscale_word;
	a->options[2] = sack ? wscale_word : 0;
	return sack && wscale ? 12 : sack || wscale ? 8 : 4;
}

/* The sum of TCP's pseudo-header, not folded. */
inline_always __u64 pseudo_sum(const struct packet *p, __u32 length)
{
	__u64 sum = bpf_htonl(length) + bpf_htonl(IPPROTO_TCP);

	if (!p->v6)
		return sum + p->flow.vip.w[3] + p->flow.client.w[3];
	for (int i = 0; i < 4; i++)
		sum += (__u64)p->flow.vip.w[i] + p->flow.client.w[i];
	return sum;
}

inline_always int store_ip(struct __sk_buff *skb, const struct packet *p, __u32 length)
{
	if (p->v6) {
		struct ipv6hdr ip = {
			.version = 6,
			.payload_len = bpf_htons(length),
			.nexthdr = IPPROTO_TCP,
			.hop_limit = 64,
		};
		__builtin_memcpy(&ip.saddr, &p->flow.vip, sizeof(struct addr));
		__builtin_memcpy(&ip.daddr, &p->flow.client, sizeof(struct addr));
		return bpf_skb_store_bytes(skb, L3, &ip, sizeof(ip), 0);
	}
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(ip) + length),
		.frag_off = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = IPPROTO_TCP,
		.saddr = p->flow.vip.w[3],
		.daddr = p->flow.client.w[3],
	};
	ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
	return bpf_skb_store_bytes(skb, L3, &ip, sizeof(ip), 0);
}

/*
 * Makes the frame as long as its new packet. The kernel may refuse that for one that has been
 * wrapped; then it is made longer by other means, or what is too much stays behind the packet as
 * padding.
 */
inline_always bool resize(struct __sk_buff *skb, __u32 length)
{
	if (!bpf_skb_change_tail(skb, length, 0))
		return true;
	if (skb->len < length)
		return !bpf_skb_adjust_room(skb, length - skb->len, BPF_ADJ_ROOM_MAC,
					    BPF_F_ADJ_ROOM_FIXED_GSO);
	return !skb->gso_size;
}

/*
 * Sends an answer by the node's own route to the client, which may be another one than the packet
 * came by, and depend on who answers (rules by source address, port or protocol). The kernel tells
 * that only to whoever forwards from the interface that it is asked about; user space has made `lo`
 * one (see baton-host), whose rules and routes are those of the node's own packets. The next hop is
 * named as well: looked up again, for one interface and without ports, it would be another one.
 */
global int send_to_client(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_redir_neigh hop = {};
	struct live *l = live_values();
	struct scratch *s = scratch();
	__u32 came_by = skb->ifindex;

	opaque(came_by); /* verifier: clang would share the address */
	if (!l || !l->own_routes || !s || !p)
		return bpf_redirect_neigh(came_by, 0, 0, 0);
	struct bpf_fib_lookup *to = &s->way;
	__builtin_memset(to, 0, sizeof(*to));
	to->ifindex = LOOPBACK;
	to->l4_protocol = IPPROTO_TCP;
	to->sport = p->flow.vip_port;
	to->dport = p->flow.client_port;
	if (p->v6) {
		to->family = FAMILY_IPV6;
		__builtin_memcpy(to->ipv6_src, &p->flow.vip, sizeof(struct addr));
		__builtin_memcpy(to->ipv6_dst, &p->flow.client, sizeof(struct addr));
	} else {
		to->family = FAMILY_IPV4;
		to->ipv4_src = p->flow.vip.w[3];
		to->ipv4_dst = p->flow.client.w[3];
	}
	if (bpf_fib_lookup(skb, to, sizeof(*to), BPF_FIB_LOOKUP_SKIP_NEIGH) !=
	    BPF_FIB_LKUP_RET_SUCCESS)
		return bpf_redirect_neigh(came_by, 0, 0, 0);
	/* the gateway is where the destination was; it may be of the other family */
	hop.nh_family = to->family;
	if (to->family == FAMILY_IPV4)
		hop.ipv4_nh = to->ipv4_dst;
	else
		__builtin_memcpy(hop.ipv6_nh, to->ipv6_dst, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(to->ifindex, &hop, sizeof(hop), 0);
}

/*
 * Turns the client's packet, whatever it carries, into our answer to it and sends it back along the
 * node's own route to the client (it may have come through a switch that is no router).
 */
global int answer(struct __sk_buff *skb, struct packet *p, const struct reply *r)
{
	struct answer a = {};

	if (!p || !r)
		return drop(COUNT_FAULT_REWRITE);
	bool options = !(r->flags & RST);
	__u32 length = TCP_MIN + (options ? answer_options(&a, p, r) : 0);

	a.tcp.source = p->flow.vip_port;
	a.tcp.dest = p->flow.client_port;
	a.tcp.seq = bpf_htonl(r->seq);
	a.tcp.ack_seq = bpf_htonl(r->ack);
	a.tcp.window = bpf_htons(r->window);
	((__u8 *)&a.tcp)[12] = length / 4 << 4;
	((__u8 *)&a.tcp)[13] = r->flags;

	__u64 pseudo = pseudo_sum(p, length);
	if (ip_summed(skb) == CHECKSUM_PARTIAL) /* the device, or the receiver, does the rest */
		a.tcp.check = fold(pseudo);
	else
		a.tcp.check = ~fold(pseudo + bpf_csum_diff(0, 0, (__be32 *)&a, sizeof(a), 0));

	/* a jumbo packet's header (packet.h) is not repeated */
	const __u32 l4 = L3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	if (length < TCP_MIN || length > sizeof(a) || !bare(skb, p) || !resize(skb, l4 + length) ||
	    store_ip(skb, p, length) || bpf_skb_store_bytes(skb, l4, &a, length, 0))
		return drop(COUNT_FAULT_REWRITE);
	set_mark(skb, MARK_ANSWER);
	return send_to_client(skb, p);
}

/* Refuses a SYN, as at a port where nobody listens (RFC 9293 3.10.7.1). */
inline_always int refuse_syn(struct __sk_buff *skb, struct packet *p, enum counter why)
{
	struct reply closed = {.ack = p->seq + 1 + p->payload, .flags = RST | ACK};

	count(why);
	return answer(skb, p, &closed);
}

/* Flags, sequence and acknowledgement numbers changed in place, payload and options kept. */
global int renumber(struct __sk_buff *skb, const struct packet *p, const struct reply *r)
{
	__u16 old_flags, new_flags;

	if (!p || !r)
		return -1;
	__be32 old_seq = bpf_htonl(p->seq), new_seq = bpf_htonl(r->seq);
	__be32 old_ack = bpf_htonl(p->ack), new_ack = bpf_htonl(r->ack);
	const __u32 check = p->l4 + offsetof(struct tcphdr, check);

	if (bpf_skb_load_bytes(skb, p->l4 + 12, &old_flags, 2))
		return -1;
	new_flags = old_flags;
	if (r->plain)
		((__u8 *)&new_flags)[0] = TCP_MIN / 4 << 4;
	((__u8 *)&new_flags)[1] = r->flags;
	if (bpf_l4_csum_replace(skb, check, old_flags, new_flags, 2) ||
	    bpf_l4_csum_replace(skb, check, old_seq, new_seq, 4) ||
	    bpf_l4_csum_replace(skb, check, old_ack, new_ack, 4) ||
	    bpf_skb_store_bytes(skb, p->l4 + 12, &new_flags, 2, 0) ||
	    bpf_skb_store_bytes(skb, p->l4 + 4, &new_seq, 4, 0) ||
	    bpf_skb_store_bytes(skb, p->l4 + 8, &new_ack, 4, 0))
		return -1;
	return 0;
}

/*
 * Refuses the connection: the client gets a RST, sequence number where it expects it (RFC 9293
 * 3.10.7.1), and without what it sent. Only a packet that has been merged and unwrapped on this
 * machine keeps its payload: the kernel refuses to shorten it, and the device that takes it apart
 * again would not understand less.
 */
global int refuse(struct __sk_buff *skb, struct packet *p, __u32 why)
{
	if (!p)
		return drop(COUNT_FAULT_REWRITE);
	struct reply r = {.seq = p->ack, .ack = 0, .flags = RST};
	__be16 ports[2] = {p->flow.vip_port, p->flow.client_port};

	count(why);
	if (!bare(skb, p))
		return drop(COUNT_FAULT_REWRITE);
	if (!skb->gso_size || !bpf_skb_change_tail(skb, p->l4 + TCP_MIN, 0))
		return answer(skb, p, &r);
	/* swapping addresses and ports leaves every checksum as it was */
	if (renumber(skb, p, &r) || set_ttl(skb, p, 64) ||
	    bpf_skb_store_bytes(skb, p->l4, ports, 4, 0))
		return drop(COUNT_FAULT_REWRITE);
	if (p->v6) {
		struct addr addresses[2] = {p->flow.vip, p->flow.client};
		if (bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, saddr), addresses,
					sizeof(addresses), 0))
			return drop(COUNT_FAULT_REWRITE);
	} else {
		__be32 addresses[2] = {p->flow.vip.w[3], p->flow.client.w[3]};
		if (bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, saddr), addresses,
					sizeof(addresses), 0))
			return drop(COUNT_FAULT_REWRITE);
	}
	set_mark(skb, MARK_ANSWER);
	return send_to_client(skb, p);
}
