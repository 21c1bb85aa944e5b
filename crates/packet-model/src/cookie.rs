//! The keyed values: cookies (our initial sequence numbers), each flow's clock, the Maglev slot.
//! SipHash-1-3 (Aumasson and Bernstein 2012) by the siphasher crate.

use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use baton_cluster::{Flow, Keys};
use siphasher::sip::SipHasher13;

use crate::{Clock, Options, Packet};
use baton_datapath::constants::{
    COOKIE_LIFE_MS, COOKIE_LONGEST_MS, COOKIE_SKEW_MS, COOKIE_SLOT_SHIFT, COOKIE_SLOTS_OLD, LATEST_SYNS,
    MAGLEV_SLOTS, NO_WSCALE, OPTION_SACK, OPTION_TIMESTAMPS, OPTION_WSCALE, UNKNOWN_SLOTS,
};

const COOKIE: u64 = 1;
const CLOCK: u64 = 2;
const MAGLEV: u64 = 3;
const COOKIE_PLAIN: u64 = 4;
const PREFIX: u64 = 9;

/// The MSS classes that a cookie tells apart: an offer is rounded down to one of them.
const MSS_CLASSES: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_CLASSES_V6: [u16; 4] = [1220, 1280, 1420, 1440];

fn mss_classes(v6: bool) -> [u16; 4] {
    if v6 { MSS_CLASSES_V6 } else { MSS_CLASSES }
}

/// The words of a flow: addresses v4-mapped (RFC 4291 2.5.5.2), then the ports.
pub(super) fn flow_words(flow: &Flow) -> [u64; 5] {
    let [client, vip] = [flow.client, flow.vip].map(address_words);
    let ports = u64::from(flow.client_port) << 16 | u64::from(flow.vip_port);
    [client[0], client[1], vip[0], vip[1], ports]
}

pub(super) fn address_words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn flow_hash(flow: &Flow, key: [u64; 2], domain: u64, more: &[u64]) -> u64 {
    let mut words = flow_words(flow);
    words[4] |= domain << 32;
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    for word in words.into_iter().chain(more.iter().copied()) {
        hasher.write(&word.to_le_bytes());
    }
    hasher.finish()
}

/// What a client's SYN offered, as far as a cookie keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Bytes, rounded down to a class.
    pub mss: u16,
    /// SACK permitted.
    pub sack: bool,
    /// Window scale. Without timestamps rounded down to one of `SCALES`, and none without SACK.
    pub wscale: Option<u8>,
    /// The client sends timestamps, and proves with their echo.
    pub timestamps: bool,
}

/// The window scales that a cookie without timestamps tells apart.
const SCALES: [u8; 6] = [0, 2, 5, 6, 7, 8];
const SCALED: u32 = 2;

impl Offer {
    /// What the options of a SYN offer.
    pub fn of(options: &Options, v6: bool) -> Self {
        let classes = mss_classes(v6);
        let offered = options.mss.unwrap_or(0);
        let mss = classes.into_iter().rev().find(|class| *class <= offered).unwrap_or(classes[0]);
        let timestamps = options.timestamps.is_some();
        let rounded =
            |wscale: u8| SCALES.into_iter().rev().find(|scale| *scale <= wscale).filter(|_| options.sack);
        let wscale = if timestamps { options.wscale } else { options.wscale.and_then(rounded) };
        Self { mss, sack: options.sack, wscale, timestamps }
    }

    /// The lowest bits of the cookie, and how many there are.
    fn bits(self, v6: bool) -> (u32, u32) {
        let class = mss_classes(v6).iter().position(|class| *class == self.mss).unwrap_or(0) as u32;
        if self.timestamps {
            let wscale = self.wscale.map_or(NO_WSCALE, u32::from);
            return (class << 5 | u32::from(self.sack) << 4 | wscale, 7);
        }
        let scale = self.wscale.and_then(|wscale| SCALES.iter().position(|scale| *scale == wscale));
        let profile = scale.map_or(u32::from(self.sack), |scale| SCALED + scale as u32);
        (class << 3 | profile, 5)
    }

    /// The offer in a cookie.
    pub fn in_cookie(cookie: u32, timestamps: bool, v6: bool) -> Self {
        let [lowest, ..] = mss_classes(v6);
        let class = |at: u32| mss_classes(v6).get((cookie >> at & 3) as usize).copied().unwrap_or(lowest);
        if timestamps {
            let wscale = cookie & 15;
            let wscale = (wscale != NO_WSCALE).then_some(wscale as u8);
            return Self { mss: class(5), sack: cookie & 16 != 0, wscale, timestamps };
        }
        let profile = cookie & 7;
        let scale = profile.checked_sub(SCALED).and_then(|at| SCALES.get(at as usize).copied());
        Self { mss: class(3), sack: profile != 0, wscale: scale, timestamps }
    }

    /// What both sides agreed on, as bindings and handoff packets keep it.
    pub(super) fn agreed(self) -> u8 {
        let bits = u32::from(self.wscale.is_some()) * OPTION_WSCALE
            + u32::from(self.sack) * OPTION_SACK
            + u32::from(self.timestamps) * OPTION_TIMESTAMPS;
        bits as u8
    }
}

/// `low`: the lowest bits, and how many.
fn sealed(keys: &Keys, flow: &Flow, isn: u32, slot: u64, low: (u32, u32), term: u32) -> u32 {
    let (low, bits) = low;
    let domain = if bits == 5 { COOKIE_PLAIN } else { COOKIE };
    let made = ((slot & 0xff_ffff) << 8 | u64::from(low)) << 32 | u64::from(isn);
    let hash = flow_hash(flow, keys.cookie, domain, &[made, term.into()]) as u32;
    hash >> bits << bits | low
}

