/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Adoption: the kernel makes an ESTABLISHED socket for the web server out of the client's first
 * data packet. The SYN never came here, so nothing has cleared away what an earlier connection of
 * the same flow may have left: that is ended first, by a RST that only this node's stack sees.
 */
#pragma once

#include "binding.h"
#include "handoff.h"

/* The socket that our stack has for this flow, a listener if no other; release it. */
inline_always struct bpf_sock *socket_of(struct __sk_buff *skb, const struct flow_key *f)
{
	struct bpf_sock_tuple t = {};

	if (is_v4(&f->vip)) {
		t.ipv4.saddr = f->client.w[3];
		t.ipv4.daddr = f->vip.w[3];
		t.ipv4.sport = f->client_port;
		t.ipv4.dport = f->vip_port;
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(t.ipv6.saddr, &f->client, sizeof(f->client));
	__builtin_memcpy(t.ipv6.daddr, &f->vip, sizeof(f->vip));
	t.ipv6.sport = f->client_port;
	t.ipv6.dport = f->vip_port;
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* Within the first window that the client was offered. */
inline_always bool is_near_start(const struct packet *p, const struct binding *b)
{
	return p->seq - b->start_seq <= SYNACK_WINDOW;
}

/*
 * What a socket takes: a RST where the next byte is expected (RFC 5961 3.2), perhaps behind a gap;
 * else something new within its window, by one who knows what it has sent (RFC 9293 3.10.7.4, RFC
 * 5961 5.2).
 */
inline_always bool takes(const struct tcp_sock *tp, const struct packet *p, const struct binding *b)
{
	__u32 next = tp->rcv_nxt, end = p->seq + p->payload + (p->flags & FIN ? 1 : 0);
	__u32 window = tp->rcv_wup + tp->rcv_wnd - next, ahead = p->seq - next;

	if ((__s32)window < 0)
		window = 0;
	if (p->flags & RST)
		return !ahead || (ahead <= window && tp->out_of_order_queue.rb_node);
	if ((__s32)(end - next) <= 0 || (__s32)(ahead - window) > 0)
		return false;
	__u32 oldest = tp->snd_una - tp->max_window, newest = tp->snd_nxt;
	/* another CPU may be sending: the program has seen it before the socket says so */
	if ((__s32)(b->snd_end - newest) > 0)
		newest = b->snd_end;
	return p->ack - oldest <= newest - oldest;
}

/*
 * Whether this node's stack takes what the packet says for its client's. Who knows only the
 * addresses and ports does not get this right. Without a socket (not made yet, or gone) the
 * packet must be from the connection's beginning.
 */
global int is_taken(struct __sk_buff *skb, const struct packet *p, const struct binding *b)
{
	if (!p || !b)
		return false;
	bool taken = is_near_start(p, b) &&
		     (p->flags & RST || p->ack - b->start_ack <= b->snd_end - b->start_ack);
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	if (!sk)
		return taken;
	if (sk->state == BPF_TCP_TIME_WAIT) {
		struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);
		taken |= tw && tw->tw_sk.__tw_common.skc_tw_rcv_nxt == p->seq;
	} else if (sk->state != BPF_TCP_LISTEN) {
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
		if (tp)
			taken = takes(tp, p, b);
	}
	bpf_sk_release(sk);
	return taken;
}

/*
 * Whether a socket is a stale one, of an earlier connection, and if so the sequence number at which
 * a RST ends it. It is ours when its first byte was start_seq: what it expects next, less what it
 * received (the kernel counts a FIN as a byte of both).
 */
inline_always bool is_stale(struct bpf_sock *sk, const struct binding *b, __u32 *rst_seq)
{
	if (sk->state == BPF_TCP_TIME_WAIT) {
		struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);
		if (!tw)
			return false;
		*rst_seq = tw->tw_sk.__tw_common.skc_tw_rcv_nxt;
		return true;
	}
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return false;
	*rst_seq = tp->rcv_nxt;
	return tp->rcv_nxt - (__u32)tp->bytes_received != b->start_seq;
}

/*
 * Turns the packet into a RST that ends the stale socket; a copy of the packet comes again behind
 * the RST. The RST carries no timestamps: the packet may be of another client behind the same
 * address, and a socket in TIME_WAIT ignores timestamps that are older than its own. The mark tells
 * a firewall that this RST is Baton's: it may have forgotten the socket's connection.
 */
