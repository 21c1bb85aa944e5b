//! The cluster's clock, on which the nodes agree by their heartbeats, and how far apart their wall clocks are. Pure: what
//! the clocks of this machine read is told to it.
//!
//! The cluster's clock goes at the rate of a node's own monotonic clock, and is only ever set forward, to what another
//! node's reads: so all follow the one that is furthest ahead, by less than the time that a message takes. A node's wall
//! clock is where it begins, and is not looked at again. A node that has agreed with nobody yet takes what it hears from
//! one that has, even when that is earlier (`docs/decisions/0023-the-clusters-clock.md`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::word::Clocks;

/// Heartbeats among which the one with the shortest way tells how far another node's wall clock is ahead.
const SAMPLES: usize = 8;

/// The cluster's clock, as one node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterClock {
    /// By how much it is ahead of the node's own monotonic clock, nanoseconds; all of this is modulo 2^64.
    pub ahead_ns: u64,
    /// The node has agreed with another one, and does not go back any more.
    pub agreed: bool,
}

impl ClusterClock {
    /// A node's that has heard of nobody: the wall clock. Both in nanoseconds.
    pub fn alone(monotonic_ns: u64, cluster_ns: u64) -> Self {
        Self { ahead_ns: cluster_ns.wrapping_sub(monotonic_ns), agreed: false }
    }

    /// What it reads, nanoseconds, when the node's own clock reads this.
    pub fn reads(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_add(self.ahead_ns)
    }

    /// Another node's read this when it sent what has just come, and had agreed with somebody or not.
    pub fn hear(&mut self, monotonic_ns: u64, theirs_ns: u64, theirs_agreed: bool) {
        let behind = theirs_ns.wrapping_sub(self.reads(monotonic_ns)).cast_signed();
        let take = match (self.agreed, theirs_agreed) {
            (true, true) | (false, false) => behind > 0,
            (true, false) => false,
            (false, true) => true,
        };
        if take {
            self.ahead_ns = theirs_ns.wrapping_sub(monotonic_ns);
        }
        self.agreed = true;
    }
}

/// How far another node's wall clock is ahead of this one's monotonic clock: of the last heartbeats the one with the
/// shortest round trip tells, since it errs by half of that at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WallFilter {
    /// Round trip, and what it told, microseconds.
    samples: VecDeque<(u64, i64)>,
}

impl WallFilter {
    /// A heartbeat said what the wall clock read when it was sent; it came after this round trip. Microseconds.
    pub fn hear(&mut self, monotonic_us: u64, theirs_us: u64, rtt_us: u64) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let at_arrival = theirs_us.wrapping_add(rtt_us / 2);
        self.samples.push_back((rtt_us, at_arrival.wrapping_sub(monotonic_us).cast_signed()));
    }

    /// By how much it is ahead, microseconds; `None` before the first heartbeat that measured.
    pub fn ahead_us(&self) -> Option<i64> {
        // Of two that are as good the later one: the clock may have been set.
        self.samples.iter().rev().min_by_key(|(rtt, _)| *rtt).map(|(_, ahead)| *ahead)
    }
}

/// What all connections of a node know of its clocks, for whoever asks. Moments are of the monotonic clock.
pub struct NodeClocks {
    /// From here monotonic time is counted.
    origin: Instant,
    read: Mutex<ClockReadings>,
}

#[derive(Clone, Copy, Debug)]
struct ClockReadings {
    cluster: ClusterClock,
    /// By how much the wall clock is ahead, microseconds.
    wall_ahead_us: i64,
}

impl NodeClocks {
    /// At a moment, with what the wall clock reads then (since 1970).
    pub fn new(origin: Instant, wall: Duration) -> Self {
        let cluster = ClusterClock::alone(0, nanoseconds(wall));
        Self {
            origin,
            read: Mutex::new(ClockReadings { cluster, wall_ahead_us: microseconds(wall).cast_signed() }),
        }
    }

    fn read(&self) -> MutexGuard<'_, ClockReadings> {
        // A panic elsewhere leaves the fields as good as they were.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// What the wall clock reads now: it may have been set.
    pub fn see_wall(&self, now: Instant, wall: Duration) {
        let ahead = microseconds(wall).wrapping_sub(microseconds(self.since(now)));
        self.read().wall_ahead_us = ahead.cast_signed();
    }

    /// What a heartbeat says of them.
    pub(crate) fn say(&self, now: Instant) -> Clocks {
        let (read, since) = (*self.read(), self.since(now));
        Clocks {
            cluster_ns: read.cluster.reads(nanoseconds(since)),
            agreed: read.cluster.agreed,
            wall_us: microseconds(since).wrapping_add_signed(read.wall_ahead_us),
        }
    }

    /// What a heartbeat has said of another node's.
    pub(crate) fn hear(&self, now: Instant, theirs: &Clocks) {
        let since = nanoseconds(self.since(now));
        self.read().cluster.hear(since, theirs.cluster_ns, theirs.agreed);
    }

    /// A heartbeat's part in finding how far another node's wall clock is ahead of this one's.
    pub(crate) fn compare(&self, now: Instant, theirs: &Clocks, rtt_us: u64, filter: &mut WallFilter) {
        filter.hear(microseconds(self.since(now)), theirs.wall_us, rtt_us);
    }

    /// By how much the cluster's clock is ahead of the time since the origin, nanoseconds modulo 2^64.
    pub fn cluster_at_origin_ns(&self) -> u64 {
        self.read().cluster.ahead_ns
    }

