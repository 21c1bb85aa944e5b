/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The maps, each with who writes and who reads. Sizes of the tables come from the cluster file. */
#pragma once

#include "kernel.h"
#include "datapath.h"
#include "spread.h"

/* Set by user space before load. */
const volatile struct {
	__u16 self;
	__u16 control_port;
	__u32 roles;	     /* enum role */
	struct addr address; /* this node's */
	__u32 address_v6;
	__be16 handoff_port;
	__u16 mtu;	       /* of the cluster interface, until user space says more in `live` */
	__u32 cluster_ifindex; /* so is this */
	__u32 hold_ifindex;
	__u32 has_switch; /* somewhere in the cluster, to be told of bindings and ends */
	__u32 others;	  /* some other node may own connections */
} settings = {};

#define TABLE(kind, entries, k, v, map_name)                                                       \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, entries);                                                      \
		__type(key, k);                                                                    \
		__type(value, v);                                                                  \
	} map_name SEC(".maps")

/* user space writes, programs read */
/* two entries for an address: its port, and port 0 */
TABLE(BPF_MAP_TYPE_HASH, 2 * MAX_SERVICES * MAX_VIPS * 2, struct service_key, struct service,
      services);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_POOLS, __u32, struct pool, pools);
TABLE(BPF_MAP_TYPE_HASH, 2 * MAX_SERVICES * MAX_ROUTES, struct host_key, struct hosts, hosts);
/* hosts that no route names in full, as clients ask for them: any number */
TABLE(BPF_MAP_TYPE_LRU_HASH, SEEN_HOSTS, struct host_key, struct hosts, seen_hosts);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_POOLS, __u32, struct guide, guides);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_POOLS *ROTA_SLOTS, __u32, __u16, rota);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_NODES, __u32, struct node, nodes);
TABLE(BPF_MAP_TYPE_HASH, MAX_NODES, __u64, __u16, members); /* MAC address -> node */
/* the switch's tables one behind the other: slot -> makers */
TABLE(BPF_MAP_TYPE_ARRAY, SPREADS_MAX *SPREAD_PAGES, __u32, struct spread_page, maglev);
TABLE(BPF_MAP_TYPE_ARRAY, 1, __u32, struct spread, spreads);
TABLE(BPF_MAP_TYPE_ARRAY, MAKERS_MAX, __u32, struct maker, makers);
TABLE(BPF_MAP_TYPE_ARRAY, LEASES_MAX, __u32, struct lease, leases);
/* of a switch, by a flow's hash: half of that hash, and its latest SYN's sequence number */
TABLE(BPF_MAP_TYPE_ARRAY, LATEST_SYNS, __u32, __u64, latest_syns);
TABLE(BPF_MAP_TYPE_LRU_HASH, 262144, struct decision_key, struct decision, decisions);
TABLE(BPF_MAP_TYPE_ARRAY, 1, __u32, struct live, live);
TABLE(BPF_MAP_TYPE_ARRAY, 1, __u32, struct keys, keys);

/*
 * both write: programs bind, user space binds what it decided and what it was told. Live
 * connections that have an owner are in `bindings`, those that have none yet, or have ended, in
 * `aside`: however many there are of these, they displace none of those.
 */
TABLE(BPF_MAP_TYPE_LRU_HASH, 262144, struct flow_key, struct binding, bindings);
TABLE(BPF_MAP_TYPE_LRU_HASH, 131072, struct flow_key, struct binding, aside);
/* both write: user space sets `reported` and clears `assigned`, programs add to `assigned` */
TABLE(BPF_MAP_TYPE_ARRAY, MAX_NODES, __u32, struct load, loads);

