/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What stands where `ingress` does not: behind it, for when the daemon is killed and takes it
 * along; and on interfaces that nobody has named. `ingress` passes no packet for a service on to
 * the next program, so what is seen here came past it. The node's own stack would answer that by a
 * RST, or serve it whatever pool it is for.
 */
#pragma once

#include "adopt.h"

/* Whether the stack has a connection of this flow: its packets are its own, also without Baton. */
inline_always bool has_connection(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = socket_of(skb, &p->flow);
	__u32 state = sk ? sk->state : BPF_TCP_LISTEN;

	if (sk)
		bpf_sk_release(sk);
	return state != BPF_TCP_LISTEN;
}

SEC("tcx/ingress")
int guard(struct __sk_buff *skb)
{
	if (skb->pkt_type != FOR_THIS_HOST || (skb->vlan_present && skb->vlan_tci & VLAN_NUMBER))
		return NEXT_PROGRAM;
	struct packet *p = this_packet();
	if (!p)
		return NEXT_PROGRAM;
	int parsed = parse(skb, p, skb->protocol);

	if (parsed == PARSED_DROP || (parsed == PARSED_TCP && !has_connection(skb, p)))
		return drop(COUNT_DROP_UNATTENDED);
	return NEXT_PROGRAM;
}
