// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Baton's packet path: one program for what arrives at a node, one for what its server sends, one
 * that takes held packets back from user space. All roles share them; what a node does is set by
 * settings.roles. docs/datapath.md tells the same story for readers, and the reference model in
 * ../src/model decides the same in Rust.
 *
 * A packet for a service, in order:
 *
 *   1. SYN              switch: to the distributor of its Maglev slot. Distributor: cookie SYN-ACK.
 *   2. bound            owned here: to the stack (the first data packet: adopt). Owned elsewhere:
 *                       forward; the first data packet goes as a handoff packet.
 *   3. not bound        switch: to the distributor of its Maglev slot.
 *   4. held, open       distributor: wait for the decision; read the first request, decide, bind.
 *   5. unknown          a cookie proves a finished handshake: open. A socket of ours: to the stack.
 *                       Anything else is held while user space asks the other nodes.
 *
 * No state is kept for a client before its ACK has proved its address. A packet that another member
 * forwarded is never given to a switch again, nor sent back where it came from.
 */
#include "guard.h"
#include "order.h"
#include "outgoing.h"
#include "probe.h"
#include "received.h"
#include "sweep.h"

/*
 * While user space gives back what it held, nothing may overtake that: the server's node would drop
 * what comes before the handoff packet, and the client would have to repeat it.
 */
inline_always bool may_pass(const struct packet *p, struct binding *b, bool released)
{
	if (b->state == STATE_RELEASING && held_too_long(b))
		b->state = STATE_BOUND;
	if (b->state != STATE_RELEASING || released)
		return true;
	/* what carries nothing overtakes nothing */
	return !p->payload && !(p->flags & FIN);
}

inline_always int undecided(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = binding_of(&p->flow);
	__u16 from = NO_NODE;
	bool released = skb->mark == MARK_RELEASED;

	if (released) {
		count(COUNT_RELEASED);
		set_mark(skb, 0);
	}
	if ((p->flags & SYN) ? (p->flags & (ACK | RST | FIN)) : !(p->flags & (ACK | RST)))
		return drop(COUNT_DROP_FLAGS);
	/* urgent data is data (RFC 6093 3.2): else the server would not get what is read here */
	if (p->flags & URG) {
		struct reply calm = {.seq = p->seq, .ack = p->ack, .flags = p->flags & ~URG};
		if (renumber(skb, p, &calm))
			return drop(COUNT_FAULT_REWRITE);
		p->flags = calm.flags;
	}
	/* a SYN from just before what the binding is about is a late copy of its own */
	if (b && (p->flags & SYN) &&
	    (b->flags & FLAG_CLOSED || b->start_seq - p->seq - 1 >= SYN_REACH)) {
		b->syn_isn = p->seq;
		set_flag(b, FLAG_SYN_SEEN);
	}
	/* Packets next to a newer SYN belong to a connection that the binding is not about. */
	if (b && (p->flags & SYN || (b->flags & FLAG_SYN_SEEN && b->start_seq != b->syn_isn + 1 &&
				     p->seq - b->syn_isn - 1 < SYN_REACH)))
		b = 0;
	if (b && is_nobody(b))
		b = 0;
	if (b && b->state == STATE_READING)
		return reading(skb, p, b, released);
	if (b && is_decided(b) && may_pass(p, b, released)) {
		if (b->node == settings.self)
			return own(skb, p, b, released);
		return is_unheard(skb, p, b) ? decide_again(skb, p, b) : elsewhere(skb, p, b);
	}

	if (settings.has_switch || settings.roles & ROLE_SWITCH ||
	    !(settings.roles & ROLE_DISTRIBUTOR))
		from = sender(skb, p);
	/* whose server is known needs no distributor, which may have forgotten it */
	if (settings.roles & ROLE_SWITCH && from == NO_NODE && !(b && is_decided(b))) {
		if (p->flags & SYN)
			note_syn(p);
		__u16 to = choice_for(skb, p);
		if (to == NO_NODE)
			return p->flags & SYN && refuses()
				       ? refuse_syn(skb, p, COUNT_RESET_NO_DISTRIBUTOR)
				       : drop(COUNT_DROP_NO_DISTRIBUTOR);
		if (to != settings.self)
			return forward(skb, p, to, COUNT_FORWARDED_DISTRIBUTOR);
	}
	if (p->flags & SYN)
		return syn(skb, p, from);
	if (b)
		return b->state != STATE_OPEN && !held_too_long(b) ? held(skb, p, b, released)
								   : open(skb, p, b);
	if (!(settings.roles & (ROLE_DISTRIBUTOR | ROLE_SERVER)))
		return drop(COUNT_DROP_NO_ROLE);
	return unknown(skb, p, from, released);
}

