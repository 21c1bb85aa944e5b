/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the kernel programs and user space share: map keys and values, limits, the handoff packet's
 * layout and the list of counters. Written once, here: Rust gets the types through BTF (skeleton)
 * and the counters' names and sentences through the build script, which reads the COUNTERS list.
 *
 * Conventions: __be16/__be32 are in network byte order, everything else in host order. Times ending
 * in _ns are bpf_ktime_get_ns(); "cluster" times are of the clock on which the nodes agree.
 */
#pragma once

enum limits {
	MAX_NODES = 256,
	/* of a cluster file; the tables have room for two: one file takes another's place */
	MAX_SERVICES = 16,
	MAX_VIPS = 64,	  /* of a service */
	MAX_ROUTES = 256, /* of a service */
	MAX_METHODS = 16, /* of a route */
	SEEN_HOSTS = 16384,
	MAX_REPLICAS = 4, /* servers one cached decision may name */
	ROTA_SLOTS = 256, /* turns of one service's rota */
	MAGLEV_SLOTS = 65537,
	MAX_POOLS = 128, /* twice what a cluster file may have: those before a reload keep theirs */
	HEAD_MAX = 512,	 /* bytes of a request that the kernel looks at at once */
	PATH_MAX = 128,	 /* bytes of a path that the kernel compares with routes */
	HOSTS_MAX = 4,	 /* host patterns that one host may match */
	TRIES_MAX = 3,	 /* stale sockets that one adoption may end */
	HOPS_MAX = 4,	 /* times one handoff packet may be handed on */
	/*
	 * What is forwarded unwrapped has at most so long to live: it stays on one link, and a
	 * binding that leads back, or a link that doubles frames, must not let it circle.
	 */
	TTL_BETWEEN = 8,
	NO_NODE = 0xffff,
	NODE_READER = 0xfffe, /* a later request is this node's reader's, which has to answer it */
	SYN_REACH = 65536,    /* sequence numbers behind a SYN that are its connection's */
	/* sent before anything was acknowledged: ten segments (RFC 6928) of 1460 bytes, and more */
	BEGUN_REACH = 16384,
	LEASES_MAX = 16,  /* terms that a distributor knows cookies of */
	SPREADS_MAX = 2,  /* tables of the switch: the one in use, and the next */
	SPREAD_PAGE = 64, /* slots that are written at once */
	SPREAD_PAGES = MAGLEV_SLOTS / SPREAD_PAGE + 1,
	SLOT_MAKERS = 8,      /* makers of a slot: the one in force, and those before it */
	MAKERS_MAX = 1024,    /* terms of distributors that slots name */
	LATEST_SYNS = 131072, /* of which a switch remembers the sequence number */
	NO_SPREAD = 0xff,
	NO_HEIR = 0xff,
	/*
	 * Wrong cookies without timestamps that one CPU looks at in a second; beyond that, packets
	 * without timestamps prove nothing for the rest of it.
	 */
	GUESSES_MAX = 5000,
	/* packets of unknown connections that user space is asked about in one window of time */
	UNKNOWN_MAX = 512,
	UNKNOWN_PREFIX_MAX = 128, /* of them, from one prefix of clients */
	UNKNOWN_SLOTS = 1024,	  /* prefixes that are counted apart */
};

