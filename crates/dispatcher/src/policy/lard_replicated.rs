//! LARD with replication, a set of servers a target (ASPLOS'98 2.5). A request goes to the least
//! loaded server of its target's set. If even that one is overloaded, the set gains the cluster's
//! least loaded server; a set that has not changed for longer than K loses its most loaded one.
//!
//! Where this goes beyond the paper's text:
//! - A set has at most [`Replicas::MAX`] servers. At the bound the newcomer takes the place of the
//!   most loaded one.
//! - The set's most loaded server is named before a newcomer joins, as in the paper. So a target
//!   that has been with one server for longer than K is moved at its first overload, and
//!   replicated if the overload comes back within K.
//! - Sets can only shrink when somebody asks. A mapping of several servers therefore carries the
//!   time after which a distributor must ask again.

use std::time::Duration;

use baton_cluster::{Guide, NodeId, PolicyConfig, Target};

use super::{Decision, Policy, Thresholds, without_dead};
use crate::remembered::{self, Placed, settled, stamp};
use crate::{Mapping, Remembered, Replicas, Targets, View};

/// LARD/R: its constants, and each target's set of servers.
#[derive(Debug)]
pub struct LardReplicated {
    thresholds: Thresholds,
    k: Duration,
    sets: Targets<ServerSet>,
}

/// A target's servers, when the policy last changed them, and when anything did: a death, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerSet {
    pub(super) servers: Replicas,
    pub(super) changed: Duration,
    pub(super) stamp: Duration,
}

impl Placed for ServerSet {
    fn of(told: Remembered) -> Self {
        Self { servers: told.servers, changed: told.changed, stamp: told.changed }
    }

    fn remembered(&self) -> Remembered {
        Remembered { servers: self.servers, changed: self.stamp }
    }
}

impl LardReplicated {
    /// LARD/R with the constants of `config`, remembering at most `targets_max` targets.
    pub fn new(config: &PolicyConfig, targets_max: usize) -> Self {
        Self { thresholds: Thresholds::of(config), k: config.k, sets: Targets::new(targets_max) }
    }
}

impl Policy for LardReplicated {
    fn decide(
        &mut self,
        target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        now: Duration,
    ) -> Option<Decision> {
        let Some(target) = target else {
            return loads.keeper(at).or_else(|| loads.least_loaded()).map(Decision::unmapped);
        };
        let known = self.sets.get(target);
        let before = known.as_ref().map(|set| set.stamp);
        let held = known.and_then(|set| {
            set.changed = settled(set.changed, now);
            let lost = without_dead(&mut set.servers, loads);
            let (server, changed) = set.choose(self.thresholds, self.k, loads, now)?;
            if lost || changed {
                set.stamp = stamp(before, now);
            }
            Some(Decision { server, mapping: Some(set.mapping(self.k, now)), moved: lost || changed })
        });
        if held.is_some() {
            return held;
        }
        let server = loads.least_loaded()?;
        self.sets.insert(target, ServerSet::one(server, now, stamp(before, now)));
        Some(Decision { server, mapping: Some(Mapping::to_one(server)), moved: before.is_some() })
    }

    fn guide(&self, _loads: View<'_>) -> Guide {
        Guide::Cached { load_limit: self.thresholds.high }
    }

    fn server_left(&mut self, node: NodeId) -> usize {
        self.sets.retain(|set| {
            set.servers.remove(node);
            !set.servers.is_empty()
        })
    }

    fn mapping(&self, target: Target, now: Duration) -> Option<Mapping> {
        self.sets.peek(target).map(|set| set.mapping(self.k, now))
    }

    fn remembers(&self, target: Target) -> Option<Remembered> {
        self.sets.peek(target).map(Placed::remembered)
    }

    fn learn(&mut self, target: Target, told: Remembered, now: Duration) -> bool {
        remembered::learn(&mut self.sets, target, told, now)
    }

    fn piece(&self, from: usize, most: usize) -> (Vec<(Target, Remembered)>, Option<usize>) {
        remembered::piece(&self.sets, from, most)
    }

    fn remembered(&self) -> (usize, u64) {
        (self.sets.len(), self.sets.evicted())
    }
}

impl ServerSet {
    pub(super) fn one(server: NodeId, changed: Duration, stamp: Duration) -> Self {
        Self { servers: Replicas::one(server), changed, stamp }
    }

    /// The server of the set, as changed by this request, that takes it, and whether the set has
    /// changed; `None` when no server of the set is up.
    fn choose(
        &mut self,
        thresholds: Thresholds,
        k: Duration,
        loads: View<'_>,
        now: Duration,
    ) -> Option<(NodeId, bool)> {
        let server = loads.least_of(self.servers.as_slice())?;
        let relief = thresholds.relief(server, loads);
        let due = now.saturating_sub(self.changed) > k;
        if relief.is_none() && !(due && self.servers.len() > 1) {
            return Some((server, false));
        }
        let most_loaded = loads.most_of(self.servers.as_slice())?;
        let mut changed = false;
        // Being lighter than the set's least loaded, who takes over is not in the set.
        if let Some(relief) = relief {
            if self.servers.is_full() {
                self.servers.remove(most_loaded);
            }
            changed |= self.servers.add(relief);
        }
        if due && self.servers.len() > 1 {
            changed |= self.servers.remove(most_loaded);
        }
        if changed {
            self.changed = now;
        }
        Some((relief.unwrap_or(server), changed))
    }

    /// The set as a distributor may cache it: if of several servers, until just after the moment
    /// at which it may shrink.
    fn mapping(&self, k: Duration, now: Duration) -> Mapping {
        let shrinks =
            || (self.changed.saturating_add(k)).saturating_sub(now).saturating_add(Duration::from_millis(1));
        Mapping { servers: self.servers, expires: (self.servers.len() > 1).then(shrinks) }
    }
}
