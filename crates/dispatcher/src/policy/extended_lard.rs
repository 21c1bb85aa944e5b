//! Extended LARD, for persistent connections (USENIX'99 4.1 and 4.2). Each server has a cost for a
//! request, in units of load, and the cheapest one serves it:
//!
//! | cost | of a server that has the target | of another |
//! |---|---|---|
//! | balancing | its load above L_idle; infinite above L_overload | the same |
//! | locality | 1 | MissCost |
//! | replacement | 0 | 0 below L_idle, else MissCost |
//!
//! The first request of a connection looks at all servers, and the target is mapped to the cheapest.
//! A later one stays with the server that has the connection if that has the target, or a disk idle
//! enough to read it: then it has it from now on. Otherwise it goes to the cheapest of this server
//! and those that have the target. A server whose disk is busy is taken to be short of memory, and
//! is not believed to keep what it reads.
//!
//! The constants follow from LARD's, as the paper says: L_idle = T_low, MissCost = T_high - T_low; and
//! with its own values, L_overload = L_idle + 2 MissCost.
//!
//! Where this goes beyond the paper's text:
//! - Where all are overloaded, the one that is so least serves: there is no admission control here.
//! - Ties go to who has the target, or the connection; then as [`View`] says.
//! - A target is with at most [`Replicas::MAX`] servers. At the bound the newcomer takes the place of
//!   the most loaded one.
//! - A first request that goes to a server without the target takes it away from all others, as in
//!   LARD.

use std::cmp::Ordering;
use std::time::Duration;

use baton_cluster::{Guide, NodeId, PolicyConfig, Target};

use super::lard_replicated::ServerSet;
use super::{Decision, Policy, without_dead};
use crate::remembered::{self, Placed, stamp};
use crate::{Mapping, Remembered, Replicas, Targets, View};

/// Extended LARD: its constants, and the servers that have each target.
#[derive(Debug)]
pub struct ExtendedLard {
    costs: Costs,
    /// T_high less one: up to this load a server that has the target costs no more than any other.
    load_limit: u32,
    pressure_low: u8,
    holders: Targets<ServerSet>,
}

#[derive(Clone, Copy, Debug)]
struct Costs {
    idle: u64,
    overload: u64,
    miss: u64,
}

impl ExtendedLard {
    /// Extended LARD with `t_low` and `t_high` of `config`, remembering at most `targets_max` targets.
    /// A disk that is busy for less than `pressure_low` percent of the time is idle enough.
    pub fn new(config: &PolicyConfig, pressure_low: u8, targets_max: usize) -> Self {
        let (low, high) = (u64::from(config.t_low), u64::from(config.t_high));
        let miss = high.saturating_sub(low);
        let costs = Costs { idle: low, overload: low + 2 * miss, miss };
        let load_limit = config.t_high.saturating_sub(1);
        Self { costs, load_limit, pressure_low, holders: Targets::new(targets_max) }
    }

    /// The first request of a connection.
    fn first(&mut self, target: Target, loads: View<'_>) -> Option<Decision> {
        let all = loads.live().map(|(node, _)| node);
        let known = self.holders.get(target).map(|set| &mut set.servers);
        let was_elsewhere = known.is_some();
        let Some(holders) = known.filter(|holders| any_live(holders, loads)) else {
            let server = self.costs.cheapest(all, &[], None, loads)?;
            self.insert(target, server);
            return Some(held(server, Replicas::one(server), was_elsewhere));
        };
        let lost = without_dead(holders, loads);
        // The usual case without the sum: a holder up to the limit costs MissCost at most, any other
        // server at least that.
        let limit = u64::from(self.load_limit);
        let usual = loads.least_of(holders.as_slice()).filter(|holder| !loads.is_above(*holder, limit));
        if let Some(holder) = usual {
            return Some(held(holder, *holders, lost));
        }
        let server = self.costs.cheapest(all, holders.as_slice(), None, loads)?;
        let moved = !holders.contains(server);
        if moved {
            *holders = Replicas::one(server);
        }
        Some(held(server, *holders, lost || moved))
    }

