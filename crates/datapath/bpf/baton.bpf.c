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
 *                       Anything else is dropped or refused, and counted.
 *
 * No state is kept for a client before its ACK has proved its address. A packet that another member
 * forwarded is never given to a switch again, nor sent back where it came from.
 */
#include "order.h"
#include "outgoing.h"
#include "received.h"

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
	/* Told that the connection is ours: without its handoff packet we cannot own it. */
	/* nobody is told that what it has not taken is its own */
	if (b && is_decided(b) && b->node == settings.self && is_hearsay(b))
		b = 0;
	if (b && b->state == STATE_READING)
		return reading(skb, p, b, released);
	if (b && is_decided(b) && may_pass(p, b, released))
		return b->node == settings.self ? own(skb, p, b, released) : elsewhere(skb, p, b);

	if (settings.roles & ROLE_SWITCH || !(settings.roles & ROLE_DISTRIBUTOR))
		from = sender(skb, p);
	/* whose server is known needs no distributor, which may have forgotten it */
	if (settings.roles & ROLE_SWITCH && from == NO_NODE && !(b && is_decided(b))) {
		__u16 to = maglev_choice(&p->flow);
		if (to == NO_NODE)
			return drop(COUNT_DROP_NO_DISTRIBUTOR);
		if (to != settings.self)
			return forward(skb, p, to, COUNT_FORWARDED_DISTRIBUTOR);
	}
	if (p->flags & SYN)
		return syn(skb, p, b);
	if (b)
		return b->state != STATE_OPEN && !held_too_long(b) ? held(skb, p, b, released)
								   : open(skb, p, b);
	if (!(settings.roles & (ROLE_DISTRIBUTOR | ROLE_SERVER)))
		return drop(COUNT_DROP_NO_ROLE);
	return unknown(skb, p, from);
}

/* The packet that its connection was decided with. */
inline_always int decided(struct __sk_buff *skb, struct packet *p)
{
	struct binding *b = bpf_map_lookup_elem(&bindings, &p->flow);

	if (!b)
		return drop(COUNT_FAULT_MAP);
	if (b->state == STATE_READING)
		return reading(skb, p, b, false);
	return b->node == settings.self ? own(skb, p, b, false) : hand_off(skb, p, b);
}

SEC("tcx/ingress")
int ingress(struct __sk_buff *skb)
{
	struct packet *p = this_packet();
	struct scratch *s = scratch();
	int verdict;

	if (!p || !s)
		return NEXT_PROGRAM;
	if (skb->mark == MARK_LOCAL_RESET)
		return local_reset(skb, p);
	s->has_clock = 0;
	int parsed = parse(skb, p, skb->protocol);
	bool wrapped = parsed == PARSED_UDP, forwarded = false;
	if (wrapped) {
		parsed = verify(skb, p);
		forwarded = s->wrapping.option.flags & bpf_htons(WIRE_FORWARDED);
		if (parsed == PARSED_ICMP && !forwarded)
			return drop(COUNT_DROP_HANDOFF_MALFORMED);
		if (parsed != PARSED_DROP && forwarded)
			count(COUNT_WRAPPED_RECEIVED);
	} else if (parsed == PARSED_DROP) {
		count(p->why);
	}
	switch (parsed) {
	case PARSED_TCP:
		verdict = wrapped && !forwarded ? handoff(skb, p, s) : undecided(skb, p);
		return verdict == DECIDED ? decided(skb, p) : verdict;
	case PARSED_ICMP:
		return icmp(skb, p);
	case PARSED_DROP:
		return TC_ACT_SHOT;
	default:
		return NEXT_PROGRAM;
	}
}

/* User space has written a held packet back: it arrives again where it came from. */
SEC("tcx/ingress")
int release(struct __sk_buff *skb)
{
	set_mark(skb, MARK_RELEASED);
	return bpf_redirect(settings.cluster_ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
