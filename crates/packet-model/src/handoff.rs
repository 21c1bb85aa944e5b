//! The handoff packet: a client's first data packet in Geneve (RFC 8926) in UDP, with one
//! authenticated option. SipHash-2-4 by the siphasher crate.

use std::hash::Hasher as _;
use std::net::IpAddr;

use baton_cluster::{Flow, Keys, NodeId};
use siphasher::sip::SipHasher24;

use crate::Clock;
use crate::cookie::{address_words, flow_words};
use crate::packet::{L3, be16, be32, l4};
use crate::rewrite::ip_header;
use baton_datapath::constants::{
    GENEVE_PROTO_IPV4, GENEVE_PROTO_IPV6, HANDOFF_AGE_MS, HANDOFF_OPTION_CLASS, HANDOFF_OPTION_TYPE,
    HANDOFF_VERSION, WIRE_FORWARDED,
};

const OPTION_LEN: usize = 48;
/// What wrapping adds to a packet between nodes with such addresses: IP, UDP, Geneve and its option.
pub(super) fn overhead(node: IpAddr) -> usize {
    let ip = if node.is_ipv6() { 40 } else { 20 };
    ip + 8 + 8 + OPTION_LEN
}

/// What a handoff packet says of its connection (`struct handoff_option`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said once, in the header")]
pub struct Handoff {
    pub hops: u8,
    pub options: u8,
    pub snd_wscale: u8,
    pub start_seq: u32,
    pub tsval: u32,
    pub issued: u64,
    pub mss: u16,
    pub distributor: u16,
    pub reserved: u16,
    pub rtt_ms: u16,
    pub cwnd: u16,
    pub flags: u16,
    pub replay_end: u32,
}

/// Why a wrapped packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its tag is wrong.
    Forged,
    /// It is too old, or from the future.
    Stale,
}

impl Handoff {
    /// The tag over all fields but `hops`, over the inner flow and ack, and over whom it is for.
    pub fn tag(&self, keys: &Keys, flow: &Flow, ack: u32, to: IpAddr) -> u64 {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let short = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
        let own = [
            u64::from(ack),
            u64::from(HANDOFF_VERSION) << 16 | u64::from(self.options) << 8 | u64::from(self.snd_wscale),
            pair(self.start_seq, self.tsval),
            self.issued,
            pair(short(self.mss, self.distributor), short(self.reserved, self.rtt_ms)),
            pair(short(self.cwnd, self.flags), self.replay_end),
        ]
        .into_iter()
        .chain(address_words(to));
        let mut hasher = SipHasher24::new_with_keys(keys.handoff[0], keys.handoff[1]);
        for word in flow_words(flow).into_iter().chain(own) {
            hasher.write(&word.to_le_bytes());
        }
        hasher.finish()
    }

    /// What a packet says that is no handoff, but forwarded by this node.
    pub fn forwarded(by: NodeId, hops: u8, clock: Clock) -> Self {
        Self {
            hops,
            options: 0,
            snd_wscale: 0,
            start_seq: 0,
            tsval: 0,
            issued: clock.cluster_ns / 1_000_000 * 1_000_000,
            mss: 0,
            distributor: by.0,
            reserved: 0,
            rtt_ms: 0,
            cwnd: 0,
            flags: WIRE_FORWARDED as u16,
            replay_end: 0,
        }
    }