enum times {
	/* ktime >> 28: a new window of time each 268 ms */
	UNKNOWN_WINDOW_SHIFT = 28,
	COOKIE_SLOT_SHIFT = 36, /* cluster_ns >> 36: a new cookie slot each 68.7 s */
	COOKIE_LIFE_MS = 40000, /* a cookie proves for so long at least, a slot longer at most */
	COOKIE_SKEW_MS = 10000, /* how far the clock of the node that made it may be ahead */
	COOKIE_SLOTS_OLD = 8,	/* slots looked back to tell "expired" from "never ours" */
	COOKIE_LONGEST_MS = 110000, /* no cookie proves for longer: life and slot */
	HELD_MS = 3000,		    /* a connection held longer is decided afresh */
	LOST_TERM_MS = 10000,	    /* so old a connection of a term of old is asked about */
	DEAF_MS = 150,		    /* a node that is down and lives would have answered by then */
	YOUNG_MS = 2000, /* how long after adoption a stray RST of our own stack is eaten */
	/*
	 * An adoption may end TRIES_MAX stale sockets in so long. A socket that its process works
	 * with takes a RST only afterwards: so not longer than until the client repeats its packet.
	 */
	TRIES_MS = 150,
	CWND_FRESH_MS = 1000, /* a congestion window is carried when it was in use so lately */
	QUIET_MS = 2000,      /* an ended connection without a packet for so long is put aside */
	FROZEN_MAX = 64,      /* packets held of a connection that the reader is handing off */
	LASTING_MS = 10,      /* a connection that lives longer is worth an update and a close */
	LINGER_MS = 60000,    /* a closed binding still leads late packets to the old owner */
	HALF_CLOSED_MS = 300000,
	IDLE_MS = 7200000,
	RTT_UNKNOWN = 0xffff,
	FUTURE_MS = 1000,  /* clocks that nodes have agreed on are less apart */
	RTT_CAP_MS = 1000, /* how far an adopted socket's clock may start ahead of the echo */
	/*
	 * Wrapped packets decided longer ago (or in the future) are refused. Less than LINGER_MS: a
	 * connection that has ended is not forgotten while its handoff packet could come again.
	 */
	HANDOFF_AGE_MS = 45000,
};

enum marks {
	MARK_RELEASED = 0xba700001,    /* skb->mark of what user space gives back, until ingress */
	MARK_ANSWER = 0xba700003,      /* of what a program itself says to a client, until egress */
	MARK_LOCAL_RESET = 0xba700002, /* of a RST that ends this node's own socket */
	/* the first four bytes of a held frame, its destination: nobody here knows the connection
	 */
	UNKNOWN_MAC = 0x02ba7001,
	HEIR_MAC = 0x02ba7002, /* as above, and it is this node's to decide if nobody has it */
	/*
	 * The first four bytes of such a frame's source, if it came wrapped: the other two are the
	 * number of the node that sent it. So much is known when user space gives it back.
	 */
	SENDER_MAC = 0x02ba7003,
	MARK_AGAIN = 0xba700004, /* of a packet that a program lets arrive once more */
};

enum offer {
	SYNACK_WINDOW = 64000, /* bytes, unscaled */
	RCV_WSCALE = 7,
	NO_WSCALE = 15, /* in a cookie: the client did not offer window scaling */
};

/* Where in a message the next byte stands; crates/http/src/scan.rs says what each means. */
enum phase {
	PHASE_START = 0,
	PHASE_METHOD = 1,
	PHASE_TARGET = 2,
	PHASE_PATH = 3,
	PHASE_ESCAPE_HIGH = 4,
	PHASE_ESCAPE_LOW = 5,
	PHASE_QUERY = 6,
	PHASE_VERSION = 7,
	PHASE_STATUS = 8,
	PHASE_LINE_END = 9,
	PHASE_LINE = 10,
	PHASE_NAME = 11,
	PHASE_VALUE = 12,
	PHASE_LENGTH = 13,
	PHASE_LENGTH_TAIL = 14,
	PHASE_CODING = 15,
	PHASE_CODING_TAIL = 16,
	PHASE_HEAD_END = 17,
	PHASE_HEAD_DONE = 18,
	PHASE_BODY = 19,
	PHASE_CHUNK_SIZE = 20,
	PHASE_CHUNK_EXTENSION = 21,
	PHASE_CHUNK_LINE_END = 22,
	PHASE_CHUNK_DATA = 23,
	PHASE_CHUNK_CR = 24,
	PHASE_CHUNK_LF = 25,
	PHASE_HOST = 26,
	PHASE_DOUBT = 27, /* for ever */
	PHASE_SCHEME = 28,
	PHASE_AUTHORITY = 29,
	PHASE_ASTERISK = 30,
	PHASE_OPTIONS = 40,
	PHASE_UPGRADE = 41,
};

/* A message being scanned. */
struct scan {
	__u64 left;   /* bytes of the body or chunk to come; or its length while that is read */
	__u16 status; /* of a response */
	__u8 phase;   /* enum phase */
	__u8 count;   /* bytes of the method, name, literal or number so far; enum host_part */
	__u8 words;   /* those that the bytes so far begin, a bit each */
	__u8 seen;
	__u8 hop; /* what Connection and Upgrade have said so far */
	__u8 pad;
};