/// The cookie of a term for a SYN with this initial sequence number, now.
pub fn cookie_of(keys: &Keys, flow: &Flow, isn: u32, offer: Offer, term: u32, clock: Clock) -> u32 {
    sealed(keys, flow, isn, clock.cluster_ns >> COOKIE_SLOT_SHIFT, offer.bits(flow.vip.is_ipv6()), term)
}

/// How old the cookie is that a packet acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Young enough to prove a handshake.
    Good,
    /// It has been one.
    Expired,
}

/// The age of the cookie of this term that the packet acknowledges; `None` when it is none.
pub fn cookie_age(keys: &Keys, packet: &Packet, term: u32, clock: Clock) -> Option<Age> {
    let (cookie, isn) = (packet.ack.wrapping_sub(1), packet.seq.wrapping_sub(1));
    let bits = if packet.options.timestamps.is_some() { 7 } else { 5 };
    let low = (cookie & ((1 << bits) - 1), bits);
    let newest = (clock.cluster_ns + u64::from(COOKIE_SKEW_MS) * 1_000_000) >> COOKIE_SLOT_SHIFT;
    let oldest = (clock.cluster_ns - u64::from(COOKIE_LIFE_MS) * 1_000_000) >> COOKIE_SLOT_SHIFT;
    let made_in = |slot: u64| sealed(keys, &packet.flow, isn, slot, low, term) == cookie;
    if (oldest..=newest).any(made_in) {
        return Some(Age::Good);
    }
    (oldest - u64::from(COOKIE_SLOTS_OLD)..oldest).any(made_in).then_some(Age::Expired)
}

/// Whether the client echoes what a node has said to it within the life of a cookie, if it echoes at all.
pub fn echoes(keys: &Keys, packet: &Packet, clock: Clock) -> bool {
    packet.options.timestamps.is_none_or(|(_, echo)| {
        let age = flow_clock(keys, &packet.flow, clock).wrapping_sub(echo).cast_signed();
        (-(COOKIE_SKEW_MS as i32)..=COOKIE_LONGEST_MS as i32).contains(&age)
    })
}

/// The server-side timestamp clock of a flow, milliseconds: the same on every node.
pub fn flow_clock(keys: &Keys, flow: &Flow, clock: Clock) -> u32 {
    clock.cluster_ms().wrapping_add(flow_hash(flow, keys.clock, CLOCK, &[0]) as u32)
}

/// The flow's slot in the switch's table.
pub fn maglev_slot(keys: &Keys, flow: &Flow) -> usize {
    (flow_hash(flow, keys.clock, MAGLEV, &[0]) % u64::from(MAGLEV_SLOTS)) as usize
}

/// Where a switch remembers a flow's latest SYN: the slot, and the half of the hash that tells it from others.
pub(super) fn latest_syn_slot(keys: &Keys, flow: &Flow) -> (u32, u32) {
    let hash = flow_hash(flow, keys.clock, MAGLEV, &[0]);
    ((hash % u64::from(LATEST_SYNS)) as u32, (hash >> 32) as u32)
}

/// The slot in which packets of unknown connections are counted, for a client's /24, or /56 of IPv6.
pub fn prefix_slot(keys: &Keys, client: IpAddr) -> u32 {
    let client = match client {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 56)).into(),
    };
    // The rest of the flow is zero, as addresses are kept: not v4-mapped.
    let nothing = Ipv6Addr::UNSPECIFIED.into();
    let prefix = Flow { client, client_port: 0, vip: nothing, vip_port: 0 };
    (flow_hash(&prefix, keys.clock, PREFIX, &[0]) % u64::from(UNKNOWN_SLOTS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_survives_its_cookie() {
        let v4 = [(0, 536), (536, 536), (1299, 536), (1300, 1300), (1459, 1440), (9000, 1460)];
        let v6 = [(0, 1220), (1220, 1220), (1279, 1220), (1280, 1280), (1439, 1420), (8940, 1440)];
        let both = v4.into_iter().map(|pair| (pair, false)).chain(v6.into_iter().map(|pair| (pair, true)));
        for ((given, kept), v6) in both {
            for (wscale, sack) in [None, Some(0), Some(14)].into_iter().flat_map(|w| [(w, false), (w, true)])
            {
                let options = Options { mss: Some(given), wscale, sack, timestamps: Some((1, 0)) };
                let offer = Offer::of(&options, v6);
                assert_eq!(offer, Offer { mss: kept, sack, wscale, timestamps: true });
                assert_eq!(Offer::in_cookie(0xabcd_ef80 | offer.bits(v6).0, true, v6), offer);
            }
            for (offered, told) in [(0, 0), (1, 0), (2, 2), (4, 2), (5, 5), (6, 6), (7, 7), (8, 8), (14, 8)] {
                let options =
                    Options { mss: Some(given), wscale: Some(offered), sack: true, timestamps: None };
                let offer = Offer::of(&options, v6);
                let expected = Offer { mss: kept, sack: true, wscale: Some(told), timestamps: false };
                assert_eq!(offer, expected, "never a larger window than the client's");
                assert_eq!(Offer::in_cookie(0xabcd_efe0 | offer.bits(v6).0, false, v6), offer);
                let options = Options { sack: false, ..options };
                assert_eq!(Offer::of(&options, v6).wscale, None);
            }
        }
    }
}