    /// By how much a wall clock is ahead of this node's own, microseconds, given by how much it is ahead of this node's
    /// monotonic clock.
    pub(crate) fn ahead_of_mine_us(&self, wall_ahead_us: i64) -> i64 {
        wall_ahead_us.wrapping_sub(self.read().wall_ahead_us)
    }
}

impl fmt::Debug for NodeClocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Some nodes: each has its own monotonic and wall clock.
    #[derive(Debug)]
    struct World {
        now: u64,
        booted: Vec<u64>,
        clocks: Vec<ClusterClock>,
    }

    impl World {
        fn new(walls: &[u64]) -> Self {
            let booted: Vec<u64> = (0..walls.len() as u64).map(|node| (node + 1) * 1_000 * SECOND).collect();
            let clocks = walls.iter().zip(&booted).map(|(wall, boot)| ClusterClock::alone(*boot, *wall));
            Self { now: 0, clocks: clocks.collect(), booted }
        }

        fn reads(&self, node: usize) -> u64 {
            self.clocks[node].reads(self.now + self.booted[node])
        }

        /// A heartbeat that takes so long.
        fn beat(&mut self, from: usize, to: usize, way: u64) {
            let (said, agreed) = (self.reads(from), self.clocks[from].agreed);
            self.now += way;
            let at = self.now + self.booted[to];
            self.clocks[to].hear(at, said, agreed);
        }

        fn spread(&self) -> u64 {
            let all: Vec<u64> = (0..self.clocks.len()).map(|node| self.reads(node)).collect();
            all.iter().max().expect("a node") - all.iter().min().expect("a node")
        }
    }

    fn walls() -> impl Strategy<Value = Vec<u64>> {
        let year = 365 * 24 * 3600 * SECOND;
        proptest::collection::vec(
            prop_oneof![40 * year..56 * year, 55 * year..55 * year + 100 * SECOND],
            2..5,
        )
    }

    proptest! {
        #[test]
        fn all_agree_within_the_time_of_a_message(
            walls in walls(),
            beats in proptest::collection::vec((0usize..5, 0usize..5, 0..SECOND / 50), 0..60),
        ) {
            let mut world = World::new(&walls);
            let nodes = walls.len();
            let mut before: Vec<u64> = Vec::new();
            for (from, to, way) in beats {
                let (from, to) = (from % nodes, to % nodes);
                if from == to {
                    continue;
                }
                before.clear();
                before.extend((0..nodes).map(|node| world.reads(node)));
                let agreed: Vec<bool> = world.clocks.iter().map(|clock| clock.agreed).collect();
                world.beat(from, to, way);
                for node in (0..nodes).filter(|node| agreed[*node]) {
                    prop_assert!(world.reads(node) >= before[node] + way, "who has agreed never goes back");
                }
                prop_assert!(world.clocks[to].agreed);
            }
            // Each hears each other, twice: what came last has been everywhere.
            let slowest = SECOND / 100;
            for _ in 0..2 {
                for from in 0..nodes {
                    for to in (0..nodes).filter(|to| *to != from) {
                        world.beat(from, to, slowest);
                    }
                }
            }
            prop_assert!(world.spread() <= slowest, "{} ns apart", world.spread());
            let furthest = *walls.iter().max().expect("a node") + world.now;
            prop_assert!((0..nodes).all(|node| world.reads(node) <= furthest), "nobody runs ahead of all");
        }

        #[test]
        fn who_comes_takes_what_is_there(walls in walls(), new in 0u64..100 * 365 * 24 * 3600 * SECOND) {
            let mut world = World::new(&[walls[0], walls[1], new]);
            world.beat(0, 1, 10);
            world.beat(1, 0, 10);
            let there = world.reads(0);
            world.beat(2, 0, 10);
            prop_assert_eq!(world.reads(0), there + 10, "it is not led astray");
            world.beat(0, 2, 10);
            prop_assert_eq!(world.reads(2), there + 10);
        }

        #[test]
        fn the_wall_clock_is_found_within_half_the_shortest_way(
            ahead in -1_000_000_000_000i64..1_000_000_000_000,
            ways in proptest::collection::vec((1u64..50_000, 1u64..50_000), 1..20),
        ) {
            let (mut filter, mut now) = (WallFilter::default(), 1_000_000_000_000u64);
            for (there, back) in &ways {
                now += there + back;
                let wall_when_sent = (now - back).wrapping_add_signed(ahead);
                filter.hear(now, wall_when_sent, there + back);
            }
            let recent = &ways[ways.len().saturating_sub(SAMPLES)..];
            let shortest = recent.iter().map(|(there, back)| there + back).min().expect("one");
            let found = filter.ahead_us().expect("measured");
            prop_assert!(found.abs_diff(ahead) <= shortest / 2 + 1, "{found} for {ahead}");
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_is_seen_and_changes_nothing() {
        let origin = Instant::now();
        let (mine, theirs) = (NodeClocks::new(origin, Duration::from_secs(5000)), origin);
        let later = theirs + Duration::from_secs(10);
        let before = mine.say(later);
        assert_eq!((before.cluster_ns, before.wall_us), (5010 * SECOND, 5_010_000_000));
        mine.see_wall(later, Duration::from_secs(4000));
        let after = mine.say(later);
        assert_eq!((after.cluster_ns, after.wall_us), (5010 * SECOND, 4_000_000_000));
        let mut filter = WallFilter::default();
        assert_eq!(filter.ahead_us(), None);
        mine.compare(later, &Clocks { wall_us: 5_000_000_000, ..before }, 0, &mut filter);
        assert_eq!(filter.ahead_us().map(|ahead| mine.ahead_of_mine_us(ahead)), Some(1_000_000_000));
    }
}