/* One direction of a connection. */
struct follower {
	struct scan scan;
	__u32 at;	/* sequence number of the next byte to look at */
	__u32 boundary; /* where the present or next message begins */
};

/* Why a connection's messages are not followed as they should be. */
enum doubt {
	DOUBT_ALL = 1,	     /* nothing is followed any more */
	DOUBT_RESPONSES = 2, /* strict: the responses cannot be read, the requests can */
	DOUBT_BROKEN = 3,    /* strict: nobody knows where the request that the server has ends */
	DOUBT_REFUSED = 4,   /* strict: the server has taken up a protocol that it may not */
};

/*
 * What the owner follows of a connection whose requests may move: which requests were asked, and
 * whether all have been answered. Ingress alone writes `requests`, `asked`, `heads` and `upgrades`,
 * egress alone `responses` and, before there is doubt, `answered`.
 */
struct exchange {
	struct follower requests;
	struct follower responses;
	__u32 start_seq;   /* of the binding that it belongs to */
	__u32 asked;	   /* requests whose heads were seen */
	__u32 answered;	   /* final responses that have ended */
	__u32 heads;	   /* of the unanswered requests, which are HEAD requests: a bit each */
	__u32 decided_seq; /* the request that `decided` is about */
	__u32 cut_seq;	   /* with `cut`: what begins here in the packet held may not go along */
	__u32 cut;
	__u32 busy;    /* a packet of the client is being followed */
	__u16 decided; /* the server that user space names for a request */
	__u8 doubt;    /* enum doubt */
	__u8 early;    /* user space has packets from early_seq on, until the connection takes them
			*/
	__u32 early_seq;
	__u32 early_end; /* the end of what it has been given */
	__u32 upgrades;	 /* as `heads`: which ask for another protocol, other than HTTP/2 */
	/* strict services: what the client has said last */
	__u32 heard_ack;
	__u32 heard_tsval;
	__u32 heard_tsecr;
	__u16 heard_window;
	__u8 heard_timestamps;
	__u8 closing; /* a request, or a final response, has said that the connection ends with it
		       */
	/* strict services: what the server's socket had when a packet was missing; or none was */
	__u32 taken_ack;
	__u32 taken_window; /* bytes */
};

enum role {
	ROLE_SWITCH = 1,
	ROLE_DISTRIBUTOR = 2,
	ROLE_SERVER = 4,
};

/* IPv4 addresses are kept as v4-mapped IPv6 ones: {0, 0, 0xffff, address} (RFC 4291 2.5.5.2). */
struct addr {
	__be32 w[4];
};

struct flow_key {
	struct addr client;
	struct addr vip;
	__be16 client_port;
	__be16 vip_port;
};

struct service_key {
	struct addr vip;
	__be16 port;
	__u16 pad;
};

enum service_flag {
	SERVICE_ROUTES = 1, /* more than one pool: routes say which */
	SERVICE_HOSTS = 2,  /* routes look at the host */
	SERVICE_SUFFIXES =
		4,	    /* at its end too: user space must say what a host is, the first time */
	SERVICE_STRICT = 8, /* pools have different servers */
	SERVICE_FOLLOWS = 16, /* requests of a served connection may move */
	SERVICE_TLS = 32,     /* user space reads the ClientHello */
	SERVICE_TCP = 64,     /* nobody reads anything */
	SERVICE_ENDING = 128, /* the address is not the service's any more: no new connections */
	/* strict: behind which byte of a path capital letters mean nothing to its routes; 8 bits */
	SERVICE_LOUD_SHIFT = 24,
};

struct service {
	__u16 id;
	__u16 pool;  /* of requests that no route matches */
	__u32 flags; /* enum service_flag */
};

enum key_kind {
	KEY_PATH = 0,
	KEY_PATH_QUERY = 1,
	KEY_OTHER = 2, /* only user space can tell the target */
};

