//! One way to spread small numbers over 64 bits, the same on every node and in every release:
//! the ring of [`crate::fallback`] and the table of [`crate::maglev`] rest on it. No protection
//! against chosen input: it hashes node numbers of the cluster file, never what a client sends.

/// SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA'14): a bijection in which every input bit
/// changes about half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::mix;

    #[test]
    fn never_changes_between_releases() {
        // SplitMix64 seeded with 0: the published first outputs.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }
}
