/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the programs count.
 */
#pragma once

/*
 * Counters: C(NAME, kind, "sentence"). Kinds: normal (the cluster at work), drop (a packet was
 * dropped, for this reason), reset (the client was sent a RST), fault (should not happen; look).
 */
#define COUNTERS(C)                                                                                \
	C(SYN_ANSWERED, normal, "SYN answered with a cookie")                                      \
	C(HANDSHAKE_ACK, normal, "handshake completed by the client's ACK")                        \
	C(DECIDED_AGAIN, normal, "first request decided again: its server's node is down")         \
	C(REQUEST_FIRST, normal, "first request of a connection read")                             \
	C(DECIDED_CACHE, normal, "decided in the kernel by a cached decision")                     \
	C(DECIDED_ROTA, normal, "decided in the kernel by the rota")                               \
	C(DECIDED_ALONE, normal, "decided in the kernel because user space is silent")             \
	C(HELD_MISS, normal, "held: no cached decision")                                           \
	C(HELD_LOAD, normal, "held: the decided server's load is above its limit")                 \
	C(HELD_ASK, normal, "held: every request of the service is asked")                         \
	C(HELD_HEAD, normal, "held: user space must say what is asked for")                        \
	C(HELD_HELLO, normal, "held: user space must read the name that a ClientHello asks for")   \
	C(HELD_PIPELINED, normal, "held: several requests in one packet of a strict service")      \
	C(HELD_EARLY, normal,                                                                      \
	  "held: request of another pool came before the answer to the one before")                \
	C(HELD_BUSY, normal, "held: the socket is not as idle as its messages say")                \
	C(HELD_MORE, normal, "held: further packet of a held connection")                          \
	C(HELD_UNKNOWN, normal, "held: nobody here knows the connection, other nodes are asked")   \
	C(HANDOFF_SENT, normal, "handed off to another node")                                      \
	C(HANDOFF_AGAIN, normal, "handoff sent again for a retransmitted first packet")            \
	C(HANDOFF_LOCAL, normal, "handed off to this node's own server")                           \
	C(HANDOFF_RECEIVED, normal, "handoff packet taken from another node")                      \
	C(ADOPTED, normal, "connection adopted by the server")                                     \
	C(ADOPT_AGAIN, normal, "first packet repeated after its adoption")                         \
	C(STALE_SOCKET_ENDED, normal, "socket of an earlier connection ended for an adoption")     \
	C(PROBE_RECEIVED, normal, "probe of the way from another node, acknowledged to it")        \
	C(WRAPPED_RECEIVED, normal, "packet that another node behind a router forwarded")          \
	C(ICMP_FORWARDED, normal, "ICMP error forwarded to the node that its connection is at")    \
	C(ICMP_OWNED, normal, "ICMP error about a connection of this node, passed to its stack")   \
	C(FORWARDED_BINDING, normal, "forwarded to the connection's owner")                        \
	C(FORWARDED_DISTRIBUTOR, normal, "forwarded by the switch to a distributor")               \
	C(OWNED, normal, "packet of a connection this node serves")                                \
	C(OWNED_UNBOUND, normal, "packet of a socket without binding, passed to it")               \
	C(CLOSED, normal, "served connection ended")                                               \
	C(SERVING_STARTED, normal, "connection became busy")                                       \
	C(SERVING_ENDED, normal, "connection became idle or ended")                                \
	C(BYTES_SERVED, normal, "bytes of payload sent by this node's server")                     \
	C(FIN_ANSWERED, normal, "FIN of a connection without request answered")                    \
	C(LAST_ACK, normal, "last ACK of a connection that ended without a request")               \
	C(KEEPALIVE_ANSWERED, normal, "keepalive of a connection without request answered")        \
	C(OPEN_RESET, normal, "client reset a connection before its request")                      \
	C(RELEASED, normal, "given back by user space, after a decision")                          \
	C(READER_ADOPTED, normal, "connection adopted by the reader: its head is not whole")       \
	C(READER_PACKET, normal, "packet of a connection that the reader has")                     \
	C(CWND_CARRIED, normal, "congestion window of the server before given to a new socket")    \
	C(MOVED, normal, "connection moved to another node for its next request")                  \
	C(MOVE_DECIDED_HERE, normal, "later request decided for the node that has the connection") \
	C(MOVE_STAYED, normal, "later request stayed because its pool says so")                    \
	C(MOVE_NOT_IDLE, normal, "later request stayed: the connection is not idle")               \
	C(MOVE_NOT_READ, normal, "later request stayed: it cannot be read from one packet")        \
	C(MOVE_SOCKET_BUSY, normal, "later request stayed: the socket is not as its messages say") \
	C(MOVE_DOUBT, normal, "messages of a connection are in doubt: it is not moved any more")   \
	C(OUTSIDE_POOL, normal, "later request of a pool that this node is not in")                \
	C(MOVE_CLOSING, normal, "later request stayed: the connection ends with the one before")   \
	C(OLD_ANSWERED, normal, "bytes answered that were taken before the connection moved")      \
	C(REPLAY_TAKEN, normal, "server has acknowledged what a reader replayed")                  \
	C(DROP_EARLY_REQUEST, drop,                                                                \
	  "request of another pool came before the answer to the one before; the client repeats "  \
	  "it")                                                                                    \
	C(DROP_DOUBT, drop, "behind something that cannot be read, in a strict service")           \
	C(DROP_GAP, drop, "what comes before it is missing and matters; the client repeats it")    \
	C(DROP_BUSY, drop, "another packet of the connection is being looked at")                  \
	C(DROP_FROZEN, drop, "the reader is handing the connection off")                           \
	C(DROP_MOVED_AWAY, drop, "sent by a socket whose connection another node owns")            \
	C(DROP_NO_READER, drop, "the reader does not listen")                                      \
	C(DROP_HELD_ACK, drop, "bare ACK of a held connection")                                    \
	C(DROP_NO_LEASE, drop,                                                                     \
	  "this distributor may not decide: the switch that it came by may not hear it")           \
	C(COOKIE_LIMITED, normal,                                                                  \
	  "not looked at: too many wrong cookies without timestamps in this second")               \
	C(SPREAD_EARLIER, normal,                                                                  \
	  "forwarded by the switch to who answered the handshake, or its heir")                    \
	C(TWO_OWNERS, fault, "a connection of this node was decided again, for another")           \
	C(DROP_FRAGMENT, drop, "IP fragment for a service")                                        \
	C(DROP_IP_OPTIONS, drop, "IP options or IPv6 extension headers, for a service")            \
	C(DROP_ICMP_UNKNOWN, drop, "ICMP error about a connection that nobody here knows")         \
	C(DROP_MALFORMED, drop, "TCP header truncated, or lengths that contradict each other")     \
	C(DROP_FLAGS, drop, "TCP flags that no connection has")                                    \
	C(DROP_CHECKSUM, drop, "SYN with a wrong checksum")                                        \
	C(DROP_UNKNOWN_FLOW, drop, "packet of a connection that nobody here knows")                \
	C(DROP_UNKNOWN_RATE, drop,                                                                 \
	  "packet of a connection that nobody here knows: too many such packets")                  \
	C(DROP_BLIND_RESET, drop, "RST where the connection's next byte is not")                   \
	C(DROP_UNKNOWN_RESET, drop, "RST of a connection that nobody here knows")                  \
	C(DROP_EARLY_SEGMENT, drop, "later segment came before the first; the client repeats it")  \
	C(DROP_NO_ROLE, drop, "no role of this node takes this packet")                            \
	C(DROP_UNATTENDED, drop,                                                                   \
	  "for a service, where no program looks: an interface that is not the cluster's")         \
	C(DROP_NO_DISTRIBUTOR, drop, "the switch has no live distributor")                         \
	C(DROP_NO_SERVER, drop, "no live server to decide for")                                    \
	C(DROP_TTL, drop, "time to live used up between nodes")                                    \
	C(DROP_LOOP, drop, "would go back to the node it came from")                               \
	C(DROP_STALE_SOCKET, drop, "socket of an earlier connection would not end")                \
	C(DROP_OVERTAKEN_RESET, drop, "own stack's RST for a packet that overtook its adoption")   \
	C(DROP_HANDOFF_MALFORMED, drop, "handoff packet that cannot be read")                      \
	C(DROP_HANDOFF_FORGED, drop, "handoff packet with a wrong tag")                            \
	C(DROP_PROBE_STALE, drop, "probe of the way too old, or by a clock not yet agreed on")     \
	C(DROP_HANDOFF_STALE, drop, "handoff packet too old, or older than what is known")         \
	C(DROP_TOO_BIG, drop,                                                                      \
	  "packet that wrapped would exceed the path's MTU; its sender is told")                   \
	C(RESET_NO_DISTRIBUTOR, reset, "SYN at a switch that has had no live distributor for 3 s") \
	C(RESET_NO_SERVER, reset, "no live server to decide for, and user space is silent")        \
	C(RESET_NODE_GONE, reset, "connection of a node that is gone")                             \
	C(RESET_ENDING, reset, "SYN for an address that is no service's any more")                 \
	C(RESET_EXPIRED, reset, "request came after the handshake's cookie had expired")           \
	C(RESET_UNKNOWN, reset, "packet of a connection that no node has")                         \
	C(RESET_NO_LISTENER, reset, "no web server listens on the service's port")                 \
	C(RESET_DOUBT, reset,                                                                      \
	  "request of a strict service behind something that could not be read")                   \
	C(RESET_REFUSED, reset, "the kernel refused the adoption (see baton doctor)")              \
	C(EVENT_LOST, fault, "user space was too slow to hear of a binding or a close")            \
	C(FAULT_REWRITE, fault, "a packet could not be rewritten; it was dropped")                 \
	C(FAULT_MAP, fault, "a table could not take an entry")                                     \
	C(FAULT_ORDER, fault, "user space gave an order that the programs do not know")

#define COUNTER_ENUM(name, kind, text) COUNT_##name,
enum counter { COUNTERS(COUNTER_ENUM) COUNTERS_MAX };
#undef COUNTER_ENUM