/* Whether later requests of a connection move to the server that should have them. */
enum p_http {
	P_HTTP_STAY = 0,
	P_HTTP_MOVE = 1,
	P_HTTP_EXTENDED = 2, /* extended LARD: where it costs least, as the dispatcher says */
};

struct pool {
	__u64 servers[MAX_NODES / 64]; /* a bit each */
	__u8 key;		       /* enum key_kind */
	__u8 p_http;		       /* enum p_http */
	__u16 service;
	__u32 pad;
};

/* By the hash of a host, secret_step() in hash.h: which host patterns it matches, the most specific
 * first; 0, any host, ends the list. */
struct host_key {
	__u64 hash;
	__u16 service;
	__u16 pad[3];
};

struct hosts {
	__u16 patterns[HOSTS_MAX];
};

/* A prefix of this is what a route is about; an exact path has a NUL behind it. */
struct route_key {
	__u32 prefixlen;
	__u16 service;
	__u16 host;   /* pattern; 0: any */
	__u64 method; /* by its hash, secret_step() in hash.h; 0: any */
	__u8 path[PATH_MAX];
};

struct route {
	__u16 pool;
	__u16 rank; /* of two routes with the same host the higher one counts */
};

/* What may be decided in the kernel for one pool; set by the dispatcher. */
enum guide_kind {
	GUIDE_ASK = 0,	  /* every connection is asked */
	GUIDE_CACHED = 1, /* a cached decision holds while its server's load is within load_limit */
	GUIDE_ROTA = 2,	  /* take turns */
};

struct guide {
	__u32 kind; /* enum guide_kind */
	__u32 load_limit;
	__u32 rota_len; /* of the turns; also the kernel's own answer while user space is silent */
	__u32 generation; /* decisions of another generation count as absent */
};

struct decision_key {
	__u64 target;
	__u16 pool;
	__u16 pad[3];
};

struct decision {
	__u64 expires_ns; /* 0: never */
	__u16 count;
	__u16 servers[MAX_REPLICAS];
	__u16 pad;
	__u32 generation; /* of the guide that it was made under */
};

struct load {
	__u32 reported; /* connections being served, as the server said */
	__u32 assigned; /* handed to it by this distributor since */
	__u16 weight;
	__u16 least_weight; /* of all servers: theirs is the load that limits are given for */
	__u8 live;
	__u8 gone; /* its machine answers nobody: nothing that is sent there arrives */
	__u16 pad;
};

struct node {
	struct addr address;
	__u16 roles;   /* 0: there is no such node */
	__u16 routed;  /* behind a router: packets for it are wrapped */
	__u32 ifindex; /* towards it */
};

/* Values that user space changes while the programs run. */
struct live {
	__u64 clock_ahead_ns;  /* the cluster's clock - bpf_ktime_get_ns() */
	__u64 daemon_until_ns; /* user space promises to answer held packets until then */
	/* where the reader listens, on the loopback addresses; 0: nowhere */
	__be16 reader_port;
	__be16 reader_port_v6;
	__u16 path_mtu; /* the largest packet that reaches every other node, bytes; 0: see settings
			 */
	__u16 follows;	/* some service's requests may move */
	__u32 cluster_ifindex; /* the interface towards the other nodes; 0: see settings */
	__u32 own_routes;      /* answers may leave by another interface than questions come */
};

enum lease_kind {
	LEASE_NONE = 0, /* this entry and those behind it are empty */
	LEASE_OWN = 1,	/* cookies of this term are this node's */
	LEASE_HEIR = 2, /* made by a distributor that decides no more: left to this node */
};

/*
 * A distributor decides only while the switch that a packet came by is sure to leave its flow to
 * it: docs/decisions/0012. The first entry is for packets that came by no switch.
 */
struct lease {
	__u64 until_ns; /* it decides until then; 0: not yet granted */
	__u32 term;	/* the number that cookies were made with */
	__u16 from;	/* the switch; NO_NODE: none */
	__u8 kind;	/* enum lease_kind */
	__u8 pad;
};

enum over {
	OVER_NOT = 0,  /* it decides */
	OVER_SOON = 1, /* it does not, and its heirs have yet to be told */
	OVER_TOLD = 2, /* what it made cookies for is its heirs', in each slot another's */
};