function int end_stale_socket(struct __sk_buff *skb, const struct packet *p, struct binding *b,
			      __u32 rst_seq)
{
	struct reply r = {.seq = rst_seq, .ack = p->ack, .flags = RST | ACK, .plain = true};

	/*
	 * The RST can be refused (net.ipv4.tcp_rfc1337=1), or get lost: not with each packet, but
	 * again after a while, or the connection would never begin.
	 */
	__u64 now = bpf_ktime_get_ns();
	if (b->tries >= TRIES_MAX && now - b->since_ns > (__u64)TRIES_MS * MS) {
		b->tries = 0;
		b->since_ns = now;
	}
	if (b->tries >= TRIES_MAX)
		return drop(COUNT_DROP_STALE_SOCKET);
	b->tries++;
	set_mark(skb, MARK_AGAIN);
	long failed = bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	set_mark(skb, MARK_LOCAL_RESET);
	if (failed || renumber(skb, p, &r))
		return drop(COUNT_FAULT_REWRITE);
	count(COUNT_STALE_SOCKET_ENDED);
	return TC_ACT_OK;
}

function int assign(struct __sk_buff *skb, const struct packet *p, struct binding *b,
		    struct bpf_sock *sk, __u32 tsval)
{
	struct bpf_tcp_req_attrs a = {
		.mss = b->mss,
		.snd_wscale = b->options & OPTION_WSCALE ? b->snd_wscale : 0,
		.rcv_wscale = b->options & OPTION_WSCALE ? RCV_WSCALE : 0,
		.wscale_ok = !!(b->options & OPTION_WSCALE),
		.sack_ok = !!(b->options & OPTION_SACK),
		.tstamp_ok = !!(b->options & OPTION_TIMESTAMPS),
	};
	struct sock *listener = (struct sock *)bpf_skc_to_tcp_sock(sk);

	if (a.tstamp_ok) {
		a.rcv_tsval = p->tsval;
		a.rcv_tsecr = tsval;
	}
	return listener ? bpf_sk_assign_tcp_reqsk(skb, listener, &a, sizeof(a)) : -1;
}

/*
 * The first data packet of a connection that this node owns. tsval: what the flow's clock reads,
 * for the socket to go on from.
 */
function int adopt(struct __sk_buff *skb, struct packet *p, struct binding *b, __u32 tsval)
{
	__u32 rst_seq = 0;

	if (!bare(skb, p))
		return drop(COUNT_FAULT_REWRITE);
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	if (!sk) {
		tell_failed(&p->flow, b, SIGN_NO_LISTENER, false);
		close_binding(&p->flow, b);
		return refuse(skb, p, COUNT_RESET_NO_LISTENER);
	}
	if (sk->state != BPF_TCP_LISTEN) {
		bool stale = is_stale(sk, b, &rst_seq);
		bpf_sk_release(sk);
		if (stale)
			return end_stale_socket(skb, p, b, rst_seq);
		count(COUNT_ADOPT_AGAIN);
		return TC_ACT_OK;
	}
	int refused = assign(skb, p, b, sk, tsval);
	bpf_sk_release(sk);
	if (refused) {
		tell_failed(&p->flow, b, SIGN_REFUSED, false);
		close_binding(&p->flow, b);
		return refuse(skb, p, COUNT_RESET_REFUSED);
	}
	b->clock = tsval;
	b->tries = 0;
	/*
	 * Repeated by the client, and there is no socket still: something on this machine keeps the
	 * packet from it. What that says (a firewall's RST) has to reach the client, see
	 * is_stray_reset().
	 */
	__u64 now = bpf_ktime_get_ns();
	if (!(b->flags & FLAG_ADOPTED)) {
		b->since_ns = now;
	} else if ((__s64)(now - b->since_ns) > (__s64)TRIES_MS * MS) {
		b->since_ns = now;
		set_flag(b, FLAG_REPEATED);
		tell_failed(&p->flow, b, SIGN_NEVER_BEGINS, false);
	}
	b->snd_end = b->start_ack;
	set_flag(b, FLAG_ADOPTED);
	count(COUNT_ADOPTED);
	track_in(p, b);
	return TC_ACT_OK;
}
