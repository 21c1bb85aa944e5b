/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the node's own sockets do: what leaves them, and how they begin. */
#pragma once

#include "exchange.h"

/*
 * A RST without ACK answers a packet that found no socket. Just after an adoption that is a packet
 * which overtook the adopting one on another CPU; its RST would kill the connection. When the
 * client has repeated its first packet, that one has passed long ago: it is a firewall's word.
 */
inline_always bool is_stray_reset(__u8 flags, const struct binding *b)
{
	return (flags & (RST | ACK)) == RST && !(b->flags & FLAG_REPEATED) &&
	       bpf_ktime_get_ns() - b->since_ns < (__u64)YOUNG_MS * MS;
}

/*
 * What a reader repeats comes to a connection that has been answered and closed meanwhile. The
 * client has heard all of it, and the next connection of its port may be on its way.
 */
inline_always bool is_answer_to_replay(const struct packet *p, const struct binding *b)
{
	return b->replay_end && p->seq == b->start_ack && b->snd_end != b->start_ack;
}

/* The server's timestamp, where Linux puts it in a segment: behind two NOPs (RFC 7323, appendix A).
 */
inline_always void note_clock(struct __sk_buff *skb, const struct packet *p, struct binding *b)
{
	__be32 option[2];

	if (!(b->options & OPTION_TIMESTAMPS) || p->header < TCP_MIN + 12 ||
	    bpf_skb_load_bytes(skb, p->l4 + TCP_MIN, option, sizeof(option)) ||
	    option[0] != bpf_htonl(0x0101080a))
		return;
	__u32 tsval = bpf_ntohl(option[1]);
	if ((__s32)(tsval - b->clock) > 0)
		b->clock = tsval;
}

/* What the node's server sends: load, ends, and the RSTs that must not leave. */
SEC("tcx/egress")
int egress(struct __sk_buff *skb)
{
	struct packet p = {.l3 = L3};
	struct tcphdr tcp;
	struct ip ip;

	if (skb->mark == MARK_ANSWER) {
		set_mark(skb, 0);
		return NEXT_PROGRAM;
	}
	if (skb->vlan_present) /* seen before, where it left the VLAN's own device */
		return NEXT_PROGRAM;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!read_v4(skb, &p, &ip))
			return NEXT_PROGRAM;
	} else if (skb->protocol != bpf_htons(ETH_P_IPV6) || !read_v6(skb, &p, &ip)) {
		return NEXT_PROGRAM;
	}
	if (p.protocol != IPPROTO_TCP || ip.odd || ip.fragment ||
	    bpf_skb_load_bytes(skb, p.l4, &tcp, sizeof(tcp)))
		return NEXT_PROGRAM;
	struct addr client = p.flow.vip;
	p.flow.vip = p.flow.client;
	p.flow.client = client;
	p.flow.client_port = tcp.dest;
	p.flow.vip_port = tcp.source;
	struct binding *b = find_binding(&p.flow);
	if (!b)
		return NEXT_PROGRAM;
	if (b->flags & FLAG_FROZEN)
		return drop(COUNT_DROP_FROZEN);
	if (b->state == STATE_READING && is_stray_reset(tcp_flags(&tcp), b))
		return drop(COUNT_DROP_OVERTAKEN_RESET);
	if (!is_decided(b))
		return NEXT_PROGRAM;
	/* a socket of ours that has not heard yet that its connection has moved */
	if (b->node != settings.self)
		return drop(COUNT_DROP_MOVED_AWAY);
	/* nor that it has come back: it is about to be ended for the next one */
	if (!(b->flags & FLAG_ADOPTED) && !is_hearsay(b) && !(tcp_flags(&tcp) & RST))
		return drop(COUNT_DROP_MOVED_AWAY);
	p.header = tcp.doff * 4;
	if (p.header < TCP_MIN || skb->len < p.l4 + p.header)
		return NEXT_PROGRAM;
	p.payload = skb->len - p.l4 - p.header;
	p.seq = bpf_ntohl(tcp.seq);
	p.ack = bpf_ntohl(tcp.ack_seq);
	p.flags = tcp_flags(&tcp);
	/* the socket may have spoken meanwhile */
	if (is_stray_reset(p.flags, b) && (!(b->flags & FLAG_CLOSED) || is_answer_to_replay(&p, b)))
		return drop(COUNT_DROP_OVERTAKEN_RESET);
	if (requests_move()) {
		note_clock(skb, &p, b);
		if (p.payload)
			follow_response(skb, &p, b);
	}
	track_out(&p, b);
	return NEXT_PROGRAM;
}

/* verifier: two functions, or clang makes one read of both, at an address that it computes */
function void addresses_v4(struct bpf_sock_ops *ops, struct flow_key *flow)
{
	map_v4(&flow->client, ops->remote_ip4);
	map_v4(&flow->vip, ops->local_ip4);
}

/* Of a listener for both families IPv4 addresses are mapped already. */
function void addresses_v6(struct bpf_sock_ops *ops, struct flow_key *flow)
{
	flow->client.w[0] = ops->remote_ip6[0];
	flow->client.w[1] = ops->remote_ip6[1];
	flow->client.w[2] = ops->remote_ip6[2];
	flow->client.w[3] = ops->remote_ip6[3];
	flow->vip.w[0] = ops->local_ip6[0];
	flow->vip.w[1] = ops->local_ip6[1];
	flow->vip.w[2] = ops->local_ip6[2];
	flow->vip.w[3] = ops->local_ip6[3];
}

/*
 * A socket has been made for a connection: it begins with the congestion window that the server
 * before had. Called for every socket of the machine.
 */
SEC("sockops")
int carry_cwnd(struct bpf_sock_ops *ops)
{
	struct flow_key flow = {};

	if (ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (ops->family == FAMILY_IPV4)
		addresses_v4(ops, &flow);
	else
		addresses_v6(ops, &flow);
	flow.client_port = bpf_htons(bpf_ntohl(ops->remote_port));
	flow.vip_port = bpf_htons(ops->local_port);
	struct binding *b = bpf_map_lookup_elem(&bindings, &flow);
	if (!b || b->node != settings.self || b->cwnd <= INITIAL_CWND)
		return 1;
	int cwnd = b->cwnd;
	if (!bpf_setsockopt(ops, IPPROTO_TCP, TCP_BPF_IW, &cwnd, sizeof(cwnd)))
		count(COUNT_CWND_CARRIED);
	return 1;
}