struct keys {
	__u64 cookie[2];
	__u64 clock[2];
	__u64 handoff[2];
	__u64 target;
	__u64 pad;
};

/* Packets of unknown connections that were given to user space: see whose.h. */
struct budget {
	__u32 window; /* of time: the one that `count` is about */
	__u32 count;
};

enum binding_state {
	STATE_NONE = 0,	     /* decided meanwhile: its place in the other table is empty */
	STATE_OPEN = 1,	     /* handshake complete, no request yet */
	STATE_HELD = 2,	     /* its request waits in user space for a decision */
	STATE_READING = 3,   /* this node's reader has the connection */
	STATE_RELEASING = 4, /* decided for `node`; what user space holds goes there first */
	STATE_BOUND = 5,     /* packets belong to `node` */
	STATE_ASKING = 6,    /* owned, but a request of it waits in user space for a decision */
};

enum binding_flag {
	FLAG_SYN_SEEN = 1,	/* a newer SYN of the same flow came: see syn_isn */
	FLAG_ADOPTED = 2,	/* this node gave the connection to its server */
	FLAG_CONFIRMED = 4,	/* the server's socket has spoken */
	FLAG_SERVING = 8,	/* counted as load */
	FLAG_ANSWERED = 16,	/* the server sent data since the last request */
	FLAG_FIN_IN = 32,	/* the client's FIN was seen, by the node that has its socket */
	FLAG_FIN_OUT = 64,	/* the server's FIN was seen */
	FLAG_CLOSED = 128,	/* ended; late packets only */
	FLAG_HANDED = 256,	/* this node has sent the handoff packet */
	FLAG_FROZEN = 512,	/* the reader is about to hand it off: nothing passes, either way */
	FLAG_MOVED = 2048,	/* it had another server before; or has had this one */
	FLAG_REPLAY = 1024,	/* its first bytes come from a reader, up to replay_end */
	FLAG_BEHIND = 4096,	/* STATE_READING: what user space still holds goes first */
	FLAG_LEFT = 8192,	/* forwarder: a FIN or RST came by, the load was given back */
	FLAG_CLAIMED = 32768,	/* its first request is being decided */
	FLAG_ASKED = 131072,	/* inherited, and no other node has it: it may be decided */
	FLAG_REPLACED = 16384,	/* its flow's next connection is taking its place */
	FLAG_FOLLOWED = 262144, /* strict: its first packet has been followed, or is just now */
	FLAG_ASKED_AGAIN = 65536, /* handed off once more, since since_ns, to a node that is down */
	FLAG_REPEATED = 524288,	  /* its adoption was repeated: of the one before no socket came */
};

enum tcp_option {
	OPTION_WSCALE = 1,
	OPTION_SACK = 2,
	OPTION_TIMESTAMPS = 4,
};

/* What a sweep over the table of live connections has found. */
struct sweep {
	__u32 live;    /* stay */
	__u32 ended;   /* stay for now: they have ended just now */
	__u32 aside;   /* have ended, and were put aside */
	__u32 removed; /* were too old */
};

/* Where packets of one client connection go now, and what is known of it. */
struct binding {
	__u64 seen_ns;
	__u64 since_ns;	 /* when it took its present state */
	__u64 issued;	 /* the cluster's clock at the decision, ns; later than the one before it */
	__u32 flags;	 /* enum binding_flag; changed atomically */
	__u32 start_seq; /* the client's first data byte */
	__u32 start_ack; /* our first data byte: the cookie + 1 */
	__u32 syn_isn;	 /* with FLAG_SYN_SEEN: ISN of the newer SYN */
	__u32 snd_end;	 /* owner: end of what the server has sent */
	__u32 held;	 /* packets given to user space since it is held */
	__u32 replay_end;  /* with FLAG_REPLAY: the first byte that the client itself will send */
	__u32 tsval;	   /* STATE_READING: timestamp of the packet that the reader got first */
	__u32 clock;	   /* STATE_READING: what our own clock read then, at since_ns; else the
			      latest timestamp that the server's socket has sent, where that is followed
			    */
	__u16 node;	   /* with STATE_BOUND: the owner */
	__u16 distributor; /* who handed it off */
	__u16 mss;
	__u16 rtt_ms;
	__u16 window; /* STATE_READING: of that packet */
	__u16 cwnd;   /* segments that the server before had in flight; 0: nobody knows */
	__u8 state;   /* enum binding_state */
	__u8 options; /* enum tcp_option: what both sides agreed on */
	__u8 snd_wscale;
	__u8 tries; /* stale sockets ended for this adoption */
	__u32 term; /* before it is decided: of its cookie; see struct lease */
	__u8 aside; /* it is in the table of those that may be forgotten */
	__u8 pad[7];
};

