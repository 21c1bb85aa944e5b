//! The clocks: the monotonic one that the programs use (`bpf_ktime_get_ns`), and the cluster's clock, on which the nodes
//! agree (`baton_control::clock`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton_cluster::NodeId;
use baton_control::{NodeClocks, PeerStatus};
use baton_core::Moment;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, as the programs see it.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// This moment, as the core is told it.
pub(crate) fn moment() -> Moment {
    Moment { instant: Instant::now(), monotonic: monotonic() }
}

/// The cluster's clock, for the programs.
#[derive(Clone, Debug)]
pub(crate) struct ProgramClock {
    shared: Arc<NodeClocks>,
    /// What CLOCK_MONOTONIC read when the shared ones began.
    origin: Duration,
}

impl ProgramClock {
    /// Begins with what the wall clock reads now.
    pub(crate) fn begin() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The same clock, read twice: from here on only differences count.
        let (instant, origin) = (Instant::now(), monotonic());
        Self { shared: Arc::new(NodeClocks::new(instant, wall)), origin }
    }

    /// For the control connections, which keep it with other nodes'.
    pub(crate) fn shared(&self) -> Arc<NodeClocks> {
        self.shared.clone()
    }

    /// What the cluster's clock reads, nanoseconds.
    pub(crate) fn cluster_ns(&self) -> u64 {
        let now = u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX);
        now.wrapping_add(self.ahead_ns())
    }

    /// By how much the cluster's clock is ahead of CLOCK_MONOTONIC, modulo 2^64 nanoseconds.
    pub(crate) fn ahead_ns(&self) -> u64 {
        let origin = u64::try_from(self.origin.as_nanos()).unwrap_or(u64::MAX);
        self.shared.cluster_at_origin_ns().wrapping_sub(origin)
    }
}

/// Wall clocks that are further apart than this are told of: whoever compares the nodes' logs would be misled.
const APART_US: u64 = 1_000_000;
/// And told of again when they are this near.
const TOGETHER_US: u64 = APART_US / 2;
/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Other nodes whose wall clocks are far from this one's. Nothing depends on wall clocks; people do.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    known: BTreeSet<NodeId>,
    looked: Option<Instant>,
}

impl Apart {
    /// Whether it is time to look again.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now >= looked + EVERY);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Whether that is news of a node: its clock is far away, or has come back.
    pub(crate) fn look(&mut self, peer: &PeerStatus) -> Option<(bool, i64)> {
        let ahead_us = peer.clock_ahead_us?;
        match ahead_us.unsigned_abs() {
            us if us > APART_US => self.known.insert(peer.node).then_some((true, ahead_us)),
            us if us < TOGETHER_US => self.known.remove(&peer.node).then_some((false, ahead_us)),
            _ => None,
        }
    }
}
