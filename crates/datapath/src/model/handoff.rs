//! The handoff packet: a client's first data packet in Geneve (RFC 8926) in UDP, with one
//! authenticated option. SipHash-2-4 by the siphasher crate.

use std::hash::Hasher as _;
use std::net::Ipv4Addr;

use baton_cluster::{Flow, Keys};
use siphasher::sip::SipHasher24;

use super::Clock;
use super::cookie::flow_words;
use super::packet::{L3, L4, be16, be32};
use super::rewrite::ipv4_header;
use crate::constants::{
    GENEVE_PROTO_IPV4, HANDOFF_AGE_MS, HANDOFF_OPTION_CLASS, HANDOFF_OPTION_TYPE, HANDOFF_VERSION,
};

const OPTION_LEN: usize = 48;
/// What wrapping adds to a packet: IPv4, UDP, Geneve and its option.
pub(super) const OVERHEAD: usize = 20 + 8 + 8 + OPTION_LEN;
const GENEVE: usize = L4 + 8;
const OPTION: usize = GENEVE + 8;

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
    pub service: u16,
    pub rtt_ms: u16,
    pub cwnd: u16,
    pub flags: u16,
    pub replay_end: u32,
}

/// Why a handoff packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read.
    Malformed,
    /// Its tag is wrong.
    Forged,
    /// It is too old, or from the future.
    Stale,
}

impl Handoff {
    /// The tag over all fields but `hops`, and over the inner flow and ack.
    pub fn tag(&self, keys: &Keys, flow: &Flow, ack: u32) -> u64 {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let short = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
        let own = [
            u64::from(ack),
            u64::from(HANDOFF_VERSION) << 16 | u64::from(self.options) << 8 | u64::from(self.snd_wscale),
            pair(self.start_seq, self.tsval),
            self.issued,
            pair(short(self.mss, self.distributor), short(self.service, self.rtt_ms)),
            pair(short(self.cwnd, self.flags), self.replay_end),
        ];
        let mut hasher = SipHasher24::new_with_keys(keys.handoff[0], keys.handoff[1]);
        for word in flow_words(flow).into_iter().chain(own) {
            hasher.write(&word.to_le_bytes());
        }
        hasher.finish()
    }

    /// Wraps a frame's IP packet (with what follows it) for a node.
    pub fn wrap(
        &self,
        keys: &Keys,
        frame: &[u8],
        from: Ipv4Addr,
        to: Ipv4Addr,
        port: u16,
    ) -> Option<Vec<u8>> {
        let (ethernet, inner) = frame.split_at_checked(L3)?;
        let (flow, ack) = inner_of(inner)?;
        let length = u16::try_from(inner.len() + OVERHEAD).ok()?;
        let mut out = ethernet.to_vec();
        out.extend(ipv4_header(length, 64, 17, from, to));
        for field in [flow.client_port | 0xc000, port, length - 20, 0] {
            out.extend(field.to_be_bytes());
        }
        out.extend([(OPTION_LEN / 4) as u8, 0x40]); // no version, a critical option
        out.extend((GENEVE_PROTO_IPV4 as u16).to_be_bytes());
        out.extend([0; 4]); // no virtual network
        out.extend((HANDOFF_OPTION_CLASS as u16).to_be_bytes());
        out.extend([HANDOFF_OPTION_TYPE as u8, (OPTION_LEN / 4 - 1) as u8]);
        out.extend([HANDOFF_VERSION as u8, self.hops, self.options, self.snd_wscale]);
        for field in [self.start_seq, self.tsval] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.issued.to_be_bytes());
        for field in [self.mss, self.distributor, self.service, self.rtt_ms] {
            out.extend(field.to_be_bytes());
        }
        for field in [self.cwnd, self.flags] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.replay_end.to_be_bytes());
        out.extend(self.tag(keys, &flow, ack).to_be_bytes());
        out.extend(inner);
        Some(out)
    }

    /// Opens a handoff packet: what it says, and the frame that it carries.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub fn unwrap(keys: &Keys, frame: &[u8], clock: Clock) -> Result<(Self, Vec<u8>), Refusal> {
        let (handoff, tag) = Self::read(frame).ok_or(Refusal::Malformed)?;
        let inner = frame.get(L3 + OVERHEAD..).ok_or(Refusal::Malformed)?;
        let (flow, ack) = inner_of(inner).ok_or(Refusal::Malformed)?;
        if handoff.tag(keys, &flow, ack) != tag {
            return Err(Refusal::Forged);
        }
        let age = clock.wall_ns.wrapping_sub(handoff.issued).cast_signed();
        if age.unsigned_abs() > u64::from(HANDOFF_AGE_MS) * 1_000_000 {
            return Err(Refusal::Stale);
        }
        Ok((handoff, [frame.get(..L3).unwrap_or(&[]), inner].concat()))
    }

    fn read(frame: &[u8]) -> Option<(Self, u64)> {
        let geneve = frame.get(GENEVE..OPTION)?;
        let option = frame.get(OPTION..OPTION + OPTION_LEN)?;
        let (&[lengths, bits, ..], &[_, _, kind, length, version, hops, options, snd_wscale, ..]) =
            (geneve, option)
        else {
            return None;
        };
        let well_formed = usize::from(lengths) * 4 == OPTION_LEN // and version 0
            && bits & 0x80 == 0 // no control packet
            && be16(geneve, 2)? == GENEVE_PROTO_IPV4 as u16
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
            service: be16(option, 28)?,
            rtt_ms: be16(option, 30)?,
            cwnd: be16(option, 32)?,
            flags: be16(option, 34)?,
            replay_end: be32(option, 36)?,
        };
        let tag = u64::from(be32(option, 40)?) << 32 | u64::from(be32(option, 44)?);
        well_formed.then_some((handoff, tag))
    }
}

/// Flow and ack of a plain IPv4 packet of TCP.
pub(super) fn inner_of(inner: &[u8]) -> Option<(Flow, u32)> {
    let tcp = inner.get(20..).filter(|tcp| tcp.len() >= 20)?;
    let plain = *inner.first()? == 0x45 && *inner.get(9)? == 6 && be16(inner, 6)? & 0x3fff == 0;
    let complete = usize::from(be16(inner, 2)?) <= inner.len();
    let flow = Flow {
        client: be32(inner, 12)?.into(),
        client_port: be16(tcp, 0)?,
        vip: be32(inner, 16)?.into(),
        vip_port: be16(tcp, 2)?,
    };
    (plain && complete).then_some((flow, be32(tcp, 8)?))
}
