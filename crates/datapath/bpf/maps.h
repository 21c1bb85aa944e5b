/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The maps, each with who writes and who reads. Sizes of the tables come from the cluster file. */
#pragma once

#include "kernel.h"
#include "datapath.h"

/* Set by user space before load. */
const volatile struct {
	__u16 self;
	__u16 control_port;
	__u32 roles;	/* enum role */
	__be32 address; /* this node's */
	__be16 handoff_port;
	__u16 mtu; /* of the cluster interface */
	__u32 cluster_ifindex;
	__u32 hold_ifindex;
	__u32 has_switch; /* somewhere in the cluster, to be told of bindings and ends */
} settings = {};

#define TABLE(kind, entries, k, v, map_name)                                                       \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, entries);                                                      \
		__type(key, k);                                                                    \
		__type(value, v);                                                                  \
	} map_name SEC(".maps")

/* user space writes, programs read */
TABLE(BPF_MAP_TYPE_HASH, 64, struct service_key, struct service, services);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_SERVICES, __u32, struct guide, guides);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_SERVICES *ROTA_SLOTS, __u32, __u16, rota);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_NODES, __u32, struct node, nodes);
TABLE(BPF_MAP_TYPE_HASH, MAX_NODES, __u64, __u16, members); /* MAC address -> node */
TABLE(BPF_MAP_TYPE_ARRAY, MAGLEV_SLOTS, __u32, __u16, maglev);
TABLE(BPF_MAP_TYPE_LRU_HASH, 262144, struct decision_key, struct decision, decisions);
TABLE(BPF_MAP_TYPE_ARRAY, 1, __u32, struct live, live);
TABLE(BPF_MAP_TYPE_ARRAY, 1, __u32, struct keys, keys);

/* both write: programs bind, user space binds what it decided and what it was told */
TABLE(BPF_MAP_TYPE_LRU_HASH, 262144, struct flow_key, struct binding, bindings);
/* both write: user space sets `reported` and clears `assigned`, programs add to `assigned` */
TABLE(BPF_MAP_TYPE_ARRAY, MAX_NODES, __u32, struct load, loads);

/* programs write, user space reads */
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, COUNTERS_MAX, __u32, __u64, counters);
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, MAX_NODES, __u32, __u64, handed_to);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_SERVICES, __u32, __u32, turns);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

/*
 * verifier: state of the byte loops lives here, not on the stack, or each step is a new state; and
 * what would not fit on the 512 bytes of stack.
 */
struct scratch {
	__u64 words[16];
	struct handoff_header handoff;
	struct binding binding;
	struct event event;
	struct binding told; /* apply_order's own: a packet may interrupt it */
	__u8 head[2 * HEAD_MAX];
	__u8 options[64];
	__u64 hash;
	__u32 at, end, phase, space;
	__u32 tsval, tsecr;
	__u16 mss;
	__u8 found, wscale, stop_at_query;
};
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct scratch, scratches);

inline_always void count(enum counter which)
{
	__u32 i = which;
	__u64 *v = bpf_map_lookup_elem(&counters, &i);
	if (v)
		*v += 1;
}

inline_always void count_many(enum counter which, __u64 n)
{
	__u32 i = which;
	__u64 *v = bpf_map_lookup_elem(&counters, &i);
	if (v)
		*v += n;
}

inline_always int drop(enum counter why)
{
	count(why);
	return TC_ACT_SHOT;
}

inline_always struct scratch *scratch(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&scratches, &zero);
}

inline_always struct load *load_of(__u32 node)
{
	return bpf_map_lookup_elem(&loads, &node);
}

inline_always struct live *live_values(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&live, &zero);
}

inline_always struct keys *cluster_keys(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&keys, &zero);
}
