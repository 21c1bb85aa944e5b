/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The handoff packet: made by the distributor, verified and opened by the server's node. */
#pragma once

#include "rewrite.h"

inline_always __u64 issued_of(const struct handoff_option *o)
{
	return (__u64)bpf_ntohl(o->issued[0]) << 32 | bpf_ntohl(o->issued[1]);
}

inline_always void set_issued(struct handoff_option *o, __u64 issued)
{
	o->issued[0] = bpf_htonl(issued >> 32);
	o->issued[1] = bpf_htonl((__u32)issued);
}

static __noinline __u64 handoff_tag(const struct handoff_option *o, const struct packet *p)
{
	struct scratch *s = scratch();
	struct keys *k = cluster_keys();

	if (!k || !s || !o || !p)
		return 0;
	__u64 *w = s->words;
	flow_words(&p->flow, w);
	/* not the segment's own seq: software segmentation repeats the wrapping on each */
	w[5] = p->ack;
	w[6] = (__u64)o->version << 16 | (__u64)o->options << 8 | o->snd_wscale;
	w[7] = (__u64)bpf_ntohl(o->start_seq) << 32 | bpf_ntohl(o->tsval);
	w[8] = issued_of(o);
	w[9] = (__u64)bpf_ntohs(o->mss) << 48 | (__u64)bpf_ntohs(o->distributor) << 32 |
	       (__u64)bpf_ntohs(o->service) << 16 | bpf_ntohs(o->rtt_ms);
	w[10] = (__u64)bpf_ntohs(o->cwnd) << 48 | (__u64)bpf_ntohs(o->flags) << 32 |
		bpf_ntohl(o->replay_end);
	return siphash(w, FLOW_WORDS + 6, k->handoff, 2, 4);
}

/*
 * What the flow's clock reads now, for the server's socket to go on from: never behind what the
 * client echoed, and ahead of it by the round trip measured at the handshake, so that the socket's
 * first RTT sample is honest. The client's own pause before its request must not count. What a
 * reader replays echoes the clock as the reader's socket had it last.
 */
inline_always __u32 clock_for(const struct packet *p, __u16 rtt_ms)
{
	__u32 ahead = flow_clock(&p->flow) - p->tsecr;
	__u32 cap = rtt_ms == RTT_UNKNOWN ? RTT_CAP_MS : rtt_ms;

	if ((__s32)ahead < 0)
		ahead = 0;
	return p->tsecr + (ahead > cap ? cap : ahead);
}

/* As above, for a connection that has had a server: not behind what that one said last. */
inline_always __u32 clock_after(const struct packet *p, const struct binding *b)
{
	__u32 clock = clock_for(p, b->rtt_ms);

	return b->flags & FLAG_MOVED && (__s32)(b->clock - clock) > 0 ? b->clock : clock;
}

