//! The two clocks: the monotonic one that the programs use (`bpf_ktime_get_ns`), and the wall clock
//! that nodes share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A wall clock's nanoseconds as messages carry them: milliseconds, truncated.
pub(crate) fn to_ms(wall_ns: u64) -> u32 {
    (wall_ns / 1_000_000) as u32
}

/// The nanoseconds, not far from now, of which these are the milliseconds.
pub(crate) fn from_ms(ms: u32) -> u64 {
    let now = (wall_offset() + monotonic()).as_nanos() as u64 / 1_000_000;
    now.wrapping_add_signed(i64::from(ms.wrapping_sub(now as u32).cast_signed())) * 1_000_000
}
