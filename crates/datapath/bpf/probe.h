/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Probes of the way between two nodes: datagrams of all sizes that go as handoff packets do, to the
 * same port, and must not be fragmented. Which of them arrive, user space says to who sent them
 * (RFC 8899). The programs take them before any firewall of the host, as they take handoff packets.
 */
#pragma once

#include "wrap.h"

/*
 * A control packet of Geneve (RFC 8926 3.4: its O bit) with one option, then padding. In network
 * order; `tag` is SipHash-2-4 under the handoff key over the option's other fields and the address
 * that it is for.
 */
struct probe {
	__u8 geneve[8];
	__be16 option_class;
	__u8 type;
	__u8 length; /* of what follows, in 4-byte words */
	__be32 number;
	__be16 node; /* who asks */
	__be16 reserved;
	__be32 issued[2]; /* the cluster's clock, ns */
	__be32 tag[2];
};

_Static_assert(sizeof(struct probe) == 36, "probe has no hidden padding");

inline_always __u64 probe_tag(const struct probe *q, const struct addr *to, __u64 *w)
{
	struct keys *k = cluster_keys();

	if (!k)
		return 0;
	w[0] = (__u64)bpf_ntohl(q->number) << 32 | (__u32)bpf_ntohs(q->node) << 16 |
	       bpf_ntohs(q->reserved);
	w[1] = (__u64)bpf_ntohl(q->issued[0]) << 32 | bpf_ntohl(q->issued[1]);
	w[2] = (__u64)bpf_ntohl(to->w[0]) << 32 | bpf_ntohl(to->w[1]);
	w[3] = (__u64)bpf_ntohl(to->w[2]) << 32 | bpf_ntohl(to->w[3]);
	return siphash(w, 4, k->handoff, 2, 4);
}

/* What came to the handoff port. GO_ON: it is no probe. */
global int probed(struct __sk_buff *skb, const struct packet *p)
{
	struct scratch *s = scratch();
	struct probe q = {};

	if (!s || !p)
		return drop(COUNT_FAULT_MAP);
	if (bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udphdr), &q, sizeof(q)) ||
	    !(q.geneve[1] & 0x80))
		return GO_ON;
	if (q.geneve[0] != (sizeof(q) - sizeof(q.geneve)) / 4 ||
	    q.option_class != bpf_htons(HANDOFF_OPTION_CLASS) || q.type != PROBE_OPTION_TYPE ||
	    q.length != (sizeof(q) - sizeof(q.geneve) - 4) / 4)
		return drop(COUNT_DROP_HANDOFF_MALFORMED);
	struct addr me = settings.address;
	__u64 tag = probe_tag(&q, &me, s->words);
	if (q.tag[0] != bpf_htonl(tag >> 32) || q.tag[1] != bpf_htonl((__u32)tag))
		return drop(COUNT_DROP_HANDOFF_FORGED);
	__u64 issued = (__u64)bpf_ntohl(q.issued[0]) << 32 | bpf_ntohl(q.issued[1]);
	__s64 age = cluster_ns() - issued, limit = (__s64)HANDOFF_AGE_MS * MS;
	if (age > limit || age < -limit)
		return drop(COUNT_DROP_PROBE_STALE);
	struct event *e = &s->event;
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = EVENT_PROBED;
	e->node = bpf_ntohs(q.node);
	e->start_seq = bpf_ntohl(q.number);
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		count(COUNT_EVENT_LOST);
	return drop(COUNT_PROBE_RECEIVED);
}
