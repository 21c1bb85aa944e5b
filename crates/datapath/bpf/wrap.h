/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Wrapped packets: a client's packet in Geneve in UDP between two members. A packet that arrives
 * wrapped stays so until it is this node's: one that was wrapped on this machine before (a veth
 * device remembers) cannot be wrapped again, but its wrapping can be rewritten.
 */
#pragma once

#include "binding.h"

inline_always __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Bytes that wrapping adds. */
inline_always __u32 wrapping_bytes(void)
{
	return settings.address_v6 ? WRAPPING_V6 : WRAPPING_V4;
}

/* The largest packet that reaches every node, bytes. */
inline_always __u32 path_mtu(void)
{
	struct live *l = live_values();
	return l && l->path_mtu ? l->path_mtu : settings.mtu;
}

/* A node that packets can be sent to. */
inline_always struct node *node_of(__u32 id)
{
	struct node *n = bpf_map_lookup_elem(&nodes, &id);
	return n && n->roles ? n : 0;
}

inline_always int redirect_to(const struct node *n)
{
	struct bpf_redir_neigh neigh = {};

	if (n->routed)
		return bpf_redirect_neigh(n->ifindex, 0, 0, 0);
	if (settings.address_v6) {
		neigh.nh_family = FAMILY_IPV6;
		__builtin_memcpy(neigh.ipv6_nh, &n->address, sizeof(n->address));
	} else {
		neigh.nh_family = FAMILY_IPV4;
		neigh.ipv4_nh = n->address.w[3];
	}
	return bpf_redirect_neigh(n->ifindex, &neigh, sizeof(neigh), 0);
}

inline_always __u64 issued_of(const struct handoff_option *o)
{
	return (__u64)bpf_ntohl(o->issued[0]) << 32 | bpf_ntohl(o->issued[1]);
}

inline_always void set_issued(struct handoff_option *o, __u64 issued)
{
	o->issued[0] = bpf_htonl(issued >> 32);
	o->issued[1] = bpf_htonl((__u32)issued);
}

/* `to`: whom the packet is for, so that nobody gives it to another node. */
static __noinline __u64 handoff_tag(const struct handoff_option *o, const struct packet *p,
				    const struct addr *to)
{
	struct scratch *s = scratch();
	struct keys *k = cluster_keys();

	if (!k || !s || !o || !p || !to)
		return 0;
	__u64 *w = s->words;
	flow_words(&p->flow, w);
	/* not the segment's own seq: software segmentation repeats the wrapping on each */
	w[5] = p->ack;
	w[6] = (__u64)o->version << 16 | (__u64)o->options << 8 | o->snd_wscale;
	w[7] = (__u64)bpf_ntohl(o->start_seq) << 32 | bpf_ntohl(o->tsval);
	w[8] = issued_of(o);
	w[9] = (__u64)bpf_ntohs(o->mss) << 48 | (__u64)bpf_ntohs(o->distributor) << 32 |
	       (__u64)bpf_ntohs(o->reserved) << 16 | bpf_ntohs(o->rtt_ms);
	w[10] = (__u64)bpf_ntohs(o->cwnd) << 48 | (__u64)bpf_ntohs(o->flags) << 32 |
		bpf_ntohl(o->replay_end);
	w[11] = (__u64)bpf_ntohl(to->w[0]) << 32 | bpf_ntohl(to->w[1]);
	w[12] = (__u64)bpf_ntohl(to->w[2]) << 32 | bpf_ntohl(to->w[3]);
	return siphash(w, FLOW_WORDS + 8, k->handoff, 2, 4);
}

/* Everything of the wrapping but what the option says; its tag is made here. */
inline_always void seal(struct wrapping *w, const struct packet *p, __u32 inner,
			const struct addr *to)
{
	struct udphdr *udp = (struct udphdr *)w->udp;
	__u32 length = inner + sizeof(*w) - sizeof(w->ip);
	__u16 proto = p->v6 ? GENEVE_PROTO_IPV6 : GENEVE_PROTO_IPV4;

	w->option.option_class = bpf_htons(HANDOFF_OPTION_CLASS);
	w->option.type = HANDOFF_OPTION_TYPE;
	w->option.length = (sizeof(w->option) - 4) / 4;
	w->option.version = HANDOFF_VERSION;
	__u64 tag = handoff_tag(&w->option, p, to);
	w->option.tag[0] = bpf_htonl(tag >> 32);
	w->option.tag[1] = bpf_htonl((__u32)tag);

	w->geneve[0] = sizeof(w->option) / 4;
	w->geneve[1] = 0x40; /* a critical option is present */
	w->geneve[2] = proto >> 8;
	w->geneve[3] = proto & 0xff;

	/* no checksum, over IPv6 either (RFC 6935): what counts is tagged, the rest has its own */
	udp->source = p->flow.client_port | bpf_htons(0xc000);
	udp->dest = settings.handoff_port;
	udp->len = bpf_htons(length);

	if (settings.address_v6) {
		struct ipv6hdr *ip = (struct ipv6hdr *)w->ip;
		ip->version = 6;
		ip->payload_len = bpf_htons(length);
		ip->nexthdr = IPPROTO_UDP;
		ip->hop_limit = 64;
		struct addr from = settings.address;
		__builtin_memcpy(&ip->saddr, &from, sizeof(from));
		__builtin_memcpy(&ip->daddr, to, sizeof(*to));
	} else {
		struct iphdr *ip = (struct iphdr *)(w->ip + sizeof(w->ip) - sizeof(*ip));
		ip->version = 4;
		ip->ihl = 5;
		ip->tot_len = bpf_htons(length + sizeof(*ip));
		ip->frag_off = bpf_htons(0x4000);
		ip->ttl = 64;
		ip->protocol = IPPROTO_UDP;
		ip->saddr = settings.address.w[3];
		ip->daddr = to->w[3];
		ip->check = ~fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
	}
}

