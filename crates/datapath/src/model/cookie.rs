//! The keyed values: cookies (our initial sequence numbers), each flow's clock, the Maglev slot.
//! SipHash-1-3 (Aumasson and Bernstein 2012) by the siphasher crate.

use std::hash::Hasher as _;

use baton_cluster::{Flow, Keys};
use siphasher::sip::SipHasher13;

use super::{Clock, Options, Packet};
use crate::constants::{
    COOKIE_SLOT_SHIFT, MAGLEV_SLOTS, NO_WSCALE, OPTION_SACK, OPTION_TIMESTAMPS, OPTION_WSCALE,
};

const COOKIE: u64 = 1;
const CLOCK: u64 = 2;
const MAGLEV: u64 = 3;

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

pub(super) fn address_words(address: std::net::IpAddr) -> [u64; 2] {
    let bits = match address {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        std::net::IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn flow_hash(flow: &Flow, key: [u64; 2], domain: u64, extra: u64) -> u64 {
    let mut words = flow_words(flow);
    words[4] |= domain << 32;
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    for word in words.into_iter().chain([extra]) {
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
    /// Window scale.
    pub wscale: Option<u8>,
}

impl Offer {
    /// What the options of a SYN offer.
    pub fn of(options: &Options, v6: bool) -> Self {
        let classes = mss_classes(v6);
        let offered = options.mss.unwrap_or(0);
        let mss = classes.into_iter().rev().find(|class| *class <= offered).unwrap_or(classes[0]);
        Self { mss, sack: options.sack, wscale: options.wscale }
    }

    /// The lowest byte of the cookie: class, 0, SACK, window scale.
    fn bits(self, v6: bool) -> u32 {
        let class = mss_classes(v6).iter().position(|class| *class == self.mss).unwrap_or(0) as u32;
        class << 6 | u32::from(self.sack) << 4 | self.wscale.map_or(NO_WSCALE, u32::from)
    }

    /// The offer in a cookie.
    pub fn in_cookie(cookie: u32, v6: bool) -> Self {
        let [lowest, ..] = mss_classes(v6);
        let mss = mss_classes(v6).get((cookie >> 6 & 3) as usize).copied().unwrap_or(lowest);
        let wscale = cookie & 15;
        Self { mss, sack: cookie & 16 != 0, wscale: (wscale != NO_WSCALE).then_some(wscale as u8) }
    }

    /// What both sides agreed on, as bindings and handoff packets keep it.
    pub(super) fn agreed(self, timestamps: bool) -> u8 {
        let bits = u32::from(self.wscale.is_some()) * OPTION_WSCALE
            + u32::from(self.sack) * OPTION_SACK
            + u32::from(timestamps) * OPTION_TIMESTAMPS;
        bits as u8
    }
}

fn sealed(keys: &Keys, flow: &Flow, isn: u32, slot: u64, low: u32) -> u32 {
    let extra = ((slot & 0xff_ffff) << 8 | u64::from(low)) << 32 | u64::from(isn);
    flow_hash(flow, keys.cookie, COOKIE, extra) as u32 & !0xff | low
}

/// The cookie for a SYN with this initial sequence number, now.
pub fn cookie_of(keys: &Keys, flow: &Flow, isn: u32, offer: Offer, clock: Clock) -> u32 {
    sealed(keys, flow, isn, clock.wall_ns >> COOKIE_SLOT_SHIFT, offer.bits(flow.vip.is_ipv6()))
}

/// How many slots ago the cookie that this packet acknowledges was made; `None` when it is none of
/// ours of the last `slots`. The next slot counts as the present one: clocks differ a little.
pub fn cookie_age(keys: &Keys, packet: &Packet, slots: u32, clock: Clock) -> Option<u32> {
    let (cookie, isn) = (packet.ack.wrapping_sub(1), packet.seq.wrapping_sub(1));
    let slot = clock.wall_ns >> COOKIE_SLOT_SHIFT;
    let made_in = |slot: u64| sealed(keys, &packet.flow, isn, slot, cookie & 0xff) == cookie;
    if made_in(slot.wrapping_add(1)) {
        return Some(0);
    }
    (0..slots).find(|age| made_in(slot.wrapping_sub(u64::from(*age))))
}

/// The server-side timestamp clock of a flow, milliseconds: the same on every node.
pub fn flow_clock(keys: &Keys, flow: &Flow, clock: Clock) -> u32 {
    clock.wall_ms().wrapping_add(flow_hash(flow, keys.clock, CLOCK, 0) as u32)
}

/// The flow's slot in the switch's table.
pub fn maglev_slot(keys: &Keys, flow: &Flow) -> usize {
    (flow_hash(flow, keys.clock, MAGLEV, 0) % u64::from(MAGLEV_SLOTS)) as usize
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
            for wscale in [None, Some(0), Some(14)] {
                for sack in [false, true] {
                    let options = Options { mss: Some(given), wscale, sack, timestamps: None };
                    let offer = Offer::of(&options, v6);
                    assert_eq!(offer, Offer { mss: kept, sack, wscale });
                    assert_eq!(Offer::in_cookie(0xabcd_ef00 | offer.bits(v6), v6), offer);
                }
            }
        }
    }
}
