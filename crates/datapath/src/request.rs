//! The one function that makes a target. The kernel has its twin in `bpf/route.h`; a test holds the two
//! equal. What bytes a target is made of, the rules of crates/http say.

use baton_cluster::Target;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The target that these bytes of a request name: FNV-1a from a keyed start, with murmur3's finaliser. It
/// has to spread well, not to resist: a collision costs locality only.
pub fn target_of(bytes: &[u8], secret: u64) -> Target {
    let step = |h: u64, c: &u8| (h ^ u64::from(*c)).wrapping_mul(FNV_PRIME);
    Target(mix(bytes.iter().fold(FNV_OFFSET ^ secret, step)))
}

/// The hash of a host or a method, by which the programs know it. It has to resist: two that are one here would
/// be served by one's routes. `secret_step` in `bpf/hash.h` says why no client finds two.
pub(crate) fn secret_hash(word: &str, secret: u64) -> u64 {
    let number = mix(secret) | 1;
    let step = |h: u64, c: u8| {
        let h = (h ^ u64::from(c)).wrapping_mul(number);
        h ^ (h >> 32)
    };
    mix(word.bytes().fold(FNV_OFFSET ^ secret, step))
}

/// The finaliser of murmur3 (64 bit).
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
