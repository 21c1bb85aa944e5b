//! Probes of the way between two nodes: how one looks (`bpf/probe.h` says what each field is). The programs of the node
//! that it is for tell of it by [`crate::Event::Probed`].

use std::hash::Hasher as _;
use std::net::IpAddr;

use baton_cluster::{Keys, NodeId};
use siphasher::sip::SipHasher24;

use crate::constants::{HANDOFF_OPTION_CLASS, PROBE_OPTION_TYPE};

/// Bytes of Geneve's header and the option.
const BYTES: usize = 36;
/// An option is told of in words, without its own first one.
const WORDS: u8 = (BYTES as u8 - 8) / 4;

/// The payload of a UDP datagram to a node's handoff port, which makes an IP packet of `packet` bytes; or somewhat
/// larger, when that is too little for a probe. `issued_ns` is what the cluster's clock reads.
pub fn probe(keys: &Keys, from: NodeId, to: IpAddr, number: u32, issued_ns: u64, packet: usize) -> Vec<u8> {
    let headers = if to.is_ipv6() { 40 + 8 } else { 20 + 8 };
    // No version, a control packet with a critical option; no protocol, no network.
    let mut out = vec![WORDS, 0xc0, 0, 0, 0, 0, 0, 0];
    out.extend((HANDOFF_OPTION_CLASS as u16).to_be_bytes());
    out.extend([PROBE_OPTION_TYPE as u8, WORDS - 1]);
    out.extend(number.to_be_bytes());
    out.extend(from.0.to_be_bytes());
    out.extend([0; 2]);
    out.extend(issued_ns.to_be_bytes());
    out.extend(tag(keys, from, to, number, issued_ns).to_be_bytes());
    out.resize(packet.saturating_sub(headers).max(BYTES), 0);
    out
}

fn tag(keys: &Keys, from: NodeId, to: IpAddr, number: u32, issued_ns: u64) -> u64 {
    let to = match to {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = to.to_bits();
    let first = u64::from(number) << 32 | u64::from(from.0) << 16;
    let mut hasher = SipHasher24::new_with_keys(keys.handoff[0], keys.handoff[1]);
    for word in [first, issued_ns, (bits >> 64) as u64, bits as u64] {
        hasher.write(&word.to_le_bytes());
    }
    hasher.finish()
}