    /// A later request of a connection that `here` has.
    fn later(&mut self, target: Target, here: NodeId, loads: View<'_>) -> Option<Decision> {
        let calm = loads.is_calm(here, self.pressure_low);
        let known = self.holders.get(target).map(|set| &mut set.servers);
        let was_elsewhere = known.is_some();
        let Some(holders) = known.filter(|holders| any_live(holders, loads)) else {
            if calm {
                self.insert(target, here);
                return Some(held(here, Replicas::one(here), was_elsewhere));
            }
            return Some(Decision::unmapped(here));
        };
        let lost = without_dead(holders, loads);
        if holders.contains(here) {
            return Some(held(here, *holders, lost));
        }
        if calm {
            if let Some(most_loaded) = loads.most_of(holders.as_slice()).filter(|_| holders.is_full()) {
                holders.remove(most_loaded);
            }
            let moved = holders.add(here);
            return Some(held(here, *holders, lost || moved));
        }
        let among = holders.as_slice().iter().copied();
        let server = self.costs.cheapest(among.chain([here]), holders.as_slice(), Some(here), loads)?;
        Some(held(server, *holders, lost))
    }

    /// A target is with one server alone; since when, `note` says.
    fn insert(&mut self, target: Target, server: NodeId) {
        self.holders.insert(target, ServerSet::one(server, Duration::ZERO, Duration::ZERO));
    }

    /// Notes the time of a change, if a decision has made one.
    fn note(&mut self, target: Target, before: Option<Remembered>, now: Duration) {
        let Some(set) = self.holders.get(target) else { return };
        set.stamp = match before {
            Some(before) if before.servers == set.servers => before.changed,
            before => stamp(before.map(|before| before.changed), now),
        };
    }
}

impl Policy for ExtendedLard {
    fn decide(
        &mut self,
        target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        now: Duration,
    ) -> Option<Decision> {
        let here = loads.keeper(at);
        let Some(target) = target else {
            return here.or_else(|| loads.least_loaded()).map(Decision::unmapped);
        };
        let before = self.remembers(target);
        let decided = match here {
            None => self.first(target, loads),
            Some(here) => self.later(target, here, loads),
        };
        self.note(target, before, now);
        decided
    }

    fn guide(&self, _loads: View<'_>) -> Guide {
        Guide::Cached { load_limit: self.load_limit }
    }

    fn server_left(&mut self, node: NodeId) -> usize {
        self.holders.retain(|set| {
            set.servers.remove(node);
            !set.servers.is_empty()
        })
    }

    fn mapping(&self, target: Target, _now: Duration) -> Option<Mapping> {
        self.holders.peek(target).map(|set| Mapping { servers: set.servers, expires: None })
    }

    fn remembers(&self, target: Target) -> Option<Remembered> {
        self.holders.peek(target).map(Placed::remembered)
    }

    fn learn(&mut self, target: Target, told: Remembered, now: Duration) -> bool {
        remembered::learn(&mut self.holders, target, told, now)
    }

    fn piece(&self, from: usize, most: usize) -> (Vec<(Target, Remembered)>, Option<usize>) {
        remembered::piece(&self.holders, from, most)
    }

    fn remembered(&self) -> (usize, u64) {
        (self.holders.len(), self.holders.evicted())
    }
}

impl Costs {
    /// The cheapest of `servers` for a target that `holders` have. Ties go to `here`, if the connection
    /// is with one of them, else to a holder.
    fn cheapest(
        self,
        servers: impl Iterator<Item = NodeId>,
        holders: &[NodeId],
        here: Option<NodeId>,
        loads: View<'_>,
    ) -> Option<NodeId> {
        let preferred = |node: NodeId| here.map_or_else(|| holders.contains(&node), |here| here == node);
        servers.min_by(|a, b| {
            self.compare(*a, *b, holders, loads)
                .then(preferred(*b).cmp(&preferred(*a)))
                .then_with(|| loads.compare(*a, *b))
        })
    }

    fn compare(self, a: NodeId, b: NodeId, holders: &[NodeId], loads: View<'_>) -> Ordering {
        let overloaded = |node| loads.is_above(node, self.overload);
        let cost = |node| loads.excess(node, self.idle).plus(self.of_content(node, holders, loads));
        overloaded(a).cmp(&overloaded(b)).then_with(|| cost(a).compare(cost(b)))
    }

    /// Locality and replacement.
    fn of_content(self, node: NodeId, holders: &[NodeId], loads: View<'_>) -> u64 {
        if holders.contains(&node) {
            return 1;
        }
        if loads.has_reached(node, self.idle) { 2 * self.miss } else { self.miss }
    }
}

fn any_live(holders: &Replicas, loads: View<'_>) -> bool {
    holders.as_slice().iter().any(|node| loads.is_live(*node))
}

/// A choice of `server` for a target that `holders` have now.
fn held(server: NodeId, holders: Replicas, moved: bool) -> Decision {
    Decision { server, mapping: Some(Mapping { servers: holders, expires: None }), moved }
}