    /// Wraps a frame's IP packet (with what follows it), about this flow, for a node.
    pub fn wrap(
        &self,
        keys: &Keys,
        (frame, flow, ack): (&[u8], Flow, u32),
        from: IpAddr,
        to: IpAddr,
        port: u16,
    ) -> Option<Vec<u8>> {
        let (ethernet, inner) = frame.split_at_checked(L3)?;
        let length = u16::try_from(inner.len() + 8 + 8 + OPTION_LEN).ok()?;
        let (ethertype, ip) = ip_header(length, 64, 17, from, to);
        let mut out = ethernet.get(..12)?.to_vec();
        out.extend(ethertype);
        out.extend(ip);
        for field in [flow.client_port | 0xc000, port, length, 0] {
            out.extend(field.to_be_bytes());
        }
        out.extend([(OPTION_LEN / 4) as u8, 0x40]); // no version, a critical option
        let proto = if flow.vip.is_ipv6() { GENEVE_PROTO_IPV6 } else { GENEVE_PROTO_IPV4 };
        out.extend((proto as u16).to_be_bytes());
        out.extend([0; 4]); // no virtual network
        out.extend((HANDOFF_OPTION_CLASS as u16).to_be_bytes());
        out.extend([HANDOFF_OPTION_TYPE as u8, (OPTION_LEN / 4 - 1) as u8]);
        out.extend([HANDOFF_VERSION as u8, self.hops, self.options, self.snd_wscale]);
        for field in [self.start_seq, self.tsval] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.issued.to_be_bytes());
        for field in [self.mss, self.distributor, self.reserved, self.rtt_ms] {
            out.extend(field.to_be_bytes());
        }
        for field in [self.cwnd, self.flags] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.replay_end.to_be_bytes());
        out.extend(self.tag(keys, &flow, ack, to).to_be_bytes());
        out.extend(inner);
        Some(out)
    }

    /// Opens a wrapped packet: what it says with its tag, and the frame that it carries. `None` for what
    /// cannot be read.
    pub fn open(frame: &[u8]) -> Option<(Self, u64, Vec<u8>)> {
        let wrapping = l4(frame) - L3 + 8 + 8 + OPTION_LEN;
        let (handoff, tag, ethertype) = Self::read(frame.get(l4(frame)..)?)?;
        let inner = frame.get(L3 + wrapping..)?;
        Some((handoff, tag, [frame.get(..12)?, &ethertype, inner].concat()))
    }

    /// Whether to believe a wrapped packet about this flow, at the node with this address.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub fn verify(
        &self,
        (keys, me): (&Keys, IpAddr),
        tag: u64,
        flow: &Flow,
        ack: u32,
        clock: Clock,
    ) -> Result<(), Refusal> {
        if self.tag(keys, flow, ack, me) != tag {
            return Err(Refusal::Forged);
        }
        let age = clock.cluster_ns.wrapping_sub(self.issued).cast_signed();
        if age.unsigned_abs() > u64::from(HANDOFF_AGE_MS) * 1_000_000 {
            return Err(Refusal::Stale);
        }
        Ok(())
    }

    /// From a UDP datagram: what it says, its tag, and the type of what it carries.
    fn read(datagram: &[u8]) -> Option<(Self, u64, [u8; 2])> {
        let geneve = datagram.get(8..16)?;
        let option = datagram.get(16..16 + OPTION_LEN)?;
        let (&[lengths, bits, ..], &[_, _, kind, length, version, hops, options, snd_wscale, ..]) =
            (geneve, option)
        else {
            return None;
        };
        let well_formed = usize::from(lengths) * 4 == OPTION_LEN // and version 0
            && bits & 0x80 == 0 // no control packet
            && [GENEVE_PROTO_IPV4, GENEVE_PROTO_IPV6].contains(&u32::from(be16(geneve, 2)?))
            && be16(option, 0)? == HANDOFF_OPTION_CLASS as u16
            && u32::from(kind) == HANDOFF_OPTION_TYPE
            && usize::from(length) * 4 == OPTION_LEN - 4
            && u32::from(version) == HANDOFF_VERSION;
        let handoff = Self {
            hops,
            options,
            snd_wscale,
            start_seq: be32(option, 8)?,
            tsval: be32(option, 12)?,
            issued: u64::from(be32(option, 16)?) << 32 | u64::from(be32(option, 20)?),
            mss: be16(option, 24)?,
            distributor: be16(option, 26)?,
            reserved: be16(option, 28)?,
            rtt_ms: be16(option, 30)?,
            cwnd: be16(option, 32)?,
            flags: be16(option, 34)?,
            replay_end: be32(option, 36)?,
        };
        let tag = u64::from(be32(option, 40)?) << 32 | u64::from(be32(option, 44)?);
        let ethertype = [*geneve.get(2)?, *geneve.get(3)?];
        well_formed.then_some((handoff, tag, ethertype))
    }
}
