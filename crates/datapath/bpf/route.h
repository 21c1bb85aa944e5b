/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which pool of its service a request belongs to, as crates/http/src/rules.rs says, as far as it
 * can be told from one packet; the rest is left to user space, which asks those rules themselves.
 */
#pragma once

#include "scan.h"

enum { POOL_UNKNOWN = 0xffff };

inline_always struct pool *pool_of(__u32 pool)
{
	return bpf_map_lookup_elem(&pools, &pool);
}

inline_always bool is_member(const struct pool *pool, __u16 node)
{
	return node < MAX_NODES && pool->servers[(node / 64) & 3] & (1ULL << (node & 63));
}

/* The route for one host pattern: the longer path counts, then a named method. */
inline_always struct route *route_for(struct scratch *s, __u16 pattern)
{
	s->route.host = pattern;
	s->route.method = mix(s->walk.reading.method);
	struct route *named = bpf_map_lookup_elem(&routes, &s->route);
	s->route.method = 0;
	struct route *any = bpf_map_lookup_elem(&routes, &s->route);

	if (named && any)
		return any->rank > named->rank ? any : named;
	return named ? named : any;
}

/* The pool of the request that is read; POOL_UNKNOWN when user space must say. */
global int choose_pool(const struct packet *p)
{
	struct scratch *s = scratch();
	struct hosts found = {};

	if (!p || !s)
		return POOL_UNKNOWN;
	struct reading *r = &s->walk.reading;

	if (!(p->service_flags & SERVICE_ROUTES))
		return p->pool;
	if (r->flags & READ_NO_PATH)
		return POOL_UNKNOWN;
	if (p->service_flags & SERVICE_STRICT &&
	    (r->flags & READ_UNLIKE || r->loud < p->service_flags >> SERVICE_LOUD_SHIFT))
		return POOL_UNKNOWN;
	if (p->service_flags & SERVICE_HOSTS) {
		if (!(r->flags & READ_HEAD) || r->flags & READ_ODD_HOST)
			return POOL_UNKNOWN;
		if (r->flags & READ_HOST) {
			struct host_key k = {.hash = mix(r->host), .service = p->service};
			bool any = p->service_flags & SERVICE_SUFFIXES;
			struct hosts *known = bpf_map_lookup_elem(&hosts, &k);
			if (!known && any)
				known = bpf_map_lookup_elem(&seen_hosts, &k);
			if (known)
				found = *known;
			else if (any)
				return POOL_UNKNOWN;
		}
	}
	__u32 n = r->path_len;
	if (n < PATH_MAX) {
		r->path[n & (PATH_MAX - 1)] = 0;
		n++;
	} else {
		n = PATH_MAX;
	}
	s->route.service = p->service;
	s->route.prefixlen = (__builtin_offsetof(struct route_key, path) - 4 + n) * 8;
	__builtin_memcpy(s->route.path, r->path, PATH_MAX);
	for (int i = 0; i <= HOSTS_MAX; i++) {
		__u16 pattern = i < HOSTS_MAX ? found.patterns[i] : 0;
		struct route *route = route_for(s, pattern);
		if (route)
			return route->pool;
		if (!pattern)
			break;
	}
	return p->pool;
}

/* The target of the request that s->walk.reading is of, by its pool's key; false: user space must
 * say.
 */
inline_always bool target_of(const struct packet *p, const struct scratch *s, __u64 *target)
{
	const struct reading *r = &s->walk.reading;
	struct pool *pool = pool_of(p->pool);

	if (!pool || r->flags & READ_NO_PATH || pool->key == KEY_OTHER)
		return false;
	*target = mix(pool->key == KEY_PATH ? r->hash : r->hash_all);
	return true;
}