/* Everything of the wrapping but what the option says; its tag is made here. */
inline_always void seal(struct handoff_header *h, const struct packet *p, __u32 inner, __be32 to)
{
	struct iphdr *ip = (struct iphdr *)h->ip;
	struct udphdr *udp = (struct udphdr *)h->udp;

	h->option.option_class = bpf_htons(HANDOFF_OPTION_CLASS);
	h->option.type = HANDOFF_OPTION_TYPE;
	h->option.length = (sizeof(h->option) - 4) / 4;
	h->option.version = HANDOFF_VERSION;
	__u64 tag = handoff_tag(&h->option, p);
	h->option.tag[0] = bpf_htonl(tag >> 32);
	h->option.tag[1] = bpf_htonl((__u32)tag);

	h->geneve[0] = sizeof(h->option) / 4;
	h->geneve[1] = 0x40; /* a critical option is present */
	h->geneve[2] = GENEVE_PROTO_IPV4 >> 8;

	udp->source = p->flow.client_port | bpf_htons(0xc000);
	udp->dest = settings.handoff_port;
	udp->len = bpf_htons(inner + sizeof(*h) - sizeof(*ip));

	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(inner + sizeof(*h));
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = settings.address;
	ip->daddr = to;
	ip->check = ~fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

/* Wraps the packet and sends it to the server's node. read_options() must have been called. */
function int send_handoff(struct __sk_buff *skb, const struct packet *p, const struct binding *b)
{
	__u32 to = b->node, inner = skb->len - L3;
	struct node *n = bpf_map_lookup_elem(&nodes, &to);
	struct scratch *s = scratch();

	if (!n || !n->address || !s)
		return drop(COUNT_FAULT_MAP);
	if (!skb->gso_size && inner + sizeof(struct handoff_header) > settings.mtu)
		return drop(COUNT_DROP_HANDOFF_TOO_BIG);

	struct handoff_header *h = &s->handoff;

	__builtin_memset(h, 0, sizeof(*h));
	h->option.options = b->options;
	h->option.snd_wscale = b->snd_wscale;
	h->option.start_seq = bpf_htonl(b->start_seq);
	h->option.tsval = bpf_htonl(clock_after(p, b));
	set_issued(&h->option, b->issued);
	h->option.mss = bpf_htons(b->mss);
	h->option.distributor = bpf_htons(b->distributor);
	h->option.service = bpf_htons(b->service);
	h->option.rtt_ms = bpf_htons(b->rtt_ms);
	h->option.cwnd = bpf_htons(b->cwnd);
	h->option.flags = bpf_htons(b->flags & (FLAG_REPLAY | FLAG_MOVED));
	h->option.replay_end = bpf_htonl(b->replay_end);
	seal(h, p, inner, n->address);

	if (bpf_skb_adjust_room(skb, sizeof(*h), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
					BPF_F_ADJ_ROOM_ENCAP_L4_UDP) ||
	    bpf_skb_store_bytes(skb, L3, h, sizeof(*h), 0))
		return drop(COUNT_FAULT_REWRITE);
	return redirect_to(n->address);
}

inline_always bool well_formed(const struct handoff_header *h)
{
	return (h->geneve[0] & 0xc0) == 0 && (h->geneve[0] & 0x3f) == sizeof(h->option) / 4 &&
	       (h->geneve[1] & 0x80) == 0 && h->geneve[2] == GENEVE_PROTO_IPV4 >> 8 &&
	       h->geneve[3] == (GENEVE_PROTO_IPV4 & 0xff) &&
	       h->option.option_class == bpf_htons(HANDOFF_OPTION_CLASS) &&
	       h->option.type == HANDOFF_OPTION_TYPE &&
	       h->option.length == (sizeof(h->option) - 4) / 4 &&
	       h->option.version == HANDOFF_VERSION;
}

/*
 * Sends a handoff packet on, as it is, to the node that the connection has been decided for since.
 * It must not have been opened: a packet that was wrapped on this machine before cannot be wrapped
 * again.
 */
inline_always int hand_on(struct __sk_buff *skb, const struct packet *p, struct binding *b,
			  const struct handoff_option *o)
{
	__u32 to = b->node, inner = skb->len - L3 - sizeof(struct handoff_header);
	struct node *n = bpf_map_lookup_elem(&nodes, &to);
	struct scratch *s = scratch();

	if (!n || !n->address || !s)
		return drop(COUNT_FAULT_MAP);
	if (o->hops + 1 >= HOPS_MAX)
		return drop(COUNT_DROP_LOOP);
	struct handoff_header *h = &s->handoff;

	__builtin_memset(h, 0, sizeof(*h));
	__builtin_memcpy(&h->option, o, sizeof(*o));
	h->option.hops = o->hops + 1;
	set_issued(&h->option, b->issued);
	seal(h, p, inner, n->address);
	if (bpf_skb_store_bytes(skb, L3, h, sizeof(*h), 0))
		return drop(COUNT_FAULT_REWRITE);
	return redirect_to(n->address);
}

/*
 * Reads and verifies a handoff packet: the option, and the flow and ack of the packet in it.
 * Nothing is changed, in packet or tables, before the tag has proved right.
 */
inline_always enum parsed verify_handoff(struct __sk_buff *skb, struct handoff_option *o,
					 struct packet *p)
{
	struct scratch *s = scratch();
	struct headers inner;

	if (!s)
		return PARSED_DROP;
	struct handoff_header *h = &s->handoff;
	if (bpf_skb_load_bytes(skb, L3, h, sizeof(*h)) || !well_formed(h) ||
	    bpf_skb_load_bytes(skb, L3 + sizeof(*h), &inner, sizeof(inner)) ||
	    inner.ip.version != 4 || inner.ip.ihl != 5 || inner.ip.protocol != IPPROTO_TCP ||
	    (inner.ip.frag_off & bpf_htons(0x3fff)) ||
	    bpf_ntohs(inner.ip.tot_len) > skb->len - L3 - sizeof(*h)) {
		count(COUNT_DROP_HANDOFF_MALFORMED);
		return PARSED_DROP;
	}
	__builtin_memcpy(o, &h->option, sizeof(*o));
	map_v4(&p->flow.client, inner.ip.saddr);
	map_v4(&p->flow.vip, inner.ip.daddr);
	p->flow.client_port = inner.tcp.source;
	p->flow.vip_port = inner.tcp.dest;
	p->seq = bpf_ntohl(inner.tcp.seq);
	p->ack = bpf_ntohl(inner.tcp.ack_seq);

	__u64 tag = handoff_tag(o, p);
	if (o->tag[0] != bpf_htonl(tag >> 32) || o->tag[1] != bpf_htonl((__u32)tag)) {
		count(COUNT_DROP_HANDOFF_FORGED);
		return PARSED_DROP;
	}
	__s64 age = wall_ns() - issued_of(o), limit = (__s64)HANDOFF_AGE_MS * MS;
	if (age > limit || age < -limit) {
		count(COUNT_DROP_HANDOFF_STALE);
		return PARSED_DROP;
	}
	return PARSED_TCP;
}

/* Takes the wrapping off, and reads what was in it. */
inline_always enum parsed open_handoff(struct __sk_buff *skb, struct packet *p)
{
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct handoff_header), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | ADJ_ROOM_DECAP_L3_IPV4)) {
		count(COUNT_FAULT_REWRITE);
		return PARSED_DROP;
	}
	enum parsed parsed = parse(skb, p);
	if (parsed == PARSED_OTHER) { /* not a service of ours: nobody may have sent it */
		count(COUNT_DROP_HANDOFF_MALFORMED);
		return PARSED_DROP;
	}
	return parsed;
}