/* programs write, user space reads */
struct guesses {
	__u64 second;
	__u64 wrong;
};
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct guesses, guesses);
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, COUNTERS_MAX, __u32, __u64, counters);
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, MAX_NODES, __u32, __u64, handed_to);
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, MAX_NODES, __u32, struct passed, handoffs_passed);
/* by service: connections of which this node's socket has spoken */
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, 2 * MAX_SERVICES, __u32, __u64, spoken);
TABLE(BPF_MAP_TYPE_PERCPU_ARRAY, POPULATION_MAX, __u32, __u64, population);
TABLE(BPF_MAP_TYPE_ARRAY, MAX_POOLS, __u32, __u32, turns);
TABLE(BPF_MAP_TYPE_LRU_HASH, 262144, struct flow_key, struct exchange, exchanges);
/* the last one counts all */
TABLE(BPF_MAP_TYPE_ARRAY, UNKNOWN_SLOTS + 1, __u32, struct budget, unknowns);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	/* of strict services those with capital letters are there in small ones too */
	__uint(max_entries, 4 * MAX_SERVICES * MAX_ROUTES * MAX_METHODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, struct route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

enum read_flag {
	READ_LINE_CR = 1,
	READ_LINE = 2,	  /* the request line is whole */
	READ_HEAD = 4,	  /* the head is whole */
	READ_NO_PATH = 8, /* nothing goes by its path: it is not its own normal form */
	READ_HOST = 16,	  /* there is a host */
	READ_ODD_HOST = 32,
	READ_AGAIN = 64,   /* another request begins in the same packet; of one that is judged: what
			      begins at `cut` may not go along with what is before it */
	READ_UNLIKE = 128, /* web servers may take the path for different ones */
};

enum segment { SEGMENT_EMPTY, SEGMENT_DOT, SEGMENT_DOTS, SEGMENT_OTHER };
enum host_part {
	HOST_BEFORE,  /* nothing, or blanks */
	HOST_NAME,    /* behind a byte of a name that is no dot */
	HOST_DOT,     /* behind one that is */
	HOST_OPEN,    /* behind the bracket that opens an IPv6 address */
	HOST_ADDRESS, /* in the address */
	HOST_CLOSED,  /* behind the bracket that closes it */
	HOST_PORT,    /* behind the colon */
	HOST_AFTER,   /* in the blanks behind it */
	HOST_NOT,     /* no host has such a byte there */
};

/* What the first request of a packet asks for, as far as the kernel looks at it. */
struct reading {
	__u64 secret;	/* of the host's and the method's hash */
	__u64 hash;	/* of the path */
	__u64 hash_all; /* and the query */
	__u64 host;
	__u64 method;
	__u32 path_len;
	__u32 flags; /* enum read_flag */
	__u32 cut;   /* with READ_AGAIN: where in the payload */
	__u32 loud;  /* where in the path the first capital letter is */
	__u32 begin; /* where in the payload it begins itself, behind empty lines */
	__u8 segment, high, host_last;
	__u8 path[PATH_MAX];
};

/*
 * One packet's bytes on their way through a follower (exchange.h). Who follows sets the first
 * part, and finds in the second what has become of it; the third is the walk's own.
 */
struct walk {
	struct follower follower;
	__u32 asked, answered, heads, upgrades; /* of struct exchange, and taken back to it */
	__u8 responses;				/* the bytes are the server's */
	__u8 line_only;				/* the first request's line is all that is read */
	/*
	 * A packet of a strict service is judged: may this node's server have each request in it?
	 * But for the one that begins the packet, of which more is asked.
	 */
	__u8 judge;
	__u8 fresh; /* the connection's first packet: its first request is this node's */

	__u8 broken;  /* a judged packet's last byte is one that nobody can read */
	__u8 closing; /* a message says that it is the last */
	__u8 capture; /* a request has begun of which the head is not whole */
	struct reading reading;

	struct reading first; /* with `saved`: of the request that begins the packet */
	__u8 opens, judged, saved;
	__u32 used;    /* of the payload */
	__u32 begun;   /* where in the payload the last request begins */
	__u32 at, end; /* of the bytes in `head` */
	__u8 head[2 * HEAD_MAX];
};

/* A packet's TCP options on their way into struct packet (packet.h). */
struct options {
	__u8 bytes[64];
	__u32 at, end;
	__u32 tsval, tsecr;
	__u16 mss;
	__u8 found, wscale;
};

/*
 * verifier: state of the byte loops lives here, not on the stack, or each step is a new state; and
 * what would not fit on the 512 bytes of stack. Each is one header's own, but for the walk.
 */
struct scratch {
	__u64 words[16];	  /* wrap.h: what a tag is made of */
	struct wrapping wrapping; /* wrap.h, handoff.h: of the packet that is read or written */
	struct binding binding;	  /* a new one, on its way into its table */
	struct binding told;	  /* order.h's own: a packet may interrupt it */
	struct event event;
	struct exchange exchange; /* a new one, on its way into its table */
	struct route_key route;
	struct bpf_fib_lookup way; /* rewrite.h: to the client */
	struct walk walk;
	struct options options;
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

inline_always void count_population(enum population which)
{
	__u32 i = which;
	__u64 *v = bpf_map_lookup_elem(&population, &i);
	if (v)
		*v += 1;
}

/*
 * A step of a packet's way ends with a verdict (TC_ACT_OK, TC_ACT_SHOT, a redirect's), or with
 * GO_ON: nothing is said yet, its caller's next step follows.
 */
enum { GO_ON = -2 };

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

/* Whether there is anything to follow. */
inline_always bool requests_move(void)
{
	struct live *l = live_values();
	return l && l->follows;
}

inline_always struct keys *cluster_keys(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&keys, &zero);
}
