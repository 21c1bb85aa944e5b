//! The two clocks: the monotonic one that the programs use (`bpf_ktime_get_ns`), and the wall clock
//! that nodes share.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton_core::Moment;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, as the programs see it.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// How far the wall clock is ahead of the monotonic clock.
pub(crate) fn wall_offset() -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(monotonic())
}

/// This moment, as the core is told it.
pub(crate) fn moment() -> Moment {
    Moment { instant: Instant::now(), monotonic: monotonic() }
}