/* The packet that its connection was decided with. */
inline_always int decided(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = find_binding(&p->flow);

	if (!b)
		return drop(COUNT_FAULT_MAP);
	if (b->state == STATE_READING)
		return reading(skb, p, b, false);
	return b->node == settings.self ? own(skb, p, b, false) : hand_off(skb, p, b);
}

/*
 * Whether the network gave the frame to this host. A switch floods what it does not know the way
 * of, and every node sees it: only one may act on it. Broadcasts and multicasts are no TCP
 * (RFC 9293 3.9.2.3), and a tagged frame belongs to a VLAN, whose own device shows it untagged.
 * What has tag 0, a priority (IEEE 802.1Q 9.6), the kernel takes for untagged: the tag goes, or the
 * answer would have it too.
 *
 * What a program or user space lets arrive again was for this host when it came first, perhaps by
 * an interface with another address.
 */
inline_always bool is_for_this_host(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	if (mark == MARK_RELEASED || mark == MARK_LOCAL_RESET || mark == MARK_AGAIN) {
		if (mark == MARK_AGAIN)
			set_mark(skb, 0);
		return skb->pkt_type == FOR_THIS_HOST || !bpf_skb_change_type(skb, FOR_THIS_HOST);
	}
	if (skb->pkt_type != FOR_THIS_HOST)
		return false;
	if (!skb->vlan_present)
		return true;
	bool is_ip = skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
	return is_ip && !(skb->vlan_tci & VLAN_NUMBER) && !bpf_skb_vlan_pop(skb);
}

SEC("tcx/ingress")
int ingress(struct __sk_buff *skb)
{
	if (!is_for_this_host(skb))
		return NEXT_PROGRAM;
	struct packet *p = this_packet();
	struct scratch *s = scratch();
	int verdict;

	if (!p || !s)
		return NEXT_PROGRAM;
	if (skb->mark == MARK_LOCAL_RESET)
		return local_reset(skb, p);
	int parsed = parse(skb, p, skb->protocol);
	bool wrapped = parsed == PARSED_UDP, forwarded = false;
	if (wrapped) {
		verdict = probed(skb, p);
		if (verdict != GO_ON)
			return verdict;
		parsed = verify(skb, p);
		forwarded = s->wrapping.option.flags & bpf_htons(WIRE_FORWARDED);
		if (parsed == PARSED_ICMP && !forwarded)
			return drop(COUNT_DROP_HANDOFF_MALFORMED);
		if (parsed != PARSED_DROP && forwarded)
			count(COUNT_WRAPPED_RECEIVED);
	}
	switch (parsed) {
	case PARSED_TCP:
		verdict = wrapped && !forwarded ? handoff(skb, p, s) : undecided(skb, p);
		return verdict == GO_ON ? decided(skb, p) : verdict;
	case PARSED_ICMP:
		return icmp(skb, p);
	case PARSED_DROP:
		return drop(p->why);
	default:
		return NEXT_PROGRAM;
	}
}

/* User space has written a held packet back: it arrives again where it came from. */
SEC("tcx/ingress")
int release(struct __sk_buff *skb)
{
	struct live *l = live_values();

	set_mark(skb, MARK_RELEASED);
	return bpf_redirect(l && l->cluster_ifindex ? l->cluster_ifindex : settings.cluster_ifindex,
			    BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