/* The way to a node is too narrow for the packet: user space tells its sender. */
inline_always int too_big(const struct packet *p, __u16 to)
{
	struct scratch *s = scratch();

	if (s) {
		struct event *e = &s->event;
		__builtin_memset(e, 0, sizeof(*e));
		e->flow = p->flow;
		e->start_seq = p->seq;
		e->kind = EVENT_TOO_BIG;
		e->node = to;
		e->issued = path_mtu() - wrapping_bytes();
		if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
			count(COUNT_EVENT_LOST);
	}
	return drop(COUNT_DROP_TOO_BIG);
}

/* Sends the packet to a node, in a wrapping that says what s->wrapping.option does. */
global int wrap(struct __sk_buff *skb, const struct packet *p, __u32 to)
{
	struct scratch *s = scratch();
	struct node *n = node_of(to);

	if (!n || !s || !p)
		return drop(COUNT_FAULT_MAP);
	__u32 inner = skb->len - p->l3, bytes = wrapping_bytes();
	/* what offloads have merged is taken apart again before it is sent */
	__u32 packet = skb->gso_size ? skb->gso_size + p->l4 - p->l3 + p->header : inner;
	if (packet + bytes > path_mtu() || inner + bytes > 0xffff)
		return too_big(p, to);
	struct wrapping *w = &s->wrapping;
	seal(w, p, inner, &n->address);
	__u64 flags =
		BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		(settings.address_v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (!p->wrapped && bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, flags))
		return drop(COUNT_FAULT_REWRITE);
	__be16 ethertype = settings.address_v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &ethertype, 2, 0))
		return drop(COUNT_FAULT_REWRITE);
	if (settings.address_v6
		    ? bpf_skb_store_bytes(skb, L3, w, WRAPPING_V6, 0)
		    : bpf_skb_store_bytes(skb, L3, w->ip + sizeof(w->ip) - sizeof(struct iphdr),
					  WRAPPING_V4, 0))
		return drop(COUNT_FAULT_REWRITE);
	return redirect_to(n);
}

inline_always bool well_formed(const struct wrapping *w)
{
	__be16 proto = *(__be16 *)(w->geneve + 2);

	return (w->geneve[0] & 0xc0) == 0 && (w->geneve[0] & 0x3f) == sizeof(w->option) / 4 &&
	       (w->geneve[1] & 0x80) == 0 &&
	       (proto == bpf_htons(GENEVE_PROTO_IPV4) || proto == bpf_htons(GENEVE_PROTO_IPV6)) &&
	       w->option.option_class == bpf_htons(HANDOFF_OPTION_CLASS) &&
	       w->option.type == HANDOFF_OPTION_TYPE &&
	       w->option.length == (sizeof(w->option) - 4) / 4 &&
	       w->option.version == HANDOFF_VERSION;
}

/*
 * Reads and verifies a wrapped packet: the option, and the packet in it. Nothing is changed, in
 * packet or tables, before the tag has proved right.
 */
global int verify(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *s = scratch();

	if (!s || !p)
		return PARSED_DROP;
	struct wrapping *w = &s->wrapping;
	struct handoff_option *o = &w->option;
	__u32 bytes = wrapping_bytes();
	enum parsed parsed = PARSED_OTHER;
	if (!bpf_skb_load_bytes(skb, L3 + bytes - (sizeof(*w) - sizeof(w->ip)), w->udp,
				sizeof(*w) - sizeof(w->ip)) &&
	    well_formed(w)) {
		p->l3 = L3 + bytes;
		parsed = parse(skb, p, *(__be16 *)(w->geneve + 2));
	}
	if (parsed != PARSED_TCP && parsed != PARSED_ICMP)
		return refused(p, COUNT_DROP_HANDOFF_MALFORMED);
	struct addr me = settings.address;
	__u64 tag = handoff_tag(o, p, &me);
	if (o->tag[0] != bpf_htonl(tag >> 32) || o->tag[1] != bpf_htonl((__u32)tag))
		return refused(p, COUNT_DROP_HANDOFF_FORGED);
	__s64 age = cluster_ns() - issued_of(o), limit = (__s64)HANDOFF_AGE_MS * MS;
	if (age > limit || age < -limit)
		return refused(p, COUNT_DROP_HANDOFF_STALE);
	p->wrapped = 1;
	p->hops = o->hops;
	p->from = bpf_ntohs(o->distributor);
	return parsed;
}

/* The packet stays here: its wrapping, if it has one, comes off. false: it could not. */
global int bare(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return false;
	if (!p->wrapped)
		return true;
	__u32 bytes = wrapping_bytes();
	__be16 ethertype = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	__u64 inner = p->v6 ? ADJ_ROOM_DECAP_L3_IPV6 : ADJ_ROOM_DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, -(__s32)bytes, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | inner) ||
	    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &ethertype, 2, 0))
		return false;
	p->l3 -= bytes;
	p->l4 -= bytes;
	p->wrapped = 0;
	return true;
}
