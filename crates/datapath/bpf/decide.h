/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The kernel's share of deciding: look up what the dispatcher's policy has decided already. What it
 * may decide without asking is the service's guide; everything else is held for user space.
 */
#pragma once

#include "exchange.h"
#include "wrap.h"

enum { PASSED_OVER_MAX = 8 }; /* turns of a rota, for one request */

inline_always bool daemon_listens(void)
{
	struct live *l = live_values();
	return l && bpf_ktime_get_ns() < l->daemon_until_ns;
}

/* The server at one place of the service's rota, if it is alive; NO_NODE otherwise. */
inline_always __u16 rota_at(const struct packet *p, const struct guide *g, __u32 place)
{
	if (!g->rota_len || g->rota_len > ROTA_SLOTS)
		return NO_NODE;
	__u32 i = p->pool * ROTA_SLOTS + place % g->rota_len;
	__u16 *node = bpf_map_lookup_elem(&rota, &i);
	struct load *l = node ? load_of(*node) : 0;
	return l && l->live ? *node : NO_NODE;
}

inline_always __u16 take_turn(const struct packet *p, const struct guide *g)
{
	__u32 pool = p->pool;
	__u32 *turn = bpf_map_lookup_elem(&turns, &pool);

	return turn ? rota_at(p, g, __sync_fetch_and_add(turn, 1)) : NO_NODE;
}

/*
 * User space is silent: any server of the pool may serve the request, and the same target keeps to
 * the same one. Who has died since the rota was made is passed over.
 */
inline_always __u16 decide_alone(const struct packet *p, const struct guide *g, __u64 target,
				 bool known)
{
	__u32 pool = p->pool, place = target;
	__u32 *turn = bpf_map_lookup_elem(&turns, &pool);

	if (!known)
		place = turn ? __sync_fetch_and_add(turn, 1) : 0;
	for (int i = 0; i < PASSED_OVER_MAX; i++) {
		__u16 server = rota_at(p, g, place + i);
		if (server != NO_NODE)
			return server;
	}
	return NO_NODE;
}

/*
 * The least loaded, for its weight, of the servers that a cached decision names, and whether even
 * that one is above the limit.
 */
inline_always __u16 least_loaded(const struct decision *d, __u32 limit, bool *above)
{
	__u64 best_load = 0, best_weight = 0;
	__u16 best = NO_NODE;

	for (int i = 0; i < MAX_REPLICAS; i++) {
		if (i >= d->count)
			break;
		struct load *l = load_of(d->servers[i]);
		if (!l || !l->live)
			continue;
		/* the programs of two CPUs may both have taken back the last one assigned */
		__s32 assigned = l->assigned;
		__u64 load = l->reported + (assigned > 0 ? assigned : 0);
		if (best != NO_NODE && load * best_weight >= best_load * l->weight)
			continue;
		best_load = load;
		best_weight = l->weight;
		best = d->servers[i];
		*above = load * l->least_weight > (__u64)limit * l->weight;
	}
	return best;
}

/* A server, and how it was chosen; or NO_NODE, and why the packet is held, dropped or refused. */
struct choice {
	__u16 server;
	enum counter why;
};

inline_always struct choice no_server(enum counter why)
{
	return (struct choice){.server = NO_NODE, .why = why};
}

inline_always struct choice cached(const struct packet *p, const struct guide *g, __u64 target)
{
	struct decision_key k = {.target = target, .pool = p->pool};
	struct decision *d = bpf_map_lookup_elem(&decisions, &k);
	bool above = false;

	if (!d || d->generation != g->generation ||
	    (d->expires_ns && d->expires_ns < bpf_ktime_get_ns()))
		return no_server(COUNT_HELD_MISS);
	__u16 server = least_loaded(d, g->load_limit, &above);
	if (server == NO_NODE)
		return no_server(COUNT_HELD_MISS);
	return above ? no_server(COUNT_HELD_LOAD) : (struct choice){server, COUNT_DECIDED_CACHE};
}

/* Whether a cached decision for the request that s->walk.reading is of names this node. */
inline_always bool names_this_node(const struct packet *p, const struct scratch *s,
				   const struct guide *g)
{
	struct decision_key k = {.pool = p->pool};

	if (!g || g->kind != GUIDE_CACHED || !target_of(p, s, &k.target))
		return false;
	struct decision *d = bpf_map_lookup_elem(&decisions, &k);
	if (!d || d->generation != g->generation ||
	    (d->expires_ns && d->expires_ns < bpf_ktime_get_ns()))
		return false;
	for (int i = 0; i < MAX_REPLICAS; i++)
		if (i < d->count && d->servers[i] == settings.self)
			return true;
	return false;
}

/* The server for the request that s->walk.reading is of, in p->pool. */
inline_always struct choice decided_for(const struct packet *p, const struct scratch *s)
{
	__u32 pool = p->pool;
	struct guide *g = bpf_map_lookup_elem(&guides, &pool);
	__u64 target = 0;
	bool known = target_of(p, s, &target);

	if (!g)
		return no_server(COUNT_DROP_NO_SERVER);
	if (!daemon_listens()) {
		/* user space would say in the service's protocol that nobody is there */
		__u16 server = decide_alone(p, g, target, known);
		return (struct choice){server, server == NO_NODE ? COUNT_RESET_NO_SERVER
								 : COUNT_DECIDED_ALONE};
	}
	if (g->kind == GUIDE_ROTA) {
		__u16 server = take_turn(p, g);
		return (struct choice){server,
				       server == NO_NODE ? COUNT_HELD_ASK : COUNT_DECIDED_ROTA};
	}
	if (g->kind != GUIDE_CACHED)
		return no_server(COUNT_HELD_ASK);
	return known ? cached(p, g, target) : no_server(COUNT_HELD_HEAD);
}

/* The same. verifier: walked once. */
global int decide(const struct packet *p, struct choice *c)
{
	struct scratch *s = scratch();

	if (!p || !c)
		return 0;
	*c = s ? decided_for(p, s) : no_server(COUNT_DROP_NO_SERVER);
	return 0;
}

/* Gives the packet to user space through the hold device; it comes back when there is a decision.
 */
inline_always int hold(struct __sk_buff *skb, struct packet *p, struct binding *b, enum counter why)
{
	if (!bare(skb, p))
		return drop(COUNT_FAULT_REWRITE);
	/* the device takes what offloads have merged apart again */
	__u32 packets = skb->gso_size ? (p->payload + skb->gso_size - 1) / skb->gso_size : 1;

	__sync_fetch_and_add(&b->held, packets);
	count(why);
	return bpf_redirect(settings.hold_ifindex, 0);
}
