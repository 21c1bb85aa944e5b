/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The few kernel types and functions that the programs need, instead of a generated vmlinux.h:
 * compiles faster and needs no BTF at build time. Field offsets are corrected at load time (CO-RE).
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define inline_always static __always_inline
/* A jump spans 32767 instructions: what is large and used in many places is a function. */
#define function static __noinline
/*
 * verifier: walked once, and not from each place that uses it with all that is known there. Its
 * pointers may be anything or nothing, so each is asked for; what it returns is any number.
 */
#define global __noinline
/* clang knows nothing of the value any more, so that it keeps the bounds given after this. */
#define opaque(x) asm volatile("" : "+r"(x))
/*
 * What was written is read again. verifier: it knows each number that a register may hold, and
 * walks on with each; of what is read from a table it knows none.
 */
#define read_again() asm volatile("" ::: "memory")

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff {
	__u8 ip_summed : 2;
};

struct sock_common {
	__u32 skc_tw_rcv_nxt;
};

struct sock {
	struct sock_common __sk_common;
};

struct inet_timewait_sock {
	struct sock_common __tw_common;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
};

struct rb_node;

struct bpf_map;

struct rb_root {
	struct rb_node *rb_node;
};

struct tcp_sock {
	__u32 rcv_nxt;
	__u32 rcv_wup; /* what it had acknowledged when it last said its window */
	__u32 rcv_wnd;
	__u32 max_window; /* the client's, at its largest */
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq;
	__u32 snd_cwnd;
	__u32 srtt_us; /* eighths */
	__u64 bytes_received;
	struct rb_root out_of_order_queue;
};

#pragma clang attribute pop

/* clang would share the mark's address between reading and writing it; the verifier wants skb
 * itself. */
inline_always void set_mark(struct __sk_buff *skb, __u32 mark)
{
	asm volatile("*(u32 *)(%[skb] + %[at]) = %[mark]"
		     :
		     : [skb] "r"(skb), [mark] "r"(mark), [at] "i"(offsetof(struct __sk_buff, mark))
		     : "memory");
}

/* The kernel's own struct, field by field: it is passed by pointer and size. */
struct bpf_tcp_req_attrs {
	__u32 rcv_tsval;
	__u32 rcv_tsecr;
	__u16 mss;
	__u8 rcv_wscale;
	__u8 snd_wscale;
	__u8 ecn_ok;
	__u8 wscale_ok;
	__u8 sack_ok;
	__u8 tstamp_ok;
	__u8 usec_ts_ok;
	__u8 reserved[3];
};

extern void *bpf_cast_to_kern_ctx(void *obj) __ksym;
extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk,
				   struct bpf_tcp_req_attrs *attrs, int attrs__sz) __ksym;

/* Newer than Debian 12's <linux/bpf.h>. */
#define NEXT_PROGRAM (-1)		   /* TCX_NEXT */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV4 */
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV6 */

enum { INITIAL_CWND = 10 }; /* RFC 6928, and the kernel's own */

enum { CHECKSUM_NONE = 0, CHECKSUM_PARTIAL = 3 };

enum { EEXIST = 17 };

enum { LOOPBACK = 1 }; /* LOOPBACK_IFINDEX, in each network namespace */

enum { FOR_THIS_HOST = 0 };   /* PACKET_HOST, of skb->pkt_type */
enum { VLAN_NUMBER = 0xfff }; /* of skb->vlan_tci; the rest is the priority */

enum { FAMILY_IPV4 = 2, FAMILY_IPV6 = 10 }; /* AF_INET, AF_INET6 */

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };
