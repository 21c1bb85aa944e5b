//! A probe of the way from another node arrives (`bpf/probe.h`).

use std::hash::Hasher as _;

use baton_cluster::NodeId;
use siphasher::sip::SipHasher24;

use crate::cookie::address_words;
use crate::packet::{be16, be32, l4};
use crate::{Run, Verdict};
use baton_datapath::constants::{HANDOFF_AGE_MS, HANDOFF_OPTION_CLASS, PROBE_OPTION_TYPE};
use baton_datapath::{Counter, Event};

/// Bytes of Geneve's header and the option.
const BYTES: usize = 36;

impl Run<'_> {
    /// What came to the handoff port; `None`: it is no probe.
    pub(super) fn probed(&mut self) -> Option<Verdict> {
        let at = l4(&self.frame) + 8;
        let probe = self.frame.get(at..at + BYTES)?.to_vec();
        if probe.get(1)? & 0x80 == 0 {
            return None;
        }
        let well_formed = probe.first() == Some(&7)
            && be16(&probe, 8)? == HANDOFF_OPTION_CLASS as u16
            && probe.get(10..12)? == [PROBE_OPTION_TYPE as u8, 6];
        if !well_formed {
            return Some(self.drop(Counter::DropHandoffMalformed));
        }
        let long = |at: usize| Some(u64::from(be32(&probe, at)?) << 32 | u64::from(be32(&probe, at + 4)?));
        let (number, from, issued) = (be32(&probe, 12)?, be16(&probe, 16)?, long(20)?);
        let handoff = self.model.tables.keys.handoff;
        let mut hasher = SipHasher24::new_with_keys(handoff[0], handoff[1]);
        for word in [long(12)?, issued].into_iter().chain(address_words(self.model.settings.address)) {
            hasher.write(&word.to_le_bytes());
        }
        if hasher.finish() != long(28)? {
            return Some(self.drop(Counter::DropHandoffForged));
        }
        let age = self.clock.cluster_ns.wrapping_sub(issued).cast_signed();
        if age.unsigned_abs() > u64::from(HANDOFF_AGE_MS) * 1_000_000 {
            return Some(self.drop(Counter::DropProbeStale));
        }
        self.events.push(Event::Probed { from: NodeId(from), number });
        Some(self.drop(Counter::ProbeReceived))
    }
}