/* Of the table of live connections, per CPU: with what a sweep finds, they tell what was displaced.
 */
enum population {
	POPULATION_MADE = 0,	/* entries made */
	POPULATION_REMOVED = 1, /* entries removed, but for those that a sweep removes */
	POPULATION_MAX = 2,
};

enum event_kind {
	EVENT_BOUND = 1,   /* this node's server has taken the flow */
	EVENT_CLOSED = 2,  /* the flow ended at this server; told of what may have been updated */
	EVENT_TAKEN = 3,   /* this node's server has acknowledged what a reader replayed */
	EVENT_IDLE = 4,	   /* what came too early may come now */
	EVENT_TOO_BIG = 5, /* start_seq: of a packet that the way to `node` is too narrow for;
			      issued: how big it may be, bytes */
	EVENT_PROBED = 6,  /* start_seq: the number of a probe that `node` has sent */
	EVENT_FAILED = 7,  /* node: enum sign; issued: 1 if the socket had spoken before */
};

/* Why this node's server seems not to work: signs that its machine gives, whatever a client says.
 */
enum sign {
	SIGN_NO_LISTENER = 1,  /* nobody listens on the service's port */
	SIGN_REFUSED = 2,      /* the kernel refused the adoption */
	SIGN_NEVER_BEGINS = 3, /* the adoption was repeated: no socket has come of the one before */
	SIGN_RESET = 4, /* reset by this machine before any answer, while the client waited */
};

/* Handoff packets between this node and another. */
struct passed {
	__u64 sent;  /* of connections that this distributor has decided, to that node */
	__u64 taken; /* from that distributor: each had the right tag, and was not too old */
};

struct event {
	struct flow_key flow;
	__u32 start_seq;
	__u16 kind; /* enum event_kind */
	__u16 node;
	__u16 distributor;
	__u16 pad;
	__u64 issued; /* the cluster's clock at the decision, ns */
};

/*
 * What user space changes in a binding. It is done by a program, because only there can the entry
 * be checked and changed without another connection of the same flow coming in between.
 */
enum order_kind {
	ORDER_BIND_HELD = 1,	/* the held connection belongs to `node` */
	ORDER_BIND_TOLD = 2,	/* another node says that the flow belongs to `node` */
	ORDER_BIND_FOUND = 3,	/* `node` was asked about a flow nobody knows here, and owns it */
	ORDER_BIND_READ = 4,	/* what the reader had belongs to `node`; `held`: replay_end */
	ORDER_READ_HELD = 5,	/* the reader shall have the held connection */
	ORDER_RELEASED = 6,	/* `held` packets were read: if no more were held, all are back */
	ORDER_DECIDE_ASKED = 7, /* the request that waits at its owner belongs to `node` */
	ORDER_FREEZE = 8,	/* the reader is about to hand the connection off */
	ORDER_CLOSE_TOLD = 9,	/* another node says that the connection has ended */
};

/*
 * Whether a packet that nobody knows is of a connection that has just begun: its first packets were
 * lost, and the client will repeat them.
 */
struct begun {
	struct flow_key flow;
	__u32 seq, ack;
	__u32 tsecr;
	__u16 timestamps; /* it has them */
	__u16 answer;	  /* 1: it has */
};

struct order {
	struct flow_key flow;
	__u32 start_seq;
	__u64 issued;
	__u32 held;
	__u16 kind; /* enum order_kind */
	__u16 node;
	__u16 distributor;
	__u16 done; /* answer: 1 when the binding was changed */
	__u32 pad;
};

