/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Keeps the table of live connections for live ones. Run by user space now and then, not for each
 * end: a connection ends while its last packets are looked at on other CPUs, and these must not
 * find that its place has become another connection's. It has been quiet when it is swept.
 */
#pragma once

#include "binding.h"

/* Its end was seen, by its owner, or by one who forwards: then perhaps not its client's. */
inline_always bool has_ended(const struct binding *b)
{
	return b->flags & FLAG_CLOSED || (b->flags & FLAG_LEFT && b->node != settings.self);
}

static long sweep_one(struct bpf_map *map, struct flow_key *flow, struct binding *b,
		      struct sweep *found)
{
	__u64 idle = bpf_ktime_get_ns() - b->seen_ns;
	__u64 limit = b->flags & FLAG_FIN_IN ? HALF_CLOSED_MS : IDLE_MS;

	if (has_ended(b)) {
		if ((__s64)idle <= (__s64)QUIET_MS * MS) {
			found->ended++;
			return 0;
		}
		struct binding ended = *b;
		ended.aside = 1;
		/* there it is found as before, for as long as there is room */
		bpf_map_update_elem(&aside, flow, &ended, BPF_ANY);
		if (b->flags & FLAG_CLOSED)
			bpf_map_delete_elem(&exchanges, flow);
		bpf_map_delete_elem(&bindings, flow);
		found->aside++;
	} else if ((__s64)idle > (__s64)(limit * MS)) {
		bpf_map_delete_elem(&exchanges, flow);
		bpf_map_delete_elem(&bindings, flow);
		found->removed++;
	} else {
		found->live++;
	}
	return 0;
}

SEC("syscall")
int sweep(struct sweep *o)
{
	struct sweep found = {};

	bpf_for_each_map_elem(&bindings, sweep_one, &found, 0);
	*o = found;
	return 0;
}
