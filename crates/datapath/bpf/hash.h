/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Hashes of what requests say, byte by byte: those that only have to spread, and that of hosts and
 * methods.
 * Their twins are in ../src/request.rs.
 */
#pragma once

#include "kernel.h"

#define FNV_OFFSET 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

inline_always __u64 fnv(__u64 hash, __u8 c)
{
	return (hash ^ c) * FNV_PRIME;
}

/*
 * One byte more of the hash of a host or a method. Two that are one here would be served by one's
 * routes, so no client may find such two: what is different after a byte is multiplied by a secret
 * odd number, and folded; nobody who does not know the number can write bytes that make it equal
 * again. FNV's number is known, and a secret beginning alone hides only eight bits of what it does
 * to a difference.
 */
inline_always __u64 secret_step(__u64 h, __u8 c, __u64 secret)
{
	h = (h ^ c) * secret;
	return h ^ h >> 32;
}

/* murmur3's 64-bit finaliser */
inline_always __u64 mix(__u64 h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdULL;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ULL;
	return h ^ h >> 33;
}