/*
 * A wrapped packet: a client's packet inside Geneve (RFC 8926) inside UDP, with this one option.
 * Either it hands its connection off, or it is forwarded to a node that is behind a router.
 * Everything that is not a byte is in network order. `tag` is SipHash-2-4 under the cluster's
 * handoff key over the option's other fields but `hops`, the inner flow and ack, and the address of
 * the node that it is for.
 */
enum wire {
	GENEVE_PROTO_IPV4 = 0x0800,
	GENEVE_PROTO_IPV6 = 0x86dd,
	HANDOFF_OPTION_CLASS = 0xfff0, /* the experimental range of RFC 8926 4.4 */
	HANDOFF_OPTION_TYPE = 0x81,    /* critical: a receiver that does not know it must drop */
	PROBE_OPTION_TYPE = 0x82,      /* critical, too: see probe.h */
	HANDOFF_VERSION = 1,
	WIRE_FORWARDED = 32768, /* in `flags`: no handoff; `distributor` is who sends it */
	WRAPPING_V4 = 84,	/* bytes that wrapping adds, between nodes with IPv4 addresses */
	WRAPPING_V6 = 104,	/* and with IPv6 ones */
};

struct handoff_option {
	__be16 option_class;
	__u8 type;
	__u8 length; /* of what follows, in 4-byte words */
	__u8 version;
	__u8 hops;
	__u8 options; /* enum tcp_option */
	__u8 snd_wscale;
	__be32 start_seq;
	__be32 tsval; /* the value the server's clock for this flow has now */
	__be32 issued[2];
	__be16 mss;
	__be16 distributor;
	__be16 reserved; /* 0 */
	__be16 rtt_ms;
	__be16 cwnd;
	__be16 flags; /* FLAG_REPLAY, FLAG_MOVED; or WIRE_FORWARDED */
	__be32 replay_end;
	__be32 tag[2];
};

struct wrapping {
	__u8 ip[40]; /* of IPv4 the last 20 */
	__u8 udp[8];
	__u8 geneve[8];
	struct handoff_option option;
};

_Static_assert(sizeof(struct flow_key) == 36, "flow_key has no padding");
_Static_assert(sizeof(struct handoff_option) == 48, "handoff option is 48 bytes");
_Static_assert(sizeof(struct wrapping) == WRAPPING_V6, "wrapping is 104 bytes");
_Static_assert(sizeof(struct binding) == 88, "binding has no hidden padding");
_Static_assert(sizeof(struct exchange) == 120, "exchange has no hidden padding");
_Static_assert(sizeof(struct service_key) == 20, "service_key has no hidden padding");
_Static_assert(sizeof(struct service) == 8, "service has no hidden padding");
_Static_assert(sizeof(struct pool) == 40, "pool has no hidden padding");
_Static_assert(sizeof(struct host_key) == 16, "host_key has no hidden padding");
_Static_assert(sizeof(struct hosts) == 8, "hosts has no hidden padding");
_Static_assert(sizeof(struct route_key) == 144, "route_key has no hidden padding");
_Static_assert(sizeof(struct route) == 4, "route has no hidden padding");
_Static_assert(sizeof(struct guide) == 16, "guide has no hidden padding");
_Static_assert(sizeof(struct decision_key) == 16, "decision_key has no hidden padding");
_Static_assert(sizeof(struct decision) == 24, "decision has no hidden padding");
_Static_assert(sizeof(struct load) == 16, "load has no hidden padding");
_Static_assert(sizeof(struct node) == 24, "node has no hidden padding");
_Static_assert(sizeof(struct live) == 32, "live has no hidden padding");
_Static_assert(sizeof(struct keys) == 64, "keys has no hidden padding");
_Static_assert(sizeof(struct budget) == 8, "budget has no hidden padding");
_Static_assert(sizeof(struct lease) == 16, "lease has no hidden padding");
_Static_assert(sizeof(struct sweep) == 16, "sweep has no hidden padding");
_Static_assert(sizeof(struct passed) == 16, "passed has no hidden padding");
_Static_assert(sizeof(struct event) == 56, "event has no hidden padding");
_Static_assert(sizeof(struct begun) == 52, "begun has no hidden padding");
_Static_assert(sizeof(struct order) == 64, "order has no hidden padding");

#include "counters.h"
