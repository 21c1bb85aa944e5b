//! Who serves a target while no dispatcher answers: a consistent hash with bounded loads
//! (Mirrokni, Thorup, Zadimoghaddam, SODA'18). Every distributor builds the same ring from the
//! cluster file, so all of them send a target to the same server as long as nobody is overloaded.
//! Locality without memory; the dispatcher's mappings, when it comes back, replace it.
//!
//! No server takes more than 5/4 of its fair share of the load that the caller knows of: a target
//! whose server is at that bound goes on along the ring to the first one that is not.

use baton_cluster::{NodeId, Target};

use crate::View;
use crate::hash::mix;

/// Points that a server of mean weight has on the ring: keeps arcs within some 10 % of each other.
const POINTS_MEAN: u64 = 128;

/// The bound on a server's load over its fair share: 1.25, as a fraction.
const BOUND: (u64, u64) = (5, 4);

/// The servers of a pool, up or down, on a ring.
#[derive(Clone, Debug)]
pub struct Ring {
    /// In order of place.
    points: Vec<(u64, NodeId)>,
}

impl Ring {
    /// A ring of `servers` with their weights (0 counts as 1). The order in which they are given
    /// does not matter; every node must give the same ones, those that are down included.
    pub fn new(servers: impl IntoIterator<Item = (NodeId, u16)>) -> Self {
        let servers: Vec<_> =
            servers.into_iter().map(|(node, weight)| (node, u64::from(weight.max(1)))).collect();
        let total: u64 = servers.iter().map(|(_, weight)| weight).sum();
        let mean_points = POINTS_MEAN * u64::try_from(servers.len()).unwrap_or(u64::MAX);
        let points_of = |weight: u64| (mean_points * weight / total.max(1)).max(1);
        let mut points: Vec<_> = servers
            .iter()
            .flat_map(|(node, weight)| (0..points_of(*weight)).map(|n| (place(*node, n), *node)))
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// The server for a target, of those that `loads` has as up (a pool has a ring of its own); `None` when none is. Without a
    /// target: the least loaded. Takes a step per server at its bound, at most one per point.
    pub fn choose(&self, target: Option<Target>, loads: View<'_>) -> Option<NodeId> {
        let Some(target) = target else { return loads.least_loaded() };
        let share = Share::of(loads);
        let start = self.points.partition_point(|(place, _)| *place < mix(target.0));
        let (before, after) = self.points.split_at(start);
        let on_ring = after.iter().chain(before).map(|(_, node)| *node);
        on_ring.filter(|node| loads.is_live(*node)).find(|node| share.has_room(*node, loads))
    }
}

/// What one more request would make of everybody's fair share.
struct Share {
    load: u64,
    weight: u64,
}

impl Share {
    fn of(loads: View<'_>) -> Self {
        let live = loads.live().map(|(node, weight)| (loads.load(node).unwrap_or(0), weight));
        let (load, weight) =
            live.fold((1, 0), |(load, weight), (its, w)| (load + u64::from(its), weight + u64::from(w)));
        Self { load, weight }
    }

    /// Whether the server stays within `ceil(1.25 * share)` with one request more. Some server
    /// always does: all bounds together exceed all loads together.
    fn has_room(&self, node: NodeId, loads: View<'_>) -> bool {
        let load = u64::from(loads.load(node).unwrap_or(0));
        let weight = u64::from(loads.weight(node).unwrap_or(0));
        load < (BOUND.0 * self.load * weight).div_ceil(BOUND.1 * self.weight.max(1))
    }
}

/// Where point `n` of a server is on the ring.
fn place(node: NodeId, n: u64) -> u64 {
    mix(mix(u64::from(node.0)) ^ n)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Loads;

    fn up(weights: &[u16]) -> Loads {
        let mut loads = Loads::new((0u16..).map(NodeId).zip(weights.iter().copied()));
        for (node, _) in loads.servers().collect::<Vec<_>>() {
            loads.set_live(node, true);
        }
        loads
    }

    fn all(loads: &Loads) -> View<'_> {
        const ALL: [NodeId; 16] = {
            let mut all = [NodeId(0); 16];
            let mut id = 0;
            while id < 16 {
                all[id] = NodeId(id as u16);
                id += 1;
            }
            all
        };
        loads.of(&ALL)
    }

    fn targets(n: u64) -> impl Iterator<Item = Target> {
        (0..n).map(|i| Target(mix(i ^ 0xfeed)))
    }

    #[test]
    fn idle_servers_share_targets_by_weight() {
        let loads = up(&[1, 1, 2, 4]);
        let ring = Ring::new(loads.servers());
        let mut counts = BTreeMap::new();
        for target in targets(80_000) {
            *counts.entry(ring.choose(Some(target), all(&loads)).unwrap()).or_insert(0u32) += 1;
        }
        for (node, weight) in loads.live() {
            let fair = f64::from(weight) * 10_000.0;
            assert!((f64::from(counts[&node]) / fair - 1.0).abs() < 0.25, "{node}: {counts:?}");
        }
    }

    #[test]
    fn a_death_moves_only_the_dead_ones_targets() {
        let mut loads = up(&[1, 1, 1, 1]);
        let ring = Ring::new(loads.servers());
        let before: Vec<_> =
            targets(5_000).map(|t| (t, ring.choose(Some(t), all(&loads)).unwrap())).collect();
        loads.set_live(NodeId(2), false);
        for (target, server) in before {
            let now = ring.choose(Some(target), all(&loads)).unwrap();
            assert!(if server == NodeId(2) { now != server } else { now == server });
        }
    }

    #[test]
    fn nobody_up_is_nobody_chosen() {
        let loads = Loads::new([(NodeId(0), 1)]);
        let ring = Ring::new(loads.servers());
        assert_eq!(ring.choose(Some(Target(1)), all(&loads)), None);
        assert_eq!(ring.choose(None, all(&loads)), None);
        assert_eq!(Ring::new([]).choose(Some(Target(1)), all(&up(&[]))), None);
    }

    proptest! {
        /// One hot target among others, any weights: every server stays within the bound, and the
        /// order in which a node lists the servers does not matter.
        #[test]
        fn loads_stay_bounded(
            weights in prop::collection::vec(1u16..=100, 1..12),
            hot in any::<u64>(),
            requests in 1u64..400,
        ) {
            let mut loads = up(&weights);
            let ring = Ring::new(loads.servers());
            let mut backwards: Vec<_> = loads.servers().collect();
            backwards.reverse();
            let same_ring = Ring::new(backwards);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for n in 0..requests {
                let target = Some(Target(if n % 3 == 0 { mix(n) } else { hot }));
                let server = ring.choose(target, all(&loads)).unwrap();
                prop_assert_eq!(same_ring.choose(target, all(&loads)), Some(server));
                loads.assign(server);
                let weight = u64::from(weights[server.index()]);
                let bound = (1.25 * ((n + 1) * weight) as f64 / total as f64).ceil() as u32;
                prop_assert!(loads.load(server).unwrap() <= bound);
            }
        }
    }
}
