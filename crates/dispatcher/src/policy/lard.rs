//! Locality-aware request distribution, one server a target (ASPLOS'98 2.4). A target goes where
//! it went before, so that it is found in that server's cache, until the server is overloaded:
//! then it moves, for good, to the least loaded one. A later request of a connection is decided as
//! if it were the first; one without a target stays.

use std::time::Duration;

use baton_cluster::{Guide, NodeId, PolicyConfig, Target};

use super::{Decision, Policy, Thresholds};
use crate::remembered::{self, Placed, stamp};
use crate::{Mapping, Remembered, Replicas, Targets, View};

/// LARD: its thresholds, and which server each target was last assigned to.
#[derive(Debug)]
pub struct Lard {
    thresholds: Thresholds,
    servers: Targets<Assigned>,
}

/// A target's server, and since when.
#[derive(Clone, Copy, Debug)]
struct Assigned {
    server: NodeId,
    changed: Duration,
}

impl Placed for Assigned {
    fn of(told: Remembered) -> Self {
        // Of several, which another policy had, the first.
        let server = told.servers.as_slice().first().copied().unwrap_or(NodeId(0));
        Self { server, changed: told.changed }
    }

    fn remembered(&self) -> Remembered {
        Remembered { servers: Replicas::one(self.server), changed: self.changed }
    }
}

impl Lard {
    /// LARD with `t_low` and `t_high` of `config`, remembering at most `targets_max` targets.
    pub fn new(config: &PolicyConfig, targets_max: usize) -> Self {
        Self { thresholds: Thresholds::of(config), servers: Targets::new(targets_max) }
    }
}

impl Policy for Lard {
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
        let held = self.servers.get(target);
        let before = held.as_ref().map(|held| held.changed);
        let (server, moved) = if let Some(held) = held.filter(|held| loads.is_live(held.server)) {
            let relief = self.thresholds.relief(held.server, loads);
            if let Some(server) = relief {
                *held = Assigned { server, changed: stamp(before, now) };
            }
            (held.server, relief.is_some())
        } else {
            let server = loads.least_loaded()?;
            self.servers.insert(target, Assigned { server, changed: stamp(before, now) });
            (server, before.is_some())
        };
        Some(Decision { server, mapping: Some(Mapping::to_one(server)), moved })
    }

    fn guide(&self, _loads: View<'_>) -> Guide {
        Guide::Cached { load_limit: self.thresholds.high }
    }

    fn server_left(&mut self, node: NodeId) -> usize {
        self.servers.retain(|held| held.server != node)
    }

    fn mapping(&self, target: Target, _now: Duration) -> Option<Mapping> {
        self.servers.peek(target).map(|held| Mapping::to_one(held.server))
    }

    fn remembers(&self, target: Target) -> Option<Remembered> {
        self.servers.peek(target).map(Placed::remembered)
    }

    fn learn(&mut self, target: Target, told: Remembered, now: Duration) -> bool {
        remembered::learn(&mut self.servers, target, told, now)
    }

    fn piece(&self, from: usize, most: usize) -> (Vec<(Target, Remembered)>, Option<usize>) {
        remembered::piece(&self.servers, from, most)
    }

    fn remembered(&self) -> (usize, u64) {
        (self.servers.len(), self.servers.evicted())
    }
}
